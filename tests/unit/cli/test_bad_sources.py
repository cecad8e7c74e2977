"""`estafeta data import` of what cannot be imported: it says what is wrong, and where; nothing is left behind."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from estafeta.cli.main import main
from estafeta.data.catalog import names, read_manifest, unfinished, verify
from estafeta.store.files import free_bytes
from estafeta.store.store import Store

TABLE = "age,city,buys\n31,Riga,1\n40,Oslo,0\n47,Riga,1\n"
MANY = "age,city,buys\n" + "12345678,Riga,1\n" * 100_000
"""More than the first megabyte, of which the types are taken, and more than a block."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["data", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def left(folder: Path) -> list[Path]:
    return [path for path in (folder / "home/store").rglob("*") if path.name != "datasets"]


def text(content: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(content)


def table(cut: int) -> Callable[[Path], object]:
    """A Parquet file without its last bytes."""

    def write(path: Path) -> None:
        parquet.write_table(pa.table({"age": np.arange(1000.0), "buys": np.arange(1000) % 2}), path)
        os.truncate(path, path.stat().st_size - cut)

    return write


def not_text(path: Path) -> None:
    path.write_bytes(b"age,buys\n\xff\xfe,1\n")


def cut_short(path: Path) -> None:
    path.write_bytes(gzip.compress(MANY.encode())[:-100])


def beyond_the_disk(path: Path) -> None:
    path.write_text(TABLE)
    os.truncate(path, free_bytes(str(path.parent)) + (1 << 30))


@pytest.mark.parametrize(
    ("source", "write", "options", "code", "said"),
    [
        ("t.csv", text(TABLE + "22,Oslo\n"), (), 2, ("t.csv, line 5, column buys: the value is missing",)),
        ("t.csv", text(TABLE + "22,Oslo,1,9\n"), (), 2, ("t.csv, line 5, column 4: the value is one too many: '9'",)),
        ("t.csv", text(MANY + "22,Oslo\n"), (), 2, ("t.csv, line 100002, column buys: the value is missing",)),
        ("t.csv", text(TABLE), ("--label", "bought"), 2, ("no column 'bought' to learn", "age, city, buys")),
        ("t.csv", text(TABLE + "22,Oslo,\n"), (), 2, ("t.csv, row 4: the label has no value", "--missing drop")),
        ("t.csv", text(TABLE + "nan,Oslo,1\n"), (), 2, ("t.csv, row 4: column 'age' has no value", "--missing mean")),
        ("t.csv", text(TABLE + "young,Oslo,1\n"), (), 2, ("t.csv, row 4, column age: 'young' is text", "--category")),
        ("t.csv", text(TABLE + "22,17,1\n"), (), 2, ("t.csv, row 4, column city: '17' is a number", "--category city")),
        ("t.csv", text(MANY + "young,Oslo,1\n"), (), 2, ("line 100002, column age: 'young' is not a number",)),
        ("t.csv", text(MANY + "22,Oslo,0.5\n"), (), 2, ("line 100002, column buys: '0.5' is not a whole", "--target")),
        ("t.csv", text(""), (), 2, ("t.csv is empty",)),
        ("t.csv", text("age,city,buys\n"), (), 2, ("t.csv has no rows",)),
        ("t.csv", text("age,city,buys"), (), 2, ("t.csv has no rows",)),
        ("t.csv", text(TABLE.replace(",", ";")), (), 2, ("no column 'buys'", "--delimiter ';' makes columns")),
        ("t.csv", text("31,Riga,1\n40,Oslo,0\n"), (), 2, ("no column 'buys'", "a first line with the names")),
        ("t.csv", text(TABLE.replace("buys", " buys")), (), 2, ("no column 'buys'", "age, city, ' buys'")),
        (
            "t.csv",
            text(TABLE),
            ("--label", "buys", "--delimiter", ",,"),
            2,
            ("',,' cannot be a delimiter", "one character"),
        ),
        ("t.csv", text(TABLE + '"22,Oslo,1\n'), (), 2, ("t.csv, line 5, column city: the value is missing",)),
        ("t.csv.gz", text(TABLE), (), 2, ("t.csv.gz is not a complete gzip file", "again")),
        ("t.csv.gz", cut_short, (), 2, ("t.csv.gz is not a complete gzip file", "again")),
        (
            "t.csv",
            text(TABLE.replace("1\n", "1.0\n")),
            ("--label", "buys", "--target", "class"),
            2,
            ("'buys' is double", "--category buys"),
        ),
        ("t.csv", not_text, (), 2, ("Column 'age' of t.csv holds bytes", "UTF-8")),
        ("t.parquet", table(cut=9), (), 2, ("t.parquet is not a complete Parquet file", "again")),
        ("t.parquet", table(cut=2000), (), 2, ("t.parquet is not a complete Parquet file", "again")),
        ("t.csv", beyond_the_disk, (), 3, ("GB, the disk of", "ESTAFETA_HOME")),
    ],
)
def test_bad_sources_are_refused(
    source: str,
    write: Callable[[Path], object],
    options: tuple[str, ...],
    code: int,
    said: tuple[str, ...],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(folder / source)
    assert command("import", "people", source, *(options or ("--label", "buys"))) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert all(words in err for words in said), err
    assert left(folder) == []


def test_a_name_that_is_taken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "t.csv").write_text(TABLE)
    arguments = ("import", "people", "t.csv", "--label", "buys")
    assert command(*arguments) == 0
    before = left(folder)
    capsys.readouterr()
    assert command(*arguments) == 2
    assert "estafeta data rm people" in capsys.readouterr().err
    assert left(folder) == before


@pytest.mark.parametrize(("missing", "rows"), [("mean", 4), ("drop", 3)])
def test_a_missing_number_is_filled_or_its_row_dropped(missing: str, rows: int, folder: Path) -> None:
    (folder / "t.csv").write_text(TABLE + "nan,Oslo,1\n")
    assert command("import", "people", "t.csv", "--label", "buys", "--missing", missing) == 0
    assert read_manifest(Store(folder / "home/store"), "people").rows == rows


def test_a_column_is_taken_as_texts(folder: Path) -> None:
    (folder / "t.csv").write_text(TABLE.replace("Oslo", "17"))
    assert command("import", "people", "t.csv", "--label", "buys", "--category", "city", "--category", "age") == 0
    assert read_manifest(Store(folder / "home/store"), "people").categories == {
        "age": ("31", "40", "47"),
        "city": ("Riga", "17"),
    }


ENDED = """
import os, torch
from estafeta.client.backend import home

class Rows:
    def __len__(self):
        return 600
    def __getitem__(self, row):
        if row == 300 and END:  # the first 256 have been written
            assert any((home() / "store/datasets/rows").glob("*-000002.safetensors"))
            os.kill(os.getpid(), END)
        return torch.zeros(1 << 16, dtype=torch.uint8), row
"""


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, None)])
def test_an_import_that_is_ended_in_the_middle(
    end: signal.Signals, code: int | None, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is half visible; what a kill leaves is said, and goes when the import is repeated, or on request."""
    (folder / "rows.py").write_text(ENDED.replace("END", str(int(end))))
    arguments = [sys.executable, "-m", "estafeta", "data", "import", "rows", "rows.py:Rows"]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == (-end if code is None else code), done.stderr
    store = Store(folder / "home/store")
    assert names(store) == []
    if end is signal.SIGINT:
        assert left(folder) == []
        return
    assert unfinished(store) == ["rows"]
    assert command("ls") == 0
    assert "an import of rows goes on, or was killed; its files: estafeta data rm rows" in capsys.readouterr().err
    assert command("show", "rows") == 2
    assert "import it again" in capsys.readouterr().err
    (folder / "home/store/datasets/rows/.tmp-0123456789abcdef-x").touch()  # as if it had been killed while it wrote
    np.savez(folder / "rows.npz", x=np.zeros((10, 3)), y=np.arange(10))
    assert command("import", "rows", "rows.npz") == 0
    manifest = read_manifest(store, "rows")
    assert list(verify(store, manifest)) == [0]
    assert len(left(folder)) == 3  # a folder, a block, a manifest


def test_files_of_a_killed_import_are_removed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "home/store/datasets/rows").mkdir(parents=True)
    (folder / "home/store/datasets/rows/0123456789abcdef-000000.safetensors").touch()
    assert command("rm", "rows", "--yes") == 0
    assert "removed rows" in capsys.readouterr().out
    assert left(folder) == []
