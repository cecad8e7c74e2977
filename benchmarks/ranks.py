"""Processes, one for each rank, that live as long as a benchmark and do whatever they are called for together.

What is compared runs in the same processes, so that neither starting nor the luck of one process decides. One thread
each, and a gloo process group over loopback between them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from threading import Barrier
from typing import Any, Self

PATIENCE_S = 600.0
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass
class Member:
    """What a rank's process knows.

    Attributes:
        rank: Its number.
        ranks: How many there are.
        memory: What it keeps from one call to the next.
    """

    rank: int
    ranks: int
    barrier: Barrier
    memory: dict[Any, Any] = field(default_factory=dict)

    def meet(self) -> None:
        """Wait for all others."""
        self.barrier.wait(PATIENCE_S)


class Ranks:
    """The processes. Use it as a context manager: they end with it.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        os.environ.update(ONE_THREAD, GLOO_SOCKET_IFNAME="lo")  # before a process imports torch
        context = multiprocessing.get_context("spawn")
        barrier = context.Barrier(count)
        self._meeting = tempfile.TemporaryDirectory(dir="/var/tmp")
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            arguments = rank, count, barrier, theirs, f"{self._meeting.name}/gloo"
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self.call(_do_nothing)
        except BaseException:
            self.close()
            raise

    def call(self, function: Callable[..., Any], *arguments: Any, only: Sequence[int] | None = None) -> list[Any]:
        """Call a function of a module in all processes, or in some, and return what it gave, by rank.

        Args:
            function: Gets the `Member`, then the arguments.
            arguments: The arguments.
            only: Ranks to call; None: all.

        Raises:
            RuntimeError: It raised, or a process has died.
        """
        called = range(len(self._pipes)) if only is None else only
        for rank in called:
            self._pipes[rank].send((function, arguments))
        answers: dict[int, Any] = {}
        while len(answers) < len(called):
            pending = {rank: self._pipes[rank] for rank in called if rank not in answers}
            if not (ready := wait(pending.values(), PATIENCE_S)):
                raise RuntimeError(f"{function.__name__} takes longer than {PATIENCE_S:.0f} s")
            for rank in [rank for rank, pipe in pending.items() if pipe in ready]:
                try:
                    failed, answer = pending[rank].recv()
                except EOFError:
                    raise RuntimeError(f"rank {rank} has died in {function.__name__}") from None
                if failed:
                    raise RuntimeError(f"rank {rank} in {function.__name__}:\n{answer}")
                answers[rank] = answer
        return [answers[rank] for rank in called]

    def close(self) -> None:
        """End the processes, whatever they are at."""
        for process in self._processes:
            process.kill()
            process.join()
        self._meeting.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def clean_up_when_ended() -> None:
    """Make SIGTERM an exception, as Ctrl-C is, so that files and processes are removed then too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def _serve(rank: int, count: int, barrier: Barrier, pipe: Connection, meeting: str) -> None:
    import torch
    from torch import distributed

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    member = Member(rank, count, barrier)
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            os._exit(0)
        try:
            answer = False, function(member, *arguments)
        except Exception:
            answer = True, traceback.format_exc()
        pipe.send(answer)


def _do_nothing(_: Member) -> None:
    """Show that everybody is there."""
