"""What a service leaves in the temporary folder: nothing, or what the next one removes."""

import subprocess
import sys
from pathlib import Path

from service.scratch import OWNER, Scratch

HOLDER = "import sys; from pathlib import Path; from service.scratch import Scratch; " + (
    "held = Scratch(within=Path(sys.argv[1])); print(held.path, flush=True); sys.stdin.read()"
)


def test_it_is_gone_when_it_is_removed(tmp_path: Path) -> None:
    scratch = Scratch("metrics-", tmp_path)
    assert scratch.path.name.startswith("torchere-metrics-")
    (scratch.path / "file").write_text("x")
    scratch.remove()
    scratch.empty("engine-0")  # its process ended only then
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_service_left_goes_with_the_next_start_and_what_lives_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        (folder / "engine-0").mkdir()
        beside = Scratch(within=tmp_path)
        assert folder.is_dir(), "it lives"
        process.kill()
    after = Scratch(within=tmp_path)
    assert not folder.exists()
    assert beside.path.is_dir()
    for each in (beside, after):
        each.remove()


def test_what_is_not_known_to_be_an_orphan_stays(tmp_path: Path) -> None:
    (tmp_path / "torchere-being-made").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / OWNER).touch()
    (tmp_path / "torchere-link").symlink_to(tmp_path / "others")
    Scratch(within=tmp_path).remove()
    assert {path.name for path in tmp_path.iterdir()} == {"torchere-being-made", "others", "torchere-link"}


def test_what_a_killed_process_left_in_its_part_is_removed(tmp_path: Path) -> None:
    scratch = Scratch(within=tmp_path)
    part = Path(scratch.part("engine-0")["TMPDIR"])
    (part / "aotinductor_x").mkdir()
    scratch.empty("engine-0")
    assert part.is_dir()
    assert list(part.iterdir()) == []
    scratch.remove()
