"""A data set several times larger than a worker's memory, trained on to the end: how much memory each function took.

    python benchmarks/bench_memory.py [--times 8] [--memory-mb 512] [--topologies merge,sharded,replicated] [--short]
                              [--json]

The rows are made by a seed and imported; then one epoch in each topology, with two workers, by functions of the local
service, which kills what takes more than its memory. `times` is how many times larger than that the rows are, `max_mb`
the largest "Max Memory Used" of the workers' REPORT lines, `others_mb` that of the other functions, `plan_mb` what the
memory plan adds up to before the start, `room_mb` what it leaves to blocks beyond that, `over` how many invocations
took more than they have.

Needs room under /var/tmp for twice the data set.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from command import Home
from jobs import large
from machine import describe

from estafeta.data.catalog import read_manifest
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.importing.sources import Reading, open_source
from estafeta.store.store import Store
from estafeta.training.memory import MIB, plan_memory

WIDTH = 784
WORKERS = 2
PIECE = 1 << 16
JOB = str(Path(__file__).parent / "jobs/large.py")
MAX_USED = re.compile(r"Memory Size: (\d+) MB\tMax Memory Used: (\d+) MB")


def write_rows(folder: Path, megabytes: int) -> list[str]:
    """Rows of so many MiB in two files; which of ten numbers is the largest is their class."""
    count = megabytes * MIB // (4 * WIDTH + 8)
    rows = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (count, WIDTH))
    labels = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (count,))
    for first in range(0, count, PIECE):
        random = np.random.default_rng(first)
        piece = random.standard_normal((min(PIECE, count - first), WIDTH), np.float32)
        rows[first : first + len(piece)] = piece
        labels[first : first + len(piece)] = piece[:, :10].argmax(1)
    return [str(folder / "x.npy"), str(folder / "y.npy")]


def bring(folder: Path, megabytes: int) -> Store:
    """The rows as a data set of the store in `ESTAFETA_HOME`."""
    root = Path(os.environ["ESTAFETA_HOME"]) / "store"
    root.mkdir(parents=True)
    files = write_rows(folder, megabytes)
    import_dataset(Store(root), "large", open_source(files, Reading()), ("made by a seed",), Wishes())
    for file in files:
        Path(file).unlink()
    return Store(root)


def trained(home: Home, store: Store, topology: str, memory_mb: int) -> dict[str, Any]:
    """One epoch; what its functions took."""
    done = home.train(JOB, WORKERS, topology, worker__memory_mb=memory_mb)
    used: dict[str, list[tuple[int, int]]] = {}
    for entry in done.run.log():
        size, most = map(int, MAX_USED.search(entry.report).groups())  # type: ignore[union-attr]
        used.setdefault(entry.role, []).append((most, size))
    spec = done.run.status().spec
    manifest = read_manifest(store, "large")
    trainable = sum(p.nbytes for p in large.model().parameters())
    plan = plan_memory(spec, trainable, trainable, [manifest])
    needed = plan.needed
    return {
        "case": f"{topology}, {memory_mb} MB",
        "times": round(manifest.bytes / MIB / memory_mb, 2),
        "max_mb": max(most for most, _ in used["worker"]),
        "plan_mb": needed // MIB,
        "room_mb": max(0, plan.room - plan.windows) // MIB,
        "others_mb": max((most for role, found in used.items() if role != "worker" for most, _ in found), default=0),
        "invocations": sum(map(len, used.values())),
        "over": sum(most > size for found in used.values() for most, size in found),
        "accuracy": round(done.summary["metrics"]["train_accuracy"], 3),
        "wall_s": round(done.summary["wall_s"], 1),
    }


def cases(times: float, memory_mb: int, topologies: list[str]) -> Iterator[dict[str, Any]]:
    """A row for each topology."""
    with Home() as home:
        store = bring(home.folder, int(times * memory_mb))
        for topology in topologies:
            yield trained(home, store, topology, memory_mb)


def main() -> None:
    """Print the table, and with `--json` the rows as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=float, default=8)
    parser.add_argument("--memory-mb", type=int, default=512)
    parser.add_argument("--topologies", default="merge,sharded,replicated")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    parser.add_argument("--short", action="store_true", help="as many rows as memory, the sharded topology alone")
    options = parser.parse_args()
    if options.short:
        options.times, options.topologies = 1.0, "sharded"
    print(describe())
    rows = []
    for row in cases(options.times, options.memory_mb, options.topologies.split(",")):
        rows.append(row)
        facts = "".join(f"{value:>10,} {name}" for name, value in row.items() if name != "case")
        print(f"{row['case']:32}{facts}", flush=True)
    if options.json:
        print(json.dumps([{"machine": describe(), **row} for row in rows]))


if __name__ == "__main__":
    main()
