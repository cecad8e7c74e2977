"""What importing costs beside reading, and what batches from blocks cost beside slices of an array in memory.

    python benchmarks/bench_data.py [--dir DIR] [--csv-mb 200] [--table-mb 128] [--only import] [--json]

    import     a CSV of a seeded script, read by pyarrow's streaming reader alone, and imported: in turns, MB of text a
               second, and the most memory that each process takes
    batches    the same rows of the same table, in the order of an epoch: sliced from numpy arrays; from blocks that all
               fit; from blocks of which two windows fit
    steps      a training step on those batches, with 5 ms added to every call of the store
    blocks     reading all blocks once by two threads, for several sizes of a block, with and without 5 ms a call

Ways of a group take turns, so that a slow moment of the machine meets all of them alike.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from torch import nn

from estafeta.blocktable import BlockTable
from estafeta.catalog import read_manifest
from estafeta.files import Buffer, OsFiles, Reader
from estafeta.importing.arrays import Arrays, from_array
from estafeta.importing.importer import Wishes, import_dataset
from estafeta.sampling import steps_per_epoch
from estafeta.store import Store
from estafeta.windows import BlockRows, Deal

MIB = 1 << 20
COLUMNS = 20
WIDTH = 784
BATCH = 256
WINDOW = 32 * MIB
LATENCY_S = 0.005

READ = """
import sys
from pyarrow import csv
for batch in csv.open_csv(sys.argv[1]):
    pass
"""
READ_TYPED = """
import sys
import pyarrow as pa
from pyarrow import csv
types = {name: pa.float32() for name in csv.open_csv(sys.argv[1]).schema.names[:-2]}
types["city"] = pa.dictionary(pa.int32(), pa.string())
for batch in csv.open_csv(sys.argv[1], convert_options=csv.ConvertOptions(column_types=types)):
    pass
"""
IMPORT = """
import sys
from estafeta.importing.importer import Wishes, import_dataset
from estafeta.importing.sources import Reading, open_source
from estafeta.importing.tabular import Choice
from estafeta.store import Store
source = open_source([sys.argv[1]], Reading(choice=Choice("bought")))
import_dataset(Store(sys.argv[2]), sys.argv[3], source, (), Wishes(standardize=True))
"""


PEAK = """
import re, pathlib
print(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""
"""The most memory of the process itself: `ru_maxrss` begins with that of its parent."""


class Distant(OsFiles):
    """Files that are 5 ms away: each call waits."""

    def listdir(self, path: str) -> list[str]:
        """See `Files.listdir`."""
        time.sleep(LATENCY_S)
        return super().listdir(path)

    def open(self, path: str) -> Reader:
        """See `Files.open`."""
        time.sleep(LATENCY_S)
        return DistantReader(super().open(path))


class DistantReader:
    """A file that is 5 ms away."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.size = reader, reader.size

    def readinto(self, buffer: Buffer, offset: int) -> int:
        """See `Reader.readinto`."""
        time.sleep(LATENCY_S)
        return self._reader.readinto(buffer, offset)

    def __enter__(self) -> DistantReader:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._reader.__exit__(*raised)


def write_csv(path: Path, megabytes: int) -> None:
    """Twenty numbers, a text and a label in each row; made by a seed."""
    random = np.random.default_rng(1)
    row = ",".join(["%.6f"] * COLUMNS) + ",city%d,%d\n"
    with path.open("w") as file:
        file.write(",".join(f"x{column}" for column in range(COLUMNS)) + ",city,bought\n")
        while file.tell() < megabytes * 1e6:
            numbers = random.standard_normal((5000, COLUMNS))
            cities, labels = random.integers(0, 8, 5000).tolist(), (numbers[:, 0] > 0).tolist()
            file.write("".join(row % (*x, city, label) for x, city, label in zip(numbers, cities, labels, strict=True)))


def importing(folder: Path, megabytes: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Reading and importing one file, in processes of their own."""
    path, store = folder / "table.csv", folder / "imported"
    write_csv(path, megabytes)
    store.mkdir()
    ways = {
        "pyarrow's streaming reader, its own types": [READ],
        "pyarrow's streaming reader, types as imported": [READ_TYPED],
        "import": [IMPORT, str(store)],
    }
    size = path.stat().st_size / 1e6
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    peaks: dict[str, float] = {}
    for repeat in range(repeats):
        for way, (program, *arguments) in ways.items():
            before = time.perf_counter()
            command = [sys.executable, "-c", program + PEAK, str(path), *arguments, f"d{repeat}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            speeds[way].append(size / (time.perf_counter() - before))
            peaks[way] = max(peaks.get(way, 0), int(done.stdout) / 1024)
    path.unlink()
    base = statistics.median(speeds[next(iter(ways))])
    for way, speed in speeds.items():
        median = statistics.median(speed)
        yield {"case": f"import: {way}", "mb_per_s": round(median, 1), "vs_base": round(median / base, 2),
               "peak_mb": round(peaks[way])}  # fmt: skip


def table(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    return random.standard_normal((rows, WIDTH), np.float32), random.integers(0, 10, rows)


def bring(store: Store, name: str, arrays: Sequence[np.ndarray], block_bytes: int) -> BlockRows:
    source = Arrays({"x": from_array(arrays[0]), "y": from_array(arrays[1])}, name, "y", 0)
    manifest = import_dataset(store, name, source, (), Wishes(block_bytes=block_bytes))
    return BlockRows(manifest.starts, tuple(extent.bytes for extent in manifest.blocks))


def batches(folder: Path, megabytes: int, steps: int) -> Iterator[dict[str, Any]]:
    """One epoch's first batches, from several places; then training steps on them."""
    arrays = table(megabytes * MIB // (4 * WIDTH))
    inputs, target = arrays
    store, distant = Store(folder), Store(folder, Distant())
    rows = bring(store, "table", arrays, 4 * MIB)
    manifest = read_manifest(store, "table")
    deal = Deal(rows, 1, BATCH, steps_per_epoch(len(rows), BATCH, False), BATCH, WINDOW, seed=1)
    steps = min(steps, deal.steps)
    two_windows = 2 * WINDOW + 4 * MIB

    def sliced() -> Callable[[int], tuple[torch.Tensor, ...]]:
        def batch(step: int) -> tuple[torch.Tensor, ...]:
            rows = deal.train(step, 0)[0]
            return torch.from_numpy(inputs[rows]), torch.from_numpy(target[rows])

        return batch

    def blocks(store: Store, room: int, warm: bool) -> Callable[[int], tuple[torch.Tensor, ...]]:
        table = BlockTable(store, manifest, room)
        if warm:
            for block in range(len(manifest.blocks)):
                table.batch(manifest.starts[block : block + 1])

        def batch(step: int) -> tuple[torch.Tensor, ...]:
            share = deal.train(step, 0)
            table.expect(share.blocks(0))
            return table.batch(share[0])

        return batch

    model = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 10))

    def trained(batch: tuple[torch.Tensor, ...]) -> None:
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()

    torch.set_num_threads(1)
    places = {
        "sliced from numpy arrays": sliced,
        "blocks that all fit": lambda: blocks(store, 1 << 40, True),
        "blocks, two windows fit": lambda: blocks(store, two_windows, False),
        "blocks, two windows fit, 5 ms a call": lambda: blocks(distant, two_windows, False),
    }
    in_memory = in_turns({place: places[place] for place in list(places)[:2]}, steps)
    base = in_memory[next(iter(in_memory))]
    for place, median in in_memory.items():
        yield {"case": f"batch, in turns: {place}", "median_us": round(median, 1), "vs_base": round(median / base, 2)}
    for group, use in (("batch", len), ("step", trained)):
        means = epochs(places, use, steps)
        base = means[next(iter(places))]
        for place, mean in means.items():
            yield {"case": f"{group}: {place}", "mean_us": round(mean, 1), "vs_base": round(mean / base, 2)}


def in_turns(places: dict[str, Any], steps: int) -> dict[str, float]:
    """Median time of a batch in places where nothing goes on between two batches, in microseconds."""
    makers = {place: make() for place, make in places.items()}
    taken: dict[str, list[float]] = {place: [] for place in places}
    for repeat in range(5):
        for step in range(steps):
            order = list(makers) if (step + repeat) % 2 else list(makers)[::-1]
            for place in order:
                before = time.perf_counter()
                makers[place](step)
                taken[place].append((time.perf_counter() - before) * 1e6)
    return {place: statistics.median(times) for place, times in taken.items()}


def epochs(places: dict[str, Any], use: Callable[[Any], None], steps: int) -> dict[str, float]:
    """Mean time of a step in each place, in microseconds: the least of five times through the first steps.

    The first step of a time through waits for the first window, as a worker does when it starts; it is not counted.
    """
    taken: dict[str, list[float]] = {place: [] for place in places}
    for _ in range(5):
        for place, make in places.items():
            batch = make()
            use(batch(0))
            before = time.perf_counter()
            for step in range(1, steps):
                use(batch(step))
            taken[place].append((time.perf_counter() - before) / (steps - 1) * 1e6)
    return {place: min(times) for place, times in taken.items()}


def block_sizes(folder: Path, megabytes: int) -> Iterator[dict[str, Any]]:
    """Reading everything once, block by block, two at a time."""
    arrays = table(megabytes * MIB // (4 * WIDTH))
    sizes = (MIB // 4, MIB, 4 * MIB, 16 * MIB)
    for size in sizes:
        bring(Store(folder), f"blocks-{size}", arrays, size)
    ways = [(size, store) for store in (Store(folder), Store(folder, Distant())) for size in sizes]
    taken: dict[tuple[int, Store], list[float]] = {way: [] for way in ways}
    for _ in range(3):
        for size, store in ways:
            manifest = read_manifest(store, f"blocks-{size}")
            reader = BlockTable(store, manifest, 64 * MIB)
            before = time.perf_counter()
            for block in range(len(manifest.blocks)):
                reader.expect(np.arange(block, min(block + 4, len(manifest.blocks))))
                reader.batch(manifest.starts[block : block + 1])
            taken[size, store].append(manifest.bytes / MIB / (time.perf_counter() - before))
    for (size, store), speeds in taken.items():
        delay = "5 ms a call" if store is ways[-1][1] else "no delay"
        yield {"case": f"blocks of {size / MIB:g} MiB, {delay}", "mb_per_s": round(statistics.median(speeds), 1)}


def main() -> None:
    """Print the table, and with `--json` the rows as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="a directory on the file system to measure; a temporary one by default")
    parser.add_argument("--csv-mb", type=int, default=200)
    parser.add_argument("--table-mb", type=int, default=128)
    parser.add_argument("--only", choices=["import", "batches", "blocks"], help="one group alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows: list[dict[str, Any]] = [{"case": "a process with PyTorch and this package", "peak_mb": round(peak)}]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        if options.only in (None, "import"):
            rows += importing(Path(folder), options.csv_mb, options.repeats)
        if options.only in (None, "batches"):
            rows += batches(Path(folder), options.table_mb, steps=300)
        if options.only in (None, "blocks"):
            rows += block_sizes(Path(folder), options.table_mb)
    print(describe())
    for row in rows:
        facts = "".join(f"{value:>12,} {name}" for name, value in row.items() if name != "case")
        print(f"{row['case']:56}{facts}")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
