"""A new process may ask for its event before the service knows that the process is there."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from estafeta.local.api.http import Response
from estafeta.local.fault_log import FaultLog
from estafeta.local.faults import Faults, Injectors
from estafeta.local.template.config import FunctionConfig
from estafeta.local.work import environment
from estafeta.local.work.environment import Environment, Host, Phase
from estafeta.local.work.functions import FunctionVersion
from estafeta.local.work.invocation import Invocation, Outcome
from estafeta.local.work.variables import Surroundings

CONFIG = FunctionConfig(
    name="f",
    handler="m.f",
    runtime="python3.13",
    architecture="x86_64",
    memory_mb=128,
    timeout_s=10,
    environment={},
    ephemeral_mb=512,
    local_mount_path=None,
    reserved_concurrency=None,
    recursive_loop="Allow",
    log_group="/f",
)


class StandIn:
    """A process that never ends by itself."""

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self.peak_memory_mb = 1.0
        self.frozen = False
        self.end = on_exit

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False

    def kill(self) -> None:
        """It ends when `end` is called."""

    def look_at_memory(self) -> float:
        return self.peak_memory_mb


class Forks:
    """`fork` on a busy machine: the child's first request comes first, the zygote's answer after it."""

    def __init__(self) -> None:
        self.environment: Environment
        self.processes: list[StandIn] = []
        self.received: list[Response] = []

    async def __call__(self, _zygote: object, _order: dict[str, Any], on_exit: Callable[[int], None]) -> StandIn:
        self.environment.on_next(self.received.append)
        self.processes.append(StandIn(on_exit))
        return self.processes[-1]


async def the_event_is_delivered(folder: Path, forks: Forks) -> None:
    host = Host(
        nursery=SimpleNamespace(zygote=lambda _preload: None),  # type: ignore[arg-type]
        surroundings=Surroundings("http://-", "-", "-", "us-east-1", folder, folder),
        folder=folder,
        logs=folder / "logs",
        init_limit_s=10.0,
        faults=Injectors(Faults()),
        fault_log=FaultLog(folder / "logs"),
    )
    available = asyncio.Event()
    forks.environment = Environment(
        FunctionVersion(CONFIG, "$LATEST", "1", 0.0, "arn"), host, lambda _environment: available.set()
    )
    await asyncio.wait_for(available.wait(), 10)
    assert forks.environment.phase is Phase.IDLE
    assert forks.processes[0].frozen
    forks.processes[0].end(1)  # a crash between events; the next one brings a new process
    outcomes: list[Outcome] = []
    forks.environment.invoke(Invocation("r", forks.environment.function, "arn", b"{}", "", outcomes.append))
    async with asyncio.timeout(10):
        while not forks.received:
            await asyncio.sleep(0)
    assert forks.received[0].headers["Lambda-Runtime-Aws-Request-Id"] == "r"
    forks.environment.on_answer(lambda _response: None, "r", "", b"1", failed=False)
    assert outcomes[0].payload == b"1"
    forks.environment.close()
    forks.processes[1].end(-9)
    assert forks.environment.gone.is_set()


def test_a_request_that_overtakes_the_news_of_its_process_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forks = Forks()
    monkeypatch.setattr(environment, "fork", forks)
    asyncio.run(the_event_is_delivered(tmp_path, forks))
