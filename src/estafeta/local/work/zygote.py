"""A warm parent process from which execution environments are forked.

Importing torch costs seconds, forking a process that has imported it costs milliseconds. The service starts one zygote
for each set of preloaded modules; a zygote imports them once and then forks on request.

This file runs as a script; nobody imports it. It uses the standard library only and knows nothing of Estafeta, so an
environment starts with no Estafeta module loaded, as on Lambda. Invariants: a zygote has a single thread when it forks,
and it reaps a child only on request. So the service may signal a child's process id until it asks to reap it.

The protocol is one JSON object per line over the socket given as file descriptor. The answer to `{"fork": {...}}` is
`{"pid": n}`. The answer to `{"reap": n}` is `{"status": s}`, with a negative status for a signal. The zygote answers a
request before it reads the next one.
"""

import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import warnings
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
MAX_OPEN_FILES = 1024  # Lambda quota "file descriptors"

# Modules that nearly every handler imports anyway; an absent one is skipped.
LEAN = (
    "asyncio concurrent.futures ctypes decimal http.client logging multiprocessing numpy numpy.random pydantic "
    "simplejson snapshot_restore_py ssl uuid"
).split()


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that forked it ends, for whatever reason (prctl(2))."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)


def preload(modules: list[str]) -> None:
    """Import the modules that can be imported; report the others on stderr."""
    warnings.filterwarnings("ignore", r"(?s).*joblib will operate in serial mode")  # without /dev/shm it has to
    for name in (*LEAN, *modules):
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:  # OSError: a shared library that does not load
            sys.stderr.write(f"zygote: module {name} is not preloaded: {error}\n")
    try:
        warm_boto3()
    except ImportError as error:
        sys.stderr.write(f"zygote: boto3 is not preloaded: {error}\n")


def warm_boto3() -> None:
    """Load the service model and the endpoint rules that the first `boto3.client("lambda")` would load.

    boto3 keeps both on its default session. The keys here belong to this one client: the session itself holds none,
    and an environment finds its own keys in its environment variables.
    """
    import boto3

    boto3.client("lambda", region_name="us-east-1", aws_access_key_id="-", aws_secret_access_key="-").close()


def withhold_shared_memory() -> None:
    """Make POSIX semaphores and shared memory fail as on Lambda, which has no /dev/shm."""
    import _multiprocessing  # type: ignore[import-not-found]
    import _posixshmem  # type: ignore[import-not-found]

    def refuse(*_args: object, **_kwargs: object) -> NoReturn:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    refusing = type("SemLock", (_multiprocessing.SemLock,), {"__new__": refuse})
    _multiprocessing.SemLock = refusing
    _posixshmem.shm_open = refuse


def become_environment(order: dict[str, Any], zygote: int) -> None:
    """Turn this fresh child into an execution environment and run AWS's runtime client in it until it ends.

    Args:
        order: `handler`, `environment` (the complete set of variables), `task_root`, `threads` and `log` (path of the
            file that stdout and stderr are appended to).
        zygote: Process id of the parent.
    """
    os.setsid()
    die_with_parent(zygote)
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, order["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["task_root"])
    sys.path.insert(0, order["task_root"])
    tempfile.tempdir = None
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()  # `random` reseeds itself after a fork
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(order["threads"])
    sys.argv = ["awslambdaric", order["handler"]]
    runpy.run_module("awslambdaric", run_name="__main__", alter_sys=True)


def obey(requests: socket.socket) -> dict[str, Any] | None:
    """Answer requests until the service closes the socket.

    Returns:
        In a new child, the order it was forked for; in the zygote None, at the end.
    """
    with requests.makefile("rb") as lines:
        for line in lines:
            request = json.loads(line)
            if "fork" in request:
                pid = os.fork()
                if pid == 0:
                    return dict(request["fork"])
                answer = {"pid": pid}
            else:
                answer = {"status": os.waitstatus_to_exitcode(os.waitpid(request["reap"], 0)[1])}
            requests.sendall(json.dumps(answer).encode() + b"\n")
    return None


def main(arguments: list[str]) -> None:
    """Run a zygote: `zygote.py PARENT_PID SOCKET_FD [MODULE...]`."""
    parent, descriptor, *modules = arguments
    die_with_parent(int(parent))
    requests = socket.socket(fileno=int(descriptor))
    withhold_shared_memory()
    preload(modules)
    gc.collect()
    gc.freeze()  # the collector would otherwise write to, and so copy, every inherited page
    zygote = os.getpid()
    order = obey(requests)
    requests.close()
    if order is not None:
        become_environment(order, zygote)


if __name__ == "__main__":
    main(sys.argv[1:])
