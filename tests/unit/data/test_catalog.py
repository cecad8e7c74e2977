"""The data sets of a store, after accidents during import and removal, and after damage."""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from conformance.interposed import Interposed
from estafeta.data.blocks import Csr, stack
from estafeta.data.catalog import names, read_manifest, remove, verify
from estafeta.data.importing.chunk import Chunk
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.manifest import Kind, Manifest
from estafeta.errors import Corrupt, EnvironmentProblem, UsageError
from estafeta.store.files import Buffer, OsFiles
from estafeta.store.store import Store

ROWS = 100
WISHES = Wishes(block_bytes=160)
BLOCKS = 10


class Numbers:
    """A source of a hundred rows, in chunks that do not fit the blocks."""

    size = position = 0
    inputs = (Kind(name="x", dtype="F32", shape=(2,)),)
    target = Kind(name="target", dtype="I64")

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.categories: dict[str, tuple[str, ...]] = {}
        self._then = then

    def chunks(self) -> Iterator[Chunk]:
        for first in range(0, ROWS, 7):
            rows = np.arange(first, min(first + 7, ROWS))
            yield Chunk({"x": np.stack([rows, -rows], 1).astype(np.float32), "target": rows}, "n", first + 1)
        self._then()


class Failing(Interposed):
    """Files of a machine that has an accident at the n-th call that changes the store."""

    def __init__(self, at: int, accident: BaseException) -> None:
        super().__init__(OsFiles())
        self._left, self._accident = at, accident

    def create(self, path: str, chunks: Sequence[Buffer]) -> None:
        super().create(path, chunks)
        self._count()

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise self._accident


def bring(store: Store, source: Numbers | None = None, name: str = "n") -> Manifest:
    return import_dataset(store, name, source or Numbers(), ("numbers",), WISHES)


def files(store: Store) -> set[str]:
    return {str(path.relative_to(store.root)) for path in Path(store.root, "datasets").rglob("*") if path.is_file()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_an_import_is_complete(store: Store) -> None:
    manifest = bring(store)
    assert [extent.rows for extent in manifest.blocks] == [10] * BLOCKS
    assert manifest.starts.tolist() == list(range(0, ROWS + 1, 10))
    assert list(verify(store, manifest)) == list(range(BLOCKS))
    assert files(store) == {f"datasets/n/{manifest.attempt}-{i:06d}.safetensors" for i in range(BLOCKS)} | {
        "datasets/n/manifest.json"
    }


@pytest.mark.parametrize("accident", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "bad")])
@pytest.mark.parametrize("at", range(1, 2 * (BLOCKS + 1) + 1))
def test_an_import_that_ends_anywhere_leaves_nothing_and_can_be_repeated(
    at: int, accident: BaseException, store: Store
) -> None:
    full = isinstance(accident, OSError) and accident.errno == errno.ENOSPC
    with pytest.raises(EnvironmentProblem if full else type(accident)):
        bring(Store(store.root, Failing(at, accident)))
    assert names(store) == []
    assert files(store) == set()
    assert list(verify(store, bring(store))) == list(range(BLOCKS))


@pytest.mark.parametrize("at", range(1, 2 * (BLOCKS + 1) + 1))
def test_an_import_that_is_killed_anywhere_is_not_seen(at: int, store: Store) -> None:
    """Only the next successful import removes its files."""

    class Killed(BaseException):
        pass

    class Dead(Failing):
        def around(self, call: str, path: str, carry_out: Callable[[], object]) -> object:  # type: ignore[override]
            if self._left <= 0:
                raise Killed
            return carry_out()

    with pytest.raises(Killed):
        bring(Store(store.root, Dead(at, Killed())))
    published = at == 2 * (BLOCKS + 1)  # the data set exists once the manifest has its name
    assert names(store) == (["n"] if published else [])
    if published:
        assert list(verify(store, read_manifest(store, "n"))) == list(range(BLOCKS))
    else:
        assert list(verify(store, bring(store))) == list(range(BLOCKS))
        assert len([name for name in files(store) if ".tmp-" not in name]) == BLOCKS + 1


def test_one_of_two_concurrent_imports_wins(store: Store) -> None:
    won: list[Manifest] = []
    with pytest.raises(UsageError, match="There is a data set named 'n' already"):
        bring(store, Numbers(lambda: won.append(bring(store))))
    assert read_manifest(store, "n") == won[0]
    assert list(verify(store, won[0])) == list(range(BLOCKS))
    assert len(files(store)) == BLOCKS + 1


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "Block 3 of data set 'n' is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "Block 3 of data set 'n' is damaged: its file has"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"), "is damaged: Tensor 'target' has digest"),
        (
            lambda path: path.write_bytes(next(path.parent.glob("*4.safetensors")).read_bytes()),
            "is damaged: its file is not that of this block",
        ),
    ],
)
def test_damage_is_found(damage: Callable[[Path], object], message: str, store: Store) -> None:
    manifest = bring(store)
    damage(Path(store.root, f"datasets/n/{manifest.attempt}-000003.safetensors"))
    with pytest.raises(Corrupt, match=message):
        list(verify(store, manifest))


def test_a_manifest_that_cannot_be_read(store: Store) -> None:
    bring(store)
    Path(store.root, "datasets/n/manifest.json").write_text('{"format": "estafeta-dataset/2"}')
    with pytest.raises(Corrupt, match="The manifest of data set 'n' cannot be read"):
        read_manifest(store, "n")


def test_blocks_that_are_not_even_are_no_data_set(store: Store) -> None:
    """A division finds the block of a row, so a manifest with uneven blocks is refused."""
    bring(store)
    path = Path(store.root, "datasets/n/manifest.json")
    document = json.loads(path.read_text())
    for block, rows in ((1, document["blocks"][1]["rows"] + 1), (-1, document["blocks"][0]["rows"] + 1)):
        changed = copy.deepcopy(document)
        changed["blocks"][block]["rows"] = rows
        path.write_text(json.dumps(changed))
        with pytest.raises(Corrupt, match="different numbers of rows"):
            read_manifest(store, "n")


def test_missing_data_set_is_named_beside_those_there(store: Store) -> None:
    with pytest.raises(UsageError, match="which is empty") as caught:
        read_manifest(store, "people")
    assert "estafeta data import people" in caught.value.hint
    bring(store, name="digits-2")
    bring(store, name="people")
    with pytest.raises(UsageError, match="no data set named 'peopel'") as caught:
        read_manifest(store, "peopel")
    assert caught.value.hint == "did you mean people? there is: digits-2, people"


def test_a_removed_name_is_free(store: Store) -> None:
    first = bring(store)
    remove(store, "n")
    assert names(store) == []
    assert files(store) == set()
    assert bring(store).token != first.token


def test_sparse_rows() -> None:
    one = Csr(np.array([0, 2, 2, 3]), np.array([1, 4, 0], np.int32), np.array([1, 2, 3], np.float32))
    other = one.take(np.array([2, 0, 0, 1]))
    assert other.starts.tolist() == [0, 1, 3, 5, 5]
    assert other.columns.tolist() == [0, 1, 4, 1, 4]
    both = stack([one, other])
    assert len(both) == 7
    assert both.values.tolist() == [1, 2, 3, 3, 1, 2, 1, 2]
    assert both.take(np.array([0])).columns.tolist() == [1, 4]
