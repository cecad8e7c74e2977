"""Training from Python, as in a script: the handle, its history, its files, its model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import estafeta
from conftest import JOBS, Start, digest
from estafeta.client.backend import Backend
from estafeta.client.run import Run
from estafeta.client.source import import_job
from estafeta.errors import RunFailed, RunNotFound, UsageError


def test_a_job_is_trained_and_its_model_comes_back(home: Path) -> None:
    job, _, _ = import_job(str(JOBS / "small.py:job"))
    run = job.train(workers=2, on="inline", options={"epochs": 2})
    assert [row["epoch"] for row in run.history] == [1, 2]
    assert {"train_loss", "valid_loss", "valid_accuracy", "train_accuracy", "step"} <= set(run.history[-1])
    model = run.load_model()
    assert not model.training
    assert model(torch.zeros(1, 64)).shape == (1, 10)
    assert 0 < run.cost < 1
    with pytest.raises(UsageError, match="No version is named 'worst'"):
        run.load_model("worst")  # type: ignore[arg-type]


def test_digest_is_that_of_the_exported_weights(inline: Backend, begin: Start, tmp_path: Path) -> None:
    import hashlib

    run = begin(inline, "small.py:job", 2, {"epochs": 1})
    expected = digest(run)
    path = run.export(tmp_path / "final")
    job, _, _ = import_job(str(JOBS / "small.py:job"))
    model = job.model()
    model.load_state_dict(load_file(path))
    raw = b"".join(parameter.detach().numpy().tobytes() for parameter in model.parameters())
    assert hashlib.sha256(raw).hexdigest() == expected
    state = json.loads((tmp_path / "final" / "state.json").read_text())
    assert state["weights_sha256"] == expected
    assert state["metrics"]["valid_loss"] == run.history[-1]["valid_loss"]
    moments = load_file(tmp_path / "final" / "optimizer.safetensors")
    assert moments["linear.weight.exp_avg"].shape == (10, 64)


def test_the_summary_has_what_the_command_line_promises(inline: Backend, begin: Start) -> None:
    run = begin(inline, "small.py:job", 3, {"epochs": 1})
    run.wait()
    summary = json.loads(json.dumps(run.summary(wall_s=1.5).to_dict()))
    assert {
        "run",
        "state",
        "rounds",
        "steps",
        "epochs",
        "workers",
        "topology",
        "metrics",
        "weights_sha256",
        "invocations",
        "legs",
        "retries",
        "billed_gb_seconds",
        "cost_usd",
        "wall_s",
        "model_path",
    } <= set(summary)
    assert summary["state"] == "done"
    assert {"train_loss", "valid_loss"} <= set(summary["metrics"])
    assert summary["workers"] == 3
    assert summary["wall_s"] == 1.5


def test_a_run_can_be_looked_up_by_its_name(inline: Backend, begin: Start) -> None:
    run = begin(inline, "small.py:job", 1, {"epochs": 1})
    run.wait()
    again = Run(run.name, inline)
    assert again.history == run.history
    with pytest.raises(RunNotFound, match="no run named 'nobody'"):
        Run("nobody", inline).status()
    with pytest.raises(RunNotFound) as caught:
        Run(f"{run.name[:-1]}x", inline).status()
    assert run.name in caught.value.hint
    for text in (run.name, run.name[:-2], "last"):
        assert Run(text, on="inline").name == run.name
    assert Run("last", inline).name == run.name


FRESH = """
import sys, types
import estafeta, torch
mine = sys.modules["{module}"] = types.ModuleType("{module}")
model = estafeta.Run("last", on="inline").load_model()
print(model(torch.zeros(1, 64)).shape[1], model.hidden, sys.modules["{module}"] is mine, "wide_parts" in sys.modules)
"""

WIDE = """
import estafeta
from torch import nn
from wide_parts.net import Net

job = estafeta.Job(model=Net, loss=nn.functional.cross_entropy, dataset="digits", optimizer=estafeta.SGD(lr=0.1))
"""

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, hidden=8):
        super().__init__()
        self.hidden = hidden
        self.layers = nn.Sequential(nn.Linear(64, hidden), nn.Linear(hidden, 10))
    def forward(self, x):
        return self.layers(x)
"""


def test_the_model_of_a_run_comes_back_in_a_fresh_process_with_nothing_but_the_store(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a run with another model argument WHEN its files are gone THEN its model is made from its own source."""
    folder = tmp_path / "job"
    (folder / "wide_parts").mkdir(parents=True)
    (folder / "wide_job.py").write_text(WIDE)
    (folder / "wide_parts/net.py").write_text(NET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    job, _, _ = import_job(str(folder / "wide_job.py"))
    run = job.train(workers=1, on="inline", options={"epochs": 1, "model.hidden": 12})
    shutil.rmtree(folder)
    script = FRESH.format(module="wide_job")
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, timeout=100)
    assert done.stdout == "10 12 True False\n", done.stderr
    run.clean(keep_final=True)
    with pytest.raises(UsageError, match="was cleaned away"):
        Run(run.name, on="inline").load_model()


def test_a_run_is_cleaned_only_after_its_end(inline: Backend, begin: Start, home: Path) -> None:
    run = begin(inline, "small.py:job", 1, {"epochs": 1})
    with pytest.raises(UsageError, match="has not ended"):
        run.clean()
    with pytest.raises(UsageError, match="still running"):
        run.export(home / "too-early")
    run.wait()
    run.clean()
    assert not (home / "store" / "runs" / run.name).exists()
    with pytest.raises(RunNotFound):
        run.status()


def test_an_inline_failure_carries_reason_and_exit_code(inline: Backend, begin: Start) -> None:
    with pytest.raises(RunFailed, match="fewer than the 4 workers") as caught:
        begin(inline, "small.py:few", 4).wait()
    assert caught.value.exit_code == 2
    assert "--workers 3" in caught.value.hint


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_cannot_train(inline: Backend, begin: Start, workers: int) -> None:
    with pytest.raises(UsageError, match="workers cannot train"):
        begin(inline, "small.py:job", workers)


def test_a_quorum_of_more_than_all_is_refused(inline: Backend, begin: Start) -> None:
    with pytest.raises(UsageError, match="quorum is 3, but there are 2 workers") as caught:
        begin(inline, "small.py:job", 2, {"quorum": 3})
    assert "-o quorum=1" in caught.value.hint


def test_the_public_face_is_what_it_says() -> None:
    for name in estafeta.__all__:
        assert getattr(estafeta, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = estafeta.nothing


SCRIPT = """
import estafeta
from torch import nn

def model():
    return nn.Linear(64, 10)

job = estafeta.Job(model=model, loss=nn.functional.cross_entropy, dataset="digits", optimizer=estafeta.SGD(lr=0.1))
{call}
"""


def test_a_script_that_trains_when_imported_is_told_about_the_guard(home: Path, tmp_path: Path) -> None:
    """GIVEN a script without the guard WHEN the function imports it THEN it fails instead of starting run after run."""
    script = tmp_path / "unguarded.py"
    call = "job.train(workers=1, on='inline', options={'epochs': 1})"
    script.write_text(SCRIPT.format(call=call))
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, env={**os.environ, "ESTAFETA_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "trains while a function imports it" in ended.stderr
    assert len(list((tmp_path / "store" / "runs").iterdir())) == 1
    script.write_text(SCRIPT.format(call=f"if __name__ == '__main__':\n    print({call}.status().state)"))
    ended = subprocess.run(command, env={**os.environ, "ESTAFETA_HOME": str(tmp_path)}, capture_output=True, text=True)
    assert ended.stdout == "done\n", ended.stderr
