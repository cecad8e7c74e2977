"""Tensor files: this module and the safetensors library read each other's files, and damage is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from estafeta.errors import Corrupt, UsageError
from estafeta.store.files import OsFiles
from estafeta.store.tensorfile import ALIGNMENT, CHUNK_BYTES, DTYPES, Array, TensorFile, encode, scratch_buffer

PROPERTY = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])

SHAPES = st.lists(st.integers(0, 5), max_size=3).map(tuple)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda name: name != "__metadata__")
ARRAYS = st.sampled_from(list(DTYPES.values())).flatmap(lambda dtype: hnp.arrays(dtype, SHAPES))
TENSORS = st.dictionaries(NAMES, ARRAYS, max_size=4)
METADATA = st.dictionaries(NAMES.filter(lambda key: not key.startswith("crc32:")), NAMES, max_size=3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.safetensors"


def save(path: Path, tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None) -> bytes:
    path.unlink(missing_ok=True)
    OsFiles().create(str(path), encode(tensors, metadata or {}))
    return path.read_bytes()


@contextmanager
def opened(path: Path) -> Iterator[TensorFile]:
    with OsFiles().open(str(path)) as reader:
        yield TensorFile(reader)


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (2, 0, 3), (2, 3, 4)], ids=str)
def test_every_dtype_and_shape_returns(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    tensor = generator.integers(0, 2, shape).astype(dtype)
    save(path, {"before": np.ones(3, np.int8), "t": tensor})
    with opened(path) as file:
        assert same(file.read("t"), tensor)
        assert file.entries["t"].dtype == dtype
        assert file.entries["t"].shape == shape
        out = np.empty(tensor.size, dtype)
        file.read_into("t", out)
        assert same(out, tensor.reshape(-1))
    assert same(load_file(path)["t"], tensor)


@PROPERTY
@given(tensors=TENSORS, metadata=METADATA)
def test_all_that_is_written_is_read_by_ours_and_by_the_library(
    path: Path, tensors: dict[str, Array], metadata: dict[str, str]
) -> None:
    save(path, tensors, metadata)
    with opened(path) as file:
        assert list(file.entries) == list(tensors)
        assert file.metadata == metadata
        assert all(same(file.read(name), tensor) for name, tensor in tensors.items())
    with safe_open(path, framework="numpy") as library:
        assert set(library.keys()) == set(tensors)
        assert metadata.items() <= (library.metadata() or {}).items()
        assert all(same(library.get_tensor(name), tensor) for name, tensor in tensors.items())


@PROPERTY
@given(tensors=TENSORS)
def test_files_of_the_library_are_read(path: Path, tensors: dict[str, Array]) -> None:
    save_file(tensors, path, metadata={"by": "the library"})
    with opened(path) as file:
        assert file.metadata == {"by": "the library"}
        assert all(same(file.read(name), tensor) for name, tensor in tensors.items())


def test_the_same_tensors_make_the_same_bytes(path: Path) -> None:
    tensors: dict[str, Array] = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.zeros(3)}
    assert save(path, tensors, {"round": "3"}) == save(path, tensors, {"round": "3"})


def test_tensors_are_not_copied() -> None:
    tensor = np.zeros(4, np.float32)
    _, chunk = encode({"t": tensor}, {})
    tensor[0] = 1
    assert bytes(chunk) == tensor.tobytes()


def test_data_begin_at_a_cache_line(path: Path) -> None:
    for length in range(20):
        save(path, {"t": np.ones(3, np.float32)}, {"k": "x" * length})
        with opened(path) as file:
            assert file.entries["t"].offset % ALIGNMENT == 0


@pytest.mark.parametrize("dtype", [">f4", "c16", "M8[s]", "U3", "O"])
def test_a_dtype_without_a_name_is_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match="Tensor 'w' has dtype") as caught:
        encode({"w": np.zeros(2, dtype)}, {})
    assert "float32" in caught.value.hint


@PROPERTY
@given(tensor=ARRAYS, length=st.integers(1, 40))
def test_a_stream_in_pieces_of_any_size_is_the_tensor(path: Path, tensor: Array, length: int) -> None:
    save(path, {"before": np.ones(3, np.int8), "t": tensor})
    scratch = np.empty(length, tensor.dtype)
    with opened(path) as file:
        pieces = [(first, piece.copy()) for first, piece in file.stream("t", scratch)]
    assert [first for first, _ in pieces] == list(range(0, tensor.size, length))
    assert b"".join(piece.tobytes() for _, piece in pieces) == tensor.tobytes()


def test_a_stream_goes_through_the_one_buffer(path: Path) -> None:
    save(path, {"t": np.arange(10, dtype=np.float32)})
    scratch = np.empty(4, np.float32)
    with opened(path) as file:
        assert all(np.shares_memory(piece, scratch) for _, piece in file.stream("t", scratch))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_a_scratch_buffer_is_one_read_long(dtype: type) -> None:
    scratch = scratch_buffer(dtype)
    assert scratch.dtype == dtype
    assert scratch.nbytes == CHUNK_BYTES


@pytest.mark.parametrize("out", [np.empty(5, np.float32), np.empty(3, np.float64), np.empty(6, np.int32)])
def test_a_buffer_that_does_not_fit_is_refused(path: Path, out: Array) -> None:
    save(path, {"t": np.zeros(6, np.float32)})
    with opened(path) as file, pytest.raises(Corrupt, match=r"Tensor 't' is float32\[6\], expected"):
        file.read_into("t", out)


TENSORS_FOR_DAMAGE: dict[str, Array] = {
    "w": np.arange(12, dtype=np.float32).reshape(3, 4),
    "none": np.empty((0, 2)),
    "b": np.arange(4, dtype=np.int64),
}


def read_all(path: Path) -> dict[str, Array]:
    with opened(path) as file:
        return {name: file.read(name) for name in file.entries}


def stream_all(path: Path) -> None:
    with opened(path) as file:
        for name, entry in file.entries.items():
            for _ in file.stream(name, np.empty(3, entry.dtype)):
                pass


@pytest.mark.parametrize("read", [read_all, stream_all])
def test_every_flipped_bit_of_the_tensors_is_noticed(path: Path, read: Callable[[Path], object]) -> None:
    content = save(path, TENSORS_FOR_DAMAGE)
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        for bit in (0, 7):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(Corrupt, match="digest"):
                read(path)


WRITTEN = {tensor.tobytes() for tensor in TENSORS_FOR_DAMAGE.values()}


@pytest.mark.parametrize("flip", [1, 8, 32, 128, ord("w") ^ ord("b"), ord("F") ^ ord("I")])
def test_a_flipped_byte_of_the_header_never_yields_bytes_that_were_not_written(path: Path, flip: int) -> None:
    """The digests cover the bytes, but not names and metadata, which damage may change."""
    content = save(path, TENSORS_FOR_DAMAGE, {"round": "3"})
    noticed = 0
    for position in range(8 + int.from_bytes(content[:8], "little")):
        damaged = bytearray(content)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            assert {tensor.tobytes() for tensor in read_all(path).values()} <= WRITTEN
        except Corrupt:
            noticed += 1
    assert noticed > 0


def test_every_truncated_file_is_noticed_on_opening(path: Path) -> None:
    content = save(path, TENSORS_FOR_DAMAGE)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(Corrupt), opened(path):
            pass


def test_a_file_that_grew_is_noticed_on_opening(path: Path) -> None:
    content = save(path, TENSORS_FOR_DAMAGE)
    path.write_bytes(content + b"\0")
    with pytest.raises(Corrupt, match=f"{len(content) + 1} bytes where its header says {len(content)}"), opened(path):
        pass


def test_a_file_of_no_tensors(path: Path) -> None:
    content = save(path, {}, {"k": "v"})
    with opened(path) as file:
        assert file.entries == {}
        assert file.metadata == {"k": "v"}
    path.write_bytes(content + b"x")
    with pytest.raises(Corrupt), opened(path):
        pass


W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"5",
        b"null",
        b'"text"',
        b"[]",
        {"w": 1},
        {"w": {}},
        {"w": W, "__metadata__": []},
        {"w": W, "__metadata__": 3},
        {"w": {**W, "dtype": "F31"}},
        {"w": {**W, "dtype": []}},
        {"w": {**W, "shape": 2}},
        {"w": {**W, "shape": [3]}},
        {"w": {**W, "shape": [-2]}},
        {"w": {**W, "shape": ["2"]}},
        {"w": {**W, "data_offsets": [0, 4]}},
        {"w": {**W, "data_offsets": [-8, 0]}},
        {"w": {**W, "data_offsets": [8, 0]}},
        {"w": W, "v": {**W, "data_offsets": [-4, 4]}},
        {"w": {**W, "data_offsets": [0, 8, 8]}},
        {"w": {**W, "data_offsets": [0, "8"]}},
        {"w": {**W, "data_offsets": [8, 16]}},
        {"w": W, "v": {**W, "data_offsets": [8, 16]}},
    ],
    ids=str,
)
def test_a_bad_header_is_noticed_on_opening(path: Path, header: bytes | dict[str, object]) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    with pytest.raises(Corrupt), opened(path):
        pass


def test_a_header_longer_than_the_file_is_not_read(path: Path) -> None:
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
    with pytest.raises(Corrupt, match="claims a header of"), opened(path):
        pass


@pytest.mark.parametrize("digest", ["00000000", "", "no number", "0x1"])
def test_a_damaged_digest_is_noticed(path: Path, digest: str) -> None:
    text = json.dumps({"__metadata__": {"crc32:w": digest}, "w": W}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"12345678")
    with opened(path) as file, pytest.raises(Corrupt, match="Tensor 'w' has digest"):
        file.read("w")
