"""A compilation while it goes on: on a terminal every rung with its state, in a pipe a line for what is new.

Knows `Progress` only. `precompile.py` puts the `Display` around the compiler.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from compiler import Progress, RungState
from compiler.journal import STATES
from service.report.figures import printable, seconds_text
from service.report.tables import STYLES

REFRESHES_PER_S = 8
STATE_WIDTH = len("unsupported")
SECONDS_WIDTH = len("12 min 34 s")
MARKS = {"waiting": "·", "built": "○", "chosen": "●", "slower": "○", "skipped": "–", "unsupported": "–"}
LOST = "×"  # failed, inaccurate
TOLD = ("built", "failed", "skipped", "unsupported", "inaccurate")
BUSY = ("building", "verifying", "racing")


class Display:
    """`with Display(console, "digits 1") as display: compile(..., report=display.hear)`. Nothing of it stays."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = printable(title)
        self._last: Progress | None = None
        self._live = Live(
            console=console,
            transient=True,
            refresh_per_second=REFRESHES_PER_S,
            redirect_stdout=False,
            auto_refresh=True,
        )
        self._spinner = Spinner("dots")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def hear(self, progress: Progress) -> None:
        """What goes on now."""
        if self._console.is_terminal:
            self._live.start()  # not before there is something to show: a hit shows nothing; again is no harm
            self._live.update(self._picture(progress))
        else:
            for line in find_news(self._last, progress):
                self._console.print(f"{self._title}: {line}", markup=False, soft_wrap=True)
        self._last = progress

    def _picture(self, progress: Progress) -> Group:
        head = Table.grid(padding=(0, 1))
        stage = Text.assemble(
            (self._title, "bold"), f"  {stage_text(progress)}  ", (seconds_text(progress.elapsed_s), "dim")
        )
        head.add_row(self._spinner, stage)
        rungs = Table.grid(padding=(0, 1, 0, 0), expand=True)
        for width in (2, max((len(rung.name) for rung in progress.rungs), default=1), STATE_WIDTH, SECONDS_WIDTH):
            rungs.add_column(width=width, no_wrap=True)
        rungs.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for rung in progress.rungs:
            rungs.add_row(*rung_cells(rung))
        return Group(head, rungs)


def rung_cells(rung: RungState) -> tuple[Text, Text, Text, Text, Text]:
    """Mark, name, state, seconds and reason of one line."""
    style = "cyan" if rung.state in BUSY else STYLES.get(rung.state, "dim" if rung.state == "waiting" else "")
    mark = "▸" if rung.state in BUSY else MARKS.get(rung.state, LOST)
    seconds = seconds_text(rung.seconds) if rung.seconds else ""
    return (
        Text(f" {mark}", style),
        Text(printable(rung.name), style),
        Text(rung.state, style),
        Text(seconds, "dim"),
        Text(" ".join(printable(rung.reason).split()), "dim"),
    )


def stage_text(progress: Progress) -> str:
    """`build torchscript fp32: tracing`."""
    what = f"{progress.stage} {progress.candidate}" if progress.candidate else progress.stage
    return printable(f"{what}: {progress.message}")


def find_news(before: Progress | None, now: Progress) -> list[str]:
    """What a listener of lines has not heard yet: a stage or candidate that begins, a rung that was built or lost.

    Who won is left to the table at the end.
    """
    lines = []
    known = {rung.name: rung.state for rung in before.rungs} if before else {}
    for rung in now.rungs:
        if rung.state in TOLD and known.get(rung.name) != rung.state:
            seconds = f" in {seconds_text(rung.seconds)}" if rung.state == "built" else ""
            reason = f": {' '.join(rung.reason.split())}" if rung.reason else ""
            lines.append(printable(f"{rung.name}: {rung.state}{seconds}{reason}"))
    if before is None or _doing(before) != _doing(now):
        lines.append(printable(f"{_doing(now)} ({seconds_text(now.elapsed_s)})"))
    return lines


def _doing(progress: Progress) -> str:
    """`building torchscript fp32`: what changes a few times for each rung, unlike the message."""
    if progress.candidate is None:
        return progress.message if progress.stage == "wait" else progress.stage
    return f"{STATES.get(progress.stage, progress.stage)} {progress.candidate}"
