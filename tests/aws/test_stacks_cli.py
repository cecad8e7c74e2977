"""`estafeta deploy` and `destroy` as they are typed: what is shown before the question, what is refused."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from estafeta.cli.main import main
from estafeta.cli.words import stack as words
from estafeta.deploy import wheels
from estafeta.deploy.change_sets import Change, ChangeSet
from estafeta.deploy.code_zip import CodePackage
from estafeta.deploy.destroy import Leftover, Standing
from estafeta.deploy.library_build import Library
from estafeta.deploy.plan import Plan, Wishes
from estafeta.deploy.wheels import Target, unpack
from estafeta.errors import EnvironmentProblem, UsageError

from .account import functions_at
from .cloudformation import complete

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.xdist_group("moto-stacks")]

TARGET = Target("3.13", "arm64")
FUNCTION = "AWS::Lambda::Function"


def plan(**changes: Any) -> Plan:
    code = CodePackage(Path("code.zip"), "0" * 64, 18_000_000, 61_000_000, compiled=False)
    usual: dict[str, Any] = {
        "wishes": Wishes(),
        "account": "1",
        "bucket": "b",
        "target": TARGET,
        "code": code,
        "library": Library(("scipy",), TARGET),
        "library_stored": False,
        "remains": None,
        "bucket_changes": None,
        "changes": None,
        "parameters": {},
        "before": {},
        "additions": tuple(Change("Add", f"F{number}", FUNCTION) for number in range(13)),
    }
    return Plan(**{**usual, **changes})


def test_a_plan_says_sizes_limits_and_what_is_made() -> None:
    text = "\n".join(f"{label} {line}" for label, line in words.plan(plan(), "eu-west-1"))
    assert "18 MB zipped, 61 MB unzipped of the 250 MB that Lambda takes; Python 3.13, not precompiled" in text
    assert "scipy; to be fetched and sent" in text
    assert "make bucket b" in text
    assert "make 13 Lambda::Function" in text


def test_a_plan_of_few_changes_names_each() -> None:
    changes = ChangeSet("s", "c", (Change("Modify", "Worker", FUNCTION, replaces=True),), creates=False)
    none = ChangeSet("s", "c", (), creates=False)
    lines = words.plan(plan(changes=changes, bucket_changes=none, before={"Bucket": "b"}, additions=()), "eu-west-1")
    assert ("change", f"Worker ({FUNCTION}), anew") in lines
    lines = words.plan(plan(changes=none, bucket_changes=none, before={"Bucket": "b"}, additions=()), "eu-west-1")
    assert ("change", "nothing") in lines


def test_a_plan_says_what_is_removed_and_taken_over() -> None:
    lines = dict(words.plan(plan(remains="ROLLBACK_COMPLETE", parameters={"ExistingFileSystem": "fs-1"}), "eu-west-1"))
    assert "ROLLBACK_COMPLETE" in lines["first"]
    assert "fs-1" in lines["data"]


def test_destroying_says_what_becomes_of_the_data() -> None:
    there = Standing("s", "CREATE_COMPLETE", "b", 1, 5, {"fs-1": 7_000_000}, deletes_data=False)
    kept = words.standing(there, "eu-west-1", delete_data=False)
    assert ("keep", "file system fs-1 with 7 MB of runs and data sets") in kept
    assert ("remove", "bucket b with 1 object, 5 B") in kept
    assert ("remove", "file system fs-1 with 7 MB of runs and data sets") in words.standing(
        there, "eu-west-1", delete_data=True
    )
    left = words.destroyed(
        "s", ["fs-1"], [Leftover("log group", "/g", "aws logs delete-log-group --log-group-name /g")]
    )
    assert left[0] == ("removed", "s")
    assert "--delete-data" in dict(left)["kept"]
    assert "aws logs delete-log-group" in dict(left)["left"]
    assert "nothing is left over" in words.destroyed("s", [], [])[0][1]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert isinstance(caught.value.code, int)
    return caught.value.code, out, err


def test_nothing_is_made_unless_somebody_agrees(
    account: None, moto: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    complete(monkeypatch)
    functions_at(moto, monkeypatch)
    code, out, err = run(capsys, "deploy", "--stack", "asked", "--image", "uri", "-p", "WorkerMemory=3008")
    assert (code, out) == (2, "")
    assert "image   uri" in err
    assert "add --yes" in err
    code, out, err = run(capsys, "destroy", "--stack", "asked", "--json")
    assert code == 0
    assert json.loads(out) == {"stack": "asked", "region": "us-east-1", "kept": [], "leftovers": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-p", "WorkerMemory"), "not NAME=VALUE"),
        (("-p", "Library=0"), "Estafeta's own"),
        (("--profile", "nobody"), "nobody"),
        (("--stack", "Upper"), "cannot be the name of a stack"),
    ],
)
def test_impossible_options_are_refused(
    account: None, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = run(capsys, "deploy", "--image", "uri", "--yes", *arguments)
    assert code in (2, 3)
    assert out == ""
    assert said in err


def test_requirements_are_text(account: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "requirements.txt").write_bytes("scipy  # naïve".encode("latin-1"))
    code, _, err = run(capsys, "deploy", "--yes", "--requirements", str(tmp_path / "requirements.txt"))
    assert code == 2
    assert "no UTF-8" in err


def test_without_a_region_the_cure_is_said(
    account: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    code, _, err = run(capsys, "destroy", "--yes")
    assert code == 3
    assert "--region" in err


@pytest.mark.parametrize(
    ("said", "error"), [("No solution found when resolving", UsageError), ("error: dns", EnvironmentProblem)]
)
def test_messages_of_uv_are_passed_on(
    said: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def fail(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 1, "", said)

    monkeypatch.setattr(wheels.subprocess, "run", fail)
    with pytest.raises(error, match=said.split()[-1]):
        unpack(["torch"], tmp_path, TARGET)
    words = " ".join(commands[0])
    assert "--python-version 3.13 --python-platform aarch64-manylinux_2_34" in words
    assert "--only-binary :all:" in words
