"""What `estafeta doctor` has the functions find out where they run: the mount, a second function, PyTorch.

Nothing of a run is touched. What is measured takes two functions: each sees what it has written itself at once, and
only what another one has written tells how the file system behaves between machines.
"""

import importlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

from estafeta.aws.lambda_api import reaching
from estafeta.errors import Command, EnvironmentProblem, FunctionError
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import probe_folder
from estafeta.protocol.spec import WorkerEvent
from estafeta.protocol.verbs import ProbeVerb
from estafeta.store.files import free_bytes
from estafeta.store.store import Backoff, Store, new_token

TURNS = 10
"""How often the two exchange a small file."""
LOAD_BYTES = 16 << 20
"""Size of the large file that one writes and the other reads."""
START_S = 60.0
"""How long the second function may take to start."""
TURN_S = 30.0
"""How long a file may take to be seen, or the large one to be read."""
LOOKING = Backoff(first_s=0.001, longest_s=0.05)


def probe(verb: ProbeVerb, invocation: Invocation) -> dict[str, Any]:
    """Carry out a probe of `control`.

    Raises:
        EnvironmentProblem: What was tried does not work.
    """
    match verb.what:
        case "mount":
            return _mount(invocation.store)
        case "meet":
            return _meet(verb, invocation)
        case "answer":
            return _answer(verb, invocation.store)
        case "worker":
            return _call_worker(verb, invocation)


def probe_torch(invocation: Invocation) -> dict[str, Any]:
    """Import PyTorch in a worker.

    Returns:
        `torch`: its version; `import_s`: seconds that importing it took, if the environment is `cold`; `threads`.
    """
    cold, invocation.warm.was_probed = not invocation.warm.was_probed, True
    began = time.perf_counter()
    torch = importlib.import_module("torch")
    return {
        "torch": str(torch.__version__),
        "import_s": time.perf_counter() - began,
        "cold": cold,
        "threads": torch.get_num_threads(),
    }


def probe_links(store: Store) -> None:
    """Publish a file in a store: that takes a hard link.

    Raises:
        EnvironmentProblem: It cannot be done.
    """
    folder = probe_folder(new_token())
    store.make_directories(folder)
    try:
        store.publish(f"{folder}/file", [b"t"], "t")
    except OSError as error:
        raise EnvironmentProblem(
            f"nothing can be published in the store: {error}",
            hint="it needs room and hard links: EFS has them, S3 Files has not",
        ) from error
    finally:
        store.remove_tree(folder)


def _call_worker(verb: ProbeVerb, invocation: Invocation) -> dict[str, Any]:
    try:
        with reaching("the Lambda API, from inside the stack's network,"):
            event = WorkerEvent(run="", task="probe").model_dump()
            return dict(invocation.connect(verb.functions).call("worker", event))
    except FunctionError as error:
        raise EnvironmentProblem(
            f"the worker function failed: {error}",
            hint=f"see its log; if PyTorch is not there: {Command('estafeta', 'deploy')}",
        ) from error


def _mount(store: Store) -> dict[str, Any]:
    """How the store is mounted: `place`, `type` and `options` as `/proc/mounts` has them, `free_bytes`."""
    probe_links(store)
    place, kind, options = _mounted(os.path.realpath(store.root))
    return {"place": place, "type": kind, "options": options, "free_bytes": free_bytes(store.root)}


def _mounted(path: str) -> tuple[str, str, str]:
    """Mount point, type and options of the file system that a path is on (proc_mounts(5))."""
    found = ("", "", "")
    for line in Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines():
        _, place, kind, options, *_ = line.split()
        inside = place == "/" or path == place or path.startswith(place + "/")
        if inside and len(place) >= len(found[0]):  # of two on one place, the later one covers the earlier
            found = (place, kind, options)
    return found


def _meet(verb: ProbeVerb, invocation: Invocation) -> dict[str, Any]:
    """Start a second invocation of `control`, exchange files with it.

    Returns:
        `start_s`: from the event until the second one was seen; `turns_s`: for each turn, from publishing a file until
        the answer to it was seen; `write_bytes_per_s`, `read_bytes_per_s`: of one large file, by one function each.
    """
    store, clock, folder = invocation.store, invocation.store.clock, probe_folder(verb.token)
    store.make_directories(folder)
    try:
        began = clock.monotonic()
        with reaching("the Lambda API, from inside the stack's network,"):
            event = ProbeVerb(verb="probe", what="answer", token=verb.token)
            invocation.connect(verb.functions).send("control", event.model_dump())
        _await(store, folder, "ready", START_S)
        started = clock.monotonic()
        turns = []
        for turn in range(TURNS):
            asked = clock.monotonic()
            _put(store, folder, f"ping-{turn}")
            _await(store, folder, f"pong-{turn}", TURN_S)
            turns.append(clock.monotonic() - asked)
        content = os.urandom(LOAD_BYTES)
        writing = clock.monotonic()
        store.publish(f"{folder}/load", [b"load", content], "load")
        written = clock.monotonic()
        _await(store, folder, "read", TURN_S)
        read_s = json.loads(store.read(f"{folder}/read"))["seconds"]
    finally:
        store.remove_tree(folder)
    return {
        "start_s": started - began,
        "turn_s": {"median": statistics.median(turns), "longest": max(turns)},
        "write_bytes_per_s": LOAD_BYTES / (written - writing),
        "read_bytes_per_s": LOAD_BYTES / read_s,
    }


def _answer(verb: ProbeVerb, store: Store) -> dict[str, Any]:
    """Be the second invocation."""
    folder, clock = probe_folder(verb.token), store.clock
    _put(store, folder, "ready")
    for turn in range(TURNS):
        _await(store, folder, f"ping-{turn}", TURN_S)
        _put(store, folder, f"pong-{turn}")
    _await(store, folder, "load", TURN_S)
    began = clock.monotonic()
    store.read(f"{folder}/load")
    seconds = clock.monotonic() - began
    store.publish(f"{folder}/read", [json.dumps({"token": "read", "seconds": seconds}).encode()], "read")
    return {"answered": verb.token}


def _put(store: Store, folder: str, name: str) -> None:
    store.publish(f"{folder}/{name}", [name.encode()], name)


def _await(store: Store, folder: str, name: str, timeout_s: float) -> None:
    if store.wait(folder, lambda names: name in names, timeout_s=timeout_s, backoff=LOOKING) is None:
        raise EnvironmentProblem(
            f"a second function has not been seen to write {name!r} within {timeout_s:.0f} s",
            hint="see the log of the control function: was it started twice, and did it reach the file system?",
        )
