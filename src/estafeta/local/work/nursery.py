"""The service's side of the zygotes: one per set of preloaded modules, started at once, replaced when it dies.

This module knows processes, not functions or events. Invariant: a zygote answers its requests in order, so the position
of an answer tells its request.
"""

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from estafeta.errors import EnvironmentProblem
from estafeta.local.work.variables import NO_AWS_FILES, THREAD_LIMITS

log = logging.getLogger(__name__)
SCRIPT = Path(__file__).with_name("zygote.py")

# The only environment variables of the user's that a zygote, and so the start of an environment, may see.
PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "HOME")

# A library that started its thread pool before the fork would have a broken one after it.
SINGLE_THREADED = dict.fromkeys(THREAD_LIMITS, "1")


class Zygote(asyncio.Protocol):
    """One zygote process and the connection to it."""

    def __init__(self, preload: tuple[str, ...], python: str) -> None:
        self._answers: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._received = b""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                # -P: neither the working directory nor this package's folder gets onto sys.path.
                [python, "-P", str(SCRIPT), str(os.getpid()), str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                start_new_session=True,
                env={name: os.environ[name] for name in PASSED_ON if name in os.environ}
                | {"LANG": "C.UTF-8", "TZ": ":UTC"}
                | NO_AWS_FILES
                | SINGLE_THREADED,
            )
        ours.setblocking(False)
        self._connected = asyncio.ensure_future(asyncio.get_running_loop().create_connection(lambda: self, sock=ours))
        self.dead = False

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer.

        Raises:
            EnvironmentProblem: The zygote has died.
        """
        await self._connected
        if self.dead:
            raise self._problem()
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers.append(answer)
        self._transport.write(json.dumps(request).encode() + b"\n")
        return await answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Give each complete line to the oldest open request."""
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_result(json.loads(line))

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all open requests: the process has ended, and the kernel kills its children."""
        self.dead = True
        while self._answers:
            answer = self._answers.popleft()
            if not answer.done():
                answer.set_exception(self._problem())

    def close(self) -> None:
        """End the process and all environments forked from it."""
        self._process.kill()
        self._process.wait()
        if self._connected.done():
            self._transport.abort()
        else:
            self._connected.cancel()

    def _problem(self) -> EnvironmentProblem:
        return EnvironmentProblem(
            "The warm parent process of the execution environments has ended.",
            hint="See the service's log file for its last lines; free some memory if it was killed.",
        )


class Nursery:
    """All zygotes of a service.

    Args:
        python: The functions' interpreter.
    """

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python
        self._zygotes: dict[tuple[str, ...], Zygote] = {}

    def warm(self, preloads: Iterable[tuple[str, ...]]) -> None:
        """Start a zygote for each set of modules, and return while they still import."""
        for preload in preloads:
            self.zygote(preload)

    def zygote(self, preload: tuple[str, ...]) -> Zygote:
        """The living zygote of a set of modules, started if there is none."""
        zygote = self._zygotes.get(preload)
        if zygote is None or zygote.dead:
            if zygote is not None:
                log.warning("The zygote for %s has ended and is replaced", preload)
                zygote.close()
            zygote = self._zygotes[preload] = Zygote(preload, self._python)
        return zygote

    def close(self) -> None:
        """End all zygotes, and with them all environments."""
        for zygote in self._zygotes.values():
            zygote.close()
