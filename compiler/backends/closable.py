"""Makes a shared library closable that g++ linked: without this `dlclose` leaves it mapped until the process ends.

g++ marks the static objects of C++ templates as unique in the process (STB_GNU_UNIQUE), and a library that has any of
those is never unmapped, as ld.so cannot know who refers to them: every model that was served once would keep its
memory, and its file's room on the disk. Nobody else looks into what AOTInductor compiles, so they may be weak symbols.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

MAGIC = b"\x7fELF\x02\x01"  # 64 bits, little-endian
SECTIONS = struct.Struct("<Q10xHHH")  # of the file's header, from byte 40: where sections are told; their size, number
SECTION = struct.Struct("<4xI16xQQ16xQ")  # type, offset, size, size of an entry
DYNAMIC_SYMBOLS = 11
INFO_AT = 4  # of a symbol: its binding in the upper half of this byte
UNIQUE, WEAK = 10, 2


def make_closable(path: Path) -> None:
    """Rewrite the library in place. What is no ELF file of that kind is left as it is."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as image:
        if image[: len(MAGIC)] != MAGIC:
            return
        at, size, count, _ = SECTIONS.unpack_from(image, 40)
        for number in range(count):
            kind, offset, length, step = SECTION.unpack_from(image, at + number * size)
            if kind == DYNAMIC_SYMBOLS:
                for info in range(offset + INFO_AT, offset + length, step):
                    if image[info] >> 4 == UNIQUE:
                        image[info] = WEAK << 4 | image[info] & 15
