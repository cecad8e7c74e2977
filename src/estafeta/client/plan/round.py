"""A round of training on AWS, in parts: seconds of computing, of moving bytes, of waiting for files; bytes; memory.

The functions are pure. They take a profile that was measured here (`measure.py`), a setting, and the facts about AWS
(`Aws`, with their sources). `estimate.py` adds rounds up to runs and their prices.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from estafeta.cost.cost import Basis
from estafeta.cost.meter import Traffic, traffic_of
from estafeta.protocol.message import SMALL
from estafeta.protocol.spec import MB_PER_VCPU, Topology
from estafeta.training.memory import MIB, VECTOR_ITEM, vectors

HEAD_BYTES = 512
"""Bytes before a vector, about; EFS meters them as many more."""
TENSOR_FILE_HEADS = 2
"""Number of reads before the tensors of a safetensors file: the length of its header, and the header."""


@dataclass(frozen=True)
class Profile:
    """A job as it was measured on this machine.

    Attributes:
        parameters: Trained parameters.
        state_vectors: Vectors of that length that the optimiser keeps.
        micro_batch_size: Most rows in one forward and backward pass.
        steps: Train rounds.
        epochs: Valid rounds, if there are rows for them.
        row_s: Seconds of a row, forward and backward, on one thread.
        pass_s: Seconds of a pass without its rows.
        valid_row_s: Seconds of a row, forward alone.
        element_s: Seconds of an element of the parameters, added or updated.
        parallel: Part of the computation that more threads share (Amdahl's law).
        model_bytes: Memory of the model: parameters, trained or not, and buffers.
        worker_bytes: Memory of a worker beside model, gradient and optimiser: Python, PyTorch, data, activations.
    """

    parameters: int
    state_vectors: int
    train_rows: int
    valid_rows: int
    batch_size: int
    micro_batch_size: int
    steps: int
    epochs: int
    row_s: float
    pass_s: float
    valid_row_s: float
    element_s: float
    parallel: float
    model_bytes: int
    worker_bytes: int

    @property
    def vector_bytes(self) -> int:
        """Bytes of the parameters, or of a gradient."""
        return VECTOR_ITEM * self.parameters


@dataclass(frozen=True)
class Aws:
    """The facts about AWS that are known or assumed.

    Attributes:
        network: Bytes per second of one environment: 625 Mbit/s (Lambda quotas). That NFS is within it is assumed.
        burst: Bytes per second of a bursting file system while it has credit; reads count a third (EFS, Performance).
        baseline: The same without credit, for a file system of less than 20 GiB.
        credit: Bytes of credit of a new file system.
        elastic_read: Bytes per second of an elastic file system, in the slowest region.
        elastic_write: The same, written.
        read_s: Seconds of a file operation that only asks (EFS, Performance: about 1 ms).
        change_s: Seconds of a file operation that changes something (about 2.7 ms).
        invoke_s: Seconds from an asynchronous invocation to a warm handler. AWS says nothing; some tens of ms are seen.
        start_s: Seconds of a cold start with PyTorch that do not depend on the memory.
        start_vcpu_s: Seconds of it on one vCPU. Both from LambdaNER-Bench: 19.7 s at 1,769 MB, 8.3 s at 10,240 MB.
        init_limit_s: Most seconds of an init phase; Lambda breaks off a longer one and repeats it in the invocation.
        merge_bytes: Memory of the merge function that does not depend on the parameters.
        boot_s: Seconds until a virtual machine has started and imported PyTorch; an assumption.
    """

    network: float = 78e6
    burst: float = 100.0 * MIB
    baseline: float = 1.0 * MIB
    credit: float = 2.1 * (1 << 40)
    elastic_read: float = 20.0 * (1 << 30)
    elastic_write: float = 1.0 * (1 << 30)
    read_s: float = 0.001
    change_s: float = 0.0027
    invoke_s: float = 0.05
    start_s: float = 5.9
    start_vcpu_s: float = 13.8
    init_limit_s: float = 10.0
    limit_s: float = 900.0
    merge_mb: int = 1769
    merge_bytes: int = 100 * MIB
    boot_s: float = 60.0


AWS = Aws()


@dataclass(frozen=True)
class Setting:
    """One way to run a job."""

    workers: int
    memory_mb: int
    topology: Topology

    @property
    def vcpus(self) -> float:
        """Processors that come with the memory."""
        return self.memory_mb / MB_PER_VCPU

    @property
    def merges(self) -> bool:
        """Whether a merge function combines."""
        return self.topology == "merge"


def amdahl(parallel: float, threads: int) -> float:
    """Return the time of so many threads as a part of the time of one."""
    return 1 - parallel + parallel / threads


def _speed(profile: Profile, setting: Setting) -> float:
    """Return the time of a function as a multiple of one thread here; it has a thread for each whole vCPU."""
    return amdahl(profile.parallel, max(1, int(setting.vcpus))) / min(1.0, setting.vcpus)


def passes_s(profile: Profile, rows: int) -> float:
    """Return the seconds of rows on one thread, in passes of a micro-batch each."""
    return math.ceil(rows / profile.micro_batch_size) * profile.pass_s + rows * profile.row_s


def share_s(profile: Profile, setting: Setting) -> float:
    """Return the seconds in which a rank computes its share of a train round."""
    rows = math.ceil(min(profile.batch_size, profile.train_rows) / setting.workers)
    return passes_s(profile, rows) * _speed(profile, setting)


def valid_s(profile: Profile, setting: Setting) -> float:
    """Return the seconds in which a rank scores its share of a valid round."""
    return math.ceil(profile.valid_rows / setting.workers) * profile.valid_row_s * _speed(profile, setting)


def update_s(profile: Profile, setting: Setting, aws: Aws) -> float:
    """Return the seconds in which a function adds up N contributions and takes the optimiser's step.

    A sharded worker does so for its slice, the others for all parameters. Threads do not share this work.
    """
    cuts = setting.workers if setting.topology == "sharded" else 1
    elements = (setting.workers + 1) * profile.parameters / cuts
    memory_mb = aws.merge_mb if setting.merges else setting.memory_mb
    return elements * profile.element_s / min(1.0, memory_mb / MB_PER_VCPU)


class Latency(NamedTuple):
    """Seconds of a round in which functions only wait: a worker, the merge, and events on their way."""

    worker: float
    merge: float
    way: float


def latency(setting: Setting, aws: Aws) -> Latency:
    """Return the seconds of file operations that wait for each other, and of invocations on their way.

    In a hop of residents each rank publishes (create, close, link, unlink), then lists, opens and reads for each of the
    N ranks. In `merge` a worker reads and publishes one file and lists twice. The merge lists, reads N files and
    publishes.
    """
    publish_s = 4 * aws.change_s
    if setting.merges:
        return Latency(publish_s + 5 * aws.read_s, publish_s + 3 * setting.workers * aws.read_s, 2 * aws.invoke_s)
    hops = 2 if setting.topology == "sharded" else 1
    return Latency(hops * (publish_s + 3 * setting.workers * aws.read_s), 0.0, 0.0)


def merge_bytes(profile: Profile, workers: int) -> tuple[float, float]:
    """Return the bytes that the merge function reads and writes in a train round."""
    vector = profile.vector_bytes
    return workers * vector, (1 + profile.state_vectors) * vector


def rank_bytes(profile: Profile, setting: Setting) -> tuple[float, float]:
    """Return the bytes that a rank reads and writes in a train round."""
    vector, workers = float(profile.vector_bytes), setting.workers
    match setting.topology:
        case "merge":
            return vector, vector
        case "sharded":
            return vector + vector * (workers - 1) / workers, vector + vector / workers
        case _:
            return workers * vector, vector


def transfer_s(read: float, written: float, at_once: int, basis: Basis, aws: Aws) -> tuple[float, str]:
    """Return the seconds in which `at_once` functions read and write so many bytes each, and what limits them."""
    network_s = (read + written) / aws.network
    if basis.throughput == "elastic":
        shared_s = at_once * max(read / aws.elastic_read, written / aws.elastic_write)
    else:
        shared_s = at_once * (read / 3 + written) / aws.burst
    return (network_s, "network") if network_s >= shared_s else (shared_s, "EFS throughput")


def traffic(profile: Profile, setting: Setting) -> Traffic:
    """Return the file operations of all functions in a train round."""
    workers = setting.workers
    read, written = rank_bytes(profile, setting)
    hops = 2 if setting.topology == "sharded" else 1
    files = hops * workers if not setting.merges else 1  # a rank opens so many
    calls = {"list": workers * files + 2 * workers, "open": workers * files}
    for kind in ("create", "link", "unlink"):
        calls[kind] = workers * hops * (2 if kind == "unlink" else 1)
    reads = {max(HEAD_BYTES, round(read / files)): workers * files}
    writes = {max(HEAD_BYTES, round(written / hops)): workers * hops}
    if setting.merges:
        heads = TENSOR_FILE_HEADS * workers
    else:  # a rank reads a message at once if its vector is small
        largest = [profile.parameters, profile.parameters / workers][:hops]
        heads = workers * workers * sum(elements > SMALL for elements in largest)
    total = traffic_of(calls, reads, writes) + traffic_of({}, {HEAD_BYTES: heads}, {})
    if setting.merges:
        read, written = merge_bytes(profile, workers)
        versions = 2 if profile.state_vectors else 1
        calls = {"list": 6, "open": workers, "create": versions, "link": versions, "unlink": workers + 2 * versions}
        wrote = {max(1, round(written / versions)): versions}
        total += traffic_of(calls, {max(1, profile.vector_bytes): workers}, wrote)
        total += traffic_of({}, {HEAD_BYTES: workers * (profile.parameters > SMALL)}, {})
    return total


def valid_traffic(setting: Setting) -> Traffic:
    """Return the file operations of all functions in a valid round.

    Each rank publishes a short file, which all ranks or the merge read.
    """
    workers = setting.workers
    readers = 1 if setting.merges else workers
    calls = {"list": 4 * workers, "open": workers * readers, "create": workers, "link": workers, "unlink": 2 * workers}
    return traffic_of(calls, {HEAD_BYTES: workers * readers}, {HEAD_BYTES: workers})


def obstacles(profile: Profile, setting: Setting, share: float, aws: Aws) -> tuple[int, tuple[str, ...]]:
    """Return the MB that a worker needs, and the reasons why a setting cannot train the job."""
    vector = profile.vector_bytes
    held = vectors(setting.topology, profile.parameters, setting.workers, profile.state_vectors)
    worker_mb = math.ceil((profile.worker_bytes + profile.model_bytes + sum(held)) / MIB)
    merge_mb = math.ceil((aws.merge_bytes + vector * (2 + profile.state_vectors)) / MIB)
    found = []
    if worker_mb > setting.memory_mb:
        found.append(f"a worker needs {worker_mb:,} MB")
    if setting.merges and merge_mb > aws.merge_mb:
        found.append(f"the merge needs {merge_mb:,} MB")
    parts = math.ceil(math.ceil(profile.batch_size / setting.workers) / profile.micro_batch_size)
    if share / parts + 2 * vector / aws.network > aws.limit_s:
        found.append(f"a micro-batch does not fit {aws.limit_s:.0f} s")
    return worker_mb, tuple(found)
