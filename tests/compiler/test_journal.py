from __future__ import annotations

from compiler.jobs import Note
from compiler.journal import Journal, Progress
from compiler.ladder import Planned
from compiler.spec import Rung

SCRIPT = Rung("torchscript")


def follow() -> tuple[Journal, list[Progress]]:
    heard: list[Progress] = []
    journal = Journal(heard.append)
    journal.plan((Planned(Rung("eager")), Planned(SCRIPT)))
    return journal, heard


def states(progress: Progress) -> dict[str, str]:
    return {rung.name: rung.state for rung in progress.rungs}


def test_every_rung_is_seen_from_waiting_to_its_outcome() -> None:
    journal, heard = follow()
    journal.hear(Note("load", "opening the model"))
    assert states(heard[-1]) == {"eager fp32": "waiting", "torchscript fp32": "waiting"}
    journal.hear(Note("build", "building", "torchscript fp32"))
    assert states(heard[-1])["torchscript fp32"] == "building"
    journal.settle(SCRIPT, "failed", "it has no graph")
    journal.hear(None)
    last = heard[-1].rungs[1]
    assert (last.state, last.reason) == ("failed", "it has no graph")


def test_a_note_goes_on_until_the_next_and_its_time_is_counted() -> None:
    journal, heard = follow()
    journal.hear(Note("load", "opening the model"))
    journal.hear(None)
    assert heard[-1].message == "opening the model"
    journal.hear(Note("verify", "comparing", "eager fp32"))
    assert journal.seconds.keys() == {"start", "load"}
    assert states(heard[-1])["eager fp32"] == "verifying"
