"""The message container: a fixed header, a section table, the sections. Safe to parse from anyone.

Little-endian, byte offsets:

     0  4s  magic `FEDS`
     4  u8  version (1)
     5  u8  kind, see KINDS
     6  u8  direction, see DIRECTIONS
     7  u8  number of sections S
     8  u32 round
    12  i32 sender (−1 is the coordinator)
    16  u32 total length of the message
    20  u32 CRC-32 of every other byte of the message
    24  S × (u8 section id, u32 length), ids strictly ascending, then the sections in that order

The checksum finds accidents, not attacks: an attacker recomputes it. So everything a section
declares about itself is checked again by whoever reads the section.

What is read in the process that wrote it has no use for header, table and checksum: a `Message` can be read
as it is, and is only packed where it leaves. Its size is that of its bytes in either case.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TypeAlias

from isal.isal_zlib import crc32  # zlib's function, several times as fast

from fedsim.errors import MessageError

MAGIC = b"FEDS"
VERSION = 1

# A code, once used, is never given to another meaning: old messages stay readable or are refused.
KINDS = {"responses": 1, "parameters": 2, "features": 3, "prototypes": 4, "sequences": 5, "mixture": 6}
KINDS |= {"update": 7, "masked": 8}
DIRECTIONS = {"up": 0, "down": 1}
SECTIONS = {
    "meta": 1,
    "samples": 2,
    "lengths": 3,
    "ids": 4,
    "counts": 5,
    "claims": 6,
    "vector": 7,
    "skills": 8,
}
SECTIONS |= {"base": 24, "kept": 25}  # of messages that are coded against others
SECTIONS |= {"scales": 32, "codes": 33, "groups": 34, "centroids": 35, "confidence": 36}
SECTIONS |= {"responses": 64, "features": 65, "prototypes": 66}  # the parts of a mixture, see `join`
SECTIONS |= {"about": 96, "ends": 97, "tokens": 98, "scores": 99, "drawn": 100}  # of sequences

_KIND_NAMES = {code: name for name, code in KINDS.items()}
_DIRECTION_NAMES = {code: name for name, code in DIRECTIONS.items()}
_SECTION_NAMES = {code: name for name, code in SECTIONS.items()}

_HEADER = struct.Struct("<4sBBBBIiII")
_ENTRY = struct.Struct("<BI")
_CRC_AT = 20
_U32_MAX = 2**32 - 1

Buffer: TypeAlias = bytes | bytearray | memoryview
Content: TypeAlias = Buffer | list[Buffer]
"""Of a section; in pieces where they lie apart, so that they need not be joined before the message is."""


@dataclass(frozen=True)
class Message:
    """What is sent: knowledge of a kind (`responses`, `parameters`, …) as named sections.

    direction: `up` (participant to coordinator) or `down`.
    sections: by names of SECTIONS. One that was read views its message's bytes; one that was just written may
        view what it tells of, a model's weights for example, and then is good until that changes.
    """

    kind: str
    direction: str
    round: int
    sender: int
    sections: Mapping[str, Content]

    @cached_property
    def anatomy(self) -> dict[str, int]:
        """Bytes of the `header` with its table, and of each section, in the order of `data`."""
        ordered = sorted(self.sections, key=SECTIONS.__getitem__)
        sizes = {name: _size(self.sections[name]) for name in ordered}
        return {"header": _HEADER.size + _ENTRY.size * len(sizes), **sizes}

    @cached_property
    def size(self) -> int:
        """Length of `data`: what sending it costs in bytes."""
        return sum(self.anatomy.values())

    @cached_property
    def data(self) -> bytes:
        """All that is sent, see `pack`."""
        return pack(self.kind, self.direction, self.round, self.sender, self.sections)


def pack(kind: str, direction: str, round: int, sender: int, sections: Mapping[str, Content]) -> bytes:
    """The message as bytes. `sections` maps names of SECTIONS to content (bytes), in any order.

    Raises ValueError for an unknown kind, direction or section, or a number out of the header's
    range; MessageError("oversized") when the message would not fit its 32-bit length (4 GiB).
    """
    for name, known in (
        (kind, KINDS), (direction, DIRECTIONS), *((section, SECTIONS) for section in sections)
    ):  # fmt: skip
        if name not in known:
            raise ValueError(f"{name!r} is not one of {sorted(known)}")
    if not 0 <= round <= _U32_MAX or not -(2**31) <= sender < 2**31:
        raise ValueError(f"round {round} or sender {sender} does not fit the header")
    parts = _in_order(sections)
    total = _HEADER.size + sum(map(len, parts))
    fields = MAGIC, VERSION, KINDS[kind], DIRECTIONS[direction], len(sections), round, sender, total
    crc = crc32(_HEADER.pack(*fields, 0)[:_CRC_AT])
    for part in parts:
        crc = crc32(part, crc)
    return b"".join((_HEADER.pack(*fields, crc), *parts))  # the only copy of the content


def unpack(data: Buffer, limit: int) -> Message:
    """Parse `data`, of at most `limit` bytes. Nothing the size of the content is allocated.

    Raises MessageError: truncated (shorter than it says), oversized (longer than `limit`),
    corrupted (magic, checksum, table or trailing bytes), unexpected (a version, kind, direction
    or section that this program does not know).
    """
    size = len(data)
    if size > limit:
        raise MessageError("oversized", f"{size} bytes, the receiver accepts {limit}")
    if size < _HEADER.size:
        raise MessageError("truncated", f"{size} bytes, a header alone has {_HEADER.size}")
    magic, version, kind, direction, count, round_, sender, total, crc = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise MessageError("corrupted", f"starts with {magic!r}, not {MAGIC!r}")
    if version != VERSION:
        raise MessageError("unexpected", f"version {version}, this program reads {VERSION}")
    if size < total:
        raise MessageError("truncated", f"{size} of {total} bytes")
    if size > total:
        raise MessageError("corrupted", f"{size - total} bytes after the end")
    if crc != checksum(data):
        raise MessageError("corrupted", "the checksum does not match")
    if kind not in _KIND_NAMES or direction not in _DIRECTION_NAMES:
        raise MessageError("unexpected", f"kind {kind}, direction {direction}")
    sections = _sections(data, count, _HEADER.size)
    return Message(_KIND_NAMES[kind], _DIRECTION_NAMES[direction], round_, sender, sections)


def join(sections: Mapping[str, Content]) -> bytes:
    """Sections as the content of one: their number (u8), the table, the sections, as in a message."""
    return b"".join((bytes([len(sections)]), *_in_order(sections)))


def _in_order(sections: Mapping[str, Content]) -> list[Buffer]:
    """The table's entries, then what is in the sections, in the order in which a message has them."""
    ordered = sorted(sections, key=SECTIONS.__getitem__)
    pieces = [content if isinstance(content := sections[name], list) else [content] for name in ordered]
    sizes = [_size(some) for some in pieces]
    total = _HEADER.size + _ENTRY.size * len(sizes) + sum(sizes)
    if total > _U32_MAX:
        raise MessageError("oversized", f"{total} bytes, a message holds at most {_U32_MAX}")
    entries = [_ENTRY.pack(SECTIONS[name], size) for name, size in zip(ordered, sizes, strict=True)]
    return [*entries, *chain.from_iterable(pieces)]


def split(content: memoryview) -> dict[str, memoryview]:
    """What `join` joined, as views. Raises MessageError."""
    if not content:
        raise MessageError("corrupted", "a section without a table")
    return _sections(content, content[0], 1)


def anatomy(data: Buffer) -> dict[str, int]:
    """`Message.anatomy` of bytes that may be anything: what can't be read is header as a whole."""
    try:
        return unpack(data, len(data)).anatomy
    except MessageError:
        return {"header": len(data)}


def checksum(data: Buffer) -> int:
    """CRC-32 of a whole message without the four bytes that hold the CRC itself."""
    view = memoryview(data)
    return int(crc32(view[_CRC_AT + 4 :], crc32(view[:_CRC_AT])))


def _size(content: Content) -> int:
    return sum(map(len, content)) if isinstance(content, list) else len(content)


def _sections(data: Buffer, count: int, table: int) -> dict[str, memoryview]:
    """The sections of `data`, whose table of `count` entries begins at byte `table`."""
    start = table + count * _ENTRY.size
    if start > len(data):
        raise MessageError("corrupted", f"a table of {count} sections in {len(data)} bytes")
    view = memoryview(data).toreadonly()
    sections: dict[str, memoryview] = {}
    previous = 0
    for code, length in _ENTRY.iter_unpack(view[table:start]):
        if code <= previous:
            raise MessageError("corrupted", f"section {code} after {previous}: twice or out of order")
        if code not in _SECTION_NAMES:
            raise MessageError("unexpected", f"section {code}")
        if length > len(data) - start:
            raise MessageError("corrupted", f"section {code} of {length} bytes reaches past the end")
        sections[_SECTION_NAMES[code]] = view[start : start + length]
        start += length
        previous = code
    if start != len(data):
        raise MessageError("corrupted", f"{len(data) - start} bytes in no section")
    return sections
