"""Files as other programs write them: the import takes their meaning."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.datasets import dump_svmlight_file

from estafeta.data.catalog import read_block
from estafeta.data.importing.factory import MapStyle
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.importing.sources import Reading, open_source
from estafeta.data.importing.tabular import Choice
from estafeta.data.manifest import Manifest
from estafeta.errors import UsageError, UserCodeError
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array


def bring(folder: Path, place: str | Path, reading: Reading) -> tuple[Manifest, list[Array]]:
    """The manifest, and the parts of the first block."""
    (folder / "store").mkdir(exist_ok=True)
    store = Store(folder / "store")
    manifest = import_dataset(store, "d", open_source((str(place),), reading), (str(place),), Wishes())
    return manifest, [part for part in read_block(store, manifest, 0) if isinstance(part, np.ndarray)]


def test_comments_before_the_first_sparse_row_do_not_make_numbers_of_classes(tmp_path: Path) -> None:
    dump_svmlight_file(np.eye(4), np.arange(4), str(tmp_path / "s.svm"), zero_based=False, comment="of mine")
    assert (tmp_path / "s.svm").read_text().startswith("#")
    manifest, (target,) = bring(tmp_path, tmp_path / "s.svm", Reading())
    assert manifest.target.dtype == "I64"
    assert target.tolist() == [0, 1, 2, 3]


def test_line_breaks_inside_quotes(tmp_path: Path) -> None:
    """The text is longer than Arrow parses at once: Arrow has to see that a value continues in the next line."""
    path, rows = tmp_path / "t.csv", 60_000
    path.write_text("note,x,y\n" + "".join(f'"first {i % 3}\nsecond, line",{i},{i % 2}\n' for i in range(rows)))
    manifest, (numbers, codes, _) = bring(tmp_path, path, Reading(choice=Choice(label="y")))
    assert manifest.rows == rows
    assert manifest.categories["note"] == tuple(f"first {i}\nsecond, line" for i in range(3))
    assert numbers[:4].tolist() == [[0], [1], [2], [3]]
    assert codes[:4].tolist() == [[0], [1], [2], [0]]


def test_a_tab_may_be_written_as_in_python(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x\ty\n1\t0\n2\t1\n")
    _, (numbers, target) = bring(tmp_path, tmp_path / "t.csv", Reading(choice=Choice(label="y"), delimiter=r"\t"))
    assert numbers.tolist() == [[1], [2]]
    assert target.tolist() == [0, 1]


def test_decimals_are_numbers(tmp_path: Path) -> None:
    table = pa.table({"price": [Decimal("1.25"), None], "y": [Decimal("0.5"), Decimal("-3")]})
    parquet.write_table(table, tmp_path / "t.parquet")
    source = open_source((str(tmp_path / "t.parquet"),), Reading(choice=Choice(label="y")))
    (chunk,) = source.chunks()
    np.testing.assert_array_equal(chunk.parts["numbers"], np.array([[1.25], [np.nan]], np.float32))
    np.testing.assert_array_equal(chunk.parts["target"], np.array([0.5, -3], np.float32))


@pytest.mark.parametrize("type_", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
def test_texts_of_every_type(type_: pa.DataType, tmp_path: Path) -> None:
    cities = pa.array(["Riga", "Oslo", "Riga"]).cast(type_)
    parquet.write_table(pa.table({"city": cities, "y": [0, 1, 0]}), tmp_path / "t.parquet")
    manifest, (codes, _) = bring(tmp_path, tmp_path / "t.parquet", Reading(choice=Choice(label="y")))
    assert manifest.categories == {"city": ("Riga", "Oslo")}
    assert codes.tolist() == [[0], [1], [0]]


@pytest.mark.parametrize("length", [-1, 2.0, "two"])
def test_a_data_set_whose_length_is_no_number_of_rows(length: object) -> None:
    class Rows:
        def __len__(self) -> object:  # type: ignore[override]
            return length

    with pytest.raises(UserCodeError, match=r"the length of Rows raised (Value|Type)Error"):
        MapStyle(Rows(), "Rows")


@pytest.mark.parametrize("delimiter", ["é", "\n", ", "])
def test_impossible_delimiters_are_refused(delimiter: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("x,y\n1,0\n")
    reading = Reading(choice=Choice(label="y"), delimiter=delimiter)
    with pytest.raises(UsageError, match="cannot be a delimiter"):
        bring(tmp_path, tmp_path / "t.csv", reading)
