"""The command as such: help, usage errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from estafeta.cli.main import estafeta, main

JOB = str(Path(__file__).parents[3] / "examples" / "digits.py")
HEAVY = ("boto3", "botocore", "numpy", "pydantic", "rich", "torch", "yaml")


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code if isinstance(caught.value.code, int) else 0


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import json, sys\n"
        "from estafeta.cli.main import main\n"
        "try: main(['--help'])\n"
        f"finally: print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stderr) == []
    assert "Usage: estafeta" in done.stdout


def test_no_locale_keeps_help_from_being_shown() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, "-m", "estafeta", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u2026" in done.stdout


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "estafeta", "--version"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stdout.startswith("estafeta ")


@pytest.mark.parametrize("name", list(estafeta.commands))
def test_every_command_helps_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name, "--help") == 0
    assert f"Example: estafeta {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error", "remedy"),
    [
        (["trian"], "No such command 'trian'", "estafeta --help"),
        (["status"], "Missing argument 'RUN'", "estafeta status --help"),
        (["train", __file__, "-n", "0"], "0 is not in the range x>=1", "estafeta train --help"),
        (["train", JOB, "--on", "inline", "-n", "10000"], "10000 workers cannot train", "1 to 9999"),
        (["train", "missing.py"], "There is no job file missing.py", "JOB.py"),
        (["train", __file__, "-o", "epochs"], "-o epochs: there is no value", "-o epochs=5"),
        (["train", __file__, "--on", "inline", "--detach"], "cannot be left", "--on local"),
        (["train", __file__, "--on", "aws", "--template", __file__], "those that are deployed", "--template"),
        (["train", __file__, "--chaos", "explode=1"], "no fault 'explode'", "duplicate"),
        (["train", __file__, "--chaos", "kill=1.5"], "a probability from 0 to 1", "kill=0.05"),
        (["train", __file__, "--chaos", "kill=1", "--on", "inline"], "Only the local service", "--on local"),
        (["train", __file__, "--chaos", "kill=1", "--on", "aws"], "Only the local service", "--on local"),
        (["fork", "last", "--from", "newest"], "--from newest: that is no version", "`best` or `final`"),
        (["clean"], "Name the runs to remove", "--all"),
        (["clean", "a", "--all"], "--all takes all runs", "leave out the names"),
        (["watch", "last", "--on", "inline"], "'inline' is not one of 'local', 'aws'", "estafeta watch --help"),
    ],
)
def test_usage_errors_say_what_to_do(
    arguments: list[str], error: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    headline, hint = err.splitlines()
    assert headline.startswith("error   ")
    assert error in headline
    assert hint.startswith("try     ")
    assert remedy in hint
    assert "Traceback" not in err


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 2
    assert "Usage: estafeta" in capsys.readouterr().err


def test_an_error_of_our_own_is_not_hidden(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(_on: str) -> None:
        raise KeyError("x")

    monkeypatch.setattr("estafeta.cli.commands.runs.attach", broken)
    assert run("runs") == 70
    err = capsys.readouterr().err
    assert err.startswith("error   internal error: KeyError: 'x'")
    assert "Traceback" not in err
    assert run("runs", "-v") == 70
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_on: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("estafeta.cli.commands.runs.attach", interrupted)
    assert run("runs") == 130
    assert capsys.readouterr().err.split() == ["interrupted"]
