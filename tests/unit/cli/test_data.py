"""`estafeta data` on a store of its own: what it prints where, what it returns, what it leaves."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from estafeta.cli.main import main


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def facts(self) -> dict[str, Any]:
        (line,) = self.out.splitlines()
        return dict(json.loads(line))


Command = Callable[..., Done]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    lines = [f"{20 + i % 50},{'Oslo' if i % 3 else 'Riga'},{i % 2}" for i in range(200)]
    (tmp_path / "people.csv").write_text("age,city,buys\n" + "\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def data(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    def data(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(["data", *arguments])
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capsys.readouterr())

    return data


def left(folder: Path) -> list[Path]:
    return [path for path in (folder / "home/store").rglob("*") if path.name != "datasets"]


def test_the_life_of_a_data_set(data: Command, folder: Path) -> None:
    assert "none yet" in data("ls").err
    done = data("import", "people", "people.csv", "--label", "buys", "--validation", "0.25")
    assert done.code == 0
    assert "data    people   200 rows" in done.out
    assert "inputs  numbers   float32[1]: age\n        codes   int64[1]: city\ntarget  buys   int64\n" in done.out
    assert "texts   city   2: Riga, Oslo" in done.out
    assert "classes 2: 0 50.0%, 1 50.0%" in done.out
    assert "split   25% of the rows held out" in done.out
    assert "estafeta data show people" in done.err
    assert data("ls").out.splitlines()[1].split()[:2] == ["people", "200"]
    shown = data("show", "people", "--rows", "2").out
    assert "source  people.csv" in shown
    assert shown.splitlines()[-2:] == ["20   Riga  0", "21   Oslo  1"]
    assert "whole   people   200 rows in 1 block" in data("verify", "people").out
    assert "removed people" in data("rm", "people", "--yes").out
    assert left(folder) == []


def test_for_machines(data: Command) -> None:
    facts = data("import", "people", "people.csv", "--label", "buys", "--limit", "100", "--standardize", "--json").facts
    assert (facts["name"], facts["rows"], facts["standardize"]) == ("people", 100, True)
    assert facts["labels"] == {"0": 50, "1": 50}
    assert [found["name"] for found in data("ls", "--json").facts["datasets"]] == ["people"]
    assert data("show", "people", "--json").facts["preview"]["columns"] == ["age", "city", "buys"]
    assert data("verify", "people", "--json").facts["whole"] is True
    assert data("rm", "people", "--yes", "--json").facts == {"removed": ["people"]}


@pytest.mark.parametrize(
    ("arguments", "code", "error", "remedy"),
    [
        (
            ["import", "people", "people.csv"],
            2,
            "people.csv has several columns, and none is named as the label",
            "age, city, buys",
        ),
        (["import", "people", "none.csv", "--label", "a"], 2, "There is no file none.csv", "check the path"),
        (["import", "people", "people"], 2, "There is no file people", "--format"),
        (["import", "people"], 2, "Missing argument 'SOURCE...'", "estafeta data import --help"),
        (["import", "iris", "people.csv", "--label", "buys"], 2, "comes with scikit-learn", "another name"),
        (["import", "p", "huge.csv", "--label", "buys"], 3, "The source has", "ESTAFETA_HOME"),
        (["show", "people"], 2, "There is no data set named 'people'", "estafeta data import people"),
        (["verify", "people"], 2, "There is no data set named 'people'", "estafeta data import people"),
        (["rm", "people", "--yes"], 2, "There is no data set named 'people'", "estafeta data import people"),
    ],
)
def test_errors(arguments: list[str], code: int, error: str, remedy: str, data: Command, folder: Path) -> None:
    (folder / "huge.csv").write_bytes((folder / "people.csv").read_bytes())
    os.truncate(folder / "huge.csv", 1 << 43)
    done = data(*arguments)
    assert done.code == code
    assert done.out == ""
    assert error in done.err
    assert remedy in done.err
    assert left(folder) == []


def test_a_damaged_data_set(data: Command, folder: Path) -> None:
    data("import", "people", "people.csv", "--label", "buys")
    (block,) = (folder / "home/store/datasets/people").glob("*.safetensors")
    block.write_bytes(block.read_bytes()[:-1] + b"\xff")
    done = data("verify", "people")
    assert done.code == 3
    assert "Block 0 of data set 'people' is damaged" in done.err


def test_nobody_is_asked_without_a_terminal(data: Command) -> None:
    data("import", "people", "people.csv", "--label", "buys")
    assert data("rm", "people").code == 2
    assert data("ls", "--json").facts["datasets"]
