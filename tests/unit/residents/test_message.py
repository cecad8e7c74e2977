"""A message is read back as it was packed, and one that does not fit is noticed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from estafeta.errors import Corrupt
from estafeta.protocol.spec import Slot
from estafeta.residents.message import ALIGNMENT, FIXED_BYTES, SMALL, Form, Head, Kind, Wish, round_time_of
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
        part = content[offset : offset + len(buffer)]
        buffer[: len(part)] = part
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


def test_of_a_large_vector_the_head_alone_is_read() -> None:
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
