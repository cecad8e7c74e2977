"""One operating-system process of an execution environment: freeze, thaw, kill, notice its end, measure its memory.

It knows nothing of events. Invariant: signals go only to a process that its zygote has not reaped yet, and the zygote
reaps it only after this module has stopped signalling it. So no signal ever hits a recycled process id.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from estafeta.errors import EnvironmentProblem
from estafeta.local.work.nursery import Zygote

_MEMORY_FIELDS = re.compile(
    rb"VmHWM:\s+(\d+) kB.*RssAnon:\s+(\d+) kB\s+RssFile:\s+(\d+) kB\s+RssShmem:\s+(\d+) kB", re.DOTALL
)


async def fork(zygote: Zygote, order: dict[str, Any], on_exit: Callable[[int], None]) -> Process:
    """Have a zygote fork an execution environment.

    Args:
        zygote: The warm parent.
        order: Order for `zygote.become_environment`.
        on_exit: Function that is called once, in the event loop, after all of the process group has been killed. It
            gets the exit code, negative for a signal.

    Raises:
        EnvironmentProblem: The zygote or its new child has died at once.
    """
    pid = (await zygote.ask({"fork": order}))["pid"]
    try:
        return Process(pid, zygote, on_exit)
    except OSError as error:  # the zygote was killed meanwhile, so the child was too and is reaped by now
        raise EnvironmentProblem(
            f"Process {pid} has ended before it began: {error}", hint="free memory, or allow more processes: ulimit -u"
        ) from error


class Process:
    """A forked environment, leader of its own process group.

    Attributes:
        pid: Process id, and id of the group.
        alive: Whether it has not ended yet.
        peak_memory_mb: Last result of `look_at_memory`.
    """

    def __init__(self, pid: int, zygote: Zygote, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self.alive = True
        self.peak_memory_mb = 0.0
        self._zygote = zygote
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(pid)
        try:
            self._status_file = os.open(f"/proc/{pid}/status", os.O_RDONLY)
        except OSError:
            os.close(self._pidfd)
            raise
        self._file_peak_kb = 0
        self._loop.add_reader(self._pidfd, self._ended)

    def freeze(self) -> None:
        """Stop every process of the group, as Lambda freezes an environment between events."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the group go on."""
        self._signal_group(signal.SIGCONT)

    def kill(self) -> None:
        """End the group at once, without giving it time to clean up."""
        if self.alive:
            # The group exists only once the child has come as far as setsid().
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._signal_group(signal.SIGKILL)

    def look_at_memory(self) -> float:
        """Give the largest resident memory so far, in MB of 2**20 bytes, without pages of files.

        Pages of files do not count, since the kernel can take them back whenever it needs room. The kernel keeps only
        the peak of the sum (VmHWM, proc_pid_status(5)). So the answer is the larger of two lower bounds: the largest
        memory at any look, and the kernel's peak less the most file pages ever seen. Processes that the handler starts
        do not count.
        """
        found = _MEMORY_FIELDS.search(os.pread(self._status_file, 4096, 0)) if self.alive else None
        if found:  # a process that has ended has no memory fields
            peak, anonymous, file, shared = map(int, found.groups())
            self._file_peak_kb = max(self._file_peak_kb, file)
            self.peak_memory_mb = max(
                self.peak_memory_mb, (anonymous + shared) / 1024, (peak - self._file_peak_kb) / 1024
            )
        return self.peak_memory_mb

    def _signal_group(self, number: signal.Signals) -> None:
        if self.alive:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _ended(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self._signal_group(signal.SIGKILL)  # processes that the handler has left behind
        self.alive = False
        os.close(self._pidfd)
        os.close(self._status_file)
        self._reaping = self._loop.create_task(self._reap())

    async def _reap(self) -> None:
        try:
            status = (await self._zygote.ask({"reap": self.pid}))["status"]
        except EnvironmentProblem:  # the zygote's own death killed this process
            status = -signal.SIGKILL
        self._on_exit(status)
