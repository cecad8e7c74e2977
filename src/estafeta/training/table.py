"""A job's data on the function's side: any map-style data set, read batch by batch by row number."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, TensorDataset, default_collate

from estafeta.data.sampler import Rows
from estafeta.errors import UsageError
from estafeta.job.user_code import user_code

Batch = tuple[Any, ...]
"""Inputs … and the target, each with the rows of the batch along its first dimension."""


class Table:
    """Rows by number.

    Args:
        source: Tuple of arrays or tensors of equal length, or a map-style data set.
        collate: Function that makes a batch of the rows of a map-style data set.

    Attributes:
        collated: Whether the table calls `collate`; rows of arrays are a batch as they are.

    Raises:
        UsageError: The source is neither, or the lengths differ.
    """

    def __init__(self, source: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self._collate = collate or default_collate
        self._tensors: tuple[torch.Tensor, ...] | None = None
        if isinstance(source, TensorDataset):
            source = source.tensors
        if isinstance(source, tuple):
            self._tensors = _tensors(source)
            self._rows = len(self._tensors[0])
        elif _is_map_style(source) and (collate or not isinstance(source, list) or _are_tuples(source)):
            self._source = source
            with user_code("the data set's __len__"):
                self._rows = len(source)
        else:
            raise UsageError(
                f"The data set is a {type(source).__name__}",
                hint="return a tuple of arrays (inputs …, target) or a map-style torch.utils.data.Dataset",
            )

        self.collated = self._tensors is None

    def __len__(self) -> int:
        return self._rows

    def batch(self, rows: Rows) -> Batch:
        """The given rows, in the given order.

        Args:
            rows: int64[n], row numbers.

        Returns:
            (inputs …, target), each with n rows.
        """
        if self._tensors is not None:
            index = torch.from_numpy(rows)
            return tuple(tensor.index_select(0, index) for tensor in self._tensors)
        with user_code("reading the data set"):
            many = getattr(self._source, "__getitems__", None)
            items = many(rows.tolist()) if many else [self._source[row] for row in rows.tolist()]
            batch = self._collate(items)
        if isinstance(batch, (tuple, list)) and len(batch) >= 2:
            return tuple(batch)
        raise UsageError(
            f"A row of the data set is a {type(items[0]).__name__}", hint="each row must be a tuple (inputs …, target)"
        )


def open_table(
    factory: Callable[..., Any] | str, arguments: Mapping[str, Any], collate: Callable[[list[Any]], Any] | None = None
) -> Table:
    """Make a job's data set.

    Args:
        factory: The job's callable, or the name of a data set that comes with scikit-learn.
        arguments: Keyword arguments for the callable.
        collate: See `Table`.
    """
    if isinstance(factory, str):
        return Table(_bundled(factory))
    with user_code("making the data set"):
        source = factory(**arguments)
    return Table(source, collate)


def _is_map_style(source: Any) -> bool:
    has_rows = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    return has_rows and not isinstance(source, IterableDataset | Mapping)


def _are_tuples(rows: list[Any]) -> bool:
    """Whether a list is one of rows, not of arrays."""
    return all(isinstance(row, tuple | list) for row in rows[:1])


def _tensors(arrays: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    if len(arrays) < 2:
        raise UsageError("The data set is a tuple of one array", hint="return (inputs …, target)")
    tensors = tuple(_tensor(array) for array in arrays)
    if len(lengths := {len(tensor) for tensor in tensors}) > 1:
        raise UsageError(
            f"The arrays of the data set have different lengths: {sorted(lengths)}",
            hint="each row needs a value of every array",
        )
    return tensors


def _tensor(array: Any) -> torch.Tensor:
    """The array as PyTorch would take it, except that floating-point numbers become float32, the parameters' dtype."""
    if isinstance(array, torch.Tensor):
        tensor = array
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to rows
            tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.to(torch.float32) if tensor.dtype in (torch.float64, torch.float16) else tensor


def _bundled(name: str) -> tuple[Any, Any]:
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    data = bunch.data.astype(np.float32)
    scaled = data / 16.0 if name == "digits" else (data - data.mean(0)) / np.where(data.std(0) > 0, data.std(0), 1.0)
    target = bunch.target.astype(np.float32) if name == "diabetes" else bunch.target.astype(np.int64)
    return scaled.astype(np.float32), target
