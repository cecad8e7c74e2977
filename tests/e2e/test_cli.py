"""The command line on whole runs: what it prints where, what it returns, what Ctrl-C does."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from estafeta import local
from estafeta.cli.main import main
from estafeta.cli.place import Place, find_run

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]

JOBS = """
import estafeta
from torch import nn

print("the job file is imported")

class Net(nn.Module):
    def __init__(self, fail_at=10**9):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.fail_at, self.calls = fail_at, 0

    def forward(self, x):
        print("a forward pass")
        self.calls += 1
        if self.calls > self.fail_at:
            raise ValueError("one call too many")
        return self.layer(x)

job = estafeta.Job(model=Net, loss=nn.functional.cross_entropy, optimizer=estafeta.AdamW(lr=0.01), dataset="digits",
                   batch_size=512, micro_batch_size=512, epochs=2, metrics={"accuracy": estafeta.metrics.accuracy})
"""
DEADLINE_S = 60.0
SECOND_ROW = r"[\r\n] +2 +\d\."


@dataclass(frozen=True)
class Done:
    """What a command printed and returned."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line on standard output."""
        assert self.out.count("\n") == 1, self.out
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Done]


@pytest.fixture(scope="module")
def folder(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the job file."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "tiny.py").write_text(JOBS)
    return folder


@pytest.fixture
def estafeta(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Carry out a command in the working directory, in this process."""
    monkeypatch.chdir(folder)

    def estafeta(*arguments: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert isinstance(caught.value.code, int)
        return Done(caught.value.code, *capsys.readouterr())

    return estafeta


class Terminal:
    """A command that runs on a terminal of its own, of 100 columns."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._screen, inner = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "estafeta", *arguments],
            cwd=folder,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
            preexec_fn=_own_terminal,
        )
        os.close(inner)
        self._read = b""

    @property
    def text(self) -> str:
        """What has been written so far, without the control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._read.decode(errors="replace"))

    def wait_for(self, pattern: str) -> None:
        """Read until the text matches."""
        deadline = time.monotonic() + DEADLINE_S
        while not re.search(pattern, self.text):
            assert self._read_more(deadline), f"no {pattern!r} in {self.text!r}"

    def press_ctrl_c(self) -> None:
        """As at the keyboard: the terminal makes the signal."""
        os.write(self._screen, b"\x03")

    def exit_code(self) -> int:
        """Wait for the end."""
        deadline = time.monotonic() + DEADLINE_S
        while self._read_more(deadline):
            pass
        return self._process.wait(DEADLINE_S)

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        os.close(self._screen)

    def _read_more(self, deadline: float) -> bool:
        if not select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return False
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # nobody has the terminal open any more
            return False
        self._read += data
        return bool(data)


@pytest.fixture
def terminal(folder: Path) -> Iterator[Callable[..., Terminal]]:
    """Start a command in the working directory, on a terminal."""
    terminals: list[Terminal] = []

    def terminal(*arguments: str) -> Terminal:
        terminals.append(Terminal(folder, *arguments))
        return terminals[-1]

    yield terminal
    for started in terminals:
        started.close()


def _own_terminal() -> None:
    """Make standard input the controlling terminal of the new session, so that Ctrl-C reaches it."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_train_prints_a_table_and_leaves_the_weights(estafeta: Command, folder: Path) -> None:
    done = estafeta("train", "tiny.py", "--on", "inline", "--output-dir", "out")
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if not line.startswith("a ")]
    at = next(i for i, line in enumerate(lines) if "train_loss" in line)
    assert lines[at].split()[:3] == ["epoch", "train_loss", "valid_loss"]
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["1", "2", "done"]
    assert re.search(r"^price   \$0\.\d+ if it had run on AWS", done.out, re.MULTILINE)
    assert re.search(r"^run     tiny-\w+   in this process, 2 workers x \d+ MB", done.err, re.MULTILINE)
    assert "model   tiny:job   650 parameters, 2.6 kB" in done.err
    assert "plan    2 epochs of 3 steps, batches of 512" in done.err
    files = re.findall(r"out/tiny-\w+/(?:final|best)/model.safetensors", done.out)
    assert len(files) == 2
    assert all(set(load_file(folder / file)) == {"layer.weight", "layer.bias"} for file in files)


def test_json_is_all_that_standard_output_gets(estafeta: Command) -> None:
    done = estafeta("train", "tiny.py:job", "--on", "inline", "-n", "3", "-o", "epochs=1", "--json")
    assert done.code == 0, done.err
    summary = done.json
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
    assert (summary["state"], summary["workers"], summary["epochs"], summary["steps"]) == ("done", 3, 1, 3)
    assert {"train_loss", "valid_loss", "valid_accuracy"} <= set(summary["metrics"])
    model = load_file(summary["model_path"])
    raw = b"".join(model[name].tobytes() for name in ("layer.weight", "layer.bias"))
    assert hashlib.sha256(raw).hexdigest() == summary["weights_sha256"]
    assert "the job file is imported" in done.err
    assert "a forward pass" in done.err


def test_quiet_prints_the_result_alone(estafeta: Command) -> None:
    done = estafeta("train", "tiny.py", "--on", "inline", "-o", "epochs=1", "-q")
    assert done.code == 0
    assert done.err == ""
    assert "train_loss" not in done.out
    assert re.search(r"^done    00:", done.out, re.MULTILINE)


def test_weights_that_cannot_be_written_are_still_in_the_store(estafeta: Command) -> None:
    done = estafeta("train", "tiny.py", "--on", "inline", "-o", "epochs=1", "--output-dir", "/dev/null/x")
    assert done.code == 3
    assert re.search(
        r"^error   tiny-\w+ has ended, but its weights cannot be written: .*Not a dir", done.err, re.MULTILINE
    )
    assert re.search(r"^try     estafeta export tiny-\w+ -d FOLDER", done.err, re.MULTILINE)


def test_a_failed_run_says_where_and_exits_with_1(estafeta: Command) -> None:
    done = estafeta("train", "tiny.py", "--on", "inline", "-o", "model.fail_at=4", "--json")
    assert done.code == 1
    assert done.json["state"] == "failed"
    assert done.json["error"]["rank"] is not None
    assert "error   the forward pass raised ValueError: one call too many on rank" in done.err
    assert 'why     tiny.py, line 17, in forward: raise ValueError("one call too many")' in done.err


@pytest.mark.parametrize(
    ("option", "error"),
    [("optimizer.lrr=1", "optimizer.lrr"), ("epochs=many", "epochs='many'"), ("model.hidden=3", "model.hidden")],
)
def test_a_wrong_option_is_a_usage_error(estafeta: Command, option: str, error: str) -> None:
    done = estafeta("train", "tiny.py", "--on", "inline", "-o", option)
    assert done.code == 2
    assert error in done.err


def test_a_job_file_that_cannot_be_imported(estafeta: Command, folder: Path) -> None:
    (folder / "broken.py").write_text("import no_such_module\n")
    done = estafeta("train", "broken.py", "--on", "inline")
    assert done.code == 2
    assert "error   importing broken.py raised ModuleNotFoundError" in done.err
    assert "why     broken.py, line 1, in <module>: import no_such_module" in done.err


def test_a_run_on_the_local_service_from_start_to_removal(estafeta: Command, folder: Path) -> None:
    detached = estafeta("train", "tiny.py", "--detach", "-o", "epochs=5000")
    assert detached.code == 0
    name = detached.out.splitlines()[-1]
    assert f"estafeta watch {name}" in detached.err
    assert [run["state"] for run in estafeta("runs", "--json").json["runs"] if run["run"] == name] != ["done"]
    assert name in estafeta("runs").out
    assert estafeta("clean", name, "--yes").code == 2, "a run at work was removed"

    next(status for status in find_run(name, Place("local")).follow() if status.epoch > 0)
    stopped = estafeta("stop", name)
    assert stopped.code == 0
    assert "state   stopped: on request" in stopped.out
    assert estafeta("watch", name, "--json").code == 130

    assert estafeta("resume", "last", "--detach").out == f"{name}\n"
    assert "state   stopped" in estafeta("stop", name[:-1]).out
    status = estafeta("status", name)
    assert status.code == 0
    assert "plan    5,000 epochs of 3 steps" in status.out
    assert re.search(r"^work    \d+ worker, \d+ control invocations, 0 retries", status.out, re.MULTILINE)
    assert estafeta("status", name, "--json").json["state"] == "stopped"

    lines = estafeta("logs", name, "--function", "worker", "--rank", "1").out.splitlines()
    assert any(line.startswith("worker r1 leg 0 | a forward pass") for line in lines)
    assert not any(line.startswith("worker r0") for line in lines)
    assert len(estafeta("logs", name, "-n", "3").out.splitlines()) == 3

    assert estafeta("report", name).out == f"{name}.html\n"
    page = (folder / f"{name}.html").read_text()
    assert re.search(r"state stopped.*<desc>\d+ invocations in \d+ lanes.*estafeta resume", page, re.DOTALL)
    (folder / f"{name}.html").write_text("older")
    assert estafeta("report", name).code == 0
    assert "older" not in (folder / f"{name}.html").read_text()

    path = Path(estafeta("export", name, "-d", "exported").out.strip())
    assert set(load_file(folder / path)) == {"layer.weight", "layer.bias"}
    steps = estafeta("status", name, "--json").json["steps"]
    assert "there are: " in estafeta("fork", name, "--from", "999999").err
    forked = estafeta(
        "fork", name, "--from", "final", "-o", f"epochs={steps // 3 + 2}", "-o", "optimizer.lr=0.02", "--json"
    )
    assert forked.code == 0, forked.err
    assert f"from    version {steps} of {name}" in forked.err
    assert (forked.json["state"], forked.json["steps"]) == ("done", steps // 3 * 3 + 6)

    refused = estafeta("clean", name)
    assert refused.code == 2
    assert "--yes" in refused.err
    kept = estafeta("clean", name, "--keep-final", "--yes")
    assert kept.out == f"kept    {name}   its exports and records\n"
    assert estafeta("export", name, "-d", "again").code == 0
    assert "was cleaned" in estafeta("resume", name).err
    assert estafeta("clean", name, "--yes").out == f"removed {name}\n"
    gone = estafeta("status", name)
    assert gone.code == 2
    assert f"There is no run named '{name}'" in gone.err


def test_cleaning_all_leaves_runs_at_work_alone(estafeta: Command) -> None:
    ended = [estafeta("train", "tiny.py", "--on", "inline", "-o", "epochs=1", "--json").json["run"] for _ in range(2)]
    name = estafeta("train", "tiny.py", "--detach", "-o", "epochs=5000").out.splitlines()[-1]
    cleaned = estafeta("clean", "--all", "--yes", "--json")
    assert set(ended) <= set(cleaned.json["removed"])
    assert f"not ended, and left alone: {name}" in cleaned.err
    assert [run["run"] for run in estafeta("runs", "--json").json["runs"]] == [name]
    assert estafeta("stop", name).code == 0
    assert estafeta("clean", "--all", "--yes").out == f"removed {name}\n"
    nothing = estafeta("clean", "--all")
    assert (nothing.code, nothing.out) == (0, "")
    assert "there is no run that has ended" in nothing.err


def test_following_the_log_ends_with_the_run(estafeta: Command) -> None:
    name = estafeta("train", "tiny.py", "--detach", "-o", "epochs=3", "--topology", "merge").out.splitlines()[-1]
    followed = estafeta("logs", name, "--follow", "--function", "merge")
    assert followed.code == 0
    assert len(re.findall(r"^merge #\d+ \| done merged train-", followed.out, re.MULTILINE)) == 9
    assert estafeta("watch", name).code == 0


def test_the_first_ctrl_c_leaves_the_run_and_the_second_stops_it(
    estafeta: Command, folder: Path, terminal: Callable[..., Terminal]
) -> None:
    name = estafeta("train", "tiny.py", "-o", "epochs=5000", "--detach").out.splitlines()[-1]
    command = [sys.executable, "-m", "estafeta", "watch", name, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as piped:
        assert piped.stderr
        next(line for line in piped.stderr if line.split()[:1] == ["1"])
        piped.send_signal(signal.SIGINT)
        out, err = piped.communicate(timeout=DEADLINE_S)
    assert piped.returncode == 130
    assert "press Ctrl-C again" not in err
    assert json.loads(out)["state"] == "running"

    watch = terminal("watch", name)
    watch.wait_for(r"running +epoch \d+/5000")
    watch.press_ctrl_c()
    watch.wait_for("press Ctrl-C again within 3 s to stop the run")
    watch.press_ctrl_c()
    assert watch.exit_code() == 130
    assert f"note    {name} goes on without this terminal" in watch.text
    assert re.search(r"stopped +\d\d:\d\d   on request", watch.text)
    assert estafeta("status", name, "--json").json["state"] == "stopped"


def test_ctrl_c_stops_an_inline_run_which_can_be_resumed(estafeta: Command, terminal: Callable[..., Terminal]) -> None:
    train = terminal("train", "tiny.py", "--on", "inline", "-o", "epochs=5000")
    train.wait_for(SECOND_ROW)
    train.press_ctrl_c()
    assert train.exit_code() == 130
    assert re.search(r"stopped +\d\d:\d\d   on request", train.text)
    assert estafeta("resume", "last", "--detach").code == 0
    assert estafeta("stop", "last").code == 0


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """A service in the foreground, in a home of its own, that delivers every event twice."""
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path))
    command = [sys.executable, "-m", "estafeta", "local", "serve", "--faults", "duplicate=1,seed=3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    yield process
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=DEADLINE_S)
    local.stop(tmp_path)


def test_a_served_service_is_used_as_it_is(served: subprocess.Popen[str], estafeta: Command, tmp_path: Path) -> None:
    assert served.stdout
    said = [served.stdout.readline() for _ in range(3)]
    assert said[2].startswith("export AWS_ENDPOINT_URL=")
    status = estafeta("local", "status", "--json").json
    assert status["running"]
    assert status["pid"] == served.pid
    trained = estafeta("train", "tiny.py", "-o", "epochs=1", "--topology", "merge", "--json")
    assert trained.code == 0, trained.err
    assert served.poll() is None
    assert estafeta("local", "status", "--json").json["pid"] == served.pid, (
        "it was replaced by a service of another kind"
    )
    assert trained.json["invocations"]["worker"] > 1 + 2 * 3 + 2, "no event was delivered twice"
    assert estafeta("local", "stop").out == "local   stopped\n"
    assert served.wait(DEADLINE_S) == 0
    assert not (tmp_path / "served.json").exists()
    assert f"no service runs in {tmp_path}" in estafeta("local", "status").out
