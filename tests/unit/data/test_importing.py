"""Sources of every format, as the blocks and the manifest that they become."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from scipy.sparse import csr_matrix, random_array
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from estafeta.data.blocks import Csr, RowArray, stack
from estafeta.data.catalog import names, read_block, read_manifest, verify
from estafeta.data.importing.importer import Progress, Wishes, import_dataset
from estafeta.data.importing.sources import Reading, open_source
from estafeta.data.importing.tabular import Choice
from estafeta.data.manifest import Manifest
from estafeta.data.sampler import held_out
from estafeta.errors import EnvironmentProblem, EstafetaError, UsageError
from estafeta.store.store import Store

Import = Callable[..., Manifest]

TABLE = """age,city,height,label
31,Riga,1.75,yes
,Oslo,1.80,no
47,Riga,,yes
22,,1.65,no
28,Oslo,1.70,
"""
WHOLE = TABLE.splitlines()[0] + "\n31,Riga,1.75,yes\n40,Oslo,1.80,no\n47,Riga,1.60,yes\n"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return Store(tmp_path / "store")


@pytest.fixture
def bring(store: Store) -> Import:
    def bring(*places: object, name: str = "d", reading: Reading | None = None, **options: Any) -> Manifest:
        fields = {k: options.pop(k) for k in ("label", "ignore", "target") if k in options}
        read = {k: options.pop(k) for k in ("format", "delimiter", "zero_based") if k in options}
        paths = tuple(map(str, places))
        source = open_source(paths, reading or Reading(choice=Choice(**fields), **read))
        return import_dataset(store, name, source, paths, Wishes(**options))

    return bring


def whole(store: Store, manifest: Manifest) -> list[RowArray]:
    """All rows of a data set."""
    blocks = [read_block(store, manifest, number) for number in range(len(manifest.blocks))]
    return [stack(p) if isinstance(p[0], Csr) else np.concatenate(p) for p in map(list, zip(*blocks, strict=True))]


def file(folder: Path, content: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(content)
    return path


def test_a_table(store: Store, bring: Import, tmp_path: Path) -> None:
    manifest = bring(file(tmp_path, WHOLE), label="label")
    assert [(kind.name, kind.dtype, kind.shape) for kind in manifest.inputs] == [
        ("numbers", "F32", (2,)),
        ("codes", "I64", (1,)),
    ]
    assert manifest.categories == {"city": ("Riga", "Oslo"), "label": ("yes", "no")}
    assert manifest.labels == {"yes": 2, "no": 1}
    numbers, codes, target = whole(store, manifest)
    np.testing.assert_array_equal(numbers, np.array([[31, 1.75], [40, 1.8], [47, 1.6]], np.float32))
    assert codes.tolist() == [[0], [1], [0]]
    assert target.tolist() == [0, 1, 0]
    assert read_manifest(store, "d") == manifest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE, r"t.csv, row 5: the label has no value"),
        (TABLE.replace("1.70,\n", "1.70,no\n"), r"t.csv, row 4: column 'city' has no value"),
        (TABLE.replace("1.70,\n", "1.70,no\n").replace("22,,", "22,Oslo,"), r"t.csv, row 2: column 'age' has no value"),
        (WHOLE.replace("1.80", "inf"), r"t.csv, row 2: column 'height' has no value"),
    ],
)
def test_missing_values_are_refused(content: str, message: str, store: Store, bring: Import, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bring(file(tmp_path, content), label="label")
    assert "--missing" in caught.value.hint
    assert_nothing_left(store)


def test_missing_values_are_dropped(store: Store, bring: Import, tmp_path: Path) -> None:
    manifest = bring(file(tmp_path, TABLE), label="label", missing="drop")
    assert whole(store, manifest)[0].tolist() == [[31.0, 1.75]]
    assert (manifest.rows, manifest.dropped) == (1, 4)


def test_missing_numbers_are_kept_for_the_mean(store: Store, bring: Import, tmp_path: Path) -> None:
    content = TABLE.replace("1.70,\n", "1.70,no\n")
    manifest = bring(file(tmp_path, content), label="label", missing="mean")
    numbers, codes, _ = whole(store, manifest)
    assert np.isnan(numbers).sum(0).tolist() == [1, 1]
    assert manifest.fill_missing
    age, height = manifest.inputs[0].columns
    assert (age.missing, age.mean) == (1, 32.0)
    assert height.mean == pytest.approx(1.725)
    assert manifest.categories["city"][codes[3, 0]] == ""
    with pytest.raises(UsageError, match="the label has no value"):
        bring(file(tmp_path, TABLE), name="other", label="label", missing="mean")


@pytest.mark.parametrize(
    ("content", "options", "message", "hint"),
    [
        ("", {}, "t.csv is empty", "no rows"),
        ("a,label\n", {}, "t.csv has no rows", ""),
        ("a,label\n1,2\n3\n", {}, r"t.csv, line 3, column label: the value is missing", "correct or remove the row"),
        (
            "a,label\n1,2\n3,4,5\n",
            {},
            r"t.csv, line 3, column 3: the value is one too many: '5'",
            "correct or remove the row",
        ),
        ("a,label\n1,2\n", {"label": "y"}, "has no column 'y' to learn", "a, label"),
        ("a,label\n1,2\n", {"label": None}, "t.csv has several columns, and none is named", "one of a, label"),
        ("a,label\n1,2\n", {"ignore": ("b",)}, "no column 'b' to ignore", "a, label"),
        ("a,label\n1,2\n", {"ignore": ("a",)}, "has no column but the label", "inputs"),
        ("a,a,label\n1,1,2\n", {}, "two columns named 'a'", "a name of its own"),
        ("a,label\n2020-01-01,2\n", {}, "Column 'a' of .*t.csv holds date32", "--ignore a"),
        ("a,label\n1,x\n", {"target": "number"}, "The label 'label' is text", "--target"),
        ("a,label\n1,0.5\n", {"target": "class"}, "The label 'label' is double", "--target"),
    ],
)
def test_tables_that_are_refused(
    content: str, options: dict[str, Any], message: str, hint: str, store: Store, bring: Import, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bring(file(tmp_path, content), **{"label": "label", **options})
    assert hint in caught.value.hint
    assert_nothing_left(store)


@pytest.mark.parametrize(
    ("late", "message"),
    [
        ("x,1\n", r"line 200002, column a: 'x' is not a number"),
        ("1,0.5\n", r"line 200002, column label: '0.5' is not a whole number"),
        ("1\n", r"line 200002, column label: the value is missing"),
    ],
)
def test_late_errors_in_a_file_are_found(late: str, message: str, store: Store, bring: Import, tmp_path: Path) -> None:
    """The error comes after the first megabyte, when Arrow has guessed the types and blocks are published."""
    content = "a,label\n" + "12345678,1\n" * 200_000 + late
    with pytest.raises(UsageError, match=message):
        bring(file(tmp_path, content), label="label", block_bytes=1 << 16)
    assert_nothing_left(store)


def test_a_label_of_numbers(store: Store, bring: Import, tmp_path: Path) -> None:
    manifest = bring(file(tmp_path, "a,label\n1,2\n3,4\n"), label="label", target="number")
    assert whole(store, manifest)[1].dtype == np.float32
    assert manifest.labels == {}


def test_kinds_of_text_files(store: Store, bring: Import, tmp_path: Path) -> None:
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(WHOLE.encode()))
    expected = whole(store, bring(file(tmp_path, WHOLE), label="label"))
    for name, place, options in (
        ("tsv", file(tmp_path, WHOLE.replace(",", "\t"), "t.tsv"), {}),
        ("semicolons", file(tmp_path, WHOLE.replace(",", ";"), "s.csv"), {"delimiter": ";"}),
        ("other-name", file(tmp_path, WHOLE, "t.data"), {"format": "csv"}),
        ("gz", packed, {}),
    ):
        for one, other in zip(whole(store, bring(place, name=name, label="label", **options)), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_several_files_are_one_table(store: Store, bring: Import, tmp_path: Path) -> None:
    one, two = file(tmp_path, WHOLE, "1.csv"), file(tmp_path, WHOLE.replace("Oslo", "Bern"), "2.csv")
    manifest = bring(one, two, label="label")
    assert manifest.categories["city"] == ("Riga", "Oslo", "Bern")
    assert manifest.rows == 6
    with pytest.raises(UsageError, match="has other columns than"):
        bring(one, file(tmp_path, WHOLE.replace("age", "years"), "3.csv"), name="e", label="label")
    with pytest.raises(UsageError, match=r"1.csv is csv, .*is parquet"):
        bring(one, tmp_path / "x.parquet", name="e", label="label")


@pytest.fixture
def people(tmp_path: Path) -> pa.Table:
    random = np.random.default_rng(1)
    table = pa.table(
        {
            "a": random.standard_normal(5000),
            "b": [None, 1] * 2500,
            "c": ["x", "y"] * 2500,
            "y": random.integers(0, 3, 5000),
        }
    )
    (tmp_path / "folder/deep").mkdir(parents=True)
    parquet.write_table(table[:2000], tmp_path / "folder/1.parquet")
    parquet.write_table(table[2000:], tmp_path / "folder/deep/2.parquet")
    return table


def test_parquet(store: Store, bring: Import, people: pa.Table, tmp_path: Path) -> None:
    manifest = bring(tmp_path / "folder", label="y", missing="mean", block_bytes=1 << 14)
    numbers, codes, target = whole(store, manifest)
    np.testing.assert_array_equal(numbers[:, 0], people["a"].to_numpy().astype(np.float32))
    assert np.isnan(numbers[:, 1]).sum() == 2500
    np.testing.assert_array_equal(target, people["y"].to_numpy())
    assert codes[:2].tolist() == [[0], [1]]
    assert len(manifest.blocks) > 3


def test_parquet_that_is_not_whole(store: Store, bring: Import, people: pa.Table, tmp_path: Path) -> None:
    path = tmp_path / "folder/1.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    with pytest.raises(UsageError, match=r"1.parquet is not a complete Parquet file"):
        bring(path, label="y")
    path.write_bytes(content[:4] + b"\xff" * 50 + content[54:])
    with pytest.raises(UsageError, match=r"1.parquet is damaged"):
        bring(path, label="y", missing="mean")
    with pytest.raises(UsageError, match=r"has no \*.parquet in it"):
        bring(store.root, label="y")
    assert_nothing_left(store)


IMAGES = np.random.default_rng(2).integers(0, 256, (70, 3, 8, 8)).astype(np.uint8)
LABELS = np.arange(70) % 7


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
def test_archives_of_arrays(pack: Any, store: Store, bring: Import, tmp_path: Path) -> None:
    pack(tmp_path / "i.npz", y=LABELS, images=IMAGES, size=np.arange(70, dtype=np.float64))
    manifest = bring(tmp_path / "i.npz", block_bytes=4000)
    images, size, target = whole(store, manifest)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(target, LABELS)
    assert images.dtype == np.uint8
    assert (size.shape, size.dtype) == ((70,), np.float32)


def test_arrays_in_files_of_their_own(store: Store, bring: Import, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    np.save(tmp_path / "y.npy", LABELS)
    manifest = bring(tmp_path / "images.npy", tmp_path / "y.npy", limit=33)
    np.testing.assert_array_equal(whole(store, manifest)[0], IMAGES[:33])


def test_an_archive_is_known_by_its_content(store: Store, bring: Import, tmp_path: Path) -> None:
    np.savez(tmp_path / "upper.npz", x=IMAGES, y=LABELS)
    for name in ("upper.NPZ", "arrays.npy"):
        (tmp_path / name).write_bytes((tmp_path / "upper.npz").read_bytes())
        manifest = bring(tmp_path / name, name=name.lower())
        np.testing.assert_array_equal(whole(store, manifest)[0], IMAGES)


def test_no_array_takes_the_place_of_another(store: Store, bring: Import, tmp_path: Path) -> None:
    for part in ("1", "2"):
        np.savez(tmp_path / f"{part}.npz", x=IMAGES, y=LABELS)
    with pytest.raises(UsageError, match=r"2.npz has the array 'x', and so has a file before it"):
        bring(tmp_path / "1.npz", tmp_path / "2.npz")
    assert_nothing_left(store)


def test_an_array_file_that_is_a_single_number(store: Store, bring: Import, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.float32(3))
    np.save(tmp_path / "y.npy", LABELS)
    with pytest.raises(UsageError, match=r"x.npy is a single number"):
        bring(tmp_path / "x.npy", tmp_path / "y.npy")
    assert_nothing_left(store)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": IMAGES, "z": LABELS}, "no array whose name says that it is the target"),
        ({"y": LABELS}, "no array but the target"),
        ({"x": IMAGES, "y": LABELS[1:]}, "different lengths: x 70, y 69"),
        ({"x": np.array(["a"] * 70), "y": LABELS}, "is <U1"),
        ({"x": np.array([{}] * 70, object), "y": LABELS}, "holds Python objects"),
        ({"x": np.asfortranarray(IMAGES), "y": LABELS}, "column by column"),
        ({"x": IMAGES, "y": np.full(70, 2**63, np.uint64)}, "9223372036854775808 does not fit int64"),
    ],
)
def test_arrays_that_are_refused(
    arrays: dict[str, Any], message: str, store: Store, bring: Import, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UsageError, match=message):
        bring(tmp_path / "a.npz")
    assert_nothing_left(store)


def test_an_archive_that_is_not_whole(store: Store, bring: Import, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=IMAGES, y=LABELS)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "a.npz").write_bytes(content[:-300])
    with pytest.raises(UsageError, match="is not a complete file of numpy arrays"):
        bring(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes(content[:5000] + b"\xff" + content[5001:])
    with pytest.raises(UsageError, match="is damaged"):
        bring(tmp_path / "a.npz")
    assert_nothing_left(store)


def test_numbers_that_are_missing_from_arrays(store: Store, bring: Import, tmp_path: Path) -> None:
    numbers = np.ones((9, 2))
    numbers[4, 1] = np.nan
    np.savez(tmp_path / "a.npz", x=numbers, y=np.arange(9))
    with pytest.raises(UsageError, match="row 5: x has no value"):
        bring(tmp_path / "a.npz")
    assert bring(tmp_path / "a.npz", missing="drop").rows == 8


@pytest.fixture
def sparse(tmp_path: Path) -> tuple[Path, csr_matrix]:
    rows = csr_matrix(random_array((300, 40), density=0.1, rng=np.random.default_rng(3), dtype=np.float32))
    dump_svmlight_file(rows, np.arange(300) % 2 * 2 - 1, str(tmp_path / "s.svm"), zero_based=False)
    return tmp_path / "s.svm", rows


def test_sparse_rows_stay_sparse(
    store: Store, bring: Import, sparse: tuple[Path, csr_matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = sparse
    manifest = bring(path, block_bytes=2000)
    rows, target = whole(store, manifest)
    expected, labels = load_svmlight_file(str(path), zero_based=False, dtype=np.float32)
    assert isinstance(rows, Csr)
    assert manifest.inputs[0].shape == (expected.shape[1],)
    found = csr_matrix((rows.values, rows.columns, rows.starts), shape=expected.shape)
    assert (found != expected).nnz == 0
    assert target.tolist() == labels.tolist()
    assert len(manifest.blocks) > 3


def test_sparse_text_may_begin_with_a_comment(store: Store, bring: Import, tmp_path: Path) -> None:
    manifest = bring(file(tmp_path, "# made by a program\n\n1 1:2\n0 2:3\n", "s.svm"))
    assert manifest.labels == {"0": 1, "1": 1}
    with pytest.raises(UsageError, match=r"s.svm has no rows"):
        bring(file(tmp_path, "# nothing else\n", "s.svm"), name="none")


@pytest.mark.parametrize(
    ("content", "message", "hint"),
    [
        ("1 1:2\n1 x:3\n", "s.svm, line 2: '1 x:3' is no row", "ascending"),
        ("1 1:2\n1 0:3\n", "column 0", "--zero-based"),
        ("1 1:2\n0.5 1:3\n", "the label 0.5, and whole numbers before it", "--target number"),
        ("1 1:2\n1 1:nan\n", "row 2: input has no value", "--missing"),
    ],
)
def test_sparse_text_that_is_refused(
    content: str, message: str, hint: str, store: Store, bring: Import, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bring(file(tmp_path, content, "s.svm"))
    assert hint in caught.value.hint
    assert_nothing_left(store)


FACTORY = """
import numpy as np, torch
from torch.utils.data import Dataset

class Rows(Dataset):
    def __init__(self, wrong=None):
        self.wrong = wrong
    def __len__(self):
        return 300
    def __getitem__(self, row):
        return torch.full((2, 3 if row == self.wrong else 2), row % 256, dtype=torch.uint8), 1.5, row

def arrays():
    return np.ones((5, 2)), np.arange(5)

def uneven():
    return Rows(wrong=299)

def nothing():
    return None

def fails():
    raise RuntimeError("no")
"""


def test_factories(store: Store, bring: Import, tmp_path: Path) -> None:
    place = file(tmp_path, FACTORY, "made.py")
    manifest = bring(f"{place}:Rows")
    image, number, target = whole(store, manifest)
    assert (image.dtype, image.shape) == (np.uint8, (300, 2, 2))
    assert number.dtype == np.float32
    assert target.tolist() == list(range(300))
    assert bring(f"{place}:arrays", name="e").rows == 5
    for attribute, message in (
        ("uneven", r"rows 256 to 299 of .* raised RuntimeError"),
        ("nothing", "makes a NoneType"),
        ("absent", "has no factory 'absent'"),
        ("fails", "raised RuntimeError: no"),
    ):
        with pytest.raises(EstafetaError, match=message) as caught:
            bring(f"{place}:{attribute}", name="f")
        assert caught.value.exit_code == 2, "no run has failed"
    with pytest.raises(UsageError, match="There is no module"):
        bring("no.such.module:rows", name="f")
    assert names(store) == ["d", "e"]


def test_moments_are_those_of_the_rows_that_are_trained_on(store: Store, bring: Import, tmp_path: Path) -> None:
    numbers = np.random.default_rng(4).normal(1e3, 2, (1000, 3)).astype(np.float32)
    lines = "\n".join(",".join(map(repr, row)) + ",1" for row in numbers.tolist())
    path = file(tmp_path, f"a,b,c,y\n{lines}\n")
    manifest = bring(path, label="y", standardize=True, validation=0.25, seed=3, block_bytes=1000)
    trained = numbers[~held_out(0, 1000, 0.25, 3)].astype(np.float64)
    columns = manifest.inputs[0].columns
    np.testing.assert_allclose([c.mean for c in columns], trained.mean(0), rtol=1e-12)
    np.testing.assert_allclose([c.deviation for c in columns], trained.std(0), rtol=1e-9)
    assert [c.least for c in columns] == trained.min(0).tolist()
    assert (manifest.validation, manifest.seed) == (0.25, 3)
    whole_table = bring(path, name="e", label="y", standardize=True, block_bytes=1 << 20)
    np.testing.assert_allclose([c.mean for c in whole_table.inputs[0].columns], numbers.astype(float).mean(0))


def test_standardizing_needs_columns(bring: Import, store: Store, sparse: tuple[Path, csr_matrix]) -> None:
    with pytest.raises(UsageError, match="no columns of numbers"):
        bring(sparse[0], standardize=True)
    assert_nothing_left(store)


def test_the_name_is_taken(store: Store, bring: Import, tmp_path: Path) -> None:
    path = file(tmp_path, WHOLE)
    first = bring(path, label="label")
    with pytest.raises(UsageError, match="There is a data set named 'd' already") as caught:
        bring(path, label="label")
    assert "estafeta data rm d" in caught.value.hint
    assert list(verify(store, first)) == [0]
    for name, message in (("iris", "comes with scikit-learn"), ("No Such", "cannot be the name")):
        with pytest.raises(UsageError, match=message):
            bring(path, name=name, label="label")


def test_a_source_that_is_larger_than_the_disk(store: Store, bring: Import, tmp_path: Path) -> None:
    path = file(tmp_path, WHOLE)
    with path.open("r+b") as sparse_file:
        sparse_file.truncate(1 << 43)
    with pytest.raises(EnvironmentProblem, match=r"8,796\.1 GB, the disk") as caught:
        bring(path, label="label")
    assert "ESTAFETA_HOME" in caught.value.hint
    assert_nothing_left(store)


def test_progress_reaches_the_end(store: Store, tmp_path: Path) -> None:
    path = file(tmp_path, "a,label\n" + "12345678,1\n" * 200_000)
    seen: list[Progress] = []
    source = open_source([str(path)], Reading(choice=Choice("label")))
    import_dataset(store, "d", source, ("t",), Wishes(), seen.append)
    assert seen[-1].rows == 200_000
    assert seen[-1].position == seen[-1].size == path.stat().st_size
    assert len(seen) > 2


def assert_nothing_left(store: Store) -> None:
    assert names(store) == []
    assert [path for path in Path(store.root).rglob("*") if path.name != "datasets"] == []
