"""How long a round of the merge topology takes on the local service, and what it is made of.

    python benchmarks/bench_round.py [--workers 4] [--epochs 10] [--blocks 3] [--short] [--json]

Trains a 10 kB model; every round is N worker invocations and one merge, each through the Invoke API. Beside it stands
the same run inline (one process, no service): the difference is what invoking costs. Runs of both kinds alternate.
`ms_per_round` is between consecutive weights versions, from the functions' own log, so cold starts fall out of the
median.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
from pathlib import Path

from machine import describe

from estafeta import local
from estafeta.client.backend import Backend
from estafeta.client.connect import connect
from estafeta.client.launch import start
from estafeta.client.run import Run
from estafeta.client.source import import_job

JOB = Path(__file__).with_name("jobs") / "rounds.py"


def merge_starts(run: Run) -> list[float]:
    """When each merge of a train round began, in ms."""
    return [e.started_at for e in run.log() if e.role == "merge" and str(e.note["round"]).startswith("train")]


def measure(backend: Backend, workers: int, epochs: int) -> tuple[Run, float]:
    """Train, and return the run with its mean milliseconds per round."""
    found = import_job(str(JOB))
    run = start(*found, backend=backend, workers=workers, topology="merge", options={"epochs": epochs}).wait()
    summary = run.summary()
    return run, summary.train_s * 1000 / summary.rounds


def main() -> None:
    """Print the table, or JSON as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--epochs", type=int, help="10 by default")
    parser.add_argument("--blocks", type=int, help="3 by default")
    parser.add_argument("--short", action="store_true", help="one block of 3 epochs")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    options.epochs = options.epochs or (3 if options.short else 10)
    options.blocks = options.blocks or (1 if options.short else 3)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        os.environ["ESTAFETA_HOME"] = home
        inline, service = connect("inline"), connect("local")
        gaps: list[float] = []
        inline_ms: list[float] = []
        try:
            measure(service, options.workers, 1)  # warms the environments
            for _ in range(options.blocks):
                inline_ms.append(measure(inline, options.workers, options.epochs)[1])
                run, _ = measure(service, options.workers, options.epochs)
                starts = merge_starts(run)
                gaps += [later - earlier for earlier, later in itertools.pairwise(starts)]
        finally:
            local.stop(Path(home))
    median, in_process = statistics.median(gaps), statistics.median(inline_ms)
    row = {
        "case": f"merge-round-10kB-{options.workers}-workers",
        "median_ms": round(median, 2),
        "p10_ms": round(statistics.quantiles(gaps, n=10)[0], 2),
        "p90_ms": round(statistics.quantiles(gaps, n=10)[-1], 2),
        "rounds": len(gaps),
        "inline_ms": round(in_process, 2),
        "vs_inline": round(median / in_process, 2),
        "machine": describe(),
    }
    if options.json:
        print(json.dumps([row]))
    else:
        print("\n".join(f"{name:>10}  {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
