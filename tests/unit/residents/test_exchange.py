"""The exchange: every rank gets the same sums, whatever they are taken in, or an error."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance.interposed import Interposed
from estafeta.errors import Corrupt, Gone
from estafeta.protocol.layout import Round
from estafeta.protocol.message import SMALL, Wish
from estafeta.protocol.partition import cut
from estafeta.protocol.spec import Slot
from estafeta.residents.exchange import Exchange
from estafeta.store.files import OsFiles, Reader
from estafeta.store.store import TEMPORARY

from ..ring import Contribution, Ring, WaitedInVain, add_up_all, at_once, contribute, normal, shared

FIRST = Round(0, "train")
SIZE = 5000
LARGE = SMALL + 5000
"""Elements of a vector that is read and written chunk by chunk."""

SIZES = pytest.mark.parametrize("size", [SIZE, LARGE])
EITHER = pytest.mark.parametrize("files", [OsFiles, shared], ids=["of this machine", "shared"])


def sharded(root: Path, workers: int = 3, size: int = SIZE, **options: Any) -> Ring:
    return Ring(root, workers=workers, size=size, slices=cut(size, workers), **options)


def contribute_all(exchanges: Sequence[Exchange], round_: Round = FIRST, size: int = SIZE, **head: Any) -> np.ndarray:
    """Each rank's gradient; return the sum in the order of the ranks."""
    expected = np.zeros(size, np.float32)
    for rank, exchange in enumerate(exchanges):
        gradient = normal(100 * round_.version + rank, size)
        assert contribute(exchange, round_, Contribution(gradient), **head)
        expected = expected + gradient if rank else gradient
    return expected


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Sums


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 400) | st.integers(SMALL - 2, SMALL + 50),
    parts=st.integers(1, 6),
    grain=st.sampled_from([1, 3, 64]),
    cuts=st.lists(st.integers(0, 400), max_size=5),
    chunk=st.integers(30, 20_000),
    without_rows=st.sets(st.integers(0, 3), max_size=2),
)
def test_sums_have_the_order_of_the_ranks_whatever_they_are_taken_in(
    size: int,
    parts: int,
    grain: int,
    cuts: list[int],
    chunk: int,
    without_rows: set[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    ring = Ring(tmp_path_factory.mktemp("ring"), workers=4, size=size, slices=cut(size, parts, grain))
    exchanges = ring.join_all(patient=0)
    expected = None
    for rank, exchange in enumerate(exchanges):
        gradient = None if rank in without_rows else normal(rank, size)
        said = Contribution(gradient, rows=int(gradient is not None))
        contribute(exchange, FIRST, said, [min(at, size) for at in cuts])
        if gradient is not None:
            expected = gradient if expected is None else expected + gradient
    with exchanges[1].gather(FIRST) as gathered:
        total = add_up_all(gathered, ring.slices, chunk)
        again = add_up_all(gathered, ring.slices)
    assert expected is not None
    assert total.tobytes() == again.tobytes() == expected.tobytes()
    for exchange in exchanges:
        exchange.close()


def test_another_order_would_give_other_bits() -> None:
    """Or the test above could not tell."""
    one, other = (sum((normal(rank, SIZE) for rank in ranks), np.float32(0)) for ranks in (range(4), (3, 2, 1, 0)))
    assert not np.array_equal(one, other)


def test_the_first_that_has_rows_is_taken_as_it_is(tmp_path: Path) -> None:
    """Zero plus a negative zero would be another zero."""
    ring = Ring(tmp_path, workers=3, size=2)
    exchanges = ring.join_all(patient=0)
    for exchange, gradient in zip(exchanges, [None, [-0.0, 1.0], [-0.0, 2.0]], strict=True):
        vector = None if gradient is None else np.array(gradient, np.float32)
        contribute(exchange, FIRST, Contribution(vector, rows=int(vector is not None)))
    with exchanges[0].gather(FIRST) as gathered:
        total = add_up_all(gathered, ring.slices)
    assert total.tobytes() == np.array([-0.0, 3.0], np.float32).tobytes()


@SIZES
def test_a_part_that_is_written_again_counts_once(size: int, tmp_path: Path) -> None:
    """As with re-entrant checkpointing; the digest is that of what it is in the end."""
    ring = sharded(tmp_path, workers=2, size=size)
    exchanges = ring.join_all(patient=0)
    gradient = normal(0, size)
    outgoing = exchanges[0].outgoing()
    outgoing.put(0, 0, gradient[:3000] * np.float32(7))
    outgoing.put(1, 3000, gradient[3000:])
    outgoing.put(0, 0, gradient[:3000])
    exchanges[0].contribute(FIRST, outgoing, rows=1, sums=(0.0,))
    contribute(exchanges[1], FIRST, Contribution(np.zeros(size, np.float32)))
    with exchanges[1].gather(FIRST) as gathered:
        np.testing.assert_array_equal(add_up_all(gathered, ring.slices), gradient)


@SIZES
@EITHER
def test_one_round_after_the_other(files: Any, size: int, tmp_path: Path) -> None:
    """Where files are filled again, nothing of an earlier round shows."""
    ring = sharded(tmp_path, size=size, files=files)
    exchanges = ring.join_all(patient=0)
    for version in range(5):
        round_ = Round(version, "train")
        expected = contribute_all(exchanges, round_, size)
        for exchange in exchanges:
            with exchange.gather(round_) as gathered:
                exchange.retire(version, version)
                assert add_up_all(gathered, ring.slices).tobytes() == expected.tobytes()
        for rank in range(3):
            assert ring.names(rank) == {f"gradient-{version:08d}"}
    for exchange in exchanges:
        exchange.close()
    assert ring.private_names() == []


# What the heads carry


def test_heads_and_totals(tmp_path: Path) -> None:
    buffers = (Slot(name="mean", shape=(2,)), Slot(name="seen", shape=(), dtype="I64"))
    ring = Ring(tmp_path, workers=3, size=2, sums=("loss", "accuracy"), buffers=buffers)
    exchanges = ring.join_all(patient=0)
    for rank, exchange in enumerate(exchanges):
        rows, there = 2 * rank, {"mean": np.full(2, rank, np.float32), "seen": np.array(10 - rank)}
        said = Contribution(np.ones(2, np.float32) if rows else None, rows, (0.1 * rank, 1.0), there)
        contribute(exchange, FIRST, said, wishes=Wish.READY | (Wish.LEAVE if rank == 2 else Wish.NONE), round_s=0.5)
    with exchanges[0].gather(FIRST) as gathered:
        pass
    heads = [source.head for source in gathered._all]
    assert [(head.rank, head.rows, head.round_s, head.token) for head in heads] == [
        (rank, 2 * rank, 0.5, f"token-of-{rank}") for rank in range(3)
    ]
    assert gathered.totals.rows == 6
    assert gathered.totals.sums == {"loss": 0.1 + 0.2, "accuracy": 3.0}
    found = gathered.totals.buffers({"mean": np.zeros(2, np.float32), "seen": np.array(0)})
    assert found["mean"].tolist() == pytest.approx([10 / 6] * 2)
    assert found["seen"] == 9, "of those that have rows"
    assert gathered.wishes == Wish.READY | Wish.LEAVE
    assert gathered.common & Wish.READY
    assert not gathered.common & Wish.LEAVE


def test_a_wish_is_common_when_all_have_it(tmp_path: Path) -> None:
    ring = Ring(tmp_path, workers=2, size=1)
    exchanges = ring.join_all(patient=0)
    for exchange, wishes in zip(exchanges, (Wish.READY, Wish.CHECKPOINT), strict=True):
        contribute(exchange, FIRST, Contribution(np.ones(1, np.float32)), wishes=wishes)
    with exchanges[0].gather(FIRST) as gathered:
        assert not gathered.common & (Wish.READY | Wish.CHECKPOINT)
        assert gathered.wishes == Wish.READY | Wish.CHECKPOINT


def test_a_valid_round_has_sums_alone(tmp_path: Path) -> None:
    ring = sharded(tmp_path, workers=2)
    exchanges = ring.join_all(patient=0)
    contribute_all(exchanges, Round(4, "train"))
    for rank, exchange in enumerate(exchanges):
        assert not exchange.has_contributed(Round(4, "valid")), "the train round of that version is another"
        contribute(exchange, Round(4, "valid"), Contribution(None, rows=rank + 1, sums=(0.25,)))
        assert exchange.has_contributed(Round(4, "valid"))
    with exchanges[0].gather(Round(4, "valid")) as gathered:
        assert (gathered.totals.rows, gathered.totals.sums) == (3, {"loss": 0.5})
    assert os.path.getsize(ring.store.absolute(ring.layout.message(0, "scores", 4))) < 1000


# Slices and norms


@EITHER
@pytest.mark.parametrize(("workers", "size"), [(1, 10), (3, SIZE), (4, 2050), (5, 1000), (2, 3 * SMALL)])
def test_slices_make_up_the_next_version(workers: int, size: int, files: Any, tmp_path: Path) -> None:
    """Of a short vector some ranks have no slice: they publish none, and nobody waits for it."""
    ring = sharded(tmp_path, workers, size, files=files)
    exchanges = ring.join_all(patient=0)
    expected = normal(0, size)
    held = [np.zeros(size, np.float32) for _ in exchanges]
    for own, parameters, exchange in zip(ring.slices, held, exchanges, strict=True):
        parameters[own.first : own.last] = expected[own.first : own.last]
        exchange.publish_slice(1, parameters)
        exchange.publish_slice(1, parameters)
    for rank, (parameters, exchange) in enumerate(zip(held, exchanges, strict=True)):
        exchange.fetch_slices(1, parameters)
        assert parameters.tobytes() == expected.tobytes()
        assert ring.names(rank) == ({"slice-00000001"} if len(ring.slices[rank]) else set())


def test_norms_come_in_the_order_of_the_ranks(tmp_path: Path) -> None:
    ring = Ring(tmp_path, workers=4, size=1)
    exchanges = ring.join_all()
    lengths = [2, 1, 1, 0]
    own = [np.array([1.5, 2.5]), np.array([3.5]), np.array([4.5]), np.empty(0)]
    found = at_once(*(lambda e=e, s=s: e.share_norms(3, s, lengths) for e, s in zip(exchanges, own, strict=True)))
    assert [norms.tolist() for norms in found] == [[1.5, 2.5, 3.5, 4.5]] * 4
    assert exchanges[0].share_norms(3, own[0], lengths).tolist() == [1.5, 2.5, 3.5, 4.5], "once more, by a retry"


class Late:
    """A `Closing` for which the time has come as soon as so many are there."""

    expected_s = 0.0

    def __init__(self, quorum: int, allows: bool = True) -> None:
        self._quorum, self._allows = quorum, allows

    def left_s(self, present: int) -> float:
        return 0.0 if present >= self._quorum else float("inf")

    def allows(self, missing: Sequence[int]) -> bool:
        return self._allows


@EITHER
def test_a_round_is_closed_without_the_ranks_that_are_late(files: Any, tmp_path: Path) -> None:
    """They have a stand-in, which nobody adds, and whose wishes nobody hears."""
    ring = Ring(tmp_path, workers=4, size=5, files=files)
    ranks = ring.join_all(patient=9)
    for rank in (0, 2):
        contribute(ranks[rank], FIRST, Contribution(normal(rank, 5), 2, (1.5,)), wishes=Wish.CHECKPOINT)
    with ranks[2].gather(FIRST, closing=Late(2)) as gathered:  # type: ignore[arg-type]
        assert gathered.totals.missed == [1, 3]
        assert (gathered.totals.rows, gathered.totals.sums) == (4, {"loss": 3.0})
        assert gathered.common & Wish.CHECKPOINT
        assert add_up_all(gathered, ring.slices).tobytes() == (normal(0, 5) + normal(2, 5)).tobytes()
    assert not contribute(ranks[3], FIRST, Contribution(normal(3, 5))), "the late rank's contribution is dropped"
    with ranks[3].gather(FIRST) as gathered:
        assert gathered.totals.missed == [1, 3]


def test_a_rank_that_comes_just_in_time_is_a_member(tmp_path: Path) -> None:
    """Its file is there before its stand-in, though not yet when the others looked."""
    ring = Ring(tmp_path, workers=3, size=5)
    ranks = ring.join_all()
    contribute(ranks[0], FIRST, Contribution(normal(0, 5)))
    late = Late(1)

    def allows(missing: Sequence[int]) -> bool:
        return contribute(ranks[1], FIRST, Contribution(normal(1, 5)))

    late.allows = allows  # type: ignore[method-assign]
    with ranks[0].gather(FIRST, closing=late) as gathered:  # type: ignore[arg-type]
        assert gathered.totals.missed == [2]


@pytest.mark.parametrize(
    ("late", "rows"),
    [(Late(3), 1), (Late(2, allows=False), 1), (Late(2), 0)],
    ids=["too few", "not allowed", "no rows"],
)
def test_a_round_that_must_not_be_closed(late: Late, rows: int, tmp_path: Path) -> None:
    ring = Ring(tmp_path, workers=3, size=5)
    ranks = ring.join_all(patient=1)
    for exchange in ranks[:2]:
        contribute(exchange, FIRST, Contribution(normal(0, 5) if rows else None, rows))
    with pytest.raises(WaitedInVain):
        ranks[0].gather(FIRST, closing=late)  # type: ignore[arg-type]
    assert ring.names(2) == set()


def test_a_rank_sees_that_a_round_was_closed_without_it(tmp_path: Path) -> None:
    ring = Ring(tmp_path, workers=2, size=5)
    ranks = ring.join_all()
    contribute(ranks[0], FIRST, Contribution(normal(0, 5)))
    assert not ranks[1].is_closed(FIRST)
    ranks[0].gather(FIRST, closing=Late(1)).close()  # type: ignore[arg-type]
    assert not ranks[1].has_contributed(FIRST), "it has not looked"
    assert ranks[1].is_closed(FIRST)
    assert ranks[1].has_contributed(FIRST)
    ranks[1].retire(FIRST.version + 1, FIRST.version + 1)
    assert ring.names(1) == set()


def test_an_exchange_gives_up_when_its_alarm_raises(tmp_path: Path) -> None:
    ring = sharded(tmp_path, workers=2)
    one, _ = ring.join_all(patient=0)
    contribute(one, FIRST, Contribution(normal(0, SIZE)))
    before = open_descriptors()
    with pytest.raises(WaitedInVain):
        one.gather(FIRST)
    with pytest.raises(Gone):
        one.gather(FIRST, wait=False)
    with pytest.raises(WaitedInVain):
        one.fetch_slices(1, np.zeros(SIZE, np.float32))
    assert open_descriptors() == before


# Damage


def vector_at(ring: Ring, path: str) -> int:
    return os.path.getsize(ring.store.absolute(path)) - 4 * ring.size


@pytest.mark.parametrize("at", [0.0, 0.3, 0.5, 0.999])
@SIZES
def test_a_byte_of_a_vector_that_has_changed_is_noticed_in_its_slice(size: int, at: float, tmp_path: Path) -> None:
    ring = sharded(tmp_path, size=size)
    exchanges = ring.join_all(patient=0)
    expected = contribute_all(exchanges, size=size)
    path, element = ring.layout.message(1, "gradient", 0), int(at * size)
    ring.damage(path, vector_at(ring, path) + 4 * element + element % 4)
    for index, part in enumerate(ring.slices):
        total = np.empty(len(part), np.float32)
        with exchanges[0].gather(FIRST) as gathered:
            if part.first <= element < part.last:
                with pytest.raises(Corrupt, match=f"slice {index} of rank 1, version 0"):
                    gathered.add_up(index, part.first, total)
            else:
                gathered.add_up(index, part.first, total)
                np.testing.assert_array_equal(total, expected[part.first : part.last])


def test_a_byte_of_a_head_that_has_changed_is_noticed(tmp_path: Path) -> None:
    ring = sharded(tmp_path)
    exchanges = ring.join_all(patient=0)
    contribute_all(exchanges)
    ring.damage(ring.layout.message(2, "gradient", 0), 30)
    before = open_descriptors()
    with pytest.raises(Corrupt, match="exchange/0002/gradient-00000000 is damaged"):
        exchanges[0].gather(FIRST)
    assert open_descriptors() == before


@pytest.mark.parametrize("length", [0, 100, 1000, -1])
@SIZES
def test_a_contribution_that_is_short_is_noticed(size: int, length: int, tmp_path: Path) -> None:
    ring = sharded(tmp_path, size=size)
    exchanges = ring.join_all(patient=0)
    contribute_all(exchanges, size=size)
    path = ring.store.absolute(ring.layout.message(2, "gradient", 0))
    os.truncate(path, length if length >= 0 else os.path.getsize(path) + length)
    with pytest.raises(Corrupt), exchanges[0].gather(FIRST) as gathered:
        add_up_all(gathered, ring.slices)


@pytest.mark.parametrize(("rank", "version"), [(1, 1), (2, 0)], ids=["of another version", "of another rank"])
def test_a_contribution_under_a_wrong_name_is_noticed(rank: int, version: int, tmp_path: Path) -> None:
    ring = sharded(tmp_path)
    exchanges = ring.join_all(patient=0)
    contribute_all(exchanges)
    contribute_all(exchanges, Round(1, "train"))
    source, target = (
        ring.store.absolute(ring.layout.message(*of)) for of in ((rank, "gradient", version), (1, "gradient", 0))
    )
    shutil.copyfile(source, target)
    with pytest.raises(Corrupt, match=f"rank {rank}, version {version}"):
        exchanges[0].gather(FIRST)


class ReadTooLate(Interposed):
    """The writer retires a file, and fills it again, between its being opened and being read."""

    def __init__(self, name: str) -> None:
        super().__init__(OsFiles())
        self._name = name
        self.is_removed = True

    def watch(self, paths: Sequence[str]) -> Any:
        return self._files.watch(paths)

    def open(self, path: str) -> Reader:
        reader = super().open(path)
        if path.endswith(self._name):
            with open(path, "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\xff")
            if self.is_removed:
                os.unlink(path)
        return reader


@SIZES
@pytest.mark.parametrize(("is_removed", "error"), [(True, Gone), (False, Corrupt)])
def test_a_slice_that_was_retired_while_it_was_read_is_gone_and_not_damaged(
    is_removed: bool, error: type[Exception], size: int, tmp_path: Path
) -> None:
    ring = sharded(tmp_path, size=3 * size)
    files = ReadTooLate("0001/slice-00000001")
    files.is_removed = is_removed
    late = ring.join(0, patient=0, files=files)
    for rank in (1, 2):
        ring.join(rank).publish_slice(1, normal(0, 3 * size))
    before = open_descriptors()
    with pytest.raises(error, match="exchange/0001/slice-00000001"):
        late.fetch_slices(1, np.zeros(3 * size, np.float32))
    assert open_descriptors() == before


@SIZES
@pytest.mark.parametrize(("is_removed", "error"), [(True, Gone), (False, Corrupt)])
def test_a_contribution_that_was_retired_while_it_was_read_is_gone_and_not_damaged(
    is_removed: bool, error: type[Exception], size: int, tmp_path: Path
) -> None:
    """Who restores a version reads contributions that the others may retire, and fill again, at that moment."""
    ring = sharded(tmp_path, size=size)
    contribute_all(ring.join_all(patient=0), size=size)
    files = ReadTooLate("0001/gradient-00000000")
    files.is_removed = is_removed
    late = ring.join(0, patient=0, files=files)
    with late.gather(FIRST, wait=False) as gathered, pytest.raises(error):
        add_up_all(gathered, ring.slices)


# Housekeeping


def fill_outbox(exchange: Exchange, versions: Sequence[int]) -> None:
    for version in versions:
        contribute(exchange, Round(version, "train"), Contribution(normal(version, SIZE)))
        contribute(exchange, Round(version, "valid"), Contribution(None))
        exchange.publish_slice(version, normal(0, SIZE))
        exchange.share_norms(version, np.ones(1), [1, 0, 0])


def versions_of(ring: Ring, kind: str) -> list[int]:
    return sorted(int(name.rpartition("-")[2]) for name in ring.names(0) if name.startswith(f"{kind}-"))


@EITHER
@pytest.mark.parametrize("is_next_leg", [False, True], ids=["its own", "an earlier leg's"])
def test_retiring_takes_back_what_no_rank_needs(is_next_leg: bool, files: Any, tmp_path: Path) -> None:
    ring = sharded(tmp_path, files=files)
    exchange = ring.join(0)
    fill_outbox(exchange, range(1, 8))
    if is_next_leg:
        exchange.close()
        exchange = ring.join(0, "next")
    exchange.retire(5, redo_from=3)
    assert versions_of(ring, "gradient") == [3, 4, 5, 6, 7]
    assert versions_of(ring, "scores") == [5, 6, 7]
    assert versions_of(ring, "norms") == [5, 6, 7]
    assert versions_of(ring, "slice") == [6, 7]
    exchange.retire(6, redo_from=9)
    assert versions_of(ring, "gradient") == [6, 7], "what is worked on is needed, whatever has been saved"
    exchange.retire(6, redo_from=9)
    exchange.close()
    assert ring.private_names() == []


def test_a_leg_knows_what_an_earlier_leg_has_published(tmp_path: Path) -> None:
    ring = sharded(tmp_path)
    first = ring.join(0, "first")
    fill_outbox(first, [3])
    first.close()
    following = ring.join(0, "following", patient=0)
    assert following.has_contributed(Round(3, "train"))
    assert following.has_contributed(Round(3, "valid"))
    assert not following.has_contributed(Round(4, "train"))
    assert not following.has_contributed(Round(4, "valid"))
    before = {name: os.stat(ring.store.absolute(f"{ring.layout.outbox(0)}/{name}")) for name in ring.names(0)}
    following.publish_slice(3, normal(1, SIZE))
    following.share_norms(3, np.zeros(1), [1, 0, 0])
    assert {name: os.stat(ring.store.absolute(f"{ring.layout.outbox(0)}/{name}")) for name in before} == before


@EITHER
def test_a_second_incarnation_loses(files: Any, tmp_path: Path) -> None:
    ring = sharded(tmp_path, files=files)
    one, other = ring.join(0, "one"), ring.join(0, "other")
    for exchange in (ring.join(1), ring.join(2)):
        contribute(exchange, FIRST, Contribution(np.zeros(SIZE, np.float32)))
    assert contribute(one, FIRST, Contribution(normal(0, SIZE)))
    assert not contribute(other, FIRST, Contribution(normal(1, SIZE)))
    assert other.has_contributed(FIRST)
    with other.gather(FIRST) as gathered:
        assert gathered._all[0].head.token == "one"
        np.testing.assert_array_equal(add_up_all(gathered, ring.slices), normal(0, SIZE))
    assert contribute(other, Round(1, "train"), Contribution(normal(2, SIZE))), "it may use its file for the next"
    with open(ring.store.absolute(ring.layout.message(0, "gradient", 0)), "rb") as file:
        assert b"one" in file.read(128)
    one.close()
    other.close()
    assert not any(name.startswith(TEMPORARY) for name in os.listdir(ring.store.absolute(ring.layout.outbox(0))))


def test_a_contribution_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    ring = sharded(tmp_path)
    exchange = ring.join(0)
    outgoing = exchange.outgoing()
    outgoing.put(0, 0, normal(0, SIZE))
    exchange.drop(outgoing)
    assert not exchange.has_contributed(FIRST)
    exchange.close()
    assert ring.names(0) == set()
    assert ring.private_names() == []
