"""The client's side of a service: start it in the background, find it, stop it, or run it in the foreground.

This module knows processes and files. Invariant: a home folder has at most one service, however many clients ask for
it at the same moment.
"""

import asyncio
import fcntl
import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from estafeta.errors import Command, EnvironmentProblem
from estafeta.local import endpoint as endpoints
from estafeta.local.endpoint import Endpoint
from estafeta.local.options import Options

START_LIMIT_S = 60.0  # the service answers within a second, except on a machine that is very busy
STOP_LIMIT_S = 15.0

NOT_ISOLATED = (
    "functions run as your user, with your files and network; memory, time, payloads, retries and concurrency "
    "are limited as on Lambda, processor shares, /tmp size and network speed are not"
)


def ensure(home: Path, options: Options) -> Endpoint:
    """Give the service of a folder; it is started or restarted if needed.

    Args:
        home: Folder of the service's own files: endpoint, logs, published versions.
        options: Settings that the service must have. A service with other settings is replaced when it is idle.

    Raises:
        UsageError: The template or the options are wrong.
        EnvironmentProblem: The service does not start, or another service is busy in the folder.
    """
    _require_linux()
    home.mkdir(parents=True, exist_ok=True)
    with _lock(home):
        running = endpoints.read(home)
        if running and running.digest != options.digest():
            _replace(home, running)
        elif running and _answers(running):
            return running
        return _start(home, options)


def find(home: Path) -> Endpoint | None:
    """Give the service of a folder, if one is running."""
    return endpoints.read(home)


def stop(home: Path) -> bool:
    """End the service of a folder with everything that runs in it.

    Returns:
        Whether there was one.

    Raises:
        EnvironmentProblem: Its process survives even SIGKILL.
    """
    running = endpoints.read(home)
    if running is None:
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _ended(running, STOP_LIMIT_S, number):
            return True
    raise EnvironmentProblem(
        f"Process {running.pid} does not end, even after SIGKILL.", hint="See its state with `ps`."
    )


def serve(home: Path, options: Options, *, say: Callable[[str], None] = print) -> None:
    """Run a service in the foreground until it is interrupted.

    Args:
        home: Folder of the service's own files.
        options: Settings of the service.
        say: Function that shows a line to the user.

    Raises:
        UsageError: The template or the options are wrong.
        EnvironmentProblem: A service runs in this folder already.
    """
    _require_linux()
    home.mkdir(parents=True, exist_ok=True)

    def announce(endpoint: Endpoint) -> None:
        say(f"The local Lambda service answers at {endpoint.url}; Ctrl-C ends it.")
        say(f"Not isolated: {NOT_ISOLATED}.")
        say(endpoint.exports())

    asyncio.run(_run(home, options, announce))


def _answers(service: Endpoint) -> bool:
    """Ask a service, which then knows that it is needed; False if it was about to end and has ended."""
    try:
        endpoints.ask(service, "GET")
    except EnvironmentProblem:
        if _ended(service, STOP_LIMIT_S):
            return False
        raise
    return True


async def _run(home: Path, options: Options, ready: Callable[[Endpoint], None]) -> None:
    from estafeta.local.service import Service  # a client needs none of the service's modules

    await Service(home, options).run(ready)


def _replace(home: Path, running: Endpoint) -> None:
    status = endpoints.ask(running, "DELETE")
    if not status["ending"]:
        raise EnvironmentProblem(
            f"The local Lambda service in {home} has other settings, or older code, and is busy "
            f"({status['running']} invocations, {status['waiting']} events).",
            hint=f"Wait until its runs have ended, or stop it with {Command('estafeta', 'local', 'stop')}.",
        )
    if not _ended(running, STOP_LIMIT_S):
        raise EnvironmentProblem(f"Process {running.pid} does not end.", hint=f"Run `kill -9 {running.pid}`.")


def _start(home: Path, options: Options) -> Endpoint:
    _check(options)
    with open(home / "service.log", "ab") as log_file:
        # The service closes its standard output when it answers, or by ending; `run` returns then.
        try:
            started = subprocess.run(
                [sys.executable, "-P", "-m", "estafeta.local", str(home.absolute()), options.to_json()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log_file,
                timeout=START_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as expired:
            raise EnvironmentProblem(
                f"The local Lambda service did not answer within {START_LIMIT_S:.0f} s of its start.",
                hint=f"Try again when the machine is less busy; see {home / 'service.log'}.",
            ) from expired
    endpoint = endpoints.read(home) if started.stdout else None
    if endpoint is None:
        last_line = (home / "service.log").read_text(errors="replace").splitlines()[-1:]
        raise EnvironmentProblem(
            f"The local Lambda service did not start: {' '.join(last_line) or 'it wrote nothing'}",
            hint=f"See {home / 'service.log'}.",
        )
    return endpoint


def _require_linux() -> None:
    if platform.system() != "Linux":  # process file descriptors, /proc, and wheels of AWS's runtime client
        raise EnvironmentProblem(
            f"The local Lambda service needs Linux; this is {platform.system()}.",
            hint="Run it in a Linux container or virtual machine, or use --on inline.",
        )


def _check(options: Options) -> None:
    """Find the user's mistakes in this process, which can raise them; the background process cannot."""
    from estafeta.local.faults import Faults
    from estafeta.local.template.reader import read_template

    read_template(options.template, region=options.region, parameters=options.parameters)
    Faults.parse(options.faults)


@contextmanager
def _lock(home: Path) -> Iterator[None]:
    """Keep other clients from starting a service here; the kernel releases the lock if this process dies."""
    descriptor = os.open(home / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _ended(service: Endpoint, limit_s: float, number: signal.Signals | None = None) -> bool:
    """Send a service a signal, if one is given, and wait until the service has ended."""
    try:
        pidfd = os.pidfd_open(service.pid)
    except ProcessLookupError:
        return True
    try:
        if endpoints.start_time(service.pid) != service.started:  # another process has this id by now
            return True
        if number is not None:
            signal.pidfd_send_signal(pidfd, number)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        return bool(poller.poll(limit_s * 1000))
    finally:
        os.close(pidfd)
