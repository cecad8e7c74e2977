"""The client's side: start, find, share, replace and stop a service; and every way in which it can end."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from estafeta.errors import EnvironmentProblem, UsageError
from estafeta.local import Endpoint, Options, ensure, find, serve, stop
from estafeta.local.endpoint import ask, start_time

from .conftest import Start, eventually, notes

Make = Callable[..., Options]


def children(pid: int) -> set[int]:
    """All living descendants."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found |= {child} | children(child)
    return found


def gone(pids: set[int]) -> bool:
    return all(start_time(pid) is None for pid in pids)


def busy_tree(start: Start, tmp_path: Path) -> tuple[Endpoint, set[int]]:
    """A service with a frozen and a busy environment, and all its processes."""
    service = start()
    service.call("echo")
    service.send("wait", {"seconds": 600, "path": str(tmp_path / "notes")})
    eventually(lambda: notes(tmp_path / "notes"))
    pid = service.endpoint.pid
    # Service, zygote, two environments; the kernel's list of children may miss one that is just being added.
    tree = eventually(lambda: len(found := {pid} | children(pid)) >= 4 and found)
    return service.endpoint, tree


def test_kill_9_leaves_no_process(start: Start, tmp_path: Path) -> None:
    endpoint, tree = busy_tree(start, tmp_path)
    os.kill(endpoint.pid, signal.SIGKILL)
    eventually(lambda: gone(tree))
    assert find(tmp_path) is None, "the file of a dead service counts as absent"
    assert start().call("echo", 1).payload == 1, "and does not hinder a new one"


def test_a_zygote_that_dies_takes_its_environments_along_and_is_replaced(start: Start, tmp_path: Path) -> None:
    service = start()
    before = service.call("count").payload["pid"]
    [zygote] = map(int, Path(f"/proc/{service.endpoint.pid}/task/{service.endpoint.pid}/children").read_text().split())
    service.send("hold", {"path": str(tmp_path / "notes"), "until": str(tmp_path / "until")})
    eventually(lambda: notes(tmp_path / "notes"))
    os.kill(zygote, signal.SIGKILL)
    eventually(lambda: gone({zygote, before}))
    eventually(lambda: len(notes(tmp_path / "notes")) == 2)  # the service retries its event
    assert service.call("count").payload["count"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    endpoint, tree = busy_tree(start, tmp_path)
    os.kill(endpoint.pid, number)
    eventually(lambda: gone(tree))
    assert not (tmp_path / "service.json").exists()
    assert not (tmp_path / "environments").exists()
    assert "Traceback" not in (tmp_path / "service.log").read_text()


def test_stop_waits_for_the_end(start: Start, tmp_path: Path) -> None:
    _, tree = busy_tree(start, tmp_path)
    assert stop(tmp_path)
    assert gone(tree)
    assert find(tmp_path) is None
    assert not stop(tmp_path)


def test_an_idle_service_ends_by_itself(start: Start, tmp_path: Path) -> None:
    service = start(idle_timeout_s=1.0)
    assert service.call("wait", {"seconds": 1.5}).payload == "waited", "an event in progress keeps it alive"
    pidfd = os.pidfd_open(service.endpoint.pid)
    assert select.select([pidfd], [], [], 20.0)[0]
    os.close(pidfd)
    assert find(tmp_path) is None


def test_ensure_gives_the_same_service_again(start: Start) -> None:
    assert start().endpoint == start().endpoint


def test_clients_that_start_at_the_same_time_share_one_service(tmp_path: Path, options: Make, start: Start) -> None:
    with ThreadPoolExecutor(4) as pool:
        endpoints = {future.result() for future in [pool.submit(ensure, tmp_path, options()) for _ in range(4)]}
    assert len(endpoints) == 1


def test_the_endpoint_file_is_private(start: Start, tmp_path: Path) -> None:
    start()
    assert (tmp_path / "service.json").stat().st_mode & 0o777 == 0o600


def test_only_the_loopback_interface_is_bound(start: Start) -> None:
    assert start().endpoint.url.startswith("http://127.0.0.1:")


def test_other_options_replace_an_idle_service(start: Start) -> None:
    first = start().endpoint
    second = start(account_limit=5).endpoint
    assert second.pid != first.pid
    assert gone({first.pid})


def test_another_template_replaces_an_idle_service(start: Start, tmp_path: Path, options: Make) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(options().template.read_text())
    first = start(template=template).endpoint
    template.write_text(template.read_text().replace("FunctionName: echo", "FunctionName: parrot"))
    assert start(template=template).call("parrot", 1).payload == 1
    assert gone({first.pid})


def test_a_busy_service_is_not_replaced(start: Start, tmp_path: Path) -> None:
    endpoint, _ = busy_tree(start, tmp_path)
    with pytest.raises(EnvironmentProblem, match="busy") as caught:
        start(account_limit=5)
    assert "local stop" in caught.value.hint
    assert find(tmp_path) == endpoint
    assert ask(endpoint, "GET")["running"] == 1


def test_another_system_is_refused(tmp_path: Path, options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    with pytest.raises(EnvironmentProblem, match="needs Linux"):
        ensure(tmp_path, options())


def test_mistakes_are_raised_in_the_client(tmp_path: Path, options: Make) -> None:
    with pytest.raises(UsageError, match=r"no\.yaml"):
        ensure(tmp_path, options(template=tmp_path / "no.yaml"))
    with pytest.raises(UsageError, match="no fault"):
        ensure(tmp_path, options(faults="x=1"))
    assert find(tmp_path) is None


def test_a_service_that_cannot_start_says_why(tmp_path: Path, options: Make) -> None:
    (tmp_path / "logs").write_text("a file where a folder must be")
    with pytest.raises(EnvironmentProblem, match="FileExistsError") as caught:
        ensure(tmp_path, options())
    assert str(tmp_path / "service.log") in caught.value.hint


def test_serving_in_the_foreground(tmp_path: Path, options: Make) -> None:
    program = (
        "import sys; from pathlib import Path; from estafeta.local import Options, serve;"
        "serve(Path(sys.argv[1]), Options.from_json(sys.argv[2]), say=lambda line: print(line, flush=True))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), options().to_json()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(6)]
    endpoint = find(tmp_path)
    assert endpoint is not None
    assert endpoint.url in lines[0]
    assert "Not isolated" in lines[1]
    assert f"export AWS_ENDPOINT_URL={endpoint.url}\n" in lines
    with pytest.raises(EnvironmentProblem, match="already"):
        serve(tmp_path, options())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()


def test_options_survive_the_command_line(tmp_path: Path) -> None:
    options = Options(template=tmp_path / "t", root=tmp_path / "r", parameters={"A": "1"}, faults="kill=1")
    assert Options.from_json(options.to_json()) == options
    assert json.loads(options.to_json())["task_root"] is None
