"""Settings for one run, where several clients change the functions, or one is interrupted while it does."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from estafeta.client.backend import ROLES, LambdaBackend
from estafeta.errors import EnvironmentProblem
from estafeta.protocol.spec import Role

NAMES: dict[Role, str] = {role: f"s-{role}" for role in ROLES}
DEPLOYED = {"MemorySize": 1769, "Timeout": 900}


class Functions:
    """A Lambda client with three functions; whoever publishes gives another one the time to come between.

    A change takes until it is waited for, and meanwhile there can be no other.
    """

    def __init__(self) -> None:
        self.latest: dict[str, dict[str, Any]] = {name: dict(DEPLOYED) for name in NAMES.values()}
        self.versions: dict[str, dict[str, Any]] = {}
        self.meeting = threading.Barrier(2)
        self.interrupted = False
        self.changing: set[str] = set()
        self.meddles: dict[str, Any] = {}
        self.exceptions = type("Exceptions", (), {"ResourceNotFoundException": LookupError})

    def get_function_configuration(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        return dict(self.latest[FunctionName])

    def update_function_configuration(self, *, FunctionName: str, **settings: Any) -> None:  # noqa: N803
        if FunctionName in self.changing:
            raise ClientError({"Error": {"Code": "ResourceConflictException"}}, "UpdateFunctionConfiguration")
        self.changing.add(FunctionName)
        self.latest[FunctionName] |= settings

    def publish_version(self, *, FunctionName: str) -> dict[str, Any]:  # noqa: N803
        with contextlib.suppress(threading.BrokenBarrierError):
            self.meeting.wait(timeout=0.2)
        version = str(len(self.versions) + 1)
        self.versions[version] = self.latest[FunctionName] | self.meddles
        return {"Version": version, **self.versions[version]}

    def get_waiter(self, _name: str) -> Functions:
        return self

    def wait(self, *, FunctionName: str, **_: Any) -> None:  # noqa: N803
        if self.interrupted and FunctionName in self.changing:
            self.interrupted = False
            raise KeyboardInterrupt
        self.changing.discard(FunctionName)

    def get_function_event_invoke_config(self, **_: Any) -> None:
        raise LookupError


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Functions:
    monkeypatch.setenv("ESTAFETA_HOME", str(tmp_path))
    return Functions()


def test_clients_that_change_settings_at_the_same_moment_take_turns(functions: Functions) -> None:
    backends = {memory_mb: LambdaBackend("local", NAMES, functions, None) for memory_mb in (2000, 3000)}

    def start(memory_mb: int) -> tuple[int, str | None]:
        return memory_mb, backends[memory_mb].with_settings({"worker": {"memory_mb": memory_mb}})["worker"].qualifier

    with ThreadPoolExecutor(2) as pool:
        for memory_mb, version in pool.map(start, backends):
            assert version is not None
            assert functions.versions[version]["MemorySize"] == memory_mb
    assert functions.latest == dict.fromkeys(NAMES.values(), DEPLOYED)


def test_the_functions_get_their_settings_back_from_who_is_interrupted(functions: Functions) -> None:
    backend = LambdaBackend("local", NAMES, functions, None)
    functions.interrupted = True  # while the change goes on, and so no other can begin
    with pytest.raises(KeyboardInterrupt):
        backend.with_settings({"worker": {"memory_mb": 2000}}, {"LOCAL_FAULTS": "kill=1"})
    assert functions.latest["s-worker"]["MemorySize"] == 1769
    assert functions.latest["s-worker"]["Environment"] == {"Variables": {}}


def test_a_version_with_the_settings_of_another_machine_is_not_used(functions: Functions) -> None:
    backend = LambdaBackend("local", NAMES, functions, None)
    functions.meddles = {"MemorySize": 3000}
    with pytest.raises(EnvironmentProblem, match="Another client was changing s-worker"):
        backend.with_settings({"worker": {"memory_mb": 2000}})
    assert functions.latest["s-worker"] == DEPLOYED
