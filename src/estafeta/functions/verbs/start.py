"""The verb `start`: a run's folders come first, then its name, then its code; `run.json` comes last.

The name belongs to whoever publishes the `reserve` file first.
"""

from collections.abc import Callable
from typing import Any

from estafeta.aws.bucket import Bucket
from estafeta.errors import Conflict, UsageError
from estafeta.functions.verbs.take_source import take_source
from estafeta.protocol.ending import RESERVE_BYTES
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import RUN_NAME, RunLayout
from estafeta.protocol.snapshot import Prepare
from estafeta.protocol.spec import RunSpec
from estafeta.protocol.verbs import StartVerb
from estafeta.store.store import Store


def start(verb: StartVerb, invocation: Invocation, bucket_of: Callable[[str], Bucket]) -> dict[str, Any]:
    """Publish a run and set it going; return its name. A repeated call changes nothing.

    The source is in the verb, or in the bucket that the verb names; `bucket_of` opens that.

    Raises:
        UsageError: The name is no name of a run, or a path no path of a module.
        Conflict: Another run has the name.
    """
    spec, store = verb.spec, invocation.store
    layout, sent = RunLayout(spec.run), verb.uploaded
    code = take_source(sent.files, bucket_of(sent.bucket)) if sent else verb.code
    found(spec, store)
    for path, text in code.items():
        parts = path.split("/")
        if not path.endswith(".py") or any(part in ("", ".", "..") for part in parts):
            raise UsageError(f"{path!r} is no path of a Python module", hint="paths are relative: parts/model.py")
        store.make_directories("/".join([layout.code, *parts[:-1]]))
        token = f"# {spec.token}\n"
        if not store.publish(f"{layout.code}/{path}", [f"{text.rstrip()}\n{token}".encode()], spec.token):
            raise _taken(spec)
    publish_spec(spec, store)
    dispatch((Prepare(),), spec, invocation)
    return {"run": spec.run}


def found(spec: RunSpec, store: Store) -> None:
    """Make a run's folders, and take its name. A repeated call changes nothing.

    Raises:
        UsageError: The name is no name of a run.
        Conflict: Another run has it.
    """
    if not RUN_NAME.fullmatch(spec.run):
        raise UsageError(f"{spec.run!r} cannot name a run", hint="use lower-case letters, digits, '.', '_' and '-'")
    layout = RunLayout(spec.run)
    for directory in layout.directories(0 if spec.topology == "merge" else spec.workers):
        store.make_directories(directory)
    if not store.publish(layout.reserve, [spec.token.encode().ljust(RESERVE_BYTES)], spec.token):
        raise _taken(spec)


def publish_spec(spec: RunSpec, store: Store) -> None:
    """Publish `run.json`: from now on the run is there.

    Raises:
        Conflict: Another run has its name.
    """
    if not store.publish(RunLayout(spec.run).spec, [spec.to_json()], spec.token):
        raise _taken(spec)


def _taken(spec: RunSpec) -> Conflict:
    return Conflict(f"There is a run named {spec.run} already", hint="start it again: it gets another name")
