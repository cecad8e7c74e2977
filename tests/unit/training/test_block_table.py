"""Rows of a stored data set are those that were imported, however little room there is."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, random_array

from conformance.interposed import Interposed
from estafeta.data.blocks import Csr
from estafeta.data.catalog import remove
from estafeta.data.importing.chunk import Chunk
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.manifest import Column, Kind, Manifest
from estafeta.errors import Corrupt, UsageError
from estafeta.store.files import OsFiles, Reader
from estafeta.store.store import Store
from estafeta.training.block_table import BlockTable

ROWS, BLOCK_ROWS = 230, 10
RANDOM = np.random.default_rng(1)
TABLE = RANDOM.normal(5, 3, (ROWS, 3)).astype(np.float32)
TABLE[RANDOM.random((ROWS, 3)) < 0.1] = np.nan
IMAGES = RANDOM.integers(0, 256, (ROWS, 2, 4)).astype(np.uint8)
SPARSE = csr_matrix(random_array((ROWS, 50), density=0.1, rng=RANDOM, dtype=np.float32))
TARGET = RANDOM.integers(0, 5, ROWS)


class Made:
    """A source with every sort of kind."""

    size = position = 0
    inputs = (
        Kind(name="numbers", dtype="F32", shape=(3,), columns=tuple(Column(name=name) for name in "abc")),
        Kind(name="images", dtype="U8", shape=(2, 4)),
        Kind(name="sparse", dtype="F32", shape=(50,), sparse=True),
    )
    target = Kind(name="target", dtype="I64")

    def __init__(self) -> None:
        self.categories: dict[str, tuple[str, ...]] = {}

    def chunks(self) -> Iterator[Chunk]:
        rows = Csr(SPARSE.indptr.astype(np.int64), SPARSE.indices.astype(np.int32), SPARSE.data)
        yield Chunk({"numbers": TABLE, "images": IMAGES, "sparse": rows, "target": TARGET}, "made", 1)


class Counting(Interposed):
    """Files that count how often each block is opened; the gate is closed while nobody may open one."""

    def __init__(self) -> None:
        super().__init__(OsFiles())
        self.opened: Counter[int] = Counter()
        self.gate = threading.Event()
        self.gate.set()

    def open(self, path: str) -> Reader:
        assert self.gate.wait(60)
        if path.endswith(".safetensors"):
            self.opened[int(path[-18:-12])] += 1
        return super().open(path)


def bring(store: Store, **wishes: object) -> Manifest:
    size = (TABLE.nbytes + IMAGES.nbytes + TARGET.nbytes + SPARSE.data.nbytes * 2) / ROWS + 8
    wish = Wishes(missing="mean", block_bytes=int(size * (BLOCK_ROWS + 0.2)), **wishes)  # type: ignore[arg-type]
    return import_dataset(store, "made", Made(), ("made",), wish)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    store = Store(tmp_path_factory.mktemp("store"))
    manifest = bring(store)
    assert {extent.rows for extent in manifest.blocks[:-1]} == {BLOCK_ROWS}
    return store, manifest


def room(manifest: Manifest, blocks: int) -> int:
    """Bytes for so many blocks."""
    return blocks * max(extent.bytes for extent in manifest.blocks)


def check(table: BlockTable, manifest: Manifest, rows: np.ndarray) -> None:
    """Compare a batch with that of a table in memory."""
    numbers, images, sparse, target = table.batch(rows)
    mean = np.array([column.mean for column in manifest.inputs[0].columns])
    expected = np.where(np.isnan(TABLE), mean, TABLE).astype(np.float32)[rows]
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_array_equal(images, IMAGES[rows])
    assert sparse.layout == torch.sparse_csr
    np.testing.assert_array_equal(sparse.to_dense(), SPARSE[rows].toarray())
    np.testing.assert_array_equal(target, TARGET[rows])
    assert (numbers.dtype, images.dtype, sparse.dtype, target.dtype) == (
        torch.float32,
        torch.uint8,
        torch.float32,
        torch.int64,
    )


@given(
    batches=st.lists(st.lists(st.integers(0, ROWS - 1), max_size=60), min_size=1, max_size=5), slots=st.integers(0, 30)
)
@settings(max_examples=60)
def test_rows_do_not_depend_on_room(batches: list[list[int]], slots: int, stored: tuple[Store, Manifest]) -> None:
    store, manifest = stored
    table = BlockTable(store, manifest, room(manifest, slots))
    assert len(table) == ROWS
    assert table.slots == min(max(slots, 1), len(manifest.blocks))
    for rows in batches:
        table.expect(np.arange(len(rows) % 20))
        check(table, manifest, np.array(rows, np.int64))


def test_blocks_are_read_once_while_there_is_room(stored: tuple[Store, Manifest]) -> None:
    files = Counting()
    table = BlockTable(Store(stored[0].root, files), stored[1], 1 << 30)
    for seed in range(5):
        assert table._complete == (seed > 0)
        check(table, stored[1], np.random.default_rng(seed).permutation(ROWS))
    assert files.opened == dict.fromkeys(range(ROWS // BLOCK_ROWS), 1)


def test_the_block_used_last_stays(stored: tuple[Store, Manifest]) -> None:
    files = Counting()
    table = BlockTable(Store(stored[0].root, files), stored[1], room(stored[1], 3))
    for block in (0, 1, 2, 0, 3, 0, 1):
        check(table, stored[1], np.array([block * BLOCK_ROWS]))
    assert files.opened == {0: 1, 1: 2, 2: 1, 3: 1}


def test_a_needed_block_is_not_dropped_for_another(stored: tuple[Store, Manifest]) -> None:
    files = Counting()
    table = BlockTable(Store(stored[0].root, files), stored[1], room(stored[1], 3))
    for blocks in ([1], [2], [3], [0, 1]):
        check(table, stored[1], np.array(blocks) * BLOCK_ROWS)
    assert files.opened == {0: 1, 1: 1, 2: 1, 3: 1}


def test_blocks_are_read_ahead(stored: tuple[Store, Manifest]) -> None:
    """Threads read while nobody waits, and the table does not drop a block at hand for a later one."""
    files = Counting()
    table = BlockTable(Store(stored[0].root, files), stored[1], room(stored[1], 4))
    check(table, stored[1], np.arange(20))
    files.gate.clear()
    table.expect(np.array([0, 1, 5, 6, 7]))
    check(table, stored[1], np.arange(20))  # would wait for ever if one of them had to be read
    files.gate.set()
    check(table, stored[1], np.array([50, 60]))
    assert files.opened == {0: 1, 1: 1, 5: 1, 6: 1}


def test_a_block_that_is_expected_twice_is_read_once(stored: tuple[Store, Manifest]) -> None:
    """The last window of an epoch and the first one of the next may have blocks in common."""
    files = Counting()
    table = BlockTable(Store(stored[0].root, files), stored[1], room(stored[1], 4))
    table.expect(np.array([3, 5, 3, 7]))
    check(table, stored[1], np.array([5, 3, 7]) * BLOCK_ROWS)
    assert files.opened == {3: 1, 5: 1, 7: 1}


def test_sparse_rows_as_dense_tensors(stored: tuple[Store, Manifest]) -> None:
    sparse = BlockTable(*stored, room(stored[1], 2), dense=True).batch(np.array([7, 200, 7]))[2]
    assert sparse.layout == torch.strided
    np.testing.assert_array_equal(sparse, SPARSE[[7, 200, 7]].toarray())


def test_standardized_columns(tmp_path: Path) -> None:
    manifest = bring(Store(tmp_path), standardize=True)
    numbers = BlockTable(Store(tmp_path), manifest, room(manifest, 2)).batch(np.arange(ROWS))[0].numpy()
    assert not np.isnan(numbers).any()
    assert (numbers[np.isnan(TABLE)] == 0).all()
    seen = np.where(np.isnan(TABLE), np.nan, numbers)
    np.testing.assert_allclose(np.nanmean(seen, 0), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(seen, 0), 1, atol=1e-6)


@pytest.mark.parametrize("ahead", [True, False])
def test_a_data_set_that_is_removed_while_it_is_read(ahead: bool, tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = bring(store)
    table = BlockTable(store, manifest, room(manifest, 2))
    check(table, manifest, np.arange(3))
    remove(store, "made")
    bring(store)  # the table must not take other data of the same name
    for _ in range(2):
        if ahead:
            table.expect(np.array([5]))
        with pytest.raises(UsageError, match="'made' was removed while it was read"):
            table.batch(np.array([50]))
    check(table, manifest, np.arange(3))


def test_a_damaged_block(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = bring(store)
    (path,) = tmp_path.glob("datasets/made/*-000004.safetensors")
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    table = BlockTable(store, manifest, 1 << 30)
    with pytest.raises(Corrupt, match=r"Tensor '.*' has digest"):
        table.batch(np.arange(ROWS))
    path.write_bytes(content)
    check(table, manifest, np.arange(ROWS))
