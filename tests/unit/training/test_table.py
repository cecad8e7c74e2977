"""Rows by number, from every kind of data set that a job may give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from estafeta.errors import UsageError, UserCodeError
from estafeta.job.dataset_name import BUNDLED
from estafeta.training.table import Table, open_table

INPUTS, TARGET = np.arange(20, dtype=np.float64).reshape(10, 2), np.arange(10)
ROWS = np.array([7, 0, 7])


class MapStyle(Dataset):
    """Rows as (input, mask, target)."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> tuple[torch.Tensor, bool, int]:
        return torch.from_numpy(INPUTS[row]), row > 3, row


class Batched(MapStyle):
    """A data set that reads many rows at once, as PyTorch allows."""

    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [(torch.full((2,), len(rows)), row) for row in rows]


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter(range(10))

    def __len__(self) -> int:
        return 10


@pytest.mark.parametrize(
    "source",
    [
        (INPUTS, TARGET),
        (torch.from_numpy(INPUTS), torch.from_numpy(TARGET)),
        TensorDataset(torch.from_numpy(INPUTS), torch.from_numpy(TARGET)),
        (np.asfortranarray(INPUTS), TARGET[::1]),
    ],
    ids=["arrays", "tensors", "TensorDataset", "Fortran order"],
)
def test_arrays(source: Any) -> None:
    table = Table(source)
    inputs, target = table.batch(ROWS)
    assert len(table) == 10
    assert inputs.dtype == torch.float32
    assert target.dtype == torch.int64
    np.testing.assert_array_equal(inputs, INPUTS[ROWS])
    np.testing.assert_array_equal(target, ROWS)


def test_map_style() -> None:
    inputs, mask, target = Table(MapStyle()).batch(ROWS)
    np.testing.assert_array_equal(inputs, INPUTS[ROWS])
    assert mask.tolist() == [True, False, True]
    assert target.tolist() == ROWS.tolist()


def test_many_rows_are_read_at_once_where_that_is_possible() -> None:
    inputs, target = Table(Batched()).batch(ROWS)
    assert inputs[:, 0].tolist() == [3, 3, 3]
    assert target.tolist() == ROWS.tolist()


def test_a_subset_is_a_data_set() -> None:
    assert Table(Subset(MapStyle(), [9, 8])).batch(np.array([1]))[-1].tolist() == [8]


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_numbers_become_float32(dtype: str) -> None:
    assert Table((INPUTS.astype(dtype), TARGET)).batch(ROWS)[0].dtype == torch.float32


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "The data set is a NoneType"),
        (iter([]), "The data set is a list_iterator"),
        (Stream(), "The data set is a Stream"),
        ({"x": INPUTS, "y": TARGET}, "The data set is a dict"),
        ([INPUTS, TARGET], "The data set is a list"),
        ((INPUTS,), "a tuple of one array"),
        ((INPUTS, TARGET[:-1]), r"different lengths: \[9, 10\]"),
    ],
)
def test_no_data_set(source: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Table(source)


@pytest.mark.parametrize("source", [INPUTS, [(1,), (2,)]], ids=["array", "tuples of one"])
def test_rows_that_are_no_pairs(source: Any) -> None:
    with pytest.raises(UsageError, match="A row of the data set is a") as caught:
        Table(source).batch(np.array([0]))
    assert "(inputs …, target)" in caught.value.hint


@pytest.mark.parametrize("length", [-1, 2.0])
def test_a_length_that_is_no_number_of_rows(length: object) -> None:
    rows = type("Rows", (), {"__len__": lambda self: length, "__getitem__": lambda self, row: (0.0, 1)})
    with pytest.raises(UserCodeError, match="the data set's __len__ raised"):
        Table(rows())


def test_a_list_is_a_data_set_if_it_is_of_rows() -> None:
    assert len(Table([(1, 2), (3, 4)])) == 2
    assert len(Table(["a", "b"], collate=lambda rows: rows)) == 2


def test_a_row_that_cannot_be_read() -> None:
    with pytest.raises(UserCodeError, match="reading the data set raised IndexError"):
        Table([(1, 2)]).batch(np.array([5]))


def test_a_factory_gets_its_arguments() -> None:
    assert len(open_table(lambda rows: (INPUTS[:rows], TARGET[:rows]), {"rows": 4})) == 4
    with pytest.raises(UserCodeError, match="making the data set raised TypeError"):
        open_table(lambda: None, {"rows": 4})


@pytest.mark.parametrize("name", BUNDLED)
def test_data_sets_that_come_along(name: str) -> None:
    table = open_table(name, {})
    inputs, target = table.batch(np.arange(len(table)))
    assert inputs.dtype == torch.float32
    assert torch.isfinite(inputs).all()
    assert inputs.abs().max() < 30
    assert target.dtype == (torch.float32 if name == "diabetes" else torch.int64)
