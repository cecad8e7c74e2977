"""How long a round of resident ranks takes when there is nothing but the exchange, beside gloo and beside memcpy.

    python benchmarks/bench_exchange.py [--ranks N] [--path portable|network] [--sizes 10kB,1MB,10MB,100MB]
                                        [--seconds S] [--redo ROUNDS] [--short] [--json]

A round is: each rank publishes a gradient, gathers those of all, and takes a step of plain SGD, by the package's own
`Exchange` and `Replica`, in directories under /var/tmp. The same processes, one for each rank with one thread each,
take turns in shuffled blocks with

    gloo      `all_reduce` over TCP loopback and a step of SGD, on the same bytes
    memcpy    a copy of the same bytes by all ranks at once

A round lasts from when the last rank has its gradient until the last rank has the new parameters. Making the gradient
is not measured. The first fifth of each block is dropped.

    path      portable: a file system of this machine; retired files are filled again, waiting is by inotify
              network: nothing of that; what runs on EFS, here on a local disk
    vs_gloo   time beside gloo's: its 10th percentile for 10 kB and 1 MB (where its median is noise of the scheduler),
              else its median; below 1 is faster
    vs_memcpy time beside memcpy's median
    tail      99.9th percentile beside the median; measure it with `--seconds 40`

All elements of the gradients change from round to round, and one in each page takes a value that depends on round and
rank. They are integers and the learning rate is a power of two, so float32 is exact: after each block all parameters
must be exactly what the rounds add up to. `--control` has a rank publish an old value in some rounds, to show that this
would be seen; the benchmark then fails if it is not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from machine import describe
from ranks import Member, Ranks, clean_up_when_ended

Vector = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]

SIZES = {"10kB": 10_240, "1MB": 1 << 20, "10MB": 10 << 20, "100MB": 100 << 20}
SMALL_BYTES = 1 << 20
"""Up to this size, gloo is taken by its 10th percentile."""

PAGE = 1024
"""Elements in a page of 4 kB; one in each has a value of its own in every round."""

LR = 2.0**-10
COPIED_AT_ONCE = 1 << 20
PROBE_ROUNDS, FEWEST_ROUNDS = 12, 12
STUCK_S = 60.0
CONTROL_EVERY = 50


@dataclass(frozen=True)
class Way:
    """One of the things that are compared."""

    path: str
    topology: str = ""


@dataclass(frozen=True)
class Result:
    """One size, by one way. Times of a round in microseconds."""

    case: str
    bytes: int
    path: str
    topology: str
    ranks: int
    rounds: int
    median_us: float
    p10_us: float
    p999_us: float
    tail: float
    gloo_median_us: float
    gloo_p10_us: float
    memcpy_us: float
    vs_gloo: float
    vs_memcpy: float
    redo_rounds: int
    machine: str


# In the processes of the ranks


class Gradients:
    """A rank's gradients: two vectors that take turns, opposite but for a little, and in each page a telling element.

    Args:
        member: The rank.
        size: Elements.
    """

    def __init__(self, member: Member, size: int) -> None:
        self._rank, self._ranks = member.rank, member.ranks
        self.parameters: Vector = np.empty(size, np.float32)
        self.scratch: Vector = np.empty(size, np.float32)
        self._pair: tuple[Vector, Vector] = np.empty(size, np.float32), np.empty(size, np.float32)
        self._totals = np.zeros((2, size), np.int16)
        for first in range(0, size, 1 << 20):
            at = np.arange(first, min(size, first + (1 << 20)), dtype=np.int32)
            chunk = slice(first, first + at.size)
            for rank in range(member.ranks):
                there = (at * 7 + rank * 3) % 15 - 7
                back = (at * 5 + rank) % 3 - 1 - there
                self._totals[0, chunk] += there.astype(np.int16)
                self._totals[1, chunk] += back.astype(np.int16)
                if rank == member.rank:  # multiples of the number of ranks: their mean is an integer
                    self._pair[0][chunk], self._pair[1][chunk] = there * member.ranks, back * member.ranks

    def of(self, number: int, *, stale: bool = False) -> Vector:
        """This rank's gradient in a round."""
        gradient = self._pair[number % 2]
        gradient[::PAGE] = self._ranks * int(_telling(np.int64(number - 2 if stale else number), self._rank))
        return gradient

    def are_exact(self, rounds: int, lr: float) -> bool:
        """Whether the parameters, zero at first, are what so many rounds make of them; `lr` is of the mean."""
        there, back = (rounds + 1) // 2, rounds // 2
        told = sum(int(_telling(np.arange(rounds, dtype=np.int64), rank).sum()) for rank in range(self._ranks))
        for first in range(0, self.parameters.size, 1 << 20):
            chunk = slice(first, first + (1 << 20))
            totals = self._totals[:, chunk].astype(np.float64)  # times the rounds they leave their small integers
            expected = (there * totals[0] + back * totals[1]) * -lr
            expected[::PAGE] = -lr * told
            if not np.array_equal(self.parameters[chunk], expected.astype(np.float32)):
                return False
        return True


def _telling(number: Any, rank: int) -> Any:
    """Integers from -7 to 7 that no two rounds or ranks share but by chance."""
    return ((number * 2_654_435_761 + rank * 40_503) >> 9) % 15 - 7


def block(
    member: Member, way: Way, size: int, rounds: int, root: str, redo: int, control: bool
) -> tuple[Times, Times, bool]:
    """Do some rounds by one way.

    Returns:
        When each round began and ended in this rank, in ns; and whether the parameters are exact.
    """
    if member.memory.get("size") != size:
        member.memory.clear()  # two sizes may not fit
        member.memory.update(size=size, gradients=Gradients(member, size))
    gradients: Gradients = member.memory["gradients"]
    gradients.parameters[:] = 0
    times: Times = np.zeros((2, rounds), np.int64)
    lr = LR
    if way.path == "memcpy":
        _copy(member, gradients, times)
        return times[0], times[1], True
    if way.path == "gloo":
        lr = _by_gloo(member, gradients, times, control)
    else:
        _by_files(member, gradients, times, way, root, redo, control)
    member.meet()
    return times[0], times[1], gradients.are_exact(rounds, lr)


def _is_stale(member: Member, number: int, control: bool) -> bool:
    return control and member.rank == member.ranks - 1 and number % CONTROL_EVERY == 9


def _copy(member: Member, gradients: Gradients, times: Times) -> None:
    source, target = gradients.of(0), gradients.scratch
    repeats = max(1, COPIED_AT_ONCE // source.nbytes)
    member.meet()
    for number in range(times.shape[1]):
        times[0, number] = time.perf_counter_ns()
        for _ in range(repeats):
            np.copyto(target, source)
        times[1, number] = times[0, number] + (time.perf_counter_ns() - times[0, number]) // repeats


def _by_gloo(member: Member, gradients: Gradients, times: Times, control: bool) -> float:
    import torch
    from torch import distributed

    parameters, reduced = torch.from_numpy(gradients.parameters), torch.from_numpy(gradients.scratch)
    lr = LR / (1 << (member.ranks - 1).bit_length())  # still a power of two
    member.meet()
    for number in range(times.shape[1]):
        gradients.scratch[:] = gradients.of(number, stale=_is_stale(member, number, control))
        times[0, number] = time.perf_counter_ns()
        distributed.all_reduce(reduced)
        parameters.add_(reduced, alpha=-lr)
        times[1, number] = time.perf_counter_ns()
    return lr * member.ranks


def _by_files(
    member: Member, gradients: Gradients, times: Times, way: Way, root: str, redo: int, control: bool
) -> None:
    from estafeta.job.optim import SGD, to_dict
    from estafeta.job.recipe import Recipe, numbers_of
    from estafeta.job.stopping import EarlyStopping
    from estafeta.protocol.layout import Round, RunLayout
    from estafeta.protocol.partition import slices_of
    from estafeta.protocol.spec import Plan, RunSpec, Slot
    from estafeta.protocol.weights import Weights
    from estafeta.residents.exchange import Exchange
    from estafeta.residents.replica import Replica
    from estafeta.store.files import OsFiles
    from estafeta.store.store import Store

    class Distant(OsFiles):
        """A file system of which the kernel cannot tell what others do there."""

        def watch(self, paths: Sequence[str]) -> None:
            return None

    size, rounds = gradients.parameters.size, times.shape[1]
    spec = RunSpec(
        token="bench",
        run="bench",
        created_at=0.0,
        estafeta="",
        job="",
        workers=member.ranks,
        topology=way.topology,
        **numbers_of(Recipe(batch_size=member.ranks, micro_batch_size=1, drop_last=True, epochs=1, validation=0.0)),
        optimizer=to_dict(SGD(lr=LR)),
        early_stopping=EarlyStopping(),
        functions={},
    )
    plan = Plan(
        sums=("loss",),
        token="bench",
        topology=way.topology,
        train_rows=member.ranks,
        valid_rows=0,
        steps_per_epoch=rounds + 1,
        total_steps=rounds + 1,
        parameters=(Slot(name="w", shape=(size,)),),
        buffers=(),
        frozen=(),
        state_dict=(),
    )
    store, layout = Store(root, Distant() if way.path == "network" else None), RunLayout("bench")
    store.make_directories(layout.outbox(member.rank))
    member.meet()
    last = [time.monotonic()]

    def alarm(_missing: object) -> None:
        if time.monotonic() - last[0] > STUCK_S:
            raise TimeoutError(f"rank {member.rank} waits for a round that does not come")

    exchange = Exchange(
        store,
        layout,
        rank=member.rank,
        workers=member.ranks,
        size=size,
        slices=slices_of(spec, plan),
        sums=("loss",),
        buffers=(),
        token=f"bench/{member.rank}",
        alarm=alarm,
    )
    try:
        replica = Replica(spec, plan, member.rank, Weights(0, gradients.parameters, {}))
        member.meet()
        for number in range(rounds):
            gradient = gradients.of(number, stale=_is_stale(member, number, control))
            times[0, number] = time.perf_counter_ns()
            round_, outgoing = Round(number, "train"), exchange.outgoing()
            outgoing.put(0, 0, gradient)
            exchange.contribute(round_, outgoing, rows=1, sums=(0.0,))
            with exchange.gather(round_) as gathered:
                exchange.retire(number, max(0, number - redo))
                replica.advance(gathered, exchange)
            times[1, number] = time.perf_counter_ns()
            if not number % 64:
                last[0] = time.monotonic()
        member.meet()  # nobody is reading any more
    finally:
        exchange.close()


# In the process of the benchmark


def run_block(ranks: Ranks, way: Way, size: int, rounds: int, redo: int, control: bool) -> tuple[Times, bool]:
    """Durations of a block's rounds in ns, and whether its result is exact on all ranks."""
    root = tempfile.mkdtemp(prefix="bench-exchange-", dir="/var/tmp")
    try:
        answers = ranks.call(block, way, size, rounds, root, redo, control)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    begins, ends = (np.stack([answer[which] for answer in answers]) for which in (0, 1))
    exact = all(answer[2] for answer in answers)
    if way.path == "memcpy":
        return (ends - begins).max(axis=0), exact
    return ends.max(axis=0) - begins.max(axis=0), exact


def measure(
    ranks: Ranks, ways: Sequence[Way], n_bytes: int, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[Way, Times]:
    """Durations of rounds of one size by all ways, whose blocks take turns."""
    size = n_bytes // 4
    times: dict[Way, list[Times]] = {way: [] for way in ways}
    counts: dict[Way, int] = {}
    for way in ways:
        taken, _ = run_block(ranks, way, size, PROBE_ROUNDS, options.redo, False)
        typical = int(np.median(taken[PROBE_ROUNDS // 3 :]))
        if way.path == "memcpy":
            typical *= max(1, COPIED_AT_ONCE // n_bytes)
        seconds = min(options.seconds, 2.5) if way.path == "memcpy" else options.seconds
        counts[way] = max(FEWEST_ROUNDS, int(seconds * 1e9 / max(typical, 1)))
    for number in range(options.passes):
        for way in random.sample(list(ways), len(ways)):
            taken, exact = run_block(ranks, way, size, counts[way], options.redo, False)
            if not exact:
                raise SystemExit(f"{way} of {n_bytes} bytes has made other parameters than it should")
            times[way].append(taken[len(taken) // 5 :])
        say(f"{n_bytes} bytes: pass {number + 1} of {options.passes}")
    return {way: np.concatenate(blocks) for way, blocks in times.items()}


def results_of(times: dict[Way, Times], n_bytes: int, ranks: int, redo: int) -> list[Result]:
    """Summarise one size."""
    us = {way: taken / 1000 for way, taken in times.items()}
    gloo, memcpy = us[Way("gloo")], float(np.median(us[Way("memcpy")]))
    gloo_median, gloo_p10 = float(np.median(gloo)), float(np.quantile(gloo, 0.1))
    baseline = gloo_p10 if n_bytes <= SMALL_BYTES else gloo_median
    results = []
    for way, taken in us.items():
        if way.path == "memcpy":
            continue
        median, p999 = float(np.median(taken)), float(np.quantile(taken, 0.999))
        results.append(
            Result(
                case=f"exchange-{way.path}{'-' * bool(way.topology)}{way.topology}-{n_bytes}",
                bytes=n_bytes,
                path=way.path,
                topology=way.topology,
                ranks=ranks,
                rounds=taken.size,
                median_us=round(median, 1),
                p10_us=round(float(np.quantile(taken, 0.1)), 1),
                p999_us=round(p999, 1),
                tail=round(p999 / median, 2),
                gloo_median_us=round(gloo_median, 1),
                gloo_p10_us=round(gloo_p10, 1),
                memcpy_us=round(memcpy, 2),
                vs_gloo=round(median / baseline, 3),
                vs_memcpy=round(median / memcpy, 2),
                redo_rounds=0 if way.path == "gloo" else redo,
                machine=describe(),
            )
        )
    return results


def control(ranks: Ranks, ways: Sequence[Way]) -> None:
    """Make sure that old values would be seen."""
    for n_bytes in (SIZES["10kB"], SIZES["1MB"]):
        for way in ways:
            if way.path != "memcpy" and run_block(ranks, way, n_bytes // 4, 60, 0, True)[1]:
                raise SystemExit(f"{way} of {n_bytes} bytes: old gradients went unnoticed")
    print("control: old gradients were noticed by every way")


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=os.cpu_count(), help="processes; as many as cores by default")
    parser.add_argument("--path", choices=["portable", "network"], default="portable")
    parser.add_argument("--sizes", default="", help=f"of {', '.join(SIZES)}, with commas between them")
    parser.add_argument("--passes", type=int, help="blocks of each way; 3 by default, 1 if blocks are long")
    parser.add_argument("--seconds", type=float, help="length of a block; 2 by default; 40 shows the tail")
    parser.add_argument("--redo", type=int, default=0, help="rounds of which contributions are kept, as between saves")
    parser.add_argument("--control", action="store_true", help="have old gradients published, and see it noticed")
    parser.add_argument("--short", action="store_true", help="three sizes, short blocks")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    options.seconds = options.seconds or (0.7 if options.short else 2.0)
    options.passes = options.passes or (2 if options.short else 1 if options.seconds > 10 else 3)
    names = options.sizes.split(",") if options.sizes else [n for n in SIZES if not options.short or n != "100MB"]
    if unknown := set(names) - SIZES.keys():
        parser.error(f"sizes are {', '.join(SIZES)}, not {', '.join(sorted(unknown))}")
    ways = [Way("gloo"), Way("memcpy"), Way(options.path, "replicated"), Way(options.path, "sharded")]
    results: list[Result] = []
    clean_up_when_ended()
    with Ranks(options.ranks) as ranks:
        if options.control:
            return control(ranks, ways)
        for name in names:
            times = measure(ranks, ways, SIZES[name], options, lambda line: print(line, file=sys.stderr))
            results += results_of(times, SIZES[name], options.ranks, options.redo)
    if options.json:
        print(json.dumps([asdict(result) for result in results]))
        return None
    print(describe())
    columns = f"{'median':>10} {'p10':>10} {'p99.9':>10} us {'vs gloo':>8} {'memcpy':>7}"
    print(f"{'bytes':>10} {'path':9}{'topology':11} {columns}")
    for row in results:
        times_us = f"{row.median_us:10.1f} {row.p10_us:10.1f} {row.p999_us:10.1f}"
        print(f"{row.bytes:10} {row.path:9}{row.topology:11} {times_us}    {row.vs_gloo:8.3f} {row.vs_memcpy:7.2f}")
    return None


if __name__ == "__main__":
    main()
