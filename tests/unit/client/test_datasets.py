"""`estafeta.datasets`: data sets of this machine from Python, by the verbs that a stack answers too."""

from __future__ import annotations

from pathlib import Path

import pytest

from estafeta import UsageError, datasets


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    lines = [f"{20 + i % 50},{'Oslo' if i % 3 else 'Riga'},{i % 2}" for i in range(200)]
    (tmp_path / "people.csv").write_text("age,city,buys\n" + "\n".join(lines) + "\n")
    return tmp_path


def test_the_life_of_a_data_set() -> None:
    assert datasets.list() == ()
    found = datasets.import_files("people", "people.csv", label="buys", validation=0.25, seed=3)
    assert (found.name, found.rows, found.blocks, found.validation, found.seed) == ("people", 200, 1, 0.25, 3)
    assert found.labels == {"0": 100, "1": 100}
    assert datasets.list() == (found,)
    shown = datasets.show("people", rows=2)
    assert (shown.dataset, shown.columns) == (found, ("age", "city", "buys"))
    assert shown.rows == (("20", "Riga", "0"), ("21", "Oslo", "1"))
    assert datasets.verify("people") == found
    datasets.remove("people")
    assert datasets.list() == ()


def test_progress_is_told_in_units() -> None:
    told: list[tuple[str, int, int, str]] = []
    datasets.import_files("people", "people.csv", label="buys", progress=lambda *facts: told.append(facts))
    assert told[-1][0] == "importing people"
    assert told[-1][3].endswith("200 rows")
    told.clear()
    datasets.verify("people", progress=lambda *facts: told.append(facts))
    assert told == [("verifying", 1, 1, "blocks")]


def test_a_wrong_name_removes_nothing() -> None:
    datasets.import_files("people", "people.csv", label="buys")
    with pytest.raises(UsageError, match="no data set named 'peple'") as caught:
        datasets.remove("people", "peple")
    assert "did you mean people?" in caught.value.hint
    assert len(datasets.list()) == 1


def test_files_of_a_killed_import_can_be_removed(folder: Path) -> None:
    left = folder / "home/store/datasets/half"
    left.mkdir(parents=True)
    (left / "block").touch()
    assert datasets.list_all().unfinished == ("half",)
    datasets.remove("half")
    assert not left.exists()
