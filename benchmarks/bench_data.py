"""What importing costs beside reading, and what batches from blocks cost beside slices of an array in memory.

    python benchmarks/bench_data.py [--dir DIR] [--csv-mb 1000] [--table-mb 512] [--only import] [--short] [--json]

    import     a CSV of a seeded script, read by pyarrow's streaming reader alone, and imported: in turns, MB of text a
               second, and the most memory that each process takes
    batches    the same rows of the same table, in the order of an epoch: sliced from numpy arrays; from blocks that all
               fit; from blocks of which two windows fit, so that each is read once in an epoch; the same with 5 ms
               added to every call of the store. `batch, nothing else` has nothing between two batches: it is the
               processor's time for reading and checking. `batch` is what the training thread waits for one between two
               training steps, `step` the step with it, `new window` the steps alone in which a window begins. An epoch
               ends when what is read ahead for the next one is there: each reads as much as it uses
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from machine import describe
from torch import nn

from estafeta.data.catalog import read_manifest
from estafeta.data.importing.arrays import Arrays, from_array
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.sampler import steps_per_epoch
from estafeta.data.windows import BlockRows, Deal
from estafeta.store.files import Buffer, OsFiles, Reader
from estafeta.store.store import Store
from estafeta.training.block_table import BlockTable

MIB = 1 << 20
COLUMNS = 20
WIDTH = 784
BATCH = 256
WINDOW = 64 * MIB
LATENCY_S = 0.005
ALONE = 5
"""An epoch without training steps lasts a tenth of a second: so many times as many are measured."""

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
from estafeta.data.importing.importer import Wishes, import_dataset
from estafeta.data.importing.sources import Reading, open_source
from estafeta.data.importing.tabular import Choice
from estafeta.store.store import Store
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

    def scatter(self, buffers: Sequence[Buffer], offset: int) -> int:
        """See `Reader.scatter`."""
        time.sleep(LATENCY_S)
        return self._reader.scatter(buffers, offset)

    def close(self) -> None:
        """See `Reader.close`."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


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
        yield {
            "case": f"import: {way}",
            "mb_per_s": round(median, 1),
            "vs_base": round(median / base, 2),
            "peak_mb": round(peaks[way]),
        }


def table(rows: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(2)
    return random.standard_normal((rows, WIDTH), np.float32), random.integers(0, 10, rows)


def bring(store: Store, name: str, arrays: Sequence[np.ndarray], block_bytes: int) -> BlockRows:
    source = Arrays({"x": from_array(arrays[0], "x"), "y": from_array(arrays[1], "y")}, name, "y", 0)
    manifest = import_dataset(store, name, source, (), Wishes(block_bytes=block_bytes))
    return BlockRows(manifest.starts, tuple(extent.bytes for extent in manifest.blocks))


class Sliced:
    """Batches as everybody cuts them from arrays in memory."""

    def __init__(self, arrays: Sequence[np.ndarray], deal: Deal) -> None:
        self._arrays, self._deal = arrays, deal

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """The batch of a step."""
        rows = self._deal.train(step, 0)[0]
        return tuple(torch.from_numpy(array[rows]) for array in self._arrays)

    def settle(self) -> None:
        """Nothing is read ahead."""


class FromBlocks:
    """Batches as a worker reads them."""

    def __init__(self, store: Store, room: int, deal: Deal) -> None:
        self._manifest = read_manifest(store, "table")
        self._table, self._deal = BlockTable(store, self._manifest, room), deal
        self._ahead = np.arange(0)

    def batch(self, step: int) -> tuple[torch.Tensor, ...]:
        """The batch of a step."""
        share = self._deal.train(step, 0)
        self._table.expect(ahead := share.blocks(0))
        self._ahead = ahead
        return self._table.batch(share[0])

    def settle(self) -> None:
        """Wait until all that is read ahead is there."""
        self._table.batch(self._manifest.starts[self._ahead[: self._table.slots]])


def batches(folder: Path, megabytes: int, repeats: int) -> Iterator[dict[str, Any]]:
    """Batches from several places; then training steps on them."""
    arrays = table(megabytes * MIB // (4 * WIDTH))
    store, distant = Store(folder), Store(folder, Distant())
    rows = bring(store, "table", arrays, 4 * MIB)
    deal = Deal(rows, 1, BATCH, steps_per_epoch(len(rows), BATCH, True), BATCH, WINDOW, seed=1)
    two_windows = 2 * WINDOW + 4 * MIB
    model = nn.Sequential(nn.Linear(WIDTH, 512), nn.ReLU(), nn.Linear(512, 10))

    def trained(batch: tuple[torch.Tensor, ...]) -> None:
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]

    torch.set_num_threads(1)
    places: dict[str, Sliced | FromBlocks] = {
        "sliced from numpy arrays": Sliced(arrays, deal),
        "blocks that all fit": FromBlocks(store, 1 << 40, deal),
        "blocks, two windows fit": FromBlocks(store, two_windows, deal),
        "blocks, two windows fit, 5 ms a call": FromBlocks(distant, two_windows, deal),
    }
    windows = [int(deal.train(step, 0).blocks(0)[0]) for step in range(deal.steps)]
    begins = {step for step in range(1, deal.steps) if windows[step] != windows[step - 1]}
    for name, use, times in (("batch, nothing else", None, ALONE * repeats), ("", trained, repeats)):
        timings = epochs(places, use, deal.steps, times)
        cases = {name: "step"} if name else {"batch": "batch", "step": "step", "new window": "new window"}
        for case, what in cases.items():
            means = {place: timing.mean(what, begins) for place, timing in timings.items()}
            base = means[next(iter(places))]
            for place, mean in means.items():
                yield {"case": f"{case}: {place}", "mean_us": round(mean, 1), "vs_base": round(mean / base, 2)}


class Timing:
    """What the steps of some epochs took. The first one, which touches memory for the first time, does not count."""

    def __init__(self) -> None:
        self._epochs: list[tuple[float, list[float], list[float]]] = []

    def add(self, settled: float, batches: list[float], steps: list[float]) -> None:
        """An epoch: waiting at its end, and by step for the batch and altogether."""
        self._epochs.append((settled, batches, steps))

    def mean(self, what: str, begins: set[int]) -> float:
        """Median over the epochs of the mean of a step's batch, of a step, or of those in which a window begins."""
        means = []
        for settled, batches, steps in self._epochs[1:]:
            if what == "new window":
                means.append(statistics.mean(steps[step] for step in begins))
            else:
                means.append((settled + sum(batches if what == "batch" else steps)) / len(steps))
        return statistics.median(means) * 1e6


def epochs(
    places: Mapping[str, Sliced | FromBlocks], use: Callable[[Any], Any] | None, steps: int, repeats: int
) -> dict[str, Timing]:
    """Epochs in each place, in turns."""
    timings = {place: Timing() for place in places}
    for epoch in range(repeats + 1):
        for place, source in places.items():
            fetching, whole = [], []
            for step in range(steps):
                before = time.perf_counter()
                batch = source.batch(epoch * steps + step)
                fetching.append(time.perf_counter() - before)
                if use:
                    use(batch)
                whole.append(time.perf_counter() - before)
            before = time.perf_counter()
            source.batch((epoch + 1) * steps)  # says what the next epoch needs first
            source.settle()
            timings[place].add(time.perf_counter() - before, fetching, whole)
    return timings


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
    parser.add_argument("--csv-mb", type=int, default=1000)
    parser.add_argument("--table-mb", type=int, default=512)
    parser.add_argument("--only", choices=["import", "batches", "blocks"], help="one group alone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    parser.add_argument("--short", action="store_true", help="a small file, a small table, two repeats")
    options = parser.parse_args()
    if options.short:
        options.csv_mb, options.table_mb, options.repeats = 50, 256, 2
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows: list[dict[str, Any]] = [{"case": "a process with PyTorch and this package", "peak_mb": round(peak)}]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        if options.only in (None, "import"):
            rows += importing(Path(folder), options.csv_mb, options.repeats)
        if options.only in (None, "batches"):
            rows += batches(Path(folder), options.table_mb, options.repeats)
        if options.only in (None, "blocks"):
            rows += block_sizes(Path(folder), options.table_mb)
    print(describe())
    for row in rows:
        facts = "".join(f"{value:>12,} {name}" for name, value in row.items() if name != "case")
        print(f"{row['case']:56}{facts}")
    if options.json:
        print(json.dumps([{"machine": describe(), **row} for row in rows]))


if __name__ == "__main__":
    main()
