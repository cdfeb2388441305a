"""Zip files that torch did not write are refused before torch sees them, each with what is wrong."""

from __future__ import annotations

import stat
import struct
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from compiler.archive import check_torchscript, open_archive
from compiler.errors import LoadFailed
from compiler.load import open_model
from tests.compiler.archives import forge, write_zip


class Halves(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) / 2


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Halves()).save(path)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(LoadFailed) as caught:
        open_archive(path).__enter__()
    return str(caught.value)


def test_what_torch_writes_is_opened(script: Path) -> None:
    check_torchscript(script)
    assert open_model(script.parent, "cpu").module(torch.ones(3, 4)).shape == (3, 2)


def info(name: str, mode: int = 0, flags: int = 0, extra: bytes = b"") -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.external_attr = mode << 16
    made.flag_bits = flags
    made.extra = extra
    return made


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (info("../../etc/cron.d/job"), "has a member named '../../etc/cron.d/job', outside its own folder"),
        (info("m/../../job"), "has a member named 'm/../../job', outside its own folder"),
        (info("/etc/passwd"), "has a member named '/etc/passwd', outside its own folder"),
        (info("m/..\\job"), r"has a member named 'm/..\\job', outside its own folder"),
        (info("C:/job"), "has a member named 'C:/job', outside its own folder"),
        (info("other/data.pkl"), "has a member named 'other/data.pkl', outside its own folder"),
        (info("m/sub/"), "has a member named 'm/sub/', outside its own folder"),
        (info("m/DATA"), "has the member 'm/DATA' twice"),
        (info("m/link", stat.S_IFLNK | 0o777), "has a member 'm/link' that is a link or a device"),
        (info("m/other", extra=b"\x75\x70\x04\x00name"), "has a member 'm/other' that has unknown extra fields"),
    ],
)
def test_a_member_that_torch_does_not_write(tmp_path: Path, member: zipfile.ZipInfo, message: str) -> None:
    path = write_zip(tmp_path / "model.pt", ("data", b"1"), (member, b"2"))
    assert refusal(path).startswith(message)


@pytest.mark.parametrize(("flag", "message"), [(1, "is encrypted"), (0x20, "has unknown flags")])
def test_an_encrypted_member(tmp_path: Path, flag: int, message: str) -> None:
    path = write_zip(tmp_path / "model.pt", ("data", b"1"))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= flag
    path.write_bytes(data)
    assert refusal(path).startswith(f"has a member 'm/data' that {message}")


def test_a_bomb_of_one_member(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(forge(script, path, {}), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/code/__torch__/bomb.py", bytes(10_000_000))
    with pytest.raises(LoadFailed, match=r"'code/__torch__/bomb.py', which unpacks to 10000000 bytes: that is a bomb"):
        check_torchscript(path)


def test_a_bomb_of_weights(script: Path, tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(forge(script, path, {}), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/7", bytes(100_000))
    with pytest.raises(LoadFailed, match=r"has the member 'data/7' compressed, which torch never does"):
        check_torchscript(path)


def test_a_bomb_of_members_that_overlap(tmp_path: Path) -> None:
    """Two entries of the directory for the same bytes."""
    path = write_zip(tmp_path / "model.pt", ("a", b"1" * 100), ("b", b"2" * 100))
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02")
    data[second + 42 : second + 46] = struct.pack("<L", 0)  # the offset of its header
    path.write_bytes(data)
    assert "that overlaps others" in refusal(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "is not a zip file, as torch writes them"),
        (lambda data: data[:-1], "is not a whole zip file with nothing behind it"),
        (lambda data: data + b"x", "is not a whole zip file with nothing behind it"),
        (lambda data: data[:-2] + b"\x01\x00x", "is not a whole zip file with nothing behind it"),
        (lambda data: b"x" + data, "has a zip directory that can be read in two ways"),
        (lambda data: data[:-12] + b"\x07\x00" + data[-10:], "has a zip directory that can be read in two ways"),
        (lambda data: data[: len(data) // 2] + data[-22:], "has a zip directory that can be read in two ways"),
    ],
)
def test_a_directory_that_is_not_plain(script: Path, tmp_path: Path, change: object, message: str) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(change(script.read_bytes()))  # type: ignore[operator]
    assert refusal(path).startswith(message)


def test_a_directory_by_two_records_that_disagree(script: Path, tmp_path: Path) -> None:
    """One reader would follow the record for small files, another the one for large files."""
    data = bytearray(script.read_bytes())
    locator = data.rindex(b"PK\x06\x07")
    data[locator + 8] ^= 1
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    assert refusal(path).startswith("has a zip directory that can be read in two ways")


def test_too_many_members(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "model.pt", ("data", b"1"))
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x05\x06")
    count = struct.pack("<L2Q", 0, 200_000, 200_000)
    size, offset = struct.unpack("<2L", data[start + 12 : start + 20])
    record = b"PK\x06\x06" + struct.pack("<Q2HL", 44, 45, 45, 0) + count + struct.pack("<2Q", size, offset)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, start, 1)
    end = bytearray(data[start:])
    end[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(bytes(data[:start]) + record + locator + bytes(end))
    assert refusal(path) == "says that it has 200000 members: more than 100000 is no model's"


def test_a_checkpoint_is_told_from_torchscript(tmp_path: Path) -> None:
    torch.save(Halves().state_dict(), tmp_path / "model.pt")
    with pytest.raises(
        LoadFailed, match=r"model\.pt was written by torch\.save and is a pickle, not TorchScript: save"
    ):
        open_model(tmp_path, "cpu")
    torch.save(Halves().state_dict(), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(LoadFailed, match=r"model\.pt is not TorchScript but a pickle or something else"):
        open_model(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("lib/evil.so", b"\x7fELF", "holds 'lib/evil.so', which torch.jit.save does not write"),
        ("extra/notes", b"PK\x03\x04", "holds another archive in 'extra/notes', where text should be"),
    ],
)
def test_what_has_no_place_in_torchscript(script: Path, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = forge(script, tmp_path / "model.pt", {name: lambda _: data})
    with pytest.raises(LoadFailed) as caught:
        check_torchscript(path)
    assert str(caught.value).startswith(message)
