"""A weights version and its optimiser state, on disk and back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from core.faults import Killed, Mortal
from core.specs import spec_of
from estafeta.errors import Corrupt, Gone
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import versions_in
from estafeta.protocol.message import Head, Kind
from estafeta.protocol.partition import Slice, cut
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan
from estafeta.protocol.totals import Totals
from estafeta.protocol.weights import (
    Weights,
    publish_piece,
    publish_weights,
    read_state,
    read_weights,
    token_of_version,
)
from estafeta.store.store import Store

LAYOUT = RunLayout("r")


def weights(version: int = 3) -> Weights:
    numbers = np.random.default_rng(version)
    return Weights(
        version,
        numbers.standard_normal(500).astype(np.float32),
        {"1.mean": numbers.standard_normal(4), "1.count": np.array(9)},
        {"exp_avg": numbers.standard_normal(500).astype(np.float32)},
        rows=32,
        sums={"loss": 1.25, "accuracy": 30.0},
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path)
    store.make_directories(LAYOUT.weights)
    return store


def test_a_version_is_read_back(store: Store) -> None:
    one = weights()
    assert publish_weights(RunFolder(store, "r"), one, "the token")
    again = read_weights(RunFolder(store, "r"), 3)
    np.testing.assert_array_equal(again.parameters, one.parameters)
    assert {name: array.tolist() for name, array in again.buffers.items()} == {
        name: array.tolist() for name, array in one.buffers.items()
    }
    assert (again.version, again.rows, again.sums) == (3, 32, one.sums)
    assert again.state == {}
    np.testing.assert_array_equal(read_state(RunFolder(store, "r"), 3)["exp_avg"], one.state["exp_avg"])
    assert token_of_version(RunFolder(store, "r"), 3) == "the token"


def test_parameters_are_read_into_the_vector_that_is_there(store: Store) -> None:
    publish_weights(RunFolder(store, "r"), weights(), "t")
    vector = np.zeros(500, np.float32)
    assert read_weights(RunFolder(store, "r"), 3, vector).parameters is vector
    np.testing.assert_array_equal(vector, weights().parameters)
    with pytest.raises(Corrupt, match=r"float32\[500\]"):
        read_weights(RunFolder(store, "r"), 3, np.zeros(499, np.float32))


def test_an_optimizer_without_state_has_no_file(store: Store) -> None:
    plain = weights()
    plain.state = {}
    publish_weights(RunFolder(store, "r"), plain, "t")
    assert store.list(LAYOUT.weights) == {"00000003.safetensors"}


@pytest.mark.parametrize("calls", range(1, 6))
def test_a_visible_version_has_its_state(calls: int, store: Store) -> None:
    files = Mortal()
    files.start(calls)
    with pytest.raises(Killed):
        publish_weights(RunFolder(Store(store.root, files), "r"), weights(), "t")
    names = store.list(LAYOUT.weights)
    assert LAYOUT.version(3).rpartition("/")[2] not in names or LAYOUT.optimizer(3).rpartition("/")[2] in names
    assert publish_weights(RunFolder(store, "r"), weights(), "t")
    assert len(store.list(LAYOUT.weights)) == 2


def test_the_second_publisher_is_told_so(store: Store) -> None:
    assert publish_weights(RunFolder(store, "r"), weights(), "first")
    assert not publish_weights(RunFolder(store, "r"), weights(), "second")
    assert token_of_version(RunFolder(store, "r"), 3) == "first"


def test_a_version_that_is_not_there(store: Store) -> None:
    for read in (read_weights, read_state, token_of_version):
        with pytest.raises(Gone):
            read(RunFolder(store, "r"), 4)


def test_bytes_that_have_changed(store: Store, tmp_path: Path) -> None:
    publish_weights(RunFolder(store, "r"), weights(), "t")
    path = tmp_path / LAYOUT.version(3)
    content = bytearray(path.read_bytes())
    content[-600] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="digest"):
        read_weights(RunFolder(store, "r"), 3)


# In pieces


def publish_in_pieces(store: Store, whole: Weights, slices: tuple[Slice, ...], ranks: Iterable[int]) -> None:
    for rank in ranks:
        own = slices[rank]
        state = {name: vector[own.first : own.last] for name, vector in whole.state.items()}
        mine = Weights(whole.version, whole.parameters, whole.buffers, state, whole.rows, whole.sums)
        assert publish_piece(
            RunFolder(store, "r", spec_of("plain", workers=len(slices))), mine, own, rank=rank, token=f"token-of-{rank}"
        )


THIRDS = cut(500, 3, grain=1)
SHORT = cut(500, 4, grain=200)
"""The last of four has nothing."""


@pytest.mark.parametrize("slices", [THIRDS, SHORT, cut(500, 1)], ids=["thirds", "short", "one"])
def test_a_version_in_pieces_is_read_back_as_a_whole(slices: tuple[Slice, ...], store: Store) -> None:
    one = weights()
    publish_in_pieces(store, one, slices, reversed(range(len(slices))))
    assert versions_in(store.list(LAYOUT.weights), len(slices)) == {3}
    again = read_weights(RunFolder(store, "r"), 3)
    np.testing.assert_array_equal(again.parameters, one.parameters)
    np.testing.assert_array_equal(again.buffers["1.mean"], one.buffers["1.mean"])
    assert (again.version, again.rows, again.sums) == (3, 32, one.sums)
    vector = np.zeros(500, np.float32)
    assert read_weights(RunFolder(store, "r"), 3, vector).parameters is vector
    np.testing.assert_array_equal(vector, one.parameters)
    np.testing.assert_array_equal(read_state(RunFolder(store, "r"), 3)["exp_avg"], one.state["exp_avg"])


@pytest.mark.parametrize(
    "span", [Slice(0, 500), Slice(0, 1), Slice(166, 167), Slice(100, 400), Slice(499, 500)], ids=str
)
@pytest.mark.parametrize("in_pieces", [True, False], ids=["pieces", "whole"])
def test_any_slice_of_the_state_is_read_from_any_pieces(in_pieces: bool, span: Slice, store: Store) -> None:
    """A run may go on with another number of ranks than those that saved."""
    one = weights()
    if in_pieces:
        publish_in_pieces(store, one, THIRDS, range(3))
    else:
        publish_weights(RunFolder(store, "r"), one, "t")
    state = read_state(RunFolder(store, "r"), 3, span, ["exp_avg"])
    np.testing.assert_array_equal(state["exp_avg"], one.state["exp_avg"][span.first : span.last])


@pytest.mark.parametrize("in_pieces", [True, False], ids=["pieces", "whole"])
def test_an_empty_slice_has_no_state_to_keep(in_pieces: bool, store: Store) -> None:
    """A rank without a slice must not hold, nor save, the state of all."""
    if in_pieces:
        publish_in_pieces(store, weights(), SHORT, range(4))
    else:
        publish_weights(RunFolder(store, "r"), weights(), "t")
    state = read_state(RunFolder(store, "r"), 3, Slice(500, 500), ["exp_avg"])
    assert {name: vector.size for name, vector in state.items()} == {"exp_avg": 0}


@pytest.mark.parametrize("rank", range(3))
def test_a_version_of_which_a_piece_has_been_swept_is_gone(rank: int, store: Store) -> None:
    """Each rank sweeps its own pieces, in its own time: a late reader finds some of them."""
    publish_in_pieces(store, weights(), THIRDS, {0, 1, 2} - {rank})
    with pytest.raises(Gone):
        read_weights(RunFolder(store, "r"), 3)


def test_a_state_of_which_a_piece_has_been_swept_is_gone(store: Store) -> None:
    publish_in_pieces(store, weights(), THIRDS, {0, 2})
    with pytest.raises(Gone):
        read_state(RunFolder(store, "r"), 3, Slice(160, 170), ["exp_avg"])


def test_bytes_of_a_piece_that_have_changed(store: Store, tmp_path: Path) -> None:
    publish_in_pieces(store, weights(), THIRDS, range(3))
    path = tmp_path / LAYOUT.piece(3, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="digest"):
        read_state(RunFolder(store, "r"), 3)


def test_the_tally_of_an_epoch_begins_with_it() -> None:
    plan = Plan(
        token="t",
        train_rows=1,
        valid_rows=0,
        steps_per_epoch=2,
        total_steps=8,
        sums=("loss",),
        parameters=(),
        buffers=(),
        frozen=(),
        state_dict=(),
    )
    one = Weights(4, np.zeros(1, np.float32), {"b": np.array([1.0], np.float32)}, rows=99, sums={"loss": 99.0})
    for version, rows, loss in ((5, 3, 1.5), (6, 6, 3.0), (7, 3, 1.5)):
        totals, mean = Totals(("loss",)), {"b": np.array([version], np.float32)}
        totals.add(Head(Kind.GRADIENT, version - 1, 0, 3, 0, 0.0, 0.0, "t", (0,), (1.5,), mean))
        one.advance(totals, plan)
        assert (one.version, one.rows, one.sums) == (version, rows, {"loss": loss})
        assert one.buffers["b"].tolist() == [version]
