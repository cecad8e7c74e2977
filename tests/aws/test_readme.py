"""The commands of the page on AWS, one after the other: from nothing to a stack, and back to nothing."""

from __future__ import annotations

import fcntl
import json
import re
import shlex
import shutil
import threading
import time
from pathlib import Path
from typing import IO

import pytest
from safetensors.numpy import load_file

from .account import point_at
from .conftest import ROOT, Command
from .deployable import functions_that_run

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(300)]

BESIDES = {
    # Nobody is there to be asked; how packages and the library are made has tests of its own.
    "deploy": ["--yes", "--image", "123456789012.dkr.ecr.us-east-1.amazonaws.com/estafeta:1"],
    "destroy": ["--yes"],
}


GATE = """
import dataclasses
import fcntl

calls = 0


def gated(output, target):
    global calls
    calls += 1
    if calls > 10:
        with open({gate!r}) as gate:
            fcntl.flock(gate, fcntl.LOCK_SH)
    return nn.functional.cross_entropy(output, target)


job = dataclasses.replace(job, loss=gated)
"""
"""Added to the example: while the test has a certain file locked, no worker gets further than ten micro-batches."""

DEADLINE_S = 240


def open_when_stopping(gate: IO[bytes], efs: Path) -> None:
    """Let the run go on as soon as it has been asked to stop: so it is stopped in its middle, on any machine."""
    deadline = time.monotonic() + DEADLINE_S
    while not list(efs.glob("runs/*/STOP")) and time.monotonic() < deadline:
        threading.Event().wait(0.05)
    fcntl.flock(gate, fcntl.LOCK_UN)


def commands(document: str, heading: str) -> list[list[str]]:
    """Those of the first block of a section."""
    section = (ROOT / document).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    lines = re.search(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert lines
    return [shlex.split(line, comments=True)[1:] for line in lines[1].splitlines() if line.strip()]


COMMANDS = commands("docs/aws.md", "From nothing to a stack, and back")


def test_readme_shows_some_of_the_commands_in_their_order() -> None:
    shown = commands("README.md", "On AWS")
    assert [words[0] for words in shown] == ["deploy", "doctor", "train", "destroy"]
    assert shown == [words for words in COMMANDS if words in shown]


def test_commands_lead_from_nothing_to_a_stack_and_back(
    moto: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GIVEN a run on AWS that is stopped and resumed THEN its weights have the bits of one in this process."""
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path / "here"))
    assert [words[0] for words in COMMANDS] == [
        "deploy",
        "doctor",
        "train",
        "status",
        "stop",
        "resume",
        "logs",
        "export",
        "destroy",
    ]
    gate, example = tmp_path / "gate", (ROOT / "examples/digits.py").read_text(encoding="utf-8")
    (tmp_path / "examples").unlink()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "examples/digits.py").write_text(example + GATE.format(gate=str(gate)))
    gate.touch()
    train = next(words for words in COMMANDS if words[0] == "train")
    here = [word for word in train if word not in ("--detach", "--on", "aws")]
    expected = json.loads(command(*here, "--on", "inline", "--json"))
    (tmp_path / "aws").mkdir()
    point_at(moto, monkeypatch)
    with functions_that_run(moto, tmp_path / "aws", monkeypatch) as efs, gate.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        opener = threading.Thread(target=open_when_stopping, args=(file, efs), daemon=True)
        opener.start()
        for words in COMMANDS:
            if words[0] == "destroy":
                run = json.loads(command("status", "last", "--on", "aws", "--json"))
            command(*words, *BESIDES.get(words[0], []))
        opener.join()
        assert "There is no stack 'estafeta'" in command("runs", "--on", "aws", code=3)
    assert (run["state"], run["on"], run["topology"]) == ("done", "aws", "replicated")
    assert run["weights_sha256"] == expected["weights_sha256"]
    assert list((efs / "runs" / run["run"]).glob("stopped-*.json")), "it was not stopped before its end"
    ours, theirs = (load_file(path) for path in (f"runs/{run['run']}/final/model.safetensors", expected["model_path"]))
    assert {name: value.tobytes() for name, value in ours.items()} == {n: v.tobytes() for n, v in theirs.items()}
