"""How many samples per second whole runs train, beside what one would do without Estafeta; and how long a run starts.

    python benchmarks/bench_training.py [--ranks N] [--topology auto|sharded|replicated] [--cases NAME,NAME]
                                        [--blocks 3] [--seconds S] [--short] [--json]

Each run is a real `estafeta train`, a process of its own, on a local service that is warm. It takes turns, in shuffled
blocks, with PyTorch doing the same in long-lived processes:

    ddp            DistributedDataParallel on gloo, one process for each rank, one thread each, gradient_as_bucket_view
    single thread  one process with one thread
    all threads    one process with as many threads as cores
    sklearn        SGDClassifier, one epoch by `fit` (for the logistic regression)

The model, the loss, the step (SGD) and the data are the same; each takes rows in random order. DDP's ranks take as many
rows in a step as Estafeta's. A single process does the better of two: steps with the rows of one rank, and with those
of all.

`samples_per_s` of a run is that of its steady state: rows per second from the end of the second epoch to the end of the
last, by the times in the run's own epoch records. What happens in between belongs to it: epochs' ends with their
records, and saving now and then. Since epochs here are shorter than real ones, no epoch but the first counts as the
best (`early_stopping.mode=max` on a loss), or saving the best would count too often. A ratio is the median of the
blocks beside the other's median: above 1, Estafeta is faster.

`startup` is from the command to the end of the first round, as its epoch record has it (here a round is an epoch), with
as many torch workers as cores: `cold` has no service running, `warm` has had a run before.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from command import Home
from machine import describe
from ranks import Member, Ranks, clean_up_when_ended

JOBS = Path(__file__).with_name("jobs") / "training.py"
WARM_EPOCHS = 2
WARM_STEPS = 5
EPOCH_S = 0.4


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        name: Its name.
        job: Name of the job in `jobs/training.py`.
        data: Name of its data.
        sizes: Of the layers.
        batch: Rows of one rank in one step.
    """

    name: str
    job: str
    data: str
    sizes: tuple[int, ...]
    batch: int


CASES = (
    Case("mlp-784-256-10", "classes", "images", (784, 256, 10), 256),
    Case("mlp-784-1024-1024-10", "classes", "images", (784, 1024, 1024, 10), 256),
    Case("mlp-97MB", "classes", "images", (784, 4096, 4096, 1024, 10), 64),
    Case("logistic-28", "logistic", "events", (28, 1), 1024),
)


@dataclass(frozen=True)
class Result:
    """One case. Samples per second are medians of the blocks."""

    case: str
    ranks: int
    topology: str
    batch: int
    samples_per_s: float
    ddp_samples_per_s: float
    single_thread_samples_per_s: float
    all_threads_samples_per_s: float
    sklearn_samples_per_s: float | None
    vs_ddp: float
    vs_single_thread: float
    vs_all_threads: float
    vs_sklearn: float | None
    machine: str


@dataclass(frozen=True)
class Startup:
    """From the command to the first finished round."""

    case: str
    service: str
    ranks: int
    topology: str
    seconds: float
    machine: str


# In the processes of the ranks


def torch_rate(member: Member, case: Case, folder: str, batch: int, threads: int, seconds: float, ddp: bool) -> float:
    """Samples per second of a PyTorch loop in this process, or in all as one."""
    import torch
    from jobs.training import LR, MOMENTUM, log_loss, network, rows
    from torch import distributed, nn
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    inputs, targets = (torch.from_numpy(array) for array in rows(folder, case.data))
    loss = log_loss if case.job == "logistic" else nn.functional.cross_entropy
    model = network(case.sizes)
    if ddp:
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    ranks = member.ranks if ddp else 1
    own = torch.arange(member.rank if ddp else 0, len(inputs), ranks)
    order = own[torch.randperm(len(own))]
    at = 0

    def steps(count: int) -> float:
        nonlocal at, order
        began = time.perf_counter()
        for _ in range(count):
            if at + batch > len(order):
                at, order = 0, own[torch.randperm(len(own))]
            chosen = order[at : at + batch]
            at += batch
            optimizer.zero_grad()
            loss(model(inputs.index_select(0, chosen)), targets.index_select(0, chosen)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return time.perf_counter() - began

    steps(WARM_STEPS)
    taken = torch.tensor([steps(WARM_STEPS) / WARM_STEPS])
    if ddp:
        distributed.broadcast(taken, 0)
    count = max(WARM_STEPS, int(seconds / float(taken)))
    if ddp:
        member.meet()
    rate = count * batch * ranks / steps(count)
    torch.set_num_threads(1)
    return rate


def sklearn_rate(_: Member, case: Case, folder: str) -> float:
    """Samples per second of an epoch by scikit-learn."""
    from jobs.training import rows
    from sklearn.linear_model import SGDClassifier

    inputs, targets = rows(folder, case.data)
    model = SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=1, tol=None)
    began = time.perf_counter()
    model.fit(inputs, targets)
    return len(inputs) / (time.perf_counter() - began)


# In the process of the benchmark


class Runs:
    """Runs of one case by the command, of a length that fits.

    Args:
        home: Where.
        case: What.
        folder: Where the data is.
        ranks: Workers.
        topology: Which.
        seconds: How long the steady state is to be.
        rows: How many there are.
    """

    def __init__(
        self, home: Home, case: Case, folder: Path, ranks: int, topology: str, seconds: float, rows: int
    ) -> None:
        self._home, self._case, self._folder, self._ranks = home, case, folder, ranks
        self.topology = topology
        self._batch = case.batch * ranks
        most = rows // self._batch
        self._steps, self._epochs = min(10, most), WARM_EPOCHS + 2
        step_s = self._batch / self.rate()  # a warm-up run: model and environments
        self._steps = max(1, min(most, math.ceil(EPOCH_S / step_s)))
        self._epochs = WARM_EPOCHS + max(3, math.ceil(seconds / (self._steps * step_s)))

    def rate(self) -> float:
        """Samples per second of a run."""
        rows = self._steps * self._batch
        trained = self._home.train(
            f"{JOBS}:{self._case.job}",
            self._ranks,
            self.topology,
            epochs=self._epochs,
            batch_size=self._batch,
            micro_batch_size=self._case.batch,
            model__sizes=self._case.sizes,
            dataset__folder=str(self._folder),
            dataset__name=self._case.data,
            dataset__count=rows,
            early_stopping__mode="max",
        )
        self.topology = str(trained.summary["topology"])  # what `auto` has become
        ended_at = trained.epochs_ended_at()[WARM_EPOCHS - 1 :]
        rate = (len(ended_at) - 1) * rows / (ended_at[-1] - ended_at[0])
        trained.run.clean()
        return rate


def measure(case: Case, home: Home, folder: Path, ranks: Ranks, rows: int, options: argparse.Namespace) -> Result:
    """One case, by all ways in turns."""
    runs = Runs(home, case, folder, options.ranks, options.topology, options.seconds, rows)
    cores = os.cpu_count() or 1
    rank_batch, batch = case.batch, case.batch * options.ranks

    def in_torch(size: int, threads: int, *, ddp: bool = False) -> float:
        seconds = options.seconds if ddp else options.seconds / 2
        rates = ranks.call(torch_rate, case, str(folder), size, threads, seconds, ddp, only=None if ddp else [0])
        return float(min(rates))

    ways: dict[str, Any] = {
        "estafeta": runs.rate,
        "ddp": lambda: in_torch(rank_batch, 1, ddp=True),
        "single": lambda: max(in_torch(size, 1) for size in (rank_batch, batch)),
        "all": lambda: max(in_torch(size, cores) for size in (rank_batch, batch)),
    }
    if case.job == "logistic":
        ways["sklearn"] = lambda: float(ranks.call(sklearn_rate, case, str(folder), only=[0])[0])
    found: dict[str, list[float]] = {name: [] for name in ways}
    for block in range(options.blocks):
        for name in random.sample(list(ways), len(ways)):
            found[name].append(ways[name]())
        print(f"{case.name}: block {block + 1} of {options.blocks}", file=sys.stderr)
    rate = {name: statistics.median(rates) for name, rates in found.items()}
    ratio = {name: round(rate["estafeta"] / other, 3) for name, other in rate.items()}
    return Result(
        case=case.name,
        ranks=options.ranks,
        topology=runs.topology,
        batch=case.batch,
        samples_per_s=round(rate["estafeta"]),
        ddp_samples_per_s=round(rate["ddp"]),
        single_thread_samples_per_s=round(rate["single"]),
        all_threads_samples_per_s=round(rate["all"]),
        sklearn_samples_per_s=round(rate["sklearn"]) if "sklearn" in rate else None,
        vs_ddp=ratio["ddp"],
        vs_single_thread=ratio["single"],
        vs_all_threads=ratio["all"],
        vs_sklearn=ratio.get("sklearn"),
        machine=describe(),
    )


def startups(folder: Path, repeats: int, topology: str) -> list[Startup]:
    """Times from the command to the first finished round."""
    cores, case = os.cpu_count() or 1, CASES[0]
    found: dict[str, list[float]] = {"cold": [], "warm": []}
    for _ in range(repeats):
        with Home() as home:
            for service in found:
                trained = home.train(
                    f"{JOBS}:{case.job}",
                    cores,
                    topology,
                    epochs=2,
                    batch_size=case.batch * cores,
                    micro_batch_size=case.batch,
                    dataset__folder=str(folder),
                    dataset__count=case.batch * cores,
                )
                found[service].append(trained.epochs_ended_at()[0] - trained.began_at)
                became = str(trained.summary["topology"])
    return [
        Startup("startup", service, cores, became, round(statistics.median(seconds), 3), describe())
        for service, seconds in found.items()
    ]


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [case.name for case in CASES]
    parser.add_argument("--ranks", type=int, default=os.cpu_count(), help="workers; as many as cores by default")
    parser.add_argument("--topology", choices=["auto", "sharded", "replicated", "merge"], default="auto")
    parser.add_argument("--cases", default="", help=f"of {', '.join(names)}, startup, with commas between them")
    parser.add_argument("--blocks", type=int, help="runs of each case; 3 by default")
    parser.add_argument("--seconds", type=float, help="steady state in each block; 6 by default")
    parser.add_argument("--short", action="store_true", help="one short block of each case, the largest left out")
    parser.add_argument("--json", action="store_true", help="print one JSON list as the last line")
    options = parser.parse_args()
    options.seconds = options.seconds or (1.0 if options.short else 6.0)
    options.blocks = options.blocks or (1 if options.short else 3)
    every = [name for name in names if not options.short or name != "mlp-97MB"]
    wanted = options.cases.split(",") if options.cases else [*every, "startup"]
    if unknown := set(wanted) - {*names, "startup"}:
        parser.error(f"cases are {', '.join(names)}, startup, not {', '.join(sorted(unknown))}")
    rows = {"images": 20_000, "events": 200_000} if options.short else {"images": 100_000, "events": 1_000_000}
    results: list[Result] = []
    times: list[Startup] = []
    clean_up_when_ended()
    with Home() as home:
        from jobs.training import make_rows

        make_rows(home.folder, **rows)
        if "startup" in wanted:
            times = startups(home.folder, 1 if options.short else 3, options.topology)
        if cases := [case for case in CASES if case.name in wanted]:
            with Ranks(options.ranks) as ranks:
                results = [measure(case, home, home.folder, ranks, rows[case.data], options) for case in cases]
    if options.json:
        print(json.dumps([asdict(result) for result in results] + [asdict(startup) for startup in times]))
        return
    print(describe())
    print(f"{'case':22}{'topology':11}{'samples/s':>10} {'vs ddp':>9} {'1 thread':>9} {'all':>9} {'sklearn':>9}")
    for row in results:
        ratios = row.vs_ddp, row.vs_single_thread, row.vs_all_threads, row.vs_sklearn
        shown = " ".join(f"{'-' if ratio is None else f'{ratio:.2f}':>9}" for ratio in ratios)
        print(f"{row.case:22}{row.topology:11}{row.samples_per_s:10.0f} {shown}")
    for time_ in times:
        print(f"{time_.case}, service {time_.service}, {time_.ranks} workers: {time_.seconds:.2f} s")


if __name__ == "__main__":
    main()
