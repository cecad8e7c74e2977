"""How a run comes to be: its folders, then its name, which is his who publishes the reserve; `run.json` comes last."""

from __future__ import annotations

from estafeta.errors import Conflict, UsageError
from estafeta.protocol.layout import RUN_NAME, RunLayout
from estafeta.protocol.outcome import RESERVE_BYTES
from estafeta.protocol.spec import RunSpec
from estafeta.store.store import Store


def found(spec: RunSpec, store: Store) -> None:
    """Make a run's folders, and take its name. Repeating it changes nothing.

    Raises:
        UsageError: It is no name.
        Conflict: Somebody else has it.
    """
    if not RUN_NAME.fullmatch(spec.run):
        raise UsageError(f"{spec.run!r} cannot name a run", hint="use lower-case letters, digits, '.', '_' and '-'")
    layout = RunLayout(spec.run)
    for directory in layout.directories(0 if spec.topology == "merge" else spec.workers):
        store.make_directories(directory)
    if not store.publish(layout.reserve, [spec.token.encode().ljust(RESERVE_BYTES)], spec.token):
        raise taken(spec)


def publish_spec(spec: RunSpec, store: Store) -> None:
    """Publish `run.json`: from now on the run is there.

    Raises:
        Conflict: Somebody else has its name.
    """
    if not store.publish(RunLayout(spec.run).spec, [spec.to_json()], spec.token):
        raise taken(spec)


def taken(spec: RunSpec) -> Conflict:
    """The error for a run whose name is another's."""
    return Conflict(f"there is a run named {spec.run} already", hint="start it again: it gets another name")
