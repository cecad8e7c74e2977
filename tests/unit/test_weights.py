"""A weights version and its optimiser state, on disk and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.faults import Killed, Mortal
from estafeta.errors import Corrupt, Gone
from estafeta.layout import RunLayout
from estafeta.store import Store
from estafeta.weights import Weights, publish_weights, read_state, read_weights, token_of_version

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
    assert publish_weights(store, LAYOUT, one, "the token")
    again = read_weights(store, LAYOUT, 3)
    np.testing.assert_array_equal(again.parameters, one.parameters)
    assert {name: array.tolist() for name, array in again.buffers.items()} == {
        name: array.tolist() for name, array in one.buffers.items()
    }
    assert (again.version, again.rows, again.sums) == (3, 32, one.sums)
    assert again.state == {}
    np.testing.assert_array_equal(read_state(store, LAYOUT, 3)["exp_avg"], one.state["exp_avg"])
    assert token_of_version(store, LAYOUT, 3) == "the token"


def test_parameters_are_read_into_the_vector_that_is_there(store: Store) -> None:
    publish_weights(store, LAYOUT, weights(), "t")
    vector = np.zeros(500, np.float32)
    assert read_weights(store, LAYOUT, 3, vector).parameters is vector
    np.testing.assert_array_equal(vector, weights().parameters)
    with pytest.raises(Corrupt, match=r"float32\[500\]"):
        read_weights(store, LAYOUT, 3, np.zeros(499, np.float32))


def test_an_optimizer_without_state_has_no_file(store: Store) -> None:
    plain = weights()
    plain.state = {}
    publish_weights(store, LAYOUT, plain, "t")
    assert store.list(LAYOUT.weights) == {"00000003.safetensors"}


@pytest.mark.parametrize("calls", range(1, 6))
def test_who_sees_a_version_finds_its_state(calls: int, store: Store) -> None:
    files = Mortal()
    files.start(calls)
    with pytest.raises(Killed):
        publish_weights(Store(store.root, files), LAYOUT, weights(), "t")
    names = store.list(LAYOUT.weights)
    assert LAYOUT.version(3).rpartition("/")[2] not in names or LAYOUT.optimizer(3).rpartition("/")[2] in names
    assert publish_weights(store, LAYOUT, weights(), "t")
    assert len(store.list(LAYOUT.weights)) == 2


def test_the_second_publisher_is_told_so(store: Store) -> None:
    assert publish_weights(store, LAYOUT, weights(), "first")
    assert not publish_weights(store, LAYOUT, weights(), "second")
    assert token_of_version(store, LAYOUT, 3) == "first"


def test_a_version_that_is_not_there(store: Store) -> None:
    for read in (read_weights, read_state, token_of_version):
        with pytest.raises(Gone):
            read(store, LAYOUT, 4)


def test_bytes_that_have_changed(store: Store, tmp_path: Path) -> None:
    publish_weights(store, LAYOUT, weights(), "t")
    path = tmp_path / LAYOUT.version(3)
    content = bytearray(path.read_bytes())
    content[-600] ^= 1
    path.write_bytes(content)
    with pytest.raises(Corrupt, match="digest"):
        read_weights(store, LAYOUT, 3)
