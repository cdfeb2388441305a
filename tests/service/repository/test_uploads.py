"""Files of a load call: written where they belong, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.errors import InvalidInput
from service.repository.uploads import MAX_FILES, is_upload, remove_upload, write_upload


def test_files_become_a_repository_of_one_model(tmp_path: Path) -> None:
    repository = write_upload(tmp_path, "m", {"1/model.safetensors": b"weights", "labels.txt": b"a\n"})
    assert (repository / "m/1/model.safetensors").read_bytes() == b"weights"
    assert (repository / "m/labels.txt").stat().st_mode & 0o777 == 0o600
    assert is_upload(tmp_path, repository)
    other = write_upload(tmp_path, "m", {"1/model.safetensors": b"others"})
    assert other != repository
    remove_upload(tmp_path, repository)
    assert not repository.exists()
    assert other.exists()


@pytest.mark.parametrize(
    "name",
    ["../x", "1/../../x", "/etc/passwd", "1//x", "1/", "", ".hidden/x", "1/.x", "a\\b", "1/x\0", "-x", "a/b/c/d/e/f/g"],
)
def test_a_path_that_leads_elsewhere_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="write its path below the model's folder"):
        write_upload(tmp_path, "m", {"1/fine": b"x", name: b"x"})
    assert not list(tmp_path.rglob("fine"))


def test_files_in_each_others_place_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="in each other's place"):
        write_upload(tmp_path, "m", {"1": b"x", "1/model.py": b"x"})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_files_are_not_without_number(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1001 files"):
        write_upload(tmp_path, "m", {f"1/{number}": b"" for number in range(MAX_FILES + 1)})


def test_only_uploads_are_removed(tmp_path: Path) -> None:
    precious = tmp_path / "repository"
    precious.mkdir()
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "link").symlink_to(precious)
    for folder in (precious, tmp_path / "uploads", tmp_path / "uploads" / "link", tmp_path / "uploads/../repository"):
        remove_upload(tmp_path, folder)
    assert precious.exists()
