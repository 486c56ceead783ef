"""The frame: round trip, and the reason for every way in which it can be wrong."""

import pickle
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import MessageError
from fedsim.wire.container import DIRECTIONS, KINDS, SECTIONS, anatomy, checksum, pack, unpack

SOME = pack("responses", "up", 3, 7, {"ids": b"abc", "meta": b"", "counts": bytes(100)})


def resealed(data: bytes | bytearray) -> bytes:
    """`data` with the checksum an attacker would recompute."""
    message = bytearray(data)
    struct.pack_into("<I", message, 20, checksum(message))
    return bytes(message)


def edited(at: int, layout: str, value: int) -> bytes:
    message = bytearray(SOME)
    struct.pack_into(layout, message, at, value)
    return resealed(message)


def reason(data: bytes, limit: int = 10_000) -> str:
    with pytest.raises(MessageError) as caught:
        unpack(data, limit)
    return caught.value.reason


@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(DIRECTIONS)),
    st.integers(0, 2**32 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.dictionaries(st.sampled_from(sorted(SECTIONS)), st.binary(max_size=50)),
)
def test_round_trip(kind: str, direction: str, round: int, sender: int, sections: dict[str, bytes]) -> None:
    data = pack(kind, direction, round, sender, sections)
    assert len(data) == 24 + sum(5 + len(content) for content in sections.values())
    read = unpack(data, len(data))
    assert (read.kind, read.direction, read.round, read.sender) == (kind, direction, round, sender)
    assert {name: bytes(view) for name, view in read.sections.items()} == sections


def test_the_order_of_the_sections_does_not_change_the_bytes() -> None:
    assert pack("parameters", "up", 0, 0, {"vector": b"v", "meta": b"m"}) == pack(
        "parameters", "up", 0, 0, {"meta": b"m", "vector": b"v"}
    )


def test_every_truncation_is_found() -> None:
    assert {reason(SOME[:size]) for size in range(len(SOME))} == {"truncated"}


def test_every_flipped_bit_is_found() -> None:
    for bit in range(8 * len(SOME)):
        flipped = bytearray(SOME)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(bytes(flipped)) in {"corrupted", "unexpected", "truncated"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (SOME + b"x", "corrupted"),
        (edited(0, "<B", 0), "corrupted"),  # magic
        (edited(4, "<B", 2), "unexpected"),  # version
        (edited(5, "<B", 99), "unexpected"),  # kind
        (edited(6, "<B", 9), "unexpected"),  # direction
        (edited(7, "<B", 2), "corrupted"),  # a section less than there are
        (edited(7, "<B", 255), "corrupted"),  # a table longer than the message
        (edited(16, "<I", 2**32 - 1), "truncated"),  # total length
        (edited(24, "<B", 0), "corrupted"),  # section ids start at 1
        (edited(29, "<B", 1), "corrupted"),  # the same section twice
        (edited(34, "<B", 200), "unexpected"),  # an unknown section
        (edited(25, "<I", 2**32 - 1), "corrupted"),  # a section longer than the message
        (edited(25, "<I", 1), "corrupted"),  # the sections no longer add up
    ],
)
def test_each_fault_has_its_reason(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_a_message_longer_than_the_limit_is_refused_unread() -> None:
    assert reason(SOME, limit=len(SOME) - 1) == "oversized"
    assert reason(b"no message at all" * 100, limit=100) == "oversized"


def test_the_sender_is_told_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="is not one of"):
        pack("rumours", "up", 0, 0, {})
    with pytest.raises(ValueError, match="is not one of"):
        pack("responses", "sideways", 0, 0, {})
    with pytest.raises(ValueError, match="is not one of"):
        pack("responses", "up", 0, 0, {"extra": b""})
    with pytest.raises(ValueError, match="does not fit the header"):
        pack("responses", "up", -1, 0, {})


def test_the_error_survives_a_trip_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MessageError("truncated", "3 of 4: bytes")))
    assert (error.reason, str(error)) == ("truncated", "truncated: 3 of 4: bytes")


def test_the_anatomy_of_a_message_that_was_broken_on_the_way_is_all_header() -> None:
    whole = pack("responses", "up", 1, 0, {"meta": b"abc", "ids": b"12345"})
    assert anatomy(whole) == {"header": len(whole) - 8, "meta": 3, "ids": 5}
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 0xC6  # also in the table, whose sections then have no name
        assert anatomy(bytes(broken)) == {"header": len(whole)}
    assert anatomy(bytes(9)) == {"header": 9}
