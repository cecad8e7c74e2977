"""The reader of a data set that the user's code makes: `module:factory` or `file.py:factory`."""

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from estafeta.data.importing.arrays import Arrays, from_array
from estafeta.data.importing.chunk import Chunk, Source, plain
from estafeta.data.manifest import TARGET, Kind
from estafeta.errors import UsageError, UserCodeError
from estafeta.job.user_code import user_code
from estafeta.store.tensorfile import CODES, Array

ROWS = 256
"""Number of rows in a chunk."""


def open_factory(place: str) -> Source:
    """The source that a factory makes.

    Raises:
        UsageError: There is no such factory, or it makes no data set.
        UserCodeError: The factory raised.
    """
    made = _call(place)
    if isinstance(made, tuple):
        names = [*(f"input{i}" for i in range(len(made) - 1)), TARGET][-len(made) :]
        members = {n: from_array(np.asarray(a), f"{n} of {place}") for n, a in zip(names, made, strict=True)}
        return Arrays(members, place, TARGET, 0)
    if hasattr(made, "__getitem__") and hasattr(made, "__len__"):
        return MapStyle(made, place)
    hint = "return a map-style torch.utils.data.Dataset or a tuple of arrays (inputs …, target)"
    raise UsageError(f"{place} makes a {type(made).__name__}", hint=hint)


class MapStyle:
    """`Source` over a map-style data set whose rows are tuples (inputs …, target).

    Args:
        dataset: The data set.
        where: Its name, for messages.
    """

    def __init__(self, dataset: Any, where: str) -> None:
        self.size = self.position = 0
        self.categories: dict[str, tuple[str, ...]] = {}
        self._dataset, self._where = dataset, where
        with user_code(f"the length of {where}"):
            self._rows = len(dataset)
        if not self._rows:
            raise UsageError(f"{where} has no rows", hint="its __len__ must be at least 1")
        arrays = self._read(0, 1)
        *inputs, target = arrays
        self.inputs = tuple(_kind(f"input{i}", array) for i, array in enumerate(inputs))
        self.target = _kind(TARGET, target)

    def chunks(self) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        names = [*(kind.name for kind in self.inputs), TARGET]
        for first in range(0, self._rows, ROWS):
            arrays = self._read(first, min(first + ROWS, self._rows))
            for kind, array in zip((*self.inputs, self.target), arrays, strict=True):
                if (array.shape[1:], CODES[array.dtype]) != (kind.shape, kind.dtype):
                    raise UsageError(
                        f"{self._where}, rows {first} to {first + len(array) - 1}: {kind.name} is "
                        f"{array.dtype}{list(array.shape[1:])}, in row 0 it was {kind.dtype}{list(kind.shape)}",
                        hint="all rows must have one shape and dtype",
                    )
            yield Chunk(dict(zip(names, arrays, strict=True)), self._where, first + 1)

    def _read(self, first: int, last: int) -> list[Array]:
        from torch.utils.data import default_collate

        with _users(f"reading rows {first} to {last - 1} of {self._where}"):
            batch = default_collate([self._dataset[row] for row in range(first, last)])
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise UsageError(f"The rows of {self._where} are not tuples", hint="each row must be (inputs …, target)")
        arrays = [plain(np.asarray(part)) if hasattr(part, "numpy") else None for part in batch]
        if any(array is None for array in arrays):
            raise UsageError(
                f"The rows of {self._where} hold values that are not numbers",
                hint="convert images and texts to tensors in __getitem__",
            )
        return [array for array in arrays if array is not None]


def _kind(name: str, array: Array) -> Kind:
    return Kind(name=name, dtype=CODES[array.dtype], shape=array.shape[1:])


def _call(place: str) -> Any:
    module_name, _, attribute = place.rpartition(":")
    path = Path(module_name)
    folder = str(path.parent.resolve() if path.suffix == ".py" else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem if path.suffix == ".py" else module_name
    if (path.suffix == ".py" and not path.is_file()) or not _is_there(name):
        raise UsageError(f"There is no module {module_name}", hint="name it as MODULE:FACTORY or FILE.py:FACTORY")
    with _users(f"importing {module_name}"):
        module = importlib.import_module(name)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        there = ", ".join(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise UsageError(f"{module_name} has no factory {attribute!r}", hint=f"there is: {there}")
    with _users(f"calling {place}"):
        return factory()


@contextlib.contextmanager
def _users(what: str) -> Iterator[None]:
    """Do as `user_code` does, with the exit code of a usage error: no run has failed."""
    try:
        with user_code(what):
            yield
    except UserCodeError as error:
        error.exit_code = UsageError.exit_code
        raise


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ModuleNotFoundError, ValueError):
        return False
