"""Checks the zip files that models come in before torch opens them: their directory, their members, their sizes.

torch reads a zip with its own library, we with Python's: what the two could understand differently is refused, so that
what was checked is what is opened. Knows nothing of what members mean but for TorchScript's names; `pt2.py` reads those
of a .pt2. Runs in builder processes, called by `load.py`. The sentences follow the name of the file.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from compiler.errors import LoadFailed

MAX_MEMBERS = 100_000  # a tensor is a member: the largest language models have some thousands
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024  # 300 bytes for each member
MAX_INFLATED_BYTES = 256 * 1024 * 1024  # only source code is compressed: that of EfficientNet-B0 is 1 MB
MAX_RATIO = 200  # TorchScript's own is below 20; deflate can reach 1000

END = struct.Struct("<4s4H2LH")  # end of central directory; APPNOTE.TXT 4.3.16
END64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
LOCATOR64 = struct.Struct("<4sLQL")  # 4.3.15
LOCAL_HEADER_BYTES = 30  # 4.3.7, before the name
LIMITS = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)  # in END for what only END64 can hold: members, bytes, start of the directory
UTF8_NAME, SIZES_FOLLOW = 0x800, 0x8  # the two flags that torch sets; others encrypt or patch
ZIP64_EXTRA = 1
TWO_WAYS = "has a zip directory that can be read in two ways: save the model again"

TORCHSCRIPT = re.compile(
    r"(data|constants|attributes|traced_inputs|bytecode|mobile_debug_handles)\.pkl"
    r"|(data|constants|attributes|traced_inputs|tensors)/[\w.]+"
    r"|code/[\w./]+\.py(\.debug_pkl)?|version|byteorder|\.data/(version|serialization_id)|extra/[^/].*|model\.json"
)


@dataclass(frozen=True)
class Archive:
    """An open zip whose directory is sound. `members` are by the name below the one folder that torch puts them in."""

    zip: zipfile.ZipFile
    members: dict[str, zipfile.ZipInfo]

    def read(self, name: str, limit: int) -> bytes:
        """Raises LoadFailed where the member is not there or larger than `limit` bytes."""
        info = self.members.get(name)
        if info is None:
            raise LoadFailed(f"lacks the member '{name}': it was not saved whole")
        if info.file_size > limit:
            raise LoadFailed(f"has {info.file_size} bytes in '{name}', more than {limit}: that is no model's")
        return self.zip.read(info)


@contextmanager
def open_archive(file: Path | bytes) -> Iterator[Archive]:
    """The members of a file, or of a member, for as long as the block lasts. Raises LoadFailed for whatever is wrong.

    >>> with open_archive(path) as archive: archive.read("version", limit=16)
    """
    stream: BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else file.open("rb")
    try:
        with stream, _open_zip(stream) as opened:
            yield Archive(opened, _check_members(opened))
    except LoadFailed:
        raise
    except Exception as error:  # zipfile, zlib, struct and codecs have a dozen kinds for bytes that make no sense
        raise LoadFailed(f"is damaged: {type(error).__name__}: {' '.join(str(error).split())[:200]}") from error


def check_torchscript(path: Path) -> None:
    """Raises LoadFailed where `path` is not what torch.jit.save writes. Opens none of its pickles and runs nothing."""
    with path.open("rb") as file:
        if file.read(2) != b"PK":
            raise LoadFailed("is not TorchScript but a pickle or something else: save the model with torch.jit.save")
    with open_archive(path) as archive:
        if "data.pkl" in archive.members and "constants.pkl" not in archive.members:
            raise LoadFailed(
                "was written by torch.save and is a pickle, not TorchScript: save the model with torch.jit.save, or "
                "its weights as model.safetensors"
            )
        for needed in ("data.pkl", "constants.pkl"):
            archive.read(needed, MAX_INFLATED_BYTES)
        check_names(archive, TORCHSCRIPT, "torch.jit.save")
        check_compression(archive)


def check_names(archive: Archive, expected: re.Pattern[str], writer: str) -> None:
    """Raises LoadFailed for a member that `writer` does not write, and for an archive where text should be."""
    for name, info in archive.members.items():
        if not expected.fullmatch(name):
            raise LoadFailed(f"holds '{name[:100]}', which {writer} does not write: save the model again")
        if name.startswith("extra/") and archive.zip.open(info).read(4) == b"PK\x03\x04":
            raise LoadFailed(f"holds another archive in '{name[:100]}', where text should be: save it without")


def check_stored(archive: Archive) -> None:
    """Raises LoadFailed for a compressed member: without any, a file is as large as its contents."""
    for name, info in archive.members.items():
        if info.compress_type != zipfile.ZIP_STORED:
            raise LoadFailed(f"has the member '{name[:100]}' compressed, which torch never does: save the model again")


def check_compression(archive: Archive) -> None:
    """Raises LoadFailed where compressed members are not source code, or would fill the memory."""
    packed = {name: info for name, info in archive.members.items() if info.compress_type != zipfile.ZIP_STORED}
    for name, info in packed.items():
        if info.compress_type != zipfile.ZIP_DEFLATED or not name.startswith("code/"):
            raise LoadFailed(f"has the member '{name[:100]}' compressed, which torch never does: save the model again")
        if info.file_size > MAX_RATIO * max(info.compress_size, 1):
            raise LoadFailed(f"has the member '{name[:100]}', which unpacks to {info.file_size} bytes: that is a bomb")
    total = sum(info.file_size for info in packed.values())
    if total > MAX_INFLATED_BYTES:
        raise LoadFailed(f"unpacks to {total} bytes of source code: more than {MAX_INFLATED_BYTES} is no model's")


def _open_zip(stream: BinaryIO) -> zipfile.ZipFile:
    """Raises LoadFailed where Python and torch could read the directory differently, or where it is too large."""
    size = stream.seek(0, io.SEEK_END)
    if size < END.size:
        raise LoadFailed("is not a zip file, as torch writes them: save the model again")
    mark, disk, start_disk, on_disk, count, length, start, comment = _unpack(stream, END, size - END.size)
    if mark != b"PK\x05\x06" or comment:
        raise LoadFailed("is not a whole zip file with nothing behind it: it was cut off, or something was added")
    if (disk, start_disk, on_disk) != (0, 0, count):
        raise LoadFailed(TWO_WAYS)
    at = size - END.size
    if at >= LOCATOR64.size and _unpack(stream, LOCATOR64, at - LOCATOR64.size)[0] == b"PK\x06\x07":
        narrow, at = (count, length, start), at - LOCATOR64.size - END64.size
        count, length, start = _read_end64(stream, at)
        if any(one not in (two, limit) for one, two, limit in zip(narrow, (count, length, start), LIMITS, strict=True)):
            raise LoadFailed(TWO_WAYS)
    if start + length != at:
        raise LoadFailed(TWO_WAYS)
    if count > MAX_MEMBERS or length > MAX_DIRECTORY_BYTES:
        raise LoadFailed(f"says that it has {count} members: more than {MAX_MEMBERS} is no model's")
    opened = zipfile.ZipFile(stream)
    if len(opened.infolist()) != count:
        raise LoadFailed(TWO_WAYS)
    return opened


def _read_end64(stream: BinaryIO, at: int) -> tuple[int, int, int]:
    """The number of members, and the bytes and the start of the directory, by the record for large files at `at`."""
    if at < 0:
        raise LoadFailed(TWO_WAYS)
    mark, _, _, _, *disks, count, length, start = _unpack(stream, END64, at)
    if mark != b"PK\x06\x06" or disks != [0, 0, count] or _unpack(stream, LOCATOR64, at + END64.size)[1:] != (0, at, 1):
        raise LoadFailed(TWO_WAYS)
    return count, length, start


def _unpack(stream: BinaryIO, form: struct.Struct, at: int) -> tuple[Any, ...]:
    stream.seek(at)
    return form.unpack(stream.read(form.size))


def _check_members(opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """By name below the one folder at the top. Raises LoadFailed."""
    infos = opened.infolist()
    if not infos:
        raise LoadFailed("is an empty zip file: save the model again")
    root = infos[0].orig_filename.partition("/")[0] + "/"
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        name = info.orig_filename
        if not _is_plain(name) or not name.startswith(root):
            raise LoadFailed(f"has a member named {name[:100]!r}, outside its own folder: save the model again")
        if name.casefold() in seen:  # torch looks members up without regard to case
            raise LoadFailed(f"has the member {name[:100]!r} twice: save the model again")
        seen.add(name.casefold())
        reason = _find_oddity(info)
        if reason:
            raise LoadFailed(f"has a member {name[:100]!r} that {reason}: save the model again")
        members[name.removeprefix(root)] = info
    _check_places(infos, opened.start_dir)
    return members


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and ":" not in name and not {"", ".", ".."} & set(parts)


def _find_oddity(info: zipfile.ZipInfo) -> str:
    """What torch never writes and other readers may take for something else; "" where there is nothing of it."""
    if info.flag_bits & 1:
        return "is encrypted"
    if info.flag_bits & ~(UTF8_NAME | SIZES_FOLLOW):
        return "has unknown flags"
    if not info.orig_filename.isascii() and not info.flag_bits & UTF8_NAME:
        return "has a name in no known encoding"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "is a link or a device"
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        return "has two sizes"
    extra = info.extra
    while extra:  # a name in an extra field would replace the member's in some readers
        if len(extra) < 4 or int.from_bytes(extra[:2], "little") != ZIP64_EXTRA:
            return "has unknown extra fields"
        extra = extra[4 + int.from_bytes(extra[2:4], "little") :]
    return ""


def _check_places(infos: list[zipfile.ZipInfo], directory: int) -> None:
    """Members that overlap would unpack to more than the file holds."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    ends = [info.header_offset for info in ordered[1:]] + [directory]
    for info, end in zip(ordered, ends, strict=True):
        start = info.header_offset
        if start < 0 or start + LOCAL_HEADER_BYTES + len(info.orig_filename) + info.compress_size > end:
            raise LoadFailed(f"has a member {info.orig_filename[:100]!r} that overlaps others: save the model again")
