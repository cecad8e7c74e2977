"""Checks of this machine, for `--on local`."""

import platform
import socket
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from estafeta import local
from estafeta.client.backend import home
from estafeta.client.connect import TEMPLATE, on_service
from estafeta.deploy.doctor.check import Check
from estafeta.errors import Ailment, Command
from estafeta.functions.verbs.probe import probe_links
from estafeta.local.template.reader import read_template
from estafeta.protocol.verbs import RunsVerb
from estafeta.store.files import free_bytes
from estafeta.store.store import Store

LEAST_PYTHON = (3, 11)

NEEDED = {
    "numpy": "",
    "pydantic": "",
    "boto3": "",
    "awslambdaric": "",
    "httptools": "",
    "torch": "torch",
    "safetensors": "torch",
}
"""Packages that training needs, with the extra of Estafeta that brings each."""
USEFUL = {"scikit-learn": "its data sets and svmlight files", "pyarrow": "CSV and Parquet files"}
"""Packages that only one feature needs, and that feature."""
LEAST_FREE_BYTES = 1 << 30
"""Bytes that should be free: a run keeps two or three versions of its weights, and its exports."""


def checks() -> list[Check]:
    """All checks of this machine, in order."""
    return [
        Check("python", _python),
        Check("packages", _packages),
        Check("port", _port),
        Check("memory", _memory),
        Check("disk", _disk),
        Check("service", _service, needs=("python", "packages", "port")),
    ]


def _python() -> str:
    running = f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {platform.machine()}"
    if sys.version_info < LEAST_PYTHON:
        raise Ailment(running, hint=f"install Python {'.'.join(map(str, LEAST_PYTHON))} or newer")
    if platform.system() != "Linux":
        raise Ailment(running, hint="the local service needs Linux: a container or a virtual machine, or --on inline")
    return running


def _packages() -> str:
    versions = {name: _version(name) for name in (*NEEDED, *USEFUL)}
    missing = [name for name in NEEDED if versions[name] is None]
    if missing:
        extras = sorted({NEEDED[name] for name in missing} - {""})
        package = f"estafeta[{','.join(extras)}]" if extras else "estafeta"
        raise Ailment(f"Not installed: {', '.join(missing)}", hint=f"pip install '{package}'")
    there = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    without = "".join(f"; without {name}: no {use}" for name, use in USEFUL.items() if versions[name] is None)
    return there + without


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _port() -> str:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
            return "a port on 127.0.0.1 can be opened and reached"
    except OSError as error:
        raise Ailment(
            f"No port on 127.0.0.1 can be opened and reached: {error}",
            hint="let programs listen on the loopback interface, or use --on inline",
        ) from error


def _memory() -> str:
    (worker,) = (f for f in read_template(TEMPLATE, region="us-east-1") if f.name.endswith("-worker"))
    limits = {"the machine": _available_mb(), **{f"the control group {path}": mb for path, mb in _group_limits()}}
    where, room = min(limits.items(), key=lambda item: item[1])
    fits = room // worker.memory_mb
    detail = f"{room:,} MB by {where}: {fits} workers of {worker.memory_mb} MB at a time"
    if not fits:
        raise Ailment(detail, hint="-o worker.memory_mb=… gives a worker less; free memory, or raise the limit")
    return detail


def _available_mb() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("MemAvailable:"))


def _group_limits() -> Iterator[tuple[str, int]]:
    """Limits in MB of the control groups (version 2) of this process, from the innermost to the root."""
    line = next(
        (line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::/")), "0::/"
    )
    group = Path(line.removeprefix("0::"))
    for folder in (group, *group.parents):
        try:
            limit = Path("/sys/fs/cgroup", *folder.parts[1:], "memory.max").read_text().strip()
        except OSError:  # the root group has no such file, nor has version 1
            continue
        if limit != "max":
            yield str(folder), int(limit) >> 20


def _disk() -> str:
    root = home() / "store"
    root.mkdir(parents=True, exist_ok=True)
    probe_links(Store(root))
    free = free_bytes(str(root))
    detail = f"{free / 1e9:,.1f} GB free in {root}, which takes hard links"
    if free < LEAST_FREE_BYTES:
        raise Ailment(
            detail, hint=f"{Command('estafeta', 'clean', 'RUN')}, or set ESTAFETA_HOME to a folder on another disk"
        )
    return detail


def _service() -> str:
    """Start a separate service, which disturbs no running one, and have a function answer."""
    with tempfile.TemporaryDirectory(prefix="estafeta-doctor-") as folder:
        place = Path(folder)
        endpoint = local.ensure(place, local.Options(template=TEMPLATE, root=place / "store"))
        try:
            on_service(endpoint).call(RunsVerb())
        finally:
            local.stop(place)
    return "a local service started, and a function answered"
