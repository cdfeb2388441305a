"""What changed in a repository, once it has come to rest."""

from __future__ import annotations

import os
from pathlib import Path

from service.repository.poller import Changes, Look, changes, look

A: Look = (("1/model.py", 5, 1, 1),)
B: Look = (("1/model.py", 6, 2, 1),)


def test_what_lies_still_for_two_looks_is_followed() -> None:
    assert changes({}, {}, {"m": A}) == Changes()
    assert changes({}, {"m": A}, {"m": A}) == Changes(came=("m",))
    assert changes({"m": A}, {"m": A}, {"m": B}) == Changes()
    assert changes({"m": A}, {"m": B}, {"m": B}) == Changes(changed=("m",))
    assert changes({"m": B}, {"m": B}, {"m": B}) == Changes()


def test_a_model_has_gone_when_two_looks_missed_it() -> None:
    assert changes({"m": A}, {"m": A}, {}) == Changes()
    assert changes({"m": A}, {}, {}) == Changes(went=("m",))


def test_a_look_sees_content_time_and_where_links_lead(tmp_path: Path) -> None:
    model = tmp_path / "m"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    model.mkdir()
    (model / "model.yaml").write_text("a: 1\n")
    (model / "1").symlink_to(tmp_path / "one")
    first = look(model)
    assert look(model) == first
    (model / "1").unlink()
    (model / "1").symlink_to(tmp_path / "two")
    second = look(model)
    assert second != first
    os.utime(model / "model.yaml", ns=(1, 1))
    assert look(model) != second
    (model / "loop").symlink_to(model)
    assert {name for name, *_ in look(model)} == {"model.yaml", "1", "loop"}
