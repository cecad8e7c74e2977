"""Train on two machines that share nothing but a directory: rank 0 on one, rank 1 on the other, in each topology.

    python scripts/two_machines.py DIR --word NEW --peer 0      # on one machine
    python scripts/two_machines.py DIR --word NEW --peer 1      # on the other, at about the same time

DIR is on a file system that both have mounted, such as EFS; NEW is a word that has not been used there. It is the
package's own code, but for what invokes functions: here an event is a file in the folder of the machine that is to
carry it out. Machine 0 compares the weights with those of a run in one process of its own, and exits with 1 if they
are not the same, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from estafeta.aws.bucket import Bucket
from estafeta.client.backend import unwrap
from estafeta.client.inline import InlineBackend
from estafeta.client.launch import start
from estafeta.client.logbook import Entry
from estafeta.client.run import Run
from estafeta.client.source import import_job
from estafeta.cost.cost import Basis, Usage
from estafeta.functions.control import control
from estafeta.functions.merge import merge
from estafeta.functions.worker import work
from estafeta.job.job import On
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import Choice, FunctionSettings, MergeEvent, Role, WorkerEvent
from estafeta.protocol.verbs import StatusVerb
from estafeta.store.inotify import filesystem_of
from estafeta.store.store import Backoff, Store, new_token

JOB = str(Path(__file__).parents[1] / "examples/digits.py")
OPTIONS = {"epochs": 2, "model.hidden": 16}
FUNCTIONS: dict[Role, FunctionSettings] = {
    role: FunctionSettings(name=role, memory_mb=1769, timeout_s=900) for role in ("worker", "merge", "control")
}
TOPOLOGIES: tuple[Choice, ...] = ("merge", "sharded", "replicated")
PATIENCE_S = 1800.0
OVER = "over"


class Machine:
    """One of the two: `Invoker` and `Backend` at once.

    Args:
        store: What they share.
        folder: Where they meet: one folder of events for each.
        me: Which one this is.
    """

    on: On = "local"
    functions = FUNCTIONS
    basis = Basis()
    bucket: Bucket | None = None

    def __init__(self, store: Store, folder: str, me: int) -> None:
        self._store, self._folder, self._me = store, folder, me
        self._seen: set[str] = set()
        for peer in (0, 1):
            store.make_directories(f"{folder}/{peer}")

    def send(self, role: Role, event: Mapping[str, Any]) -> None:
        """See `Invoker.send`: a rank's events go to the machine that it is on, those of the merge to machine 1."""
        peer = 1 if role == "merge" else event["rank"] % 2
        token = new_token()
        content = json.dumps({"token": token, "role": role, "event": event}).encode()
        self._store.publish(f"{self._folder}/{peer}/{token}", [content], token)

    def call(self, verb: Any, event: Mapping[str, Any] | None = None) -> Any:
        """See `Backend.call`: this machine carries out control's verbs."""
        return unwrap(control(verb.model_dump(mode="json"), self._invocation("control", new_token())))

    def serve(self, run: str | None = None) -> None:
        """Carry out events until a run has ended, or until the other says that all is over."""
        inbox = f"{self._folder}/{self._me}"
        while True:
            names = self._store.wait(
                inbox, lambda names: bool(names - self._seen), timeout_s=1.0, backoff=Backoff(0.05, 1.5, 1.0)
            )
            for name in sorted((names or frozenset()) - self._seen):
                self._seen.add(name)
                if name == OVER:
                    return
                self._carry_out(json.loads(self._store.read(f"{inbox}/{name}")))
            if run and self.call(StatusVerb(run=run))["outcome"]:
                return

    def is_over(self) -> None:
        """Let the other leave."""
        self._store.publish(f"{self._folder}/1/{OVER}", [OVER.encode()], OVER)

    def with_settings(self, settings: object, variables: object = None) -> dict[Role, FunctionSettings]:
        """See `Backend.with_settings`: there is nothing to set."""
        return dict(FUNCTIONS)

    def advance(self, seconds: float) -> None:
        """See `Backend.advance`."""

    def log(self, run: str, functions: object, since_s: float) -> list[Entry]:
        """See `Backend.log`."""
        return []

    def usage(self, run: str, functions: object, since_s: float, *, ended: bool) -> Usage:
        """See `Backend.usage`."""
        return Usage({}, 0, 0, 0.0)

    def faults(self, run: str, functions: object, since_s: float) -> dict[str, int]:
        """See `Backend.faults`."""
        return {}

    def _carry_out(self, order: Mapping[str, Any]) -> None:
        role, event, invocation = order["role"], order["event"], self._invocation(order["role"], order["token"])
        if role == "merge":
            done = merge(MergeEvent.model_validate(event), invocation)
        else:
            done = work(WorkerEvent.model_validate(event), invocation)
        if event.get("task") in ("prepare", "reside"):
            say(event["run"], f"{event['task']} rank {event['rank']}: {done['done']}")

    def _connect(self, _functions: object) -> Machine:
        return self

    def _invocation(self, role: Role, token: str) -> Invocation:
        return Invocation(self._store, self._connect, token, lambda: PATIENCE_S, role, quiet=True)


def digest(run: Run) -> str:
    """The digest of the weights of a run that has ended."""
    outcome = run.status().outcome
    if outcome is None or outcome.weights_sha256 is None:
        sys.exit(f"{run.name} has not ended well: {outcome}")
    return outcome.weights_sha256


def say(*texts: str) -> None:
    """Print a line that begins with the machine's name; it may come out of a serial console."""
    print("   ".join([platform.node(), *texts]), flush=True)


def main() -> int:
    """Be one of the two; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--word", required=True)
    parser.add_argument("--peer", type=int, choices=(0, 1), required=True)
    options = parser.parse_args()
    store = Store(options.directory)
    say(f"Linux {platform.release()}", f"{options.directory} on {filesystem_of(store.root)}")
    machine = Machine(store, f"machines-{options.word}", options.peer)
    if options.peer == 1:
        machine.serve()
        return 0
    job = import_job(JOB)
    with tempfile.TemporaryDirectory() as root:
        alone = start(*job, backend=InlineBackend(Path(root), FUNCTIONS), workers=2, topology="merge", options=OPTIONS)
        expected = digest(alone.wait())
    say(f"{'in one process':16}{expected}")
    same = True
    for topology in TOPOLOGIES:
        run = start(*job, backend=machine, workers=2, topology=topology, options=OPTIONS)
        machine.serve(run.name)
        found = digest(run)
        same &= found == expected
        say(f"{topology:16}{found}", "the same bits" if found == expected else "OTHER BITS")
    machine.is_over()
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
