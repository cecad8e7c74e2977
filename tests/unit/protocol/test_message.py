"""A reader gets a message as it was packed, and notices one that does not fit."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estafeta.errors import Corrupt
from estafeta.protocol.message import ALIGNMENT, FIXED_BYTES, SMALL, Form, Head, Kind, Wish, glance, round_time_of
from estafeta.protocol.spec import Slot
from estafeta.store.tensorfile import DTYPES, Array

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
BUFFERS = st.lists(st.tuples(SHAPES, st.sampled_from(sorted(DTYPES))), max_size=5).map(
    lambda found: tuple(Slot(name=f"b{n}", shape=shape, dtype=dtype) for n, (shape, dtype) in enumerate(found))
)
FLOATS = st.floats(allow_nan=False)


@st.composite
def messages(draw: st.DrawFn) -> tuple[Form, dict[str, Any], int]:
    """A form, what a head of it can say, and the number of elements of its vector."""
    slices, sums, count = draw(st.integers(0, 5)), draw(st.integers(0, 3)), draw(st.integers(0, 50))
    buffers = draw(BUFFERS)
    said = {
        "version": draw(st.integers(0, 2**64 - 1)),
        "rank": draw(st.integers(0, 9998)),
        "token": draw(st.text("0123456789abcdef-/", min_size=1, max_size=64)),
        "rows": draw(st.integers(0, 2**64 - 1)),
        "wishes": Wish(draw(st.integers(0, 31))),
        "parts": draw(st.integers(0, 2**32 - 1)),
        "round_s": draw(FLOATS),
        "spent_usd": draw(st.floats(0, width=32, allow_infinity=False)),
        "digests": tuple(draw(st.lists(st.integers(0, 2**32 - 1), min_size=slices, max_size=slices))),
        "sums": tuple(draw(st.lists(FLOATS, min_size=sums, max_size=sums))),
        "buffers": {slot.name: draw(hnp.arrays(DTYPES[slot.dtype], slot.shape)) for slot in buffers},
    }
    return Form(slices, sums, buffers, count), said, count


def in_memory(content: bytes) -> Any:
    """A reader of bytes."""

    def readinto(buffer: Any, offset: int) -> int:
        room = memoryview(buffer).cast("B")
        part = content[offset : offset + len(room)]
        room[: len(part)] = part
        return len(part)

    return SimpleNamespace(size=len(content), readinto=readinto)


def vector_of(count: int) -> Array:
    return np.arange(count, dtype=np.float32)


def packed(form: Form, kind: Kind, said: dict[str, Any], **more: Any) -> bytearray:
    head = form.head()
    form.pack(head, kind, **said, **more)
    return head


def bits(head: Head) -> tuple[object, ...]:
    floats = np.array([head.round_s, *head.sums]).tobytes()
    buffers = {name: (array.dtype, array.shape, array.tobytes()) for name, array in head.buffers.items()}
    return head._replace(round_s=0.0, sums=(), buffers={}), len(head.sums), floats, buffers


@given(message=messages(), kind=st.sampled_from(Kind))
def test_a_message_is_read_back(message: tuple[Form, dict[str, Any], int], kind: Kind) -> None:
    form, said, count = message
    content = bytes(packed(form, kind, said)) + vector_of(count).tobytes()
    assert len(content) == form.total_bytes
    head, vector = form.read(in_memory(content))
    assert bits(head) == bits(Head(kind=kind, **said))
    assert vector is not None
    np.testing.assert_array_equal(vector, vector_of(count))


@given(message=messages())
def test_a_rank_without_rows_has_no_vector(message: tuple[Form, dict[str, Any], int]) -> None:
    form, said, count = message
    said["rows"] = 0
    head, vector = form.read(in_memory(packed(form, Kind.GRADIENT, said, empty=True)))
    assert bits(head) == bits(Head(kind=Kind.GRADIENT, **said))
    assert vector is not None
    assert vector.size == 0
    if count:
        with pytest.raises(Corrupt):
            form.read(in_memory(packed(form, Kind.GRADIENT, {**said, "rows": 1}, empty=True)))


@given(message=messages())
def test_the_vector_begins_at_a_cache_line_behind_the_head(message: tuple[Form, dict[str, Any], int]) -> None:
    form, said, _ = message
    assert len(form.head()) == form.vector_at
    assert form.vector_at % ALIGNMENT == 0
    assert form.vector_at >= FIXED_BYTES + 4 * len(said["digests"]) + 8 * len(said["sums"])


SAID: dict[str, Any] = {
    "version": 7,
    "rank": 2,
    "token": "request/1",
    "rows": 12,
    "wishes": Wish.READY | Wish.STOP,
    "round_s": 0.25,
    "digests": (1, 2, 3),
    "sums": (0.5, 2.0),
    "buffers": {"mean": np.array([1, 2, 3], np.float32), "on": np.array(True)},
}
SLOTS = (Slot(name="mean", shape=(3,)), Slot(name="on", shape=(), dtype="BOOL"))
TEN = Form(3, 2, SLOTS, 10)
LARGE = Form(3, 2, SLOTS, SMALL + 1)


def message_of(form: Form, count: int) -> bytearray:
    return packed(form, Kind.GRADIENT, SAID) + vector_of(count).tobytes()


def test_large_vectors_are_not_read_along_with_the_head() -> None:
    at_most = Form(3, 2, SLOTS, SMALL)
    vector = at_most.read(in_memory(message_of(at_most, SMALL)))[1]
    assert vector is not None
    assert vector.size == SMALL
    head, vector = LARGE.read(in_memory(message_of(LARGE, SMALL + 1)))
    assert (head.rows, vector) == (12, None)


@pytest.mark.parametrize("at", range(TEN.vector_at))
def test_a_byte_that_is_flipped_anywhere_in_the_head_is_noticed(at: int) -> None:
    for form, count in ((TEN, 10), (LARGE, SMALL + 1)):
        content = message_of(form, count)
        content[at] ^= 1 << at % 8
        with pytest.raises(Corrupt):
            form.read(in_memory(content))


@pytest.mark.parametrize("length", [0, 1, FIXED_BYTES, TEN.vector_at - 1, TEN.vector_at, TEN.total_bytes - 1])
def test_a_file_that_is_short_is_noticed(length: int) -> None:
    with pytest.raises(Corrupt):
        TEN.read(in_memory(message_of(TEN, 10)[:length]))
    if length < LARGE.vector_at:
        with pytest.raises(Corrupt):
            LARGE.read(in_memory(message_of(LARGE, SMALL + 1)[:length]))


def test_a_message_of_another_form_is_noticed() -> None:
    other = Form(3, 2, SLOTS, 11)
    assert other.vector_at == TEN.vector_at
    with pytest.raises(Corrupt):
        other.read(in_memory(message_of(TEN, 11)))
    with pytest.raises(Corrupt):
        TEN.read(in_memory(bytes(TEN.total_bytes)))


def test_the_room_for_heads_may_be_used_again() -> None:
    head = packed(TEN, Kind.GRADIENT, SAID)
    TEN.pack(head, Kind.GRADIENT, **{**SAID, "rows": 13})
    assert TEN.read(in_memory(head + vector_of(10).tobytes()))[0].rows == 13
    other = TEN.head()
    TEN.pack(other, Kind.GRADIENT, **{**SAID, "rows": 13})
    assert head == other, "the digest of a head that was there before is no part of it"


def test_how_long_rounds_take_is_read_from_any_message() -> None:
    content = bytes(packed(TEN, Kind.SCORES, SAID)) + bytes(40)
    assert round_time_of(in_memory(content)) == 0.25
    assert round_time_of(in_memory(content[:FIXED_BYTES])) == 0.25
    for other in (b"", content[: FIXED_BYTES - 1], b"E" + content[1:]):
        assert round_time_of(in_memory(other)) == 0.0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-320, 2**53 + 1.0])
def test_sums_keep_their_bits(value: float) -> None:
    form = Form(0, 1)
    found = form.read(in_memory(packed(form, Kind.SCORES, {"version": 1, "rank": 0, "token": "t", "sums": (value,)})))
    assert np.float64(found[0].sums[0]).tobytes() == np.float64(value).tobytes()


def joined(content: list[Any]) -> Any:
    """A reader of a message that is ready to be published."""
    return in_memory(b"".join(bytes(part) for part in content))


@pytest.mark.parametrize("count", [10, SMALL + 1])
@pytest.mark.parametrize("room", [1, 7, 4096, SMALL + 1])
def test_a_vector_is_streamed_in_any_chunks(count: int, room: int) -> None:
    form, vector = Form(1, 1, SLOTS, count), vector_of(count)
    said = {name: SAID[name] for name in ("version", "rank", "token", "rows", "buffers")}
    reader = joined(form.content(Kind.GRADIENT, vector, sums=(0.5,), parts=3, **said))
    head, small = form.read(reader)
    head.check(Kind.GRADIENT, 7, 2)
    chunks = [(first, chunk.copy()) for first, chunk in form.stream(reader, head, small, np.empty(room, np.float32))]
    assert [first for first, _ in chunks] == list(range(0, count, room))
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in chunks]), vector)
    assert head.parts == 3


@pytest.mark.parametrize(
    ("kind", "version", "rank"), [(Kind.SCORES, 7, 2), (Kind.GRADIENT, 6, 2), (Kind.GRADIENT, 7, 1)]
)
def test_a_message_of_another_kind_version_or_rank_is_noticed(kind: Kind, version: int, rank: int) -> None:
    head, _ = TEN.read(in_memory(message_of(TEN, 10)))
    with pytest.raises(Corrupt, match="rank 2, version 7"):
        head.check(kind, version, rank)


def test_a_stand_in_has_neither_rows_nor_a_vector() -> None:
    head, vector = TEN.read(joined(TEN.stand_in(7, 2, "closer")))
    assert (head.is_stand_in, head.rows, head.sums, head.token) == (True, 0, (0.0, 0.0), "closer")
    assert vector is not None
    assert vector.size == 0
    assert glance(joined(TEN.stand_in(7, 2, "closer")), 3) == head._replace(sums=(), buffers={})
    assert list(TEN.stream(joined([]), head, vector, np.empty(1, np.float32))) == []


def test_a_glance_needs_not_know_the_form() -> None:
    for form, count in ((TEN, 10), (LARGE, SMALL + 1)):
        head = glance(in_memory(bytes(message_of(form, count))), 3)
        assert head == form.read(in_memory(message_of(form, count)))[0]._replace(sums=(), buffers={})


@pytest.mark.parametrize("at", range(TEN.vector_at))
def test_a_glance_notices_a_byte_that_is_flipped_anywhere_in_the_head(at: int) -> None:
    content = message_of(TEN, 10)
    content[at] ^= 1 << at % 8
    with pytest.raises(Corrupt):
        glance(in_memory(content), 3)
