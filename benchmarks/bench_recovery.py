"""How long all ranks stand still when one of them is killed, and what a duplicate delivery costs.

python benchmarks/bench_recovery.py [--ranks N] [--topology auto|sharded|replicated] [--kills 6] [--short] [--json]

killed      `kill -9` of the execution environment of a worker that is at work, again and again in one run on the
            warm local service. An epoch is a single round, so the epoch records say when each round ended: the
            stall is the longest gap between two of them after a kill, less a normal round. It has in it that the
            peers notice, that another environment starts and loads, and that it gets back to where the run is.
duplicate   every event is delivered twice (`--chaos duplicate=1`): how long the invocations last that find out
            that they are the second. Where no environment is idle, Lambda starts one; that is not in it.
looking     the same of rank 0, whose second deliveries wait until the rank publishes something
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command import Home
from machine import describe
from ranks import clean_up_when_ended

from estafeta import local
from estafeta.client.backend import home as service_home
from estafeta.client.run import ENDED, Run

JOB = f"{Path(__file__).with_name('jobs') / 'training.py'}:classes"
ROWS_OF_A_RANK = 256
ENOUGH = 10**6
"""Rounds: more than fit the time; the run is stopped."""

FIRST_ROUNDS = 200
BETWEEN_ROUNDS = 100
LEG_ROUNDS, LEGS = 40, 6
SECOND = re.compile(r'"done": "left: (a duplicate|a later leg)')
DEADLINE_S = 120.0


@dataclass(frozen=True)
class Result:
    """One case. Times in milliseconds."""

    case: str
    ranks: int
    topology: str
    count: int
    median_ms: float
    longest_ms: float
    round_ms: float
    machine: str


def reached(run: Run, version: int) -> int:
    """Wait until a run has got to a version; return where it is."""
    deadline = time.monotonic() + DEADLINE_S
    while (status := run.status()).version < version:
        if status.state in ENDED or time.monotonic() > deadline:
            why = status.outcome.why if status.outcome else "it stands still"
            raise SystemExit(f"{run.name} is at version {status.version} of {version}: {why}")
        time.sleep(0.02)
    return status.version


def workers_at_work() -> list[int]:
    """Processes of the service's worker environments that are not frozen."""
    service = local.find(service_home())
    assert service is not None
    return [pid for zygote in children(service.pid) for pid in children(zygote) if is_worker_at_work(pid)]


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_worker_at_work(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "TZX" and "/estafeta-worker" in os.readlink(f"/proc/{pid}/fd/1")
    except (FileNotFoundError, ProcessLookupError):
        return False


def stalls_ms(run: Run, killed_at: list[float]) -> tuple[list[float], float]:
    """The longest gap between two rounds after each kill, less a normal round; and how long that is."""
    ended_at = [record.ended_at for record in run.status(since_epoch=0).epochs]
    gaps = [(end, (end - begin) * 1000) for begin, end in itertools.pairwise(ended_at)]
    round_ms = statistics.median(gap for _, gap in gaps)
    bounds = itertools.pairwise([*killed_at, float("inf")])
    return [max(gap for end, gap in gaps if since <= end < until) - round_ms for since, until in bounds], round_ms


def killed(home: Home, options: argparse.Namespace) -> Result:
    """Kill workers of one run."""
    choice = random.Random(1)
    run = home.start(JOB, options.ranks, options.topology, epochs=ENOUGH, **job_options(options))
    version, killed_at = reached(run, FIRST_ROUNDS), []
    for _ in range(options.kills):
        victim = choice.choice(sorted(workers_at_work()))
        killed_at.append(time.time())
        os.kill(victim, signal.SIGKILL)
        version = reached(run, version + BETWEEN_ROUNDS)
    run.stop_and_wait()
    stalls, round_ms = stalls_ms(run, killed_at)
    return result("killed", run, options, stalls, round_ms)


def duplicates(home: Home, options: argparse.Namespace) -> list[Result]:
    """Deliver all events of a run twice."""
    run = home.start(
        JOB,
        options.ranks,
        options.topology,
        chaos="duplicate=1,seed=1",
        epochs=LEG_ROUNDS * LEGS,
        rounds_per_invocation=LEG_ROUNDS,
        **job_options(options),
    )
    run.wait()
    _, round_ms = stalls_ms(run, [])
    found = list(second_deliveries(run))
    times_ms = {
        case: [lasted_ms for rank, lasted_ms in found if (rank == 0) == looks]
        for case, looks in (("duplicate", False), ("looking", True))
    }
    return [result(case, run, options, times, round_ms) for case, times in times_ms.items() if times]


def second_deliveries(run: Run) -> Iterator[tuple[int, float]]:
    """The rank of each, and how many milliseconds it lasted."""
    for entry in run.log():
        lasted = re.search(r"\tDuration: ([\d.]+) ms", entry.report)
        if lasted and any(SECOND.search(line) for line in entry.lines):
            yield int(entry.note["rank"]), float(lasted[1])


def job_options(options: argparse.Namespace) -> dict[str, Any]:
    """A round an epoch; none but the first is the best, so none is saved for that."""
    rows = ROWS_OF_A_RANK * options.ranks
    return {
        "batch_size": rows,
        "micro_batch_size": ROWS_OF_A_RANK,
        "dataset__folder": str(options.folder),
        "dataset__count": rows,
        "early_stopping__mode": "max",
    }


def result(case: str, run: Run, options: argparse.Namespace, times_ms: list[float], round_ms: float) -> Result:
    """Summarise."""
    return Result(
        case=case,
        ranks=options.ranks,
        topology=str(run.status().topology),
        count=len(times_ms),
        median_ms=round(statistics.median(times_ms), 2),
        longest_ms=round(max(times_ms), 2),
        round_ms=round(round_ms, 3),
        machine=describe(),
    )


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=os.cpu_count(), help="workers; as many as cores by default")
    parser.add_argument("--topology", choices=["auto", "sharded", "replicated"], default="auto")
    parser.add_argument("--kills", type=int, help="so many; 6 by default")
    parser.add_argument("--short", action="store_true", help="two kills")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    options.kills = options.kills or (2 if options.short else 6)
    clean_up_when_ended()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, Home() as home:
        from jobs.training import make_rows

        options.folder = folder
        make_rows(Path(folder), ROWS_OF_A_RANK * options.ranks, 1)
        results = [killed(home, options), *duplicates(home, options)]
    if options.json:
        print(json.dumps([asdict(item) for item in results]))
        return
    print(describe())
    print(f"{'case':12}{'count':>6} {'median':>10} {'longest':>10} {'round':>10} ms")
    for row in results:
        print(f"{row.case:12}{row.count:6} {row.median_ms:10.2f} {row.longest_ms:10.2f} {row.round_ms:10.2f}")


if __name__ == "__main__":
    main()
