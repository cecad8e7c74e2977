"""A slow environment, as fault injection makes one: its process runs for a part of the time only.

Invariant: `stop` never leaves the process frozen.
"""

import asyncio

from estafeta.local.work.process import Process

RUN_S = 0.01
REST_S = 0.03  # a quarter of the time: enough to make a straggler, not to run into every limit


class DutyCycle:
    """Freezes and thaws a process in turn until it is stopped."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(RUN_S, self._rest)

    def stop(self) -> None:
        """Let the process run freely again."""
        self._timer.cancel()
        self._process.thaw()

    def _rest(self) -> None:
        self._process.freeze()
        self._timer = self._loop.call_later(REST_S, self._run)

    def _run(self) -> None:
        self._process.thaw()
        self._timer = self._loop.call_later(RUN_S, self._rest)
