"""The service as a whole: it wires the parts, listens, keeps house, and ends without leaving a process behind.

It knows which part answers which request, and not how. Invariant: the service checks every signature before it looks at
the request, and its socket is on the loopback interface.
"""

import asyncio
import fcntl
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from estafeta.errors import Command, EnvironmentProblem
from estafeta.local import endpoint as endpoints
from estafeta.local.api.api_error import ApiError
from estafeta.local.api.config import ConfigApi
from estafeta.local.api.http import HttpProtocol, Reply, Request, Response
from estafeta.local.api.invoke import InvokeApi
from estafeta.local.api.logs import TARGET, LogsApi
from estafeta.local.api.sigv4 import Verifier
from estafeta.local.endpoint import Endpoint
from estafeta.local.fault_log import FaultLog
from estafeta.local.faults import Faults, Injectors
from estafeta.local.logs.streams import remove_streams
from estafeta.local.options import Options
from estafeta.local.template.reader import read_template
from estafeta.local.work.async_queue import AsyncQueue
from estafeta.local.work.environment import LOOPBACK, Host
from estafeta.local.work.functions import Registry
from estafeta.local.work.nursery import Nursery
from estafeta.local.work.pool import Pool
from estafeta.local.work.variables import Surroundings

log = logging.getLogger(__name__)
HOUSEKEEPING_S = 5.0
FAREWELL_S = 5.0  # time for killed processes to be gone
DAY_S = 86_400.0


class Service:
    """A local Lambda service; it lives inside one event loop.

    Args:
        home: Folder of the service's own files.
        options: Settings.

    Raises:
        UsageError: The template or the options are wrong.
    """

    def __init__(self, home: Path, options: Options) -> None:
        self._home = home.absolute()
        self._options = options
        self._functions = read_template(options.template, region=options.region, parameters=options.parameters)
        self._faults = Faults.parse(options.faults)
        self._loop = asyncio.get_running_loop()
        self._ending = asyncio.Event()
        self._touched_s = self._loop.time()

    async def run(self, ready: Callable[[Endpoint], None]) -> None:
        """Serve until a signal, a request or idleness ends it.

        Args:
            ready: Function that is called once, when the service answers requests.

        Raises:
            EnvironmentProblem: Another service runs in the same folder.
        """
        with self._home_lock():
            await self._run(ready)

    async def _run(self, ready: Callable[[Endpoint], None]) -> None:
        # An environment takes six descriptors; the usual soft limit of 1,024 would be 170 environments.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        listener = socket.create_server((LOOPBACK, 0), backlog=1024)
        host, port = listener.getsockname()
        endpoint = Endpoint(
            url=f"http://{host}:{port}",
            access_key="AKIA" + secrets.token_hex(8).upper(),
            secret_key=secrets.token_urlsafe(30),
            region=self._options.region,
            pid=os.getpid(),
            started=endpoints.start_time(os.getpid()) or 0,
            digest=self._options.digest(),
        )
        self._build(endpoint)
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._ending.set)
        server = await self._loop.create_server(lambda: HttpProtocol(self._serve), sock=listener)
        housekeeping = self._loop.create_task(self._keep_house())
        endpoints.write(self._home, endpoint)
        try:
            ready(endpoint)
            await self._ending.wait()
        finally:
            endpoints.remove(self._home)
            server.close()
            housekeeping.cancel()
            self._queue.close()
            await self._pool.close(FAREWELL_S)
            self._nursery.close()
            self._fault_log.close()
            shutil.rmtree(self._environments, ignore_errors=True)

    @contextmanager
    def _home_lock(self) -> Iterator[None]:
        with open(self._home / "service.lock", "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EnvironmentProblem(
                    f"A local Lambda service is already running in {self._home}.",
                    hint=f"Stop it with {Command('estafeta', 'local', 'stop')}, or choose another folder.",
                ) from None
            yield

    def _build(self, endpoint: Endpoint) -> None:
        options, home = self._options, self._home
        self._environments = home / "environments"
        shutil.rmtree(self._environments, ignore_errors=True)  # left by a service that was killed
        task_root = options.task_root or home / "task"
        self._logs = logs = home / "logs"
        for folder in (self._environments, task_root, logs, options.root):
            folder.mkdir(parents=True, exist_ok=True)
        self._endpoint = endpoint
        self._verifier = Verifier(endpoint.access_key, endpoint.secret_key, endpoint.region)
        self._nursery = Nursery(str(options.python or sys.executable))
        self._nursery.warm(dict.fromkeys(function.preload for function in self._functions))
        surroundings = Surroundings(
            url=endpoint.url,
            access_key=endpoint.access_key,
            secret_key=endpoint.secret_key,
            region=endpoint.region,
            root=options.root.absolute(),
            task_root=task_root.absolute(),
        )
        faults = Injectors(self._faults)
        self._fault_log = FaultLog(logs)
        host = Host(
            self._nursery, surroundings, self._environments, logs, options.init_limit_s, faults, self._fault_log
        )
        registry = Registry(self._functions, options.region, home / "versions.json")
        self._pool = Pool(host, registry, options.account_limit)
        self._queue = AsyncQueue(registry, self._pool, faults, self._fault_log, options.retry_delay_scale)
        self._invoke_api = InvokeApi(registry, self._pool, self._queue)
        self._config_api = ConfigApi(registry, self._pool)
        self._logs_api = LogsApi(registry, logs, options.region)

    def _serve(self, request: Request, reply: Reply) -> None:
        self._touched_s = self._loop.time()
        try:
            if self._ending.is_set():
                raise ApiError(500, "ServiceException", "The local Lambda service is ending.")
            self._verifier.check(request)
            match request.method, request.segments:
                case "POST", ["2015-03-31", "functions", reference, "invocations"]:
                    self._invoke_api.invoke(reference, request, reply)
                case "POST", [] if request.headers.get("x-amz-target", "").startswith(TARGET):
                    reading = self._loop.run_in_executor(None, self._logs_api.answer, request)
                    reading.add_done_callback(partial(_answer_read, reply))
                case "GET" | "DELETE" as method, ["estafeta", "service"]:
                    reply(self._status(end=method == "DELETE"))
                case method, _:
                    response = self._config_api.answer(request)
                    if response is None:
                        raise ApiError(404, "UnknownOperationException", f"There is no {method} {request.target} here.")
                    reply(response)
        except ApiError as error:
            reply(error.response(str(uuid.uuid4())))

    def _status(self, *, end: bool) -> Response:
        running, waiting = self._pool.running, self._queue.waiting
        ending = end and not running and not waiting
        if ending:
            self._loop.call_soon(self._ending.set)
        document = {
            "pid": os.getpid(),
            "digest": self._endpoint.digest,
            "running": running,
            "waiting": waiting,
            "ending": ending,
        }
        return Response(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    async def _keep_house(self) -> None:
        interval_s = min(HOUSEKEEPING_S, self._options.idle_timeout_s / 4, self._options.environment_idle_s / 4)
        sweeps_s = -DAY_S
        while True:
            if self._loop.time() >= sweeps_s + DAY_S:
                sweeps_s = self._loop.time()
                await self._loop.run_in_executor(None, self._sweep_logs)
            await asyncio.sleep(interval_s)
            self._pool.reap(self._options.environment_idle_s)
            if self._pool.running or self._queue.waiting:
                self._touched_s = self._loop.time()
            elif self._loop.time() - self._touched_s > self._options.idle_timeout_s:
                log.info("idle for %.0f s: ending", self._options.idle_timeout_s)
                self._ending.set()

    def _sweep_logs(self) -> None:
        for function in self._functions:
            if function.log_days is not None:
                remove_streams(self._logs, function.log_group, time.time() - function.log_days * DAY_S)


def _answer_read(reply: Reply, reading: asyncio.Future[Response]) -> None:
    try:
        response = reading.result()
    except ApiError as error:
        response = error.response(str(uuid.uuid4()))
    except Exception as error:  # such as a file removed meanwhile: the caller must not wait for ever
        log.exception("the logs could not be read")
        response = ApiError(500, "ServiceUnavailableException", f"The logs cannot be read: {error}").response("")
    reply(response)
