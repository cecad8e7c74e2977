"""A job, measured on this machine: seconds of rows, passes and updates, and the memory that it needs.

The run's own learner really trains a few micro-batches of the run's first rounds, on one thread. The fastest time of
each measurement counts, since other work on this machine only adds to it.
"""

import os
import resource
import time
from collections.abc import Callable

import numpy as np
import torch

from estafeta.client.plan.round import Profile
from estafeta.data.catalog import read_manifest
from estafeta.job.dataset_name import BUNDLED
from estafeta.job.job import Job
from estafeta.protocol.layout import Phase, Round
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.store.store import Store
from estafeta.training.batches import Data
from estafeta.training.learner import Learner, seed_generators
from estafeta.training.memory import RUNTIME_BYTES, plan_memory
from estafeta.training.prepare import plan_of
from estafeta.training.session import Session
from estafeta.training.table import Batch

REPEATS = 5
"""Times that a micro-batch is trained."""
MOST_S = 5.0
"""Seconds after which no further micro-batch is trained."""
MOST_ELEMENTS = 1 << 20
"""Most elements of the parameters that are updated to measure the optimiser."""
PARALLEL_OF_ROWS = 0.9
"""Part of the time of rows that threads share, if it cannot be measured: one processor, or other work on it."""


def profile(job: Job, spec: RunSpec, store: Store) -> Profile:
    """Measure a job as a run of one worker would train it.

    Raises:
        UserCodeError: The job's code raised.
        UsageError: It cannot be trained.
        NotFinite: The loss is NaN or infinite.
    """
    before = _resident_bytes()
    learner = Learner(job, spec)
    data = Data.open(job, spec, store, learner.bytes, learner.parameters.nbytes)
    plan = plan_of(Session(data, learner), spec, spec.token)
    learner.check_metrics(spec.early_stopping.monitor, validates=plan.valid_rows > 0)
    torch.set_num_threads(1)
    batch, read_s = _first(data, spec, plan, "train")
    rows = len(batch[-1])
    pass_s, row_s = _line(lambda part: learner.train(part), batch)
    valid_s = 0.0
    if plan.valid_rows:
        held_out, held_out_s = _first(data, spec, plan, "valid")
        valid_s = (_fastest(lambda: learner.evaluate(held_out)) + held_out_s) / len(held_out[-1])
    stored = [name for name in (job.dataset, job.valid_dataset) if isinstance(name, str) and name not in BUNDLED]
    memory = plan_memory(
        spec, learner.bytes, learner.parameters.nbytes, [read_manifest(store, name) for name in stored]
    )
    used = _resident_bytes(peak=True) - before - memory.model - memory.gradient // 2  # which is not published here
    return Profile(
        parameters=plan.size,
        state_vectors=len(spec.update_rule.state_slots),
        train_rows=plan.train_rows,
        valid_rows=plan.valid_rows,
        batch_size=spec.batch_size,
        micro_batch_size=spec.micro_batch_size,
        steps=plan.total_steps,
        epochs=spec.epochs,
        row_s=row_s + read_s / rows,
        pass_s=pass_s,
        valid_row_s=valid_s,
        element_s=_element_s(spec, plan.size),
        parallel=_parallel(lambda: learner.train(batch), PARALLEL_OF_ROWS * rows * row_s / (pass_s + rows * row_s)),
        model_bytes=memory.model,
        worker_bytes=RUNTIME_BYTES + max(used, memory.windows + memory.batch),
    )


def _first(data: Data, spec: RunSpec, plan: Plan, phase: Phase) -> tuple[Batch, float]:
    """Return the first micro-batch of a phase, and the seconds that reading it takes."""
    parts = data.micro_batches(Round(0, phase), 0, spec, plan)
    seed_generators(spec.seed)
    data.batch(phase, parts, 0)
    began = time.perf_counter()
    batch = data.batch(phase, parts, 0)
    return batch, time.perf_counter() - began


def _line(train: Callable[[Batch], None], batch: Batch) -> tuple[float, float]:
    """Return the seconds of a pass without rows, and of each row: the line through a whole micro-batch and a part."""
    rows = len(batch[-1])
    whole_s = _fastest(lambda: train(batch))
    few = rows // 4
    if not few or not all(isinstance(part, torch.Tensor) and part.layout is torch.strided for part in batch):
        return 0.0, whole_s / rows  # rows that cannot be cut off a batch
    part = tuple(tensor[:few] for tensor in batch)
    part_s = min(_fastest(lambda: train(part)), whole_s)
    row_s = (whole_s - part_s) / (rows - few)
    return max(0.0, part_s - few * row_s), row_s


def _fastest(work: Callable[[], None]) -> float:
    """Return the fewest seconds that the work takes, after one time that does not count."""
    work()
    found: list[float] = []
    ends_at = time.perf_counter() + MOST_S
    while len(found) < REPEATS and (not found or time.perf_counter() < ends_at):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def _parallel(work: Callable[[], None], assumed: float) -> float:
    """Return the part of the work that two threads share; `assumed` if this machine has no room for two."""
    processors = len(os.sched_getaffinity(0))
    if processors < 2 or os.getloadavg()[0] > processors:
        return assumed
    one_s = _fastest(work)
    torch.set_num_threads(2)
    two_s = _fastest(work)
    torch.set_num_threads(1)
    return min(1.0, max(0.0, 2 * (1 - two_s / one_s)))


def _element_s(spec: RunSpec, size: int) -> float:
    """Return the seconds in which the optimiser updates an element."""
    count = min(size, MOST_ELEMENTS)
    parameters, gradient = np.zeros(count, np.float32), np.ones(count, np.float32)
    state = spec.update_rule.initial_state(count)
    return _fastest(lambda: spec.update_rule.update(parameters, gradient, state, step=0, lr=1e-3, scale=1.0)) / count


def _resident_bytes(*, peak: bool = False) -> int:
    """Return the bytes of memory of this process now, or the most that it has had."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
