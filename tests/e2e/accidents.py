"""A local service that is struck down, by `kill -9`, and brought up again; and runs that are seen through."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from estafeta import local
from estafeta.client.backend import LambdaBackend
from estafeta.client.connect import TEMPLATE, on_service
from estafeta.client.run import ENDED, Run
from estafeta.local.endpoint import Endpoint, start_time
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.listing import messages_in, versions_in
from estafeta.protocol.spec import Outcome
from estafeta.store.store import Backoff, Store

Victim = Literal["environment", "service", "everything"]

DEADLINE_S = 120.0
OFTEN = Backoff(0.001, 1.5, 0.01)
STANDSTILL_S = 6.0
"""A run that gets no further for so long is resumed: its user would do that, and it harms none that is at work."""


class Machine:
    """A home with a local service in it.

    Args:
        home: The service's folder; the store is in it.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._options = local.Options(template=TEMPLATE, root=home / "store", retry_delay_scale=0.005)
        self._options.root.mkdir(parents=True, exist_ok=True)
        self.store = Store(self._options.root)
        self.backend = self._connect()

    def close(self) -> None:
        """End the service."""
        local.stop(self._home)

    def again(self, run: Run) -> Run:
        """A handle of a run, after the service has come up again."""
        return Run(run.name, self.backend)

    def strike(self, victim: Victim, choice: random.Random) -> None:
        """Kill a process of the service, or all; all processes of a dead service are dead when this returns.

        An environment is one of worker or merge, if possible one at work. The one of `control` serves the client: a
        client would see the error, and would call again.
        """
        service = self._endpoint.pid
        environments = [pid for zygote in _children(service) for pid in _children(zygote)]
        if victim == "environment":
            theirs = sorted(pid for pid in environments if not _log(pid).startswith("estafeta-control"))
            at_work = [pid for pid in theirs if _state(pid) not in "TZX"]
            _kill(choice.choice(at_work or theirs))
            return
        others = [*_children(service), *environments]
        started = {pid: start_time(pid) for pid in (service, *others)}
        for pid in (*others, service) if victim == "everything" else (service,):
            _kill(pid)
        eventually(lambda: not any(start and start_time(pid) == start for pid, start in started.items()))

    def up(self) -> None:
        """Start the service again."""
        self.backend = self._connect()

    def _connect(self) -> LambdaBackend:
        self._endpoint: Endpoint = local.ensure(self._home, self._options)
        return on_service(self._endpoint)


def await_rounds(store: Store, run: Run, rounds: int) -> None:
    """Wait until a run has got so many rounds further than it is now, by its files, or has come to its end.

    The run may fail before, when the last attempt at an event was killed. It says so, and the test resumes it.
    """
    layout, is_merge = RunLayout(run.name), run.status().spec.topology == "merge"
    directory = layout.weights if is_merge else layout.outbox(0)

    def reached(names: frozenset[str]) -> int:
        return max(versions_in(names) if is_merge else messages_in(names, "gradient"), default=-1)

    wanted = reached(store.list(directory)) + rounds
    deadline = time.monotonic() + DEADLINE_S
    while store.wait(directory, lambda names: reached(names) >= wanted, timeout_s=1.0, backoff=OFTEN) is None:
        status = run.status()
        if status.state == "done":
            return
        if status.state == "failed":
            assert status.outcome
            assert status.outcome.failure
            assert status.outcome.failure.reason
            run.resume()
        assert time.monotonic() < deadline, f"{run.name} did not get to version {wanted}: {run.inspect()}"


def see_through(runs: Sequence[Run]) -> list[Outcome]:
    """Follow runs until they are done; one that has failed for a stated reason, or stands still, is resumed."""
    outcomes: dict[str, Outcome] = {}
    reached: dict[str, tuple[Any, float]] = {}

    def look() -> bool:
        for run in runs:
            status = run.status()
            if status.state == "done":
                assert status.outcome
                outcomes[run.name] = status.outcome
                continue
            place, now = (status.state, status.version, status.epoch), time.monotonic()
            before, since = reached.get(run.name, (None, 0.0))
            if place != before:
                reached[run.name] = place, now
            if status.state in ENDED or (place == before and now - since > STANDSTILL_S):
                assert status.outcome is None or (status.outcome.failure and status.outcome.failure.reason)
                run.resume()
                del reached[run.name]
        return len(outcomes) == len(runs)

    eventually(look)
    return [outcomes[run.name] for run in runs]


def eventually(condition: Callable[[], Any], within_s: float = DEADLINE_S) -> Any:
    """Wait until a condition gives something true, and return that."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"still not true after {within_s} s"
        threading.Event().wait(0.02)
    return value


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _log(pid: int) -> str:
    """The place of an environment's output, from the function's name on."""
    try:
        return os.readlink(f"/proc/{pid}/fd/1").partition("/aws/lambda/")[2]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended by itself before
