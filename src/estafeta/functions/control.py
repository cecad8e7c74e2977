"""The control function: what the client wants of a run, and what Lambda reports of one.

The client mounts nothing. It starts, follows, stops and fetches through the verbs below; answers stay under the 6 MB
that a synchronous invocation may return. Lambda's failure destination is here too: it gets the events that no retry
could save.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from estafeta.aws.account import patient_client
from estafeta.aws.bucket import Bucket
from estafeta.aws.library import install
from estafeta.data.catalog import read_manifest, remove
from estafeta.errors import Corrupt, EstafetaError, Gone, RunNotFound, UsageError
from estafeta.functions.entry import invocation_of
from estafeta.functions.lost_events import explain, follow_up, is_due, is_failure_record, run_of
from estafeta.functions.verbs.clean import strip
from estafeta.functions.verbs.datasets import datasets, describe, verify_some
from estafeta.functions.verbs.fetch import fetch
from estafeta.functions.verbs.fork import fork
from estafeta.functions.verbs.inspect import inspect
from estafeta.functions.verbs.kept import kept
from estafeta.functions.verbs.probe import probe
from estafeta.functions.verbs.receive import receive
from estafeta.functions.verbs.start import found, publish_spec, taken
from estafeta.functions.verbs.take_source import take_source
from estafeta.functions.watchdog import tend, tend_all
from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import RUN_NAME, RUNS, RunLayout
from estafeta.protocol.limits import limit_reached, limits_after, newest_limits, spent_so_far
from estafeta.protocol.listing import all_calls_in, limits_in
from estafeta.protocol.outcome import RESERVE_BYTES, fail
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import (
    OUTCOMES,
    Prepare,
    Snapshot,
    current_round,
    maker_of,
    next_actions,
    read_epoch,
    read_plan,
    take_snapshot,
    takeovers,
)
from estafeta.protocol.spec import Outcome, RunSpec, Status
from estafeta.protocol.verbs import (
    CleanVerb,
    ControlEvent,
    DatasetsVerb,
    DescribeVerb,
    FetchVerb,
    ForkVerb,
    InspectVerb,
    InstallVerb,
    KeptVerb,
    ProbeVerb,
    ReceiveVerb,
    RemoveVerb,
    ResumeVerb,
    RunsVerb,
    RunVerb,
    StartVerb,
    StatusVerb,
    TendVerb,
    VerifyVerb,
)
from estafeta.residents.claim import relieve
from estafeta.residents.marks import read_claim, send_for
from estafeta.store.store import Store

LISTING_BYTES = 4 << 20
"""After how much a list of runs is broken off: an answer may have 6 MB, and one run has some thousand bytes."""

_verbs: TypeAdapter[ControlEvent] = TypeAdapter(ControlEvent)


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


def _parsed(event: Any) -> ControlEvent:
    try:
        return _verbs.validate_python(event)
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join([*map(str, first["loc"]), first["msg"].lower()])
        raise UsageError(
            f"control does not understand the event: {what}",
            hint="client and functions seem to be of different versions: estafeta deploy renews those of "
            "a stack, estafeta local stop ends a local service of older code",
        ) from error


def _answer(verb: ControlEvent, invocation: Invocation) -> dict[str, Any]:
    match verb:
        case StartVerb():
            return _start(verb, invocation)
        case RunsVerb():
            return _runs(verb.after, invocation)
        case StatusVerb():
            return _status(verb, invocation)
        case InspectVerb():
            return inspect(verb, _spec(verb.run, invocation), invocation.store).model_dump(mode="json")
        case KeptVerb():
            spec, plan = _spec(verb.run, invocation), None
            with contextlib.suppress(Gone):  # not prepared yet
                plan = read_plan(invocation.store, RunLayout(spec.run))
            return asdict(kept(spec, plan, invocation.store))
        case FetchVerb():
            return fetch(verb, _spec(verb.run, invocation), invocation, _bucket)
        case InstallVerb():
            return install(verb.library, invocation.store, _bucket(verb.bucket), invocation.remaining_s).model_dump()
        case DatasetsVerb():
            return {"datasets": datasets(invocation.store)}
        case DescribeVerb():
            return describe(verb, invocation.store)
        case VerifyVerb():
            return verify_some(verb, invocation)
        case ReceiveVerb():
            return receive(_bucket(verb.bucket), verb.token, invocation)
        case RemoveVerb():
            remove(invocation.store, read_manifest(invocation.store, verb.dataset).name)
            return {"dataset": verb.dataset}
        case ProbeVerb():
            return probe(verb, invocation)
        case TendVerb():
            one = verb.run and {verb.run: tend(_spec(verb.run, invocation), invocation)}
            return {"tended": one or tend_all(invocation)}
        case RunVerb():
            return _stop(_spec(verb.run, invocation), invocation)
        case ResumeVerb():
            return _resume(verb, _spec(verb.run, invocation), invocation)
        case CleanVerb(keep_final=True):
            return strip(_spec(verb.run, invocation), invocation)
        case CleanVerb():
            return _clean(verb.run, invocation)
        case ForkVerb():
            return fork(verb, _spec(verb.run, invocation), invocation)


def _runs(after: str, invocation: Invocation) -> dict[str, Any]:
    """Runs in the order of their names, and whether there are `more`; of what cannot be read, the names."""
    store = invocation.store
    found: list[dict[str, Any]] = []
    unreadable: list[str] = []
    size = 0
    for run in sorted(name for name in store.list(RUNS) if name > after and RUN_NAME.fullmatch(name)):
        if size > LISTING_BYTES:
            return {"runs": found, "unreadable": unreadable, "more": True}
        if not store.exists(RunLayout(run).spec):
            continue
        try:
            summary = _summary(_spec(run, invocation), invocation)
        except (Corrupt, ValidationError):
            unreadable.append(run)
            continue
        found.append(summary)
        size += len(json.dumps(summary))
    return {"runs": found, "unreadable": unreadable, "more": False}


def _start(verb: StartVerb, invocation: Invocation) -> dict[str, Any]:
    """Publish a run: its folders, its code, at last its spec; then set it going. Repeating it changes nothing."""
    spec, store = verb.spec, invocation.store
    layout, sent = RunLayout(spec.run), verb.uploaded
    code = take_source(sent.files, _bucket(sent.bucket)) if sent else verb.code
    found(spec, store)
    for path, text in code.items():
        parts = path.split("/")
        if not path.endswith(".py") or any(part in ("", ".", "..") for part in parts):
            raise UsageError(f"{path!r} is no path of a Python module")
        store.make_directories("/".join([layout.code, *parts[:-1]]))
        token = f"# {spec.token}\n"
        if not store.publish(f"{layout.code}/{path}", [f"{text.rstrip()}\n{token}".encode()], spec.token):
            raise taken(spec)
    publish_spec(spec, store)
    dispatch((Prepare(),), spec, invocation)
    return {"run": spec.run}


def _status(verb: StatusVerb, invocation: Invocation) -> dict[str, Any]:
    spec = _spec(verb.run, invocation)
    snapshot = take_snapshot(invocation.store, RunLayout(spec.run), spec)
    return _summary(spec, invocation, snapshot, since_epoch=verb.since_epoch)


def _summary(
    spec: RunSpec, invocation: Invocation, snapshot: Snapshot | None = None, since_epoch: int | None = None
) -> dict[str, Any]:
    """A run's status, with the epochs' records after `since_epoch`."""
    store, layout = invocation.store, RunLayout(spec.run)
    snapshot = snapshot or take_snapshot(store, layout, spec)
    newest = snapshot.last_epoch.epoch if snapshot.last_epoch else 0
    records = [
        read_epoch(store, layout, e) for e in range((newest if since_epoch is None else since_epoch) + 1, newest + 1)
    ]
    plan, ended = snapshot.plan, snapshot.outcome
    outcome = Outcome.model_validate_json(store.read(layout.outcome(ended))) if ended else None
    status = Status(
        spec=spec,
        state=snapshot.outcome or ("stopping" if snapshot.stop_requested else "running" if plan else "preparing"),
        outcome=outcome,
        version=snapshot.reached if outcome is None else snapshot.version or outcome.version or 0,
        topology=plan.topology if plan else None,
        total_steps=plan.total_steps if plan else None,
        steps_per_epoch=plan.steps_per_epoch if plan else None,
        train_rows=plan.train_rows if plan else None,
        valid_rows=plan.valid_rows if plan else None,
        parameters=plan.size if plan else None,
        epoch=newest,
        epochs=tuple(record for record in records if record),
        limits=newest_limits(store, layout, spec, store.list(layout.root)),
        spent_usd=snapshot.last_epoch.spent_usd if snapshot.last_epoch else 0.0,
    )
    return status.model_dump(mode="json")


def _stop(spec: RunSpec, invocation: Invocation) -> dict[str, Any]:
    """Ask a run to stop, and have what is there exported: nobody has to be at work for that."""
    store, layout = invocation.store, RunLayout(spec.run)
    if (snapshot := take_snapshot(store, layout, spec)).outcome is None:
        store.publish(layout.stop, [invocation.token.encode()], invocation.token)
        if snapshot.stop_requested:  # residents see the request by themselves; who asks again has seen that none did
            _take_over(spec, invocation)
        else:
            dispatch(next_actions(take_snapshot(store, layout, spec)), spec, invocation)
    return _summary(spec, invocation)


def _resume(verb: ResumeVerb, spec: RunSpec, invocation: Invocation) -> dict[str, Any]:
    """Set a run going again from its newest version: after a stop, a failure, or when its last hint was lost."""
    store, layout = invocation.store, RunLayout(spec.run)
    snapshot = take_snapshot(store, layout, spec)
    if snapshot.outcome == "done":
        raise UsageError(f"{spec.run} is done", hint=f"estafeta status {spec.run}")
    if snapshot.outcome and snapshot.plan and snapshot.version is None:
        raise UsageError(f"{spec.run} was cleaned: it has its exports, but no weights to go on from")
    _renew_limits(verb, snapshot, spec, invocation)
    _reopen(spec, invocation)
    _take_over(spec, invocation)
    return _summary(spec, invocation)


def _renew_limits(verb: ResumeVerb, snapshot: Snapshot, spec: RunSpec, invocation: Invocation) -> None:
    """Publish the limits that hold from now on.

    Raises:
        UsageError: One of them is reached already.
    """
    store, layout = invocation.store, RunLayout(spec.run)
    names = store.list(layout.root)
    limits = limits_after(newest_limits(store, layout, spec, names), verb.limits, invocation.token, store.clock.time())
    if snapshot.plan and snapshot.version is not None:
        following = current_round(snapshot.plan, snapshot.version, snapshot.last_epoch)
        spent_usd = spent_so_far(store, layout, snapshot.version, snapshot.last_epoch)
        if why := limit_reached(limits, following, spent_usd=spent_usd, now=limits.since):
            hint = "raise it, as with --max-cost 5, or lift it: --max-cost none"
            raise UsageError(f"{spec.run} is at a limit: {why}", hint=hint)
    number = max(limits_in(names), default=0) + 1
    store.publish(layout.limits(number), [limits.to_json()], invocation.token)


def _take_over(spec: RunSpec, invocation: Invocation) -> None:
    """Set a run going whose functions may all be dead, or only seem to be."""
    snapshot = take_snapshot(invocation.store, RunLayout(spec.run), spec)
    send_for(takeovers(snapshot), RunFolder(invocation.store, spec.run, spec), invocation)


def _reopen(spec: RunSpec, invocation: Invocation) -> None:
    """Put the markers of a run's end out of the way; outcomes are kept under names with a number."""
    store, layout = invocation.store, RunLayout(spec.run)
    names = store.list(layout.root)
    ended = [state for state in OUTCOMES if f"{state}.json" in names]
    if not ended:
        return
    # First, as it is the only step that a full disk can refuse: then the run stays as it has ended.
    store.publish(layout.reserve, [invocation.token.encode().ljust(RESERVE_BYTES)], invocation.token)
    outboxes = [layout.outbox(rank) for rank in range(spec.workers)] if "stopped" in ended else []
    for folder in (*outboxes, layout.export("best"), layout.export("final")):  # of a stopped run, all is saved
        store.sweep(folder, store.list(folder))
    store.sweep(layout.root, [path.rpartition("/")[2] for path in (layout.stop, layout.ending, layout.watch)])
    store.sweep(layout.legs, all_calls_in(store.list(layout.legs)))  # attempts are counted anew
    for state in ended:
        earlier = sum(name.startswith(f"{state}-") for name in names)
        store.move(layout.outcome(state), layout.outcome(f"{state}-{earlier + 1:02d}"))


def _clean(run: str, invocation: Invocation) -> dict[str, Any]:
    """Remove a run that has ended, with all its files; go on with that if an earlier attempt was broken off."""
    store, layout = invocation.store, _layout(run)
    outcomes = [layout.outcome(state).rpartition("/")[2] for state in OUTCOMES]
    if store.list(layout.root).isdisjoint(outcomes):
        store.remove_if_empty(layout.root)
        _spec(run, invocation)
        raise UsageError(f"{run} has not ended", hint=f"estafeta stop {run}")
    store.remove_tree(layout.root, last=[layout.spec.rpartition("/")[2], *outcomes])
    return {"run": run}


def _give_up(record: Any, invocation: Invocation) -> dict[str, Any]:
    """Note that Lambda could not get an event done: the run fails, unless somebody else has done it, or will."""
    run = run_of(record)
    spec = _spec(run, invocation)
    snapshot = take_snapshot(invocation.store, RunLayout(run), spec)
    failure, event = explain(record, spec.functions), record["requestPayload"]
    if spec.chaos:  # who was killed on purpose looks as if he had run out of memory
        hint = f"faults are injected into this run ({spec.chaos}); it goes on with: estafeta resume {run}"
        failure = failure.model_copy(update={"hint": hint})
    invocation.note(run, gave_up=failure.reason)
    if is_due(event, snapshot) and not _is_replaced(event, failure.request_id, snapshot, invocation):
        fail(invocation, RunLayout(run), failure)
    else:
        has_made = _maker_of(snapshot, invocation.store, RunLayout(run)) == failure.request_id
        dispatch(follow_up(event, snapshot, has_made=has_made), spec, invocation)
        if event.get("task") == "reside" and not snapshot.outcome:
            relieve(failure.request_id, RunFolder(invocation.store, run, spec), event["rank"], event["leg"], invocation)
    return {"run": run}


def _maker_of(snapshot: Snapshot, store: Store, layout: RunLayout) -> str:
    with contextlib.suppress(Gone):
        return maker_of(snapshot, store, layout)
    return ""  # somebody went on


def _is_replaced(event: Any, request_id: str, snapshot: Snapshot, invocation: Invocation) -> bool:
    """Whether another request holds the newest claim of the resident leg that an event was for."""
    claimed = dict(snapshot.residents).get(event.get("rank", 0))
    if event.get("task") != "reside" or claimed is None or claimed < (event["leg"], event["generation"]):
        return False
    try:
        claim = read_claim(RunFolder(invocation.store, event["run"]), event["rank"], *claimed)
    except Gone:
        return True
    return claim.request_id != request_id


def _run_of(verb: ControlEvent) -> str:
    """The run that a verb is about; empty if it is about none, or about all."""
    return verb.spec.run if isinstance(verb, StartVerb) else str(getattr(verb, "run", None) or "")


@lru_cache(maxsize=4)
def _bucket(name: str) -> Bucket:
    return Bucket(name, patient_client("s3"))


def _spec(run: str, invocation: Invocation) -> RunSpec:
    """The spec of a run, read anew: this function outlives the runs that it cleans away.

    Raises:
        RunNotFound: There is none of that name.
        Corrupt: It cannot be read.
    """
    try:
        return RunSpec.model_validate_json(invocation.store.read(_layout(run).spec))
    except Gone:
        raise _not_found(run) from None
    except ValidationError as error:
        raise Corrupt(
            f"the spec of {run} cannot be read: {error}", hint="was it started by another version of Estafeta?"
        ) from error


def _layout(run: str) -> RunLayout:
    """The paths of the run that somebody names; what cannot be a name would lead out of the folder of the runs."""
    if not RUN_NAME.fullmatch(run):
        raise _not_found(run)
    return RunLayout(run)


def _not_found(run: str) -> RunNotFound:
    return RunNotFound(f"there is no run named {run!r}", hint="estafeta runs lists them")


def _error(error: EstafetaError) -> dict[str, Any]:
    return {
        "error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint, "exit_code": error.exit_code}
    }
