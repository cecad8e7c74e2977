"""A contribution is read back as it was published, whole or unfinished."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from estafeta.protocol.contribution import BUFFER, GRADIENT, Tally, contribution, tally_of
from estafeta.protocol.layout import Round
from estafeta.store.files import OsFiles, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import TensorFile

ROUND = Round(7, "train")
TALLY = Tally(rows=12, sums={"loss": 0.1 + 0.2, "accuracy": 11.0}, parts=3, absent=(1, 4))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, OsFiles())


def test_what_was_summed_is_read_back(store: Store) -> None:
    gradient = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    buffers = {"1.running_mean": np.arange(3.0), "1.count": np.array(5)}
    assert store.publish("c", contribution(ROUND, 4, TALLY, gradient, buffers, "the token"), "the token")

    def check(reader: Reader) -> None:
        file = TensorFile(reader)
        assert tally_of(file) == TALLY
        assert (file.metadata["round"], file.metadata["rank"]) == ("train-00000007", "4")
        np.testing.assert_array_equal(file.read(GRADIENT), gradient)
        assert {name: file.read(BUFFER + name).tolist() for name in buffers} == {
            "1.running_mean": [0, 1, 2],
            "1.count": 5,
        }

    store.reading("c", check)


def test_a_rank_without_rows_publishes_no_tensor(store: Store) -> None:
    store.publish("c", contribution(ROUND, 0, Tally(0, {"loss": 0.0}, 0), None, {}, "t"), "t")
    assert store.reading("c", lambda reader: dict(TensorFile(reader).entries)) == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e-320, 2**53 + 1.0])
def test_sums_keep_their_bits(value: float, store: Store) -> None:
    store.publish("c", contribution(Round(1, "valid"), 0, Tally(3, {"loss": value}, 1), None, {}, "t"), "t")
    read = store.reading("c", lambda reader: tally_of(TensorFile(reader))).sums["loss"]
    assert np.float64(read).tobytes() == np.float64(value).tobytes()
