"""`estafeta doctor --on aws`: a stack as it should be, and stacks with one thing wrong each."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectTimeoutError

from conformance.clock import VirtualClock
from core.specs import FUNCTIONS
from estafeta.deploy.doctor import stack as doctor
from estafeta.errors import Ailment, EnvironmentProblem, FunctionError
from estafeta.functions.control import control
from estafeta.functions.verbs.probe import LOAD_BYTES, START_S, TURNS, probe, probe_torch
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.verbs import ProbeVerb
from estafeta.protocol.warm import Warm
from estafeta.store.store import Store

from .account import stack_in
from .conftest import Command

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(120)]

NAMES = [
    "credentials",
    "stack",
    "functions",
    "concurrency",
    "bucket",
    "control",
    "mount",
    "second function",
    "visibility",
    "throughput",
    "worker",
]


def findings(said: str) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(said)["checks"]}


def test_all_is_well(aws: Path, estafeta: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast this machine is just now: what is measured on it says nothing of EFS."""
    monkeypatch.setattr(doctor, "LONGEST_TURN_S", math.inf)
    monkeypatch.setattr(doctor, "LEAST_BYTES_PER_S", 0.0)
    lines = estafeta("doctor", "--on", "aws").splitlines()
    assert [line.split("  ")[0].partition(" ")[0] for line in lines] == ["pass"] * len(NAMES)
    found = findings(estafeta("doctor", "--on", "aws", "--json"))
    assert list(found) == NAMES
    assert "account 123456789012 in us-east-1" in found["credentials"]["detail"]
    assert "CREATE_COMPLETE, file system fs-0123456789abcdef0" in found["stack"]["detail"]
    assert "estafeta-merge 1769 MB, 900 s" in found["functions"]["detail"]
    assert "1000 invocations at a time in this account, 1000 not reserved: up to 998" in found["concurrency"]["detail"]
    assert "PyTorch 2" in found["worker"]["detail"]
    assert list((aws / "probes").iterdir()) == [], "the probes have left something behind"


def test_ailing_stack_gets_findings_with_cures(
    moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from estafeta.cli.main import main

    change = ("RecursiveLoop: Allow", "RecursiveLoop: Terminate")
    with stack_in(tmp_path, moto, "ailing", change, account_limit=3):
        with pytest.raises(SystemExit) as caught:
            main(["doctor", "--on", "aws", "--stack", "ailing", "--json"])
        assert caught.value.code == 3
        found = findings(capsys.readouterr().out)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
        with pytest.raises(SystemExit) as caught:
            main(["doctor", "--on", "aws", "--stack", "ailing"])
        assert caught.value.code == 3
        assert capsys.readouterr().out.count("not tried: credentials must pass first") >= 1
    assert found["functions"]["passed"] is False
    assert "aws lambda put-function-recursion-config --function-name estafeta-worker" in found["functions"]["cure"]
    assert found["concurrency"]["passed"] is False
    assert "Service Quotas" in found["concurrency"]["cure"]
    assert found["bucket"]["passed"] is True
    assert found["control"]["passed"] is None
    assert found["worker"]["detail"] == "not tried: functions and control must pass first"


def test_measurements_are_judged() -> None:
    assert doctor.judge_visibility(0.012, 5.0) == "a file and the answer to it: 12 ms by the median, 5,000 ms at most"
    with pytest.raises(Ailment, match="5,001 ms at most") as caught:
        doctor.judge_visibility(0.012, 5.001)
    assert "mount's options" in caught.value.hint
    assert doctor.judge_throughput(1e6, 78e6) == "one function writes 1.0 MB/s, another reads 78.0 MB/s"
    assert doctor.judge_concurrency(10, 10, None).endswith("10 not reserved: up to 8 workers")
    assert doctor.judge_concurrency(1000, 100, 900).endswith("up to 900 workers, as MaxWorkers says")
    for free, reserved, cure in ((3, None, "Service Quotas"), (1000, 0, "-p MaxWorkers=")):
        with pytest.raises(Ailment) as caught:
            doctor.judge_concurrency(1000, free, reserved)
        assert cure in caught.value.hint
    for write, read in ((0.99e6, 78e6), (78e6, 0.99e6)):
        with pytest.raises(Ailment) as caught:
            doctor.judge_throughput(write, read)
        assert "elastic throughput" in caught.value.hint


class Threads:
    """`Invoker` that carries out events of `control` in threads, with a store of their own."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.threads: list[threading.Thread] = []

    def send(self, role: str, event: Mapping[str, Any]) -> None:
        invocation = Invocation(self._store, lambda functions: self, "2", lambda: 300.0, quiet=True)
        self.threads.append(threading.Thread(target=control, args=(dict(event), invocation)))
        self.threads[-1].start()


def meet(store: Store, invoker: Any) -> dict[str, Any]:
    invocation = Invocation(store, lambda functions: invoker, "1", lambda: 300.0, quiet=True)
    return probe(ProbeVerb(verb="probe", what="meet", functions=FUNCTIONS, token="00ff"), invocation)


def test_two_functions_meet(tmp_path: Path) -> None:
    invoker = Threads(Store(tmp_path))
    found = meet(Store(tmp_path), invoker)
    (thread,) = invoker.threads
    thread.join()
    assert found["start_s"] > 0
    assert 0 < found["turn_s"]["median"] <= found["turn_s"]["longest"]
    assert found["write_bytes_per_s"] > 0
    assert found["read_bytes_per_s"] > 0
    assert TURNS > 1
    assert LOAD_BYTES > 1 << 20
    assert list((tmp_path / "probes").iterdir()) == []


def test_two_functions_that_see_different_folders(tmp_path: Path) -> None:
    """WHEN what one publishes is not seen by the other THEN that is said, in the end."""
    (tmp_path / "here").mkdir()

    class Nobody:
        def send(self, role: str, event: Mapping[str, Any]) -> None: ...

    clock = VirtualClock()
    with pytest.raises(EnvironmentProblem, match="has not been seen to write 'ready' within 60 s"):
        meet(Store(tmp_path / "here", clock=clock), Nobody())
    assert clock.monotonic() >= START_S
    assert list((tmp_path / "here/probes").iterdir()) == []


def test_no_way_out_of_the_network(tmp_path: Path) -> None:
    class Unreachable:
        def send(self, role: str, event: Mapping[str, Any]) -> None:
            raise ConnectTimeoutError(endpoint_url="https://lambda.us-east-1.amazonaws.com")

    with pytest.raises(EnvironmentProblem, match="the Lambda API, from inside the stack's network, cannot be reached"):
        meet(Store(tmp_path), Unreachable())


def test_a_worker_that_fails_is_named_with_its_cure(tmp_path: Path) -> None:
    class Failing:
        def call(self, role: str, event: Mapping[str, Any]) -> Any:
            assert (role, event["task"]) == ("worker", "probe")
            raise FunctionError("Runtime.ImportModuleError: No module named 'torch'")

    invoker: Any = Failing()
    invocation = Invocation(Store(tmp_path), lambda functions: invoker, "1", lambda: 9.0, quiet=True)
    with pytest.raises(EnvironmentProblem, match=r"the worker function failed: .*No module named 'torch'") as caught:
        probe(ProbeVerb(verb="probe", what="worker", functions=FUNCTIONS), invocation)
    assert "estafeta deploy" in caught.value.hint


@pytest.mark.parametrize("token", ["", "../runs", "00ff/..", "xyz"])
def test_a_probe_stays_in_its_folder(token: str, tmp_path: Path) -> None:
    invocation = Invocation(Store(tmp_path), lambda functions: pytest.fail("invoked"), "1", lambda: 9.0, quiet=True)
    answer = control({"verb": "probe", "what": "answer", "token": token}, invocation)
    assert "does not understand" in answer["error"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_second_look_at_torch_is_warm(tmp_path: Path) -> None:
    invocation = Invocation(
        Store(tmp_path), lambda functions: pytest.fail("invoked"), "1", lambda: 9.0, quiet=True, warm=Warm()
    )
    assert [probe_torch(invocation)["cold"] for _ in range(2)] == [True, False]
