"""How long the local Lambda service takes to hand an event over, and to start environments.

    python benchmarks/bench_invoke.py [--events N] [--short] [--json]

Real boto3 on one side, real execution environments on the other; the service runs in a process of its own, with
probes that note the time of each step. Times of different processes are comparable, since CLOCK_MONOTONIC is one
clock for the machine.

    client call        `invoke(InvocationType="Event")` in the caller, as functions call each other, with signing and
                       the answer 202
    event to handler   from just before that call to the first line of a handler in a frozen environment
    service, before    its part of that: from the first byte of the request to the first line of the handler
      until thawed     the service's own share of it, but that boto3 sends the body in a second packet. What follows is
                       the runtime client's: it wakes up and, as for any Python from 3.12 on, changes threads
    service, after     from the last line of the handler until the environment is free again
      until answered   not the service's: the handler closes its note, and the runtime client sends the answer. From its
                       first byte on, the runtime client's way to its next request is counted too
    sync round trip    `invoke` until the answer has been read
    cold start         from the call to the first line, eight new torch environments at once, zygote warm
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from machine import describe

from estafeta.aws.lambda_api import make_client
from estafeta.local import Endpoint, Options
from estafeta.local.api.http import HttpProtocol
from estafeta.local.service import Service
from estafeta.local.work.environment import Environment
from estafeta.local.work.process import Process

COLD_ENVIRONMENTS = 8
WARM_UP = 20

HANDLER = """
import os, time

def handler(event, context):
    started = time.monotonic_ns()
    if not event:
        return started
    with open(event["path"], "a") as file:
        file.write(f"{started} {time.monotonic_ns()}\\n")
"""

TEMPLATE = """
Resources:
  Lean:
    Type: AWS::Lambda::Function
    Properties: {FunctionName: lean, Handler: bench.handler, Runtime: python3.13, MemorySize: 1769, Timeout: 60}
  Torch:
    Type: AWS::Lambda::Function
    Metadata: {Estafeta: {Preload: [torch]}}
    Properties: {FunctionName: torch, Handler: bench.handler, Runtime: python3.13, MemorySize: 1769, Timeout: 60}
"""


@dataclass(frozen=True)
class Result:
    """Times of one case, in milliseconds."""

    case: str
    count: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    machine: str


def result(case: str, times_ns: list[int]) -> Result:
    """Summarise one case."""
    times_ms = sorted(time_ns / 1e6 for time_ns in times_ns)

    def quantile(share: float) -> float:
        return round(times_ms[min(int(share * len(times_ms)), len(times_ms) - 1)], 3)

    return Result(
        case=case,
        count=len(times_ms),
        median_ms=round(statistics.median(times_ms), 3),
        p10_ms=quantile(0.1),
        p90_ms=quantile(0.9),
        p99_ms=quantile(0.99),
        machine=describe(),
    )


class Probes:
    """Notes the times at which methods of the service are entered or left."""

    def __init__(self) -> None:
        self.times: dict[str, list[int]] = {}

    def on(self, owner: type, method: str, *, leaving: bool = False) -> None:
        """Wrap one method."""
        original: Callable[..., Any] = getattr(owner, method)
        times = self.times.setdefault(method, [])

        def probed(*args: Any, **options: Any) -> Any:
            if not leaving:
                times.append(time.monotonic_ns())
            answer = original(*args, **options)
            if leaving:
                times.append(time.monotonic_ns())
            return answer

        setattr(owner, method, probed)


@contextmanager
def probed_service(home: Path, options: Options, times: Path) -> Iterator[Endpoint]:
    """Run a service in a forked process; its probes' times are in the file `times` afterwards."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        probes = Probes()
        probes.on(HttpProtocol, "data_received")
        probes.on(Process, "thaw", leaving=True)
        probes.on(Environment, "on_next", leaving=True)

        async def serve() -> None:
            await Service(home, options).run(lambda endpoint: _tell(writing, endpoint))

        asyncio.run(serve())
        times.write_text(json.dumps(probes.times))
        os._exit(0)
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            yield Endpoint(**json.loads(pipe.readline()))
    finally:
        os.kill(pid, 15)
        os.waitpid(pid, 0)


def _tell(descriptor: int, endpoint: Endpoint) -> None:
    os.write(descriptor, json.dumps(asdict(endpoint)).encode() + b"\n")


def send_events(client: Any, notes: Path, count: int) -> list[tuple[int, int]]:
    """Send events one after the other, each when the one before has been handled.

    Returns:
        Times before and after each call.
    """
    notes.touch()
    payload = json.dumps({"path": str(notes)}).encode()
    calls: list[tuple[int, int]] = []
    while len(calls) < count:
        before = time.monotonic_ns()
        # An answer that is not read costs its connection.
        client.invoke(FunctionName="lean", InvocationType="Event", Payload=payload)["Payload"].read()
        calls.append((before, time.monotonic_ns()))
        while notes.read_bytes().count(b"\n") < len(calls):
            time.sleep(0.001)
        time.sleep(0.005)  # until it is frozen
    return calls


def round_trips(client: Any, count: int) -> list[int]:
    """Times of synchronous calls."""
    times: list[int] = []
    for _ in range(count):
        before = time.monotonic_ns()
        client.invoke(FunctionName="lean", Payload=b"{}")["Payload"].read()
        times.append(time.monotonic_ns() - before)
    return times


def cold_starts(client: Any) -> list[int]:
    """Times from the call to the first line of the handler, many at once."""
    client.invoke(FunctionName="torch", Payload=b"{}")["Payload"].read()  # now the zygote is warm
    client.publish_version(FunctionName="torch")  # whose environments are all new

    def start(_: int) -> int:
        before = time.monotonic_ns()
        answer = client.invoke(FunctionName="torch", Qualifier="1", Payload=b"{}")
        return int(answer["Payload"].read()) - before

    with ThreadPoolExecutor(COLD_ENVIRONMENTS) as pool:
        return list(pool.map(start, range(COLD_ENVIRONMENTS)))


def measure(events: int) -> list[Result]:
    """Run all cases."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "code").mkdir()
        (home / "code" / "bench.py").write_text(HANDLER)
        (home / "template.yaml").write_text(TEMPLATE)
        options = Options(
            template=home / "template.yaml", root=home / "root", task_root=home / "code", init_limit_s=120
        )
        with probed_service(home, options, home / "times") as endpoint:
            client = make_client("lambda", **endpoint.client_options())
            cold = cold_starts(client)
            calls = send_events(client, home / "notes", events + WARM_UP)[WARM_UP:]
            trips = round_trips(client, events + WARM_UP)[WARM_UP:]
        handled = [tuple(map(int, line.split())) for line in (home / "notes").read_text().splitlines()][WARM_UP:]
        times: dict[str, list[int]] = json.loads((home / "times").read_text())
    accepted = [first_after(times["data_received"], before) for before, _ in calls]
    thawed = [first_after(times["thaw"], accept) for accept in accepted]
    answered = [first_after(times["data_received"], ended) for _, ended in handled]
    freed = [first_after(times["on_next"], ended) for _, ended in handled]
    return [
        result("client call", [after - before for before, after in calls]),
        result("event to handler", [began - before for (before, _), (began, _) in zip(calls, handled, strict=True)]),
        result("service, before", [began - accept for accept, (began, _) in zip(accepted, handled, strict=True)]),
        result("  until thawed", [thaw - accept for accept, thaw in zip(accepted, thawed, strict=True)]),
        result("service, after", [free - ended for free, (_, ended) in zip(freed, handled, strict=True)]),
        result("  until answered", [answer - ended for answer, (_, ended) in zip(answered, handled, strict=True)]),
        result("sync round trip", trips),
        result(f"cold start, {COLD_ENVIRONMENTS} torch environments", cold),
    ]


def first_after(times: list[int], moment: int) -> int:
    """The first of some times that is not before a moment."""
    return min(time_ns for time_ns in times if time_ns >= moment)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, help="events and calls to measure; 300 by default")
    parser.add_argument("--short", action="store_true", help="60 events")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    arguments = parser.parse_args()
    results = measure(arguments.events or (60 if arguments.short else 300))
    if arguments.json:
        print(json.dumps([asdict(item) for item in results]))
        return
    print(describe())
    print(f"{'case':36} {'count':>6} {'median':>9} {'p10':>9} {'p90':>9} {'p99':>9}  ms")
    for item in results:
        times = f"{item.median_ms:9.3f} {item.p10_ms:9.3f} {item.p90_ms:9.3f} {item.p99_ms:9.3f}"
        print(f"{item.case:36} {item.count:6} {times}")


if __name__ == "__main__":
    main()
