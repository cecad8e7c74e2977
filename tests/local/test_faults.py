"""Fault injection: parsing, repeatability, and the faults themselves."""

import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from estafeta.errors import UsageError
from estafeta.local.endpoint import ask
from estafeta.local.fault_log import MOST_OPEN, FaultLog
from estafeta.local.faults import FAULTS, FAULTS_NAME, LONGEST_DELAY_S, Faults, Injector, Injectors, kinds
from estafeta.local.logs.streams import stream_names

from .conftest import LocalService, Start, eventually, notes


def test_parsing() -> None:
    assert Faults.parse("") == Faults()
    assert Faults.parse("duplicate=0.1, kill=0.05,seed=3") == Faults(duplicate=0.1, kill=0.05, seed=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("explode=1", "no fault 'explode'"),
        ("kill", "a probability from 0 to 1"),
        ("kill=2", "a probability from 0 to 1"),
        ("kill=nan", "a probability from 0 to 1"),
        ("seed=0.5", "a whole number"),
    ],
)
def test_mistakes_are_explained(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Faults.parse(text)
    assert "duplicate" in caught.value.hint


def draw(faults: Faults, count: int = 400) -> list:
    injector = Injector(faults)
    injector.lasted("f", 1.0)
    return [(injector.deliveries(), injector.kill_after_s("f"), injector.slow_environment()) for _ in range(count)]


def test_decisions_depend_on_seed_and_order_alone() -> None:
    faults = Faults.parse("duplicate=0.3,drop=0.2,delay=0.4,kill=0.5,slow=0.5,seed=1")
    assert draw(faults) == draw(faults)
    assert draw(faults) != draw(Faults.parse("duplicate=0.3,drop=0.2,delay=0.4,kill=0.5,slow=0.5,seed=2"))


def test_the_log_of_many_versions_keeps_few_files_open(tmp_path: Path) -> None:
    fault_log, before = FaultLog(tmp_path), len(os.listdir("/proc/self/fd"))
    config = SimpleNamespace(log_group="/g", environment={})
    versions: list[Any] = [SimpleNamespace(config=config, version=str(n), key=("f", str(n), "")) for n in range(40)]
    for version in [*versions, versions[0]]:
        fault_log.write(version, "kill")
    assert len(os.listdir("/proc/self/fd")) - before <= 2 * MOST_OPEN
    assert len([name for name in stream_names(tmp_path, "/g") if "[0]" in name]) == 2, "it was opened again"
    fault_log.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_each_kind_is_drawn_independently() -> None:
    alone = [kill for _, kill, _ in draw(Faults.parse("kill=0.5,seed=1"))]
    among = [kill for _, kill, _ in draw(Faults.parse("duplicate=0.5,delay=0.5,kill=0.5,slow=0.5,seed=1"))]
    assert alone == among


def test_probabilities_are_kept() -> None:
    deliveries, kills, slow = zip(
        *draw(Faults.parse("duplicate=0.3,drop=0.2,delay=0.4,kill=0.5,slow=0.5,seed=1")), strict=True
    )
    assert 60 < sum(not times for times in deliveries) < 100
    assert 70 < sum(len(times) == 2 for times in deliveries) < 122
    assert 160 < sum(kill is not None for kill in kills) < 240
    assert 160 < sum(slow) < 240
    assert all(0 <= time <= LONGEST_DELAY_S for times in deliveries for time in times)
    assert all(0 <= kill < 1 for kill in kills if kill is not None)


def test_without_faults_nothing_happens() -> None:
    assert draw(Faults(), 5) == [((0.0,), None, False)] * 5


def test_versions_of_one_name_draw_from_one_injector_and_the_others_from_the_services() -> None:
    injectors = Injectors(Faults.parse("kill=1"))
    mine = {FAULTS: "drop=0.5,seed=1", FAULTS_NAME: "mine"}
    assert injectors.of(mine) is injectors.of({**mine, "OTHER": "x"})
    assert injectors.of(mine) is not injectors.of({**mine, FAULTS_NAME: "yours"})
    assert injectors.of({}) is injectors.of({FAULTS_NAME: "nobody's"})
    assert injectors.of({}).kill_after_s("f") is not None
    assert injectors.of(mine).kill_after_s("f") is None


@pytest.mark.parametrize(
    ("deliveries", "faults"),
    [
        ((), ["drop"]),
        ((0.0,), []),
        ((0.5,), ["delay"]),
        ((0.0, 1.0), ["duplicate"]),
        ((0.5, 1.0), ["delay", "duplicate"]),
    ],
)
def test_decisions_become_deliveries(deliveries: tuple[float, ...], faults: list[str]) -> None:
    assert kinds(deliveries) == faults


def own_faults(service: LocalService, function: str, faults: str, name: str) -> str:
    """Publish a version of a function that has faults of its own, and leave `$LATEST` as it was."""
    client = service.lambda_client
    before = client.get_function_configuration(FunctionName=function).get("Environment", {}).get("Variables", {})
    added = {FAULTS: faults, FAULTS_NAME: name}
    client.update_function_configuration(FunctionName=function, Environment={"Variables": {**before, **added}})
    version = client.publish_version(FunctionName=function)["Version"]
    client.update_function_configuration(FunctionName=function, Environment={"Variables": before})
    return str(version)


def fault_lines(service: LocalService, function: str) -> list[str]:
    folder = service.home / "logs" / "aws" / "lambda" / function
    lines = [line for file in folder.rglob("*.log") for line in file.read_text().splitlines()]
    return [line for line in lines if line.startswith("FAULT")]


def test_faults_of_a_version_leave_the_others_alone_and_are_logged(start: Start, tmp_path: Path) -> None:
    service = start()
    version = own_faults(service, "record", "duplicate=1,seed=1", "mine")
    path = tmp_path / "notes"
    plain = service.send("record", {"path": str(path)})
    doubled = service.send("record", {"path": str(path)}, Qualifier=version)
    eventually(lambda: len(notes(path)) == 3)
    assert Counter(line["id"] for line in notes(path)) == {plain: 1, doubled: 2}
    assert fault_lines(service, "record") == [f"FAULT RequestId: {doubled}\tFault: duplicate\tName: mine"]


def test_a_kill_and_a_slow_environment_are_logged(start: Start) -> None:
    service = start(faults="kill=1,slow=1,seed=1")
    raw = service.call("wait", {"seconds": 5}).raw
    request_id = raw["ResponseMetadata"]["RequestId"]
    assert sorted(fault_lines(service, "wait")) == [
        "FAULT RequestId: -\tFault: slow\tName: -",
        f"FAULT RequestId: {request_id}\tFault: kill\tName: -",
    ]


def test_a_version_with_faults_that_cannot_be_read_is_refused(service: LocalService) -> None:
    with pytest.raises(ClientError, match="LOCAL_FAULTS: There is no fault 'explode'"):
        service.lambda_client.update_function_configuration(
            FunctionName="echo", Environment={"Variables": {FAULTS: "explode=1"}}
        )
    assert service.call("echo", 1).payload == 1


def test_a_duplicated_event_runs_twice_under_one_id(start: Start, tmp_path: Path) -> None:
    service = start(faults="duplicate=1,seed=1")
    request_id = service.send("record", {"path": str(tmp_path / "notes")})
    lines = eventually(lambda: len(notes(tmp_path / "notes")) == 2 and notes(tmp_path / "notes"))
    assert {line["id"] for line in lines} == {request_id}


def test_a_dropped_event_never_runs(start: Start, tmp_path: Path) -> None:
    service = start(faults="drop=0.5,seed=1")
    injector = Injector(Faults.parse("drop=0.5,seed=1"))
    expected = [bool(injector.deliveries()) for _ in range(12)]
    ids = [service.send("record", {"path": str(tmp_path / "notes")}) for _ in range(12)]
    wanted = {request_id for request_id, runs in zip(ids, expected, strict=True) if runs}
    eventually(lambda: {line["id"] for line in notes(tmp_path / "notes")} >= wanted)
    assert {line["id"] for line in notes(tmp_path / "notes")} == wanted


def test_a_killed_invocation_is_tried_again(start: Start, tmp_path: Path) -> None:
    service = start(faults="kill=1,seed=1")
    path = tmp_path / "notes"
    service.send("wait", {"seconds": 5, "path": str(path)})
    answer = service.call("wait", {"seconds": 5})
    assert answer.payload["errorType"] == "Runtime.ExitError"
    assert answer.payload["errorMessage"].endswith("signal: killed")
    log = service.home / "logs" / "aws" / "lambda" / "wait"
    eventually(lambda: sum(file.read_text().count("Error Type: Runtime.ExitError") for file in log.rglob("*.log")) == 4)


def test_a_slow_environment_still_answers(start: Start) -> None:
    service = start(faults="slow=1,seed=1")
    for number in range(3):
        assert service.call("echo", number).payload == number


def test_every_event_ends_under_faults(start: Start, tmp_path: Path) -> None:
    """Under all faults at once, each of many events succeeds or is reported, and none stays behind."""
    service = start(faults="duplicate=0.3,delay=0.3,kill=0.3,slow=0.3,seed=5", account_limit=6)
    path = tmp_path / "notes"
    ids = {service.send("record", {"path": str(path), "failures": number % 2}) for number in range(60)}

    def idle() -> bool:
        status = ask(service.endpoint, "GET")
        return not status["running"] and not status["waiting"]

    eventually(idle, within_s=60.0)
    reported = {line["record"]["requestContext"]["requestId"] for line in notes(service.sink)}
    lines = Counter(line["id"] for line in notes(path))
    assert set(lines) | reported >= ids
    assert max(lines.values()) > 2, "duplicates and retries have happened"
    assert "Traceback" not in (service.home / "service.log").read_text()
