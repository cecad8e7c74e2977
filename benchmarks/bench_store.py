"""What the store's safety costs beside the bare calls of the operating system, and beside the usual ways to save.

    python benchmarks/bench_store.py [--dir DIR] [--repeats 300] [--short] [--json]

Every group does one thing in several ways. The first way, `raw`, is the least that can do it safely: for publishing,
that is open, write, close, link, unlink. `vs_raw` is the median beside that of `raw` in its group. The ways of a group
take turns, each repeat beginning with another, so that a slow moment of the machine meets all of them alike.
On a local file system this measures Python and the kernel; give a mount with `--dir` to measure a server.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import describe
from safetensors.numpy import load_file, save_file

from estafeta.store.store import Store, new_token
from estafeta.store.tensorfile import TensorFile, encode

NOTE = b"x" * 300
"""About the size of a claim or a record."""

TENSOR = np.random.default_rng(1).standard_normal(1 << 18, np.float32)
"""1 MiB: about the gradient of a small network."""

Way = Callable[[str], object]
"""Does its thing under a name that nothing has yet."""


def raw_publish(folder: str, content: bytes) -> Way:
    """The bare calls that a safe publication consists of."""

    def run(name: str) -> None:
        temporary, target = f"{folder}/.tmp-{name}", f"{folder}/{name}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        os.write(descriptor, content)
        os.close(descriptor)
        os.link(temporary, target)
        os.unlink(temporary)

    return run


def write_and_rename(folder: str, content: bytes) -> Way:
    """What most programs do: whoever is last wins."""

    def run(name: str) -> None:
        with open(f"{folder}/.tmp-{name}", "wb") as file:
            file.write(content)
        os.replace(f"{folder}/.tmp-{name}", f"{folder}/{name}")

    return run


def raw_lost_claim(folder: str, winner: str) -> Way:
    """The bare calls of one who comes second and looks who was first."""
    publish, read = raw_publish(folder, NOTE), raw_read(f"{folder}/{winner}", bytearray(1000))

    def run(_: str) -> None:
        try:
            publish(winner)
        except FileExistsError:
            os.unlink(f"{folder}/.tmp-{winner}")
            read(winner)

    return run


def raw_read(path: str, buffer: bytearray | memoryview, offset: int = 0) -> Way:
    """Open, ask for the size, read from `offset` to memory that is there already, close."""

    def run(_: str) -> None:
        descriptor = os.open(path, os.O_RDONLY)
        os.fstat(descriptor)
        os.preadv(descriptor, [buffer], offset)
        os.close(descriptor)

    return run


def groups(store: Store, folder: str) -> dict[str, dict[str, Way]]:
    """All that is compared, by group and way; the first way of each group is `raw`."""
    out = np.empty_like(TENSOR)
    fixed = f"{folder}/fixed"
    store.make_directories("fixed/many")
    for number in range(100):
        store.publish(f"fixed/many/{number:03d}", [NOTE], "x")
    store.publish("fixed/note", [NOTE], "x")
    store.publish("fixed/tensor", encode({"t": TENSOR}, {"token": "x"}), "x")
    np.save(f"{fixed}/tensor.npy", TENSOR)
    store.claim("fixed", "duty", generation=0, token=new_token())

    def publish_tensor(name: str) -> None:
        token = new_token()
        store.publish(f"new/{name}", encode({"t": TENSOR}, {"token": token}), token)

    def read_tensor(_: str) -> None:
        store.reading("fixed/tensor", lambda reader: TensorFile(reader).read_into("t", out))

    new = f"{folder}/new"
    return {
        "publish 300 B": {
            "raw": raw_publish(new, NOTE),
            "Store.publish": lambda name: store.publish(f"new/{name}", [NOTE], "x"),
            "write, rename": write_and_rename(new, NOTE),
        },
        "publish 1 MiB": {
            "raw": raw_publish(new, TENSOR.tobytes()),
            "Store.publish": lambda name: store.publish(f"new/{name}", [b"x", TENSOR.data], "x"),
            "Store.publish, encode with digest": publish_tensor,
            "write, rename": write_and_rename(new, TENSOR.tobytes()),
            "numpy.save": lambda name: np.save(f"{new}/{name}.npy", TENSOR),
            "safetensors.save_file": lambda name: save_file({"t": TENSOR}, f"{new}/{name}"),
            "shutil.copyfile": lambda name: shutil.copyfile(f"{fixed}/tensor", f"{new}/{name}"),
        },
        "list 100 names": {
            "raw": lambda _: os.listdir(f"{fixed}/many"),
            "Store.list": lambda _: store.list("fixed/many"),
            "Path.iterdir": lambda _: list(Path(f"{fixed}/many").iterdir()),
        },
        "read 300 B": {
            "raw": raw_read(f"{fixed}/note", bytearray(len(NOTE))),
            "Store.read": lambda _: store.read("fixed/note"),
            "Path.read_bytes": lambda _: Path(f"{fixed}/note").read_bytes(),
        },
        "read 1 MiB": {
            "raw": raw_read(f"{fixed}/tensor", out.data, os.path.getsize(f"{fixed}/tensor") - out.nbytes),
            "Store.reading, TensorFile with digest": read_tensor,
            "numpy.load": lambda _: np.load(f"{fixed}/tensor.npy"),
            "safetensors.load_file": lambda _: load_file(f"{fixed}/tensor"),
        },
        "claim, first": {
            "raw": raw_publish(new, NOTE),
            "Store.claim": lambda name: store.claim("new", name, generation=0, token="0123456789abcdef"),
        },
        "claim, second": {
            "raw": raw_lost_claim(fixed, "duty.g00"),
            "Store.claim": lambda _: store.claim("fixed", "duty", generation=0, token="0123456789abcdef"),
        },
    }


def medians(ways: dict[str, Way], repeats: int, clear: Callable[[], None]) -> dict[str, float]:
    """Median time of each way in microseconds."""
    order = list(ways)
    times: dict[str, list[int]] = {way: [] for way in ways}
    for repeat in range(-repeats // 10, repeats):
        for way in order:
            start = time.perf_counter_ns()
            ways[way](f"{order.index(way)}")
            if repeat >= 0:
                times[way].append(time.perf_counter_ns() - start)
        clear()
        order = [*order[1:], order[0]]
    return {way: statistics.median(taken) / 1000 for way, taken in times.items()}


def main() -> None:
    """Print the table, and with `--json` the rows as the last line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", help="a directory on the file system to measure; a temporary one by default")
    parser.add_argument("--repeats", type=int, help="300 by default")
    parser.add_argument("--short", action="store_true", help="60 repeats")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    repeats, machine = options.repeats or (60 if options.short else 300), describe()
    rows = []
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        store = Store(folder)

        def clear() -> None:
            store.remove_tree("new")
            store.make_directories("new")

        for group, ways in groups(store, folder).items():
            clear()
            taken = medians(ways, repeats, clear)
            for way, median in taken.items():
                vs_raw = round(median / taken["raw"], 2)
                row = {"case": f"{group}: {way}", "median_us": round(median, 1), "vs_raw": vs_raw, "machine": machine}
                rows.append(row)
    print(machine)
    for row in rows:
        print(f"{row['case']:54}{row['median_us']:>10} us{row['vs_raw']:>8} x raw")
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
