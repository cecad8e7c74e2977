"""How long all ranks stand still while they hand over to their successors.

    python benchmarks/bench_handover.py [--ranks N] [--rounds-per-invocation 400] [--handovers 6]
                                        [--topology auto|sharded|replicated] [--short] [--json]

Runs `estafeta train -o rounds_per_invocation=K` on a warm local service. An epoch is a single round, so the epoch
records say when each round ended; the functions' own notes say with which version each leg began and why the one before
it left. The stall of a handover at version v is

    (end of round v + 1) - (end of round v - 1) - 2 normal rounds

since the successor does what is left of round v (its record) and all of the next one. A normal round is the median
between handovers. So the stall has in it what belongs to a handover: saving, the word that a leg has left, and the
successor's reading of what was saved.

    early    K so large that successors are called in time: they have started, imported and loaded when the others leave
    late     K = 1: a leg lasts one round, and calls its successor in it; nobody is ready, so the ranks stand still for
             as long as starting takes in a warm environment

To have rounds look alike, no epoch but the first counts as the best, so none is saved for that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command import Home, Trained
from machine import describe
from ranks import clean_up_when_ended

JOB = f"{Path(__file__).with_name('jobs') / 'training.py'}:classes"
ROWS_OF_A_RANK = 256
LATE_HANDOVERS = 10
READY = "all successors are ready"


@dataclass(frozen=True)
class Result:
    """Handovers of one kind. Times in milliseconds."""

    case: str
    ranks: int
    topology: str
    handovers: int
    stall_ms: float
    longest_stall_ms: float
    round_ms: float
    vs_round: float
    machine: str


@dataclass(frozen=True)
class Handover:
    """One handover of rank 0: after which version, and why."""

    version: int
    why: str


def notes_of(trained: Trained) -> Iterator[dict[str, Any]]:
    """What resident workers have noted, invocation by invocation: all facts of one in one."""
    for entry in trained.run.log():
        if entry.note.get("task") == "reside":
            facts: dict[str, Any] = {}
            for line in entry.lines:
                if line.startswith('{"run": '):
                    facts.update(json.loads(line))
            yield facts


def handovers_of(trained: Trained) -> list[Handover]:
    """The handovers of rank 0."""
    legs = sorted((note for note in notes_of(trained) if note["rank"] == 0), key=lambda note: note["leg"])
    found = []
    for old, new in itertools.pairwise(legs):
        if old.get("left_at") is not None and "began_at" in new:
            found.append(Handover(old["left_at"], old["why"]))
    return found


def train(home: Home, options: argparse.Namespace, rounds: int, per_invocation: int | None) -> Trained:
    """A run of so many rounds, each an epoch."""
    rows = ROWS_OF_A_RANK * options.ranks
    return home.train(
        JOB,
        options.ranks,
        options.topology,
        epochs=rounds,
        batch_size=rows,
        micro_batch_size=ROWS_OF_A_RANK,
        dataset__folder=str(options.folder),
        dataset__count=rows,
        early_stopping__mode="max",
        rounds_per_invocation=per_invocation,
    )


def gaps_ms(trained: Trained) -> list[float]:
    """Milliseconds of each round; that of version v to v + 1 stands at v, for v from 1."""
    return [0.0, *((later - sooner) * 1000 for sooner, later in itertools.pairwise(trained.epochs_ended_at()))]


def normal_ms(gaps: list[float], handovers: list[Handover]) -> float:
    """Median of the rounds that no handover touches."""
    touched = {version + offset for handover in handovers for version in [handover.version] for offset in (-1, 0)}
    return statistics.median(gap for version, gap in enumerate(gaps) if version and version not in touched)


def result(case: str, trained: Trained, ranks: int, stalls: list[float], round_ms: float) -> Result:
    """Summarise handovers."""
    stall = statistics.median(stalls)
    return Result(
        case=case,
        ranks=ranks,
        topology=str(trained.summary["topology"]),
        handovers=len(stalls),
        stall_ms=round(stall, 2),
        longest_stall_ms=round(max(stalls), 2),
        round_ms=round(round_ms, 3),
        vs_round=round(stall / round_ms, 2),
        machine=describe(),
    )


def measure(home: Home, options: argparse.Namespace) -> list[Result]:
    """Early and late handovers."""
    per_invocation, wanted = options.rounds_per_invocation, options.handovers
    train(home, options, 2 * per_invocation, per_invocation)  # warm: environments for two legs of each rank
    trained = train(home, options, (wanted + 2) * per_invocation, per_invocation)  # the first leg is slow to learn
    gaps, handovers = gaps_ms(trained), handovers_of(trained)
    round_ms = normal_ms(gaps, handovers)
    early = [
        gaps[h.version - 1] + gaps[h.version] - 2 * round_ms
        for h in handovers
        if h.why == READY and 2 <= h.version < len(gaps)
    ]
    if not early:
        whys = ", ".join(sorted({handover.why for handover in handovers})) or "there was no handover"
        raise SystemExit(f"no successor was ready in time ({whys}): give more --rounds-per-invocation")
    results = [result("handover-early", trained, options.ranks, early, round_ms)]
    trained = train(home, options, LATE_HANDOVERS + 2, 1)
    gaps, handovers = gaps_ms(trained), handovers_of(trained)
    late = [gaps[h.version] - round_ms for h in handovers if 2 <= h.version < len(gaps)]  # each round has a handover
    return [*results, result("handover-late", trained, options.ranks, late, round_ms)]


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=os.cpu_count(), help="workers; as many as cores by default")
    parser.add_argument("--topology", choices=["auto", "sharded", "replicated"], default="auto")
    parser.add_argument("--rounds-per-invocation", type=int, metavar="K", help="400 by default")
    parser.add_argument("--handovers", type=int, help="about so many early ones; 6 by default")
    parser.add_argument("--short", action="store_true", help="two early handovers")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    options.rounds_per_invocation = options.rounds_per_invocation or (250 if options.short else 400)
    options.handovers = options.handovers or (2 if options.short else 6)
    clean_up_when_ended()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, Home() as home:
        from jobs.training import make_rows

        options.folder = folder
        make_rows(Path(folder), ROWS_OF_A_RANK * options.ranks, 1)
        results = measure(home, options)
    if options.json:
        print(json.dumps([asdict(item) for item in results]))
        return
    print(describe())
    print(f"{'case':16}{'handovers':>10} {'stall':>10} {'longest':>10} {'round':>10} ms")
    for row in results:
        print(f"{row.case:16}{row.handovers:10} {row.stall_ms:10.2f} {row.longest_stall_ms:10.2f} {row.round_ms:10.2f}")


if __name__ == "__main__":
    main()
