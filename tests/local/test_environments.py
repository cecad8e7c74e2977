"""The promises of execution environments, and their limits."""

import base64
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from estafeta.local import stop

from .conftest import HERE, LocalService, Start, eventually, launch, notes


def report_of(answer) -> str:
    return base64.b64decode(answer.raw["LogResult"]).decode().splitlines()[-1]


def state(pid: int) -> str:
    """State of a process, in the letters of proc_pid_stat(5); X if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def test_an_environment_looks_like_lambdas(service: LocalService) -> None:
    seen = service.call("describe").payload
    environ = seen["environ"]
    assert environ["AWS_LAMBDA_FUNCTION_NAME"] == "describe"
    assert environ["AWS_LAMBDA_FUNCTION_VERSION"] == "$LATEST"
    assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "3600"
    assert environ["AWS_LAMBDA_LOG_GROUP_NAME"] == "/custom/describe"
    assert environ["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert environ["AWS_REGION"] == environ["AWS_DEFAULT_REGION"] == "us-east-1"
    assert environ["AWS_EXECUTION_ENV"] == "AWS_Lambda_python3.13"
    assert environ["AWS_ACCESS_KEY_ID"] == service.endpoint.access_key
    assert environ["AWS_ENDPOINT_URL_LAMBDA"] == service.endpoint.url
    assert environ["_HANDLER"] == "handlers.describe"
    assert environ["OMP_NUM_THREADS"] == "2", "3600 MB are two whole vCPUs"
    assert Path(environ["TMPDIR"]).is_dir()
    assert seen["open_files"] == 1024
    assert seen["session"]
    assert 0 < seen["remaining_ms"] <= 20_000
    assert seen["arn"] == "arn:aws:lambda:us-east-1:000000000000:function:describe"


def test_paths_under_the_mount_are_moved_to_the_local_root(service: LocalService) -> None:
    environ = service.call("describe").payload["environ"]
    assert environ["DATA"] == str(service.home / "root" / "datasets")
    assert environ["ELSEWHERE"] == "/mnt/sharedness"
    assert environ["PLAIN"] == "1"


def test_nothing_of_the_callers_surroundings_gets_in(service: LocalService) -> None:
    seen = service.call("describe").payload
    assert os.environ.keys() - seen["environ"].keys(), "the test itself runs with more variables than these"
    assert not {"PYTEST_CURRENT_TEST", "HOME", "PYTHONPATH", "VIRTUAL_ENV"} & seen["environ"].keys()
    assert os.getcwd() not in seen["path"]
    assert "" not in seen["path"]
    assert not any("estafeta/local" in entry for entry in seen["path"])
    assert seen["path"][0] == seen["cwd"] == seen["environ"]["LAMBDA_TASK_ROOT"]
    assert seen["estafeta_modules"] == []


def test_there_is_no_shared_memory(service: LocalService) -> None:
    assert service.call("describe").payload["semaphore"] == "ENOSYS"


def test_preloaded_modules_are_there_and_missing_ones_do_no_harm(start: Start) -> None:
    pytest.importorskip("torch")
    service = start(template=HERE / "torch.yaml", parameters={}, init_limit_s=60.0)
    assert service.call("torch-threads").payload == {"loaded": True, "threads": 2, "sum": 1000.0}
    assert "no_such_module_at_all" in (service.home / "service.log").read_text()


def test_a_cold_start_is_reported_and_billed_once(start: Start) -> None:
    service = start()
    cold, warm = (report_of(service.call("echo", LogType="Tail")) for _ in range(2))
    fields = dict(part.split(": ") for part in cold.removeprefix("REPORT ").strip().split("\t"))
    duration, init, billed = (
        float(fields[name].split()[0]) for name in ("Duration", "Init Duration", "Billed Duration")
    )
    assert duration + init <= billed < duration + init + 1.02
    assert "Init Duration" not in warm


def test_threads_make_no_progress_between_events(service: LocalService) -> None:
    first = service.call("tick", {"since": 0.0}).payload
    eventually(lambda: state(first["pid"]) == "T")
    frozen = time.monotonic()
    service.call("echo")
    before = time.monotonic()
    second = service.call("tick", {"since": frozen}).payload
    assert second["pid"] == first["pid"]
    assert second["ticks"], "it goes on with the next event"
    assert min(second["ticks"]) > before


def test_a_timeout_kills_the_process_and_the_next_event_gets_a_new_one(service: LocalService) -> None:
    answer = service.call("short", {"seconds": 60}, LogType="Tail")
    assert answer.raw["StatusCode"] == 200
    assert answer.raw["FunctionError"] == "Unhandled"
    assert answer.payload["errorType"] == "Sandbox.Timedout"
    assert answer.payload["errorMessage"].endswith("Task timed out after 1.00 seconds")
    report = report_of(answer)
    assert "\tDuration: 1000.00 ms\tBilled Duration: 10" in report
    assert "\tStatus: timeout\t" in report
    assert eventually(lambda: service.call("short", {"seconds": 0}).payload == "waited"), (
        "a new process, in its time limit"
    )


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "spike"])
def test_too_much_memory_kills_the_process(service: LocalService, keep: bool) -> None:
    answer = service.call("grow", {"mb": 400, "keep": keep}, LogType="Tail")
    assert answer.raw["FunctionError"] == "Unhandled"
    assert answer.payload["errorType"] == "Runtime.OutOfMemory"
    assert "signal: killed" in answer.payload["errorMessage"]
    report = report_of(answer)
    assert "\tMax Memory Used: 256 MB\t" in report
    assert "\tStatus: error\tError Type: Runtime.OutOfMemory\t" in report
    assert service.call("grow", {"mb": 10}).payload == 10 * 2**20


def test_memory_is_measured(service: LocalService) -> None:
    service.call("echo")
    answer = service.call("grow", {"mb": 100}, LogType="Tail")
    assert not answer.failed
    used = int(report_of(answer).partition("Max Memory Used: ")[2].split()[0])
    assert 100 < used < 256


@pytest.mark.parametrize(
    ("event", "message"),
    [
        ({"how": "exit", "status": 3}, "Runtime exited with error: exit status 3"),
        ({"how": "exit", "status": 0}, "Runtime exited without providing a reason"),
        ({"how": "kill"}, "Runtime exited with error: signal: killed"),
    ],
    ids=["status 3", "status 0", "signal"],
)
def test_a_crash_is_an_exit_error(service: LocalService, event: dict, message: str) -> None:
    answer = service.call("leave", event, LogType="Tail")
    assert answer.raw["FunctionError"] == "Unhandled"
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert answer.payload["errorMessage"].endswith(message)
    assert "about to leave" in base64.b64decode(answer.raw["LogResult"]).decode()
    assert "\tStatus: error\tError Type: Runtime.ExitError\t" in report_of(answer)


def test_tmp_survives_a_crash_of_the_process(start: Start) -> None:
    service = start()
    for marks in range(3):
        assert service.call("leave", {"how": "return"}).payload == {"marks": marks}
        service.call("leave", {"how": "exit", "status": 1})


def test_processes_that_a_handler_left_behind_end_with_its_environment(start: Start, tmp_path: Path) -> None:
    service = start(environment_idle_s=0.2)
    service.call("start-child", {"path": str(tmp_path / "notes")})
    child = notes(tmp_path / "notes")[0]["child"]
    eventually(lambda: not alive(child))


def test_idle_environments_are_given_up(start: Start) -> None:
    service = start(environment_idle_s=0.2)
    first = service.call("count").payload
    eventually(lambda: not alive(first["pid"]))
    eventually(lambda: not Path(first["tmp"]).exists())
    assert service.call("count").payload["count"] == 1


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalService]:
    """A service whose function `absent` is written by the test."""
    home = tmp_path_factory.mktemp("broken")
    yield launch(home, task_root=home / "code")
    stop(home)


@pytest.mark.parametrize(
    ("code", "error_type", "message"),
    [
        (None, "Runtime.ImportModuleError", "No module named 'absent'"),
        ("def handler(event, context) return", "Runtime.UserCodeSyntaxError", "Syntax error in module 'absent'"),
        ("x = 1", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'absent'"),
        ("raise OSError('no disk')", "OSError", "no disk"),
        ("raise SystemExit(4)", "Runtime.ExitError", "exit status 4"),
    ],
)
def test_errors_of_the_start_reach_the_caller(
    broken: LocalService, code: str | None, error_type: str, message: str
) -> None:
    if code is not None:
        (broken.home / "code" / "absent.py").write_text(code)
    answer = broken.call("absent", LogType="Tail")
    assert answer.raw["FunctionError"] == "Unhandled"
    assert answer.payload["errorType"] == error_type
    assert message in answer.payload["errorMessage"]
    assert f"Error Type: {error_type}" in report_of(answer)


def test_a_start_that_takes_too_long_is_repeated_inside_the_invocation(start: Start) -> None:
    service = start(init_limit_s=0.3)
    answer = service.call("slow-start", LogType="Tail")
    assert answer.payload == "started"
    report = report_of(answer)
    assert "Init Duration" not in report
    assert float(report.partition("Duration: ")[2].split()[0]) > 1000
    [log] = (service.home / "logs" / "aws" / "lambda" / "slow-start").rglob("*.log")
    assert "\tPhase: init\tStatus: timeout\tError Type: Sandbox.Timedout\n" in log.read_text()


def test_the_interpreter_is_the_clients(service: LocalService) -> None:
    assert any(entry.startswith(sys.prefix) for entry in service.call("describe").payload["path"])
