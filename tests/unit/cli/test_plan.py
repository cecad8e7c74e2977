"""`estafeta plan`: a job is measured, and the prediction is printed or written as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from estafeta.cli.main import main
from estafeta.client.plan import measure

JOB = """
import torch
from torch import nn
import estafeta

print("the job is imported")
job = estafeta.Job(model=lambda hidden=8: nn.Sequential(nn.Linear(4, hidden), nn.Tanh(), nn.Linear(hidden, 1)),
                   loss=lambda output, target: ((output - target) ** 2).mean(), optimizer=estafeta.AdamW(),
                   dataset=lambda: (torch.randn(100, 4), torch.randn(100, 1)), batch_size=40, epochs=3)
"""


@pytest.fixture(autouse=True)
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planned.py").write_text(JOB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(measure, "REPEATS", 2)


def planned(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "planned.py", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_json_has_the_profile_and_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned("--json", "-n", "1,4", "--memory", "1769,128", "-o", "model.hidden=6", "-o", "epochs=2") == 0
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert "the job is imported" in err
    profile = facts["profile"]
    assert (profile["parameters"], profile["state_vectors"]) == (6 * 4 + 6 + 6 + 1, 2)
    assert (profile["train_rows"], profile["valid_rows"], profile["steps"], profile["epochs"]) == (80, 20, 4, 2)
    assert all(profile[name] > 0 for name in ("row_s", "valid_row_s", "element_s"))
    assert 0 <= profile["parallel"] <= 1
    settings = {(one["workers"], one["memory_mb"], one["topology"]) for one in facts["estimates"]}
    assert len(settings) == len(facts["estimates"]) == 2 * 2 * 3
    for one in facts["estimates"]:
        assert one["usd"] == pytest.approx(one["compute_usd"] + one["requests_usd"] + one["efs_usd"])
        assert bool(one["obstacles"]) == (one["memory_mb"] == 128), one["obstacles"]
    assert any(one["pareto"] for one in facts["estimates"])
    assert [machine["vcpus"] for machine in facts["ec2"]] == [1, 2, 4, 8, 16]
    assert "VM" in facts["verdict"]


def test_people_get_the_pareto_set_and_a_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    assert planned("-n", "1,2", "--memory", "1769") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    header = next(line for line in lines if line.startswith("workers"))
    for column in ("memory", "topology", "time", "dollars", "compute", "requests", "efs", "a round", "bytes", "binds"):
        assert column in header
    rows = [line for line in lines if "1,769 MB" in line]
    assert rows
    assert all(row.split()[0].endswith("*") for row in rows)
    assert f"{6 - len(rows)} settings are left out" in err
    (verdict,) = (line for line in lines if line.startswith("verdict"))
    assert "VM" in verdict
    assert planned("-n", "1,2", "--memory", "1769", "--all", "-q") == 0
    assert capsys.readouterr().out.count("1,769 MB") == 6


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("-n", "many"), "no list of whole numbers"),
        (("-n", "0"), "below 1"),
        (("--memory", "64"), "128 to 10240 MB"),
        (("-o", "epochs"), "there is no value"),
    ],
)
def test_senseless_options_are_refused(
    arguments: tuple[str, ...], error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(*arguments) == 2
    assert error in capsys.readouterr().err
