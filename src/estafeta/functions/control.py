"""The control function: the door for a client's verbs, and for the events that Lambda has given up.

A client mounts nothing. It starts, follows, stops and fetches through verbs; each answer stays under the 6 MB that a
synchronous invocation may return. `control` is also Lambda's failure destination: it gets the events that no retry
could save.
"""

import contextlib
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from estafeta.aws.account import patient_client
from estafeta.aws.bucket import Bucket
from estafeta.aws.library import install
from estafeta.errors import Command, EstafetaError, Gone, UsageError
from estafeta.functions.entry import invocation_of
from estafeta.functions.lost_events import explain, follow_up, is_due, is_failure_record, run_of
from estafeta.functions.verbs.clean import clean
from estafeta.functions.verbs.datasets import datasets, describe, remove, verify_some
from estafeta.functions.verbs.fetch import fetch
from estafeta.functions.verbs.fork import fork
from estafeta.functions.verbs.inspect import inspect
from estafeta.functions.verbs.probe import probe
from estafeta.functions.verbs.receive import receive
from estafeta.functions.verbs.resume import resume, stop
from estafeta.functions.verbs.start import start
from estafeta.functions.verbs.status import folder_of, runs, status
from estafeta.functions.verbs.take_source import source
from estafeta.functions.watchdog import tend, tend_all
from estafeta.protocol import verbs
from estafeta.protocol.ending import fail
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import Snapshot, maker_of, take_snapshot
from estafeta.residents.claim import relieve
from estafeta.residents.marks import read_claim

_verbs: TypeAdapter[verbs.ControlEvent] = TypeAdapter(verbs.ControlEvent)


def handler(event: Any, context: Any) -> dict[str, Any]:
    """Entry point on Lambda."""
    return control(event, invocation_of(context))


def control(event: Any, invocation: Invocation) -> dict[str, Any]:
    """Carry out a verb, or take note of an event that Lambda has given up.

    Returns:
        The verb's answer; or `{"error": {"kind", "message", "hint", "exit_code"}}`.
    """
    try:
        if is_failure_record(event):
            return _give_up(event, invocation)
        verb = _parsed(event)
        invocation.note(_run_of(verb), verb=verb.verb)
        try:
            return _answer(verb, invocation)
        finally:
            invocation.note_end(_run_of(verb), verb.verb)
    except EstafetaError as error:
        return _error(error)


def _parsed(event: Any) -> verbs.ControlEvent:
    try:
        return _verbs.validate_python(event)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"].lower()])
        raise UsageError(
            f"control does not understand the event: {what}",
            hint=f"client and functions seem to be of different versions: {Command('estafeta', 'deploy')} renews those "
            f"of a stack, {Command('estafeta', 'local', 'stop')} ends a local service of older code",
        ) from error


def _answer(verb: verbs.ControlEvent, invocation: Invocation) -> dict[str, Any]:
    store = invocation.store

    def folder() -> RunFolder:
        return folder_of(_run_of(verb), store)

    match verb:
        case verbs.StartVerb():
            return start(verb, invocation, _bucket)
        case verbs.RunsVerb():
            return runs(verb, store)
        case verbs.StatusVerb():
            return status(verb, folder())
        case verbs.InspectVerb():
            return inspect(verb, folder()).model_dump(mode="json")
        case verbs.SourceVerb():
            return source(folder())
        case verbs.FetchVerb():
            return fetch(verb, folder(), invocation.token, _bucket)
        case verbs.InstallVerb():
            return install(verb.library, store, _bucket(verb.bucket), invocation.remaining_s).model_dump()
        case verbs.DatasetsVerb():
            return datasets(verb, store).model_dump(mode="json")
        case verbs.DescribeVerb():
            return describe(verb, store).model_dump(mode="json")
        case verbs.VerifyVerb():
            return verify_some(verb, invocation)
        case verbs.ReceiveVerb():
            return receive(_bucket(verb.bucket), verb.token, invocation)
        case verbs.RemoveVerb():
            return remove(verb, store)
        case verbs.ProbeVerb():
            return probe(verb, invocation)
        case verbs.TendVerb():
            return {"tended": {verb.run: tend(folder(), invocation)} if verb.run else tend_all(invocation)}
        case verbs.StopVerb():
            return stop(folder(), invocation)
        case verbs.ResumeVerb():
            return resume(verb, folder(), invocation)
        case verbs.CleanVerb():
            return clean(verb, invocation)
        case verbs.ForkVerb():
            return fork(verb, folder(), invocation)


def _give_up(record: Any, invocation: Invocation) -> dict[str, Any]:
    """Note that Lambda could not get an event done: the run fails, unless another function has done it, or will."""
    run = run_of(record)
    folder = folder_of(run, invocation.store)
    spec, snapshot = folder.spec, take_snapshot(folder)
    failure, event = explain(record, spec.functions), record["requestPayload"]
    if spec.chaos:  # an invocation that was killed on purpose looks as if it had run out of memory
        hint = f"faults are injected into this run ({spec.chaos}); {Command('estafeta', 'resume', run)} goes on with it"
        failure = failure.model_copy(update={"hint": hint})
    invocation.note(run, gave_up=failure.reason)
    if is_due(event, snapshot) and not _is_replaced(event, failure.request_id, snapshot, folder):
        fail(folder, invocation, failure)
    else:
        has_made = _maker_of(snapshot, folder) == failure.request_id
        dispatch(follow_up(event, snapshot, has_made=has_made), spec, invocation)
        if event.get("task") == "reside" and not snapshot.outcome:
            relieve(failure.request_id, folder, event["rank"], event["leg"], invocation)
    return {"run": run}


def _maker_of(snapshot: Snapshot, folder: RunFolder) -> str:
    with contextlib.suppress(Gone):
        return maker_of(snapshot, folder)
    return ""  # the run has gone on


def _is_replaced(event: Any, request_id: str, snapshot: Snapshot, folder: RunFolder) -> bool:
    """Whether another request holds the newest claim of the resident leg that an event was for."""
    claimed = dict(snapshot.residents).get(event.get("rank", 0))
    if event.get("task") != "reside" or claimed is None or claimed < (event["leg"], event["generation"]):
        return False
    try:
        claim = read_claim(folder, event["rank"], *claimed)
    except Gone:
        return True
    return claim.request_id != request_id


def _run_of(verb: verbs.ControlEvent) -> str:
    """The run that a verb is about; empty if it is about none, or about all."""
    return verb.spec.run if isinstance(verb, verbs.StartVerb) else str(getattr(verb, "run", None) or "")


@lru_cache(maxsize=4)
def _bucket(name: str) -> Bucket:
    return Bucket(name, patient_client("s3"))


def _error(error: EstafetaError) -> dict[str, Any]:
    return {
        "error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    }
