"""Starting a run: the order of its steps, and the spec that it sends."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from botocore.exceptions import EndpointConnectionError
from torch import nn

import estafeta
from estafeta.aws.bucket import Bucket
from estafeta.client import launch
from estafeta.client.backend import ROLES, Backend, Functions, LambdaBackend, Settings
from estafeta.client.connect import TEMPLATE, connect
from estafeta.errors import EnvironmentProblem, UsageError
from estafeta.job.job import On
from estafeta.job.recipe import numbers_of

JOB = estafeta.Job(
    model=lambda: nn.Linear(64, 10),
    loss=nn.functional.cross_entropy,
    optimizer=estafeta.SGD(lr=0.1),
    dataset="digits",
    batch_size=64,
)


def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upload_s: float = 0.0) -> tuple[Backend, list[Any]]:
    """Return a backend in this process, and its events in order; sending data takes `upload_s` seconds of its clock."""
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path))
    backend, seen, now = connect("inline"), cast("list[Any]", []), [1000.0]
    versions = backend.with_settings

    def send(*_: Any) -> None:
        now[0] += upload_s
        seen.append("data")

    def publish(settings: Settings, variables: Mapping[str, str] | None = None) -> Functions:
        seen.append("versions")
        return versions(settings, variables)

    def send_source(code: Mapping[str, str], bucket: Bucket) -> list[int]:
        seen.append("source")
        return [1]

    monkeypatch.setattr(launch, "send_missing", send)
    monkeypatch.setattr(launch, "send_source", send_source)
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(backend, "with_settings", publish)
    monkeypatch.setattr(backend, "call", lambda verb: seen.append(verb))
    return backend, seen


def test_the_data_is_there_before_the_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload may take an hour: the limits of the run do not count it, and a failed one leaves nothing behind."""
    backend, seen = recorded(tmp_path, monkeypatch, upload_s=3600.0)
    backend.bucket = Bucket("b", None)  # type: ignore[arg-type]
    launch.start(JOB, "jobs:job", {"jobs.py": ""}, backend=backend, workers=2, options={}, limits={"max_hours": 0.5})
    assert seen[:3] == ["data", "source", "versions"]
    assert seen[3].verb == "start"
    assert seen[3].spec.created_at == seen[3].spec.limits.since == 4600.0
    assert seen[3].code == {}


def test_without_a_bucket_the_source_goes_with_the_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, seen = recorded(tmp_path, monkeypatch)
    launch.start(JOB, "jobs:job", {"jobs.py": "text"}, backend=backend, workers=2, options={})
    assert "source" not in seen
    assert seen[-1].code == {"jobs.py": "text"}


@pytest.mark.parametrize(("workers", "options"), [(0, {}), (2, {"quorum": "3"}), (2, {"batch_sise": "8"})])
def test_nothing_is_sent_for_choices_that_do_not_fit(
    workers: int, options: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, seen = recorded(tmp_path, monkeypatch)
    with pytest.raises(UsageError):
        launch.start(JOB, "jobs:job", {}, backend=backend, workers=workers, options=options)
    assert seen == []


def test_the_spec_has_the_numbers_of_the_job_and_the_words_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, _ = recorded(tmp_path, monkeypatch)
    job = dataclasses.replace(JOB, seed=5, valid_dataset="digits", dense=True)
    choices: dict[str, Any] = {"backend": backend, "workers": 2, "topology": "auto", "limits": {}}
    options = {"epochs": "3", "optimizer.lr": 0.5}
    spec, changed = launch.spec_for(job, "jobs:job", options=options, command=("jobs.py", "--on", "inline"), **choices)
    assert numbers_of(spec) == {**numbers_of(changed), "validation": 0.0}, "the job has validation data of its own"
    assert (spec.seed, spec.epochs, spec.dense) == (5, 3, True)
    assert spec.options == {"epochs": "3", "optimizer.lr": "0.5"}
    assert spec.command == ("jobs.py", "--on", "inline")


def test_a_choice_that_is_none_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, _ = recorded(tmp_path, monkeypatch)
    monkeypatch.setattr(backend, "on", "local")
    with pytest.raises(UsageError, match='topology is \'ring\'; it must be "auto" or "merge"') as caught:
        launch.start(JOB, "jobs:job", {}, backend=backend, workers=2, topology="ring", options={})  # type: ignore[arg-type]
    assert caught.value.hint.startswith("set topology to")
    with pytest.raises(UsageError, match=r"max_rounds is 0; it must be a whole number in \[1, inf\)"):
        launch.start(JOB, "jobs:job", {}, backend=backend, workers=2, options={}, limits={"max_rounds": 0})


@pytest.mark.parametrize(("on", "hint"), [("local", "estafeta resume RUN"), ("aws", "region, credentials")])
def test_functions_that_cannot_be_reached_get_a_hint(on: On, hint: str) -> None:
    class Gone:
        def get_function_configuration(self, **_: str) -> None:
            raise EndpointConnectionError(endpoint_url="http://127.0.0.1:1")

    with pytest.raises(EnvironmentProblem, match="cannot be reached") as caught:
        LambdaBackend(on, {role: role for role in ROLES}, Gone(), None)
    assert hint in caught.value.hint


def test_a_place_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path))
    with pytest.raises(UsageError, match="no place 'lambda'") as caught:
        estafeta.train(JOB, on="lambda")  # type: ignore[arg-type]
    assert caught.value.hint == "one of local, inline, aws"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("on", ["inline", "local"])
def test_a_template_with_other_functions_is_refused(on: On, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "home"))
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.read_text(encoding="utf-8").replace("${AWS::StackName}-merge", "join"))
    with pytest.raises(UsageError, match="no function estafeta-merge"):
        connect(on, template=template)
    assert not (tmp_path / "home").exists(), "no service was started"
