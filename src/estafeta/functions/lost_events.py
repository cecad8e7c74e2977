"""Lambda's failure records, put into words: what happened to which rank, and what to do about it.

The record's shape: AWS Lambda Developer Guide, "Capturing records of Lambda asynchronous invocations". Error types of
killed functions: as the Runtime API and the runtime interface emulator name them.
"""

import re
from collections.abc import Mapping
from typing import Any

from estafeta.protocol.listing import round_of
from estafeta.protocol.snapshot import Action, Finish, Merge, Prepare, Snapshot, Work, next_actions
from estafeta.protocol.spec import LOG_GROUPS, Failure, FunctionSettings, Role

LOOP_HOPS = 16
"""Invocations of one function in a chain after which Lambda's loop detection drops the next (Developer Guide, "Use
Lambda recursive loop detection to prevent infinite loops")."""
_IN_CODE = re.compile(r"/runs/[^/]+/code/")
"""In the path of a file that the run took along."""


def is_failure_record(event: Any) -> bool:
    """Whether an event is the record of a failed asynchronous invocation."""
    return isinstance(event, dict) and "requestContext" in event and "requestPayload" in event


def run_of(record: dict[str, Any]) -> str:
    """The run that a record is about."""
    return str(record["requestPayload"]["run"])


def is_due(event: Mapping[str, Any], snapshot: Snapshot) -> bool:
    """Whether what an event was for is still to be done; of residents, as far as listings show."""
    actions = next_actions(snapshot)
    match event.get("task"):
        case "prepare":
            return Prepare() in actions
        case "train" | "valid":
            mine = (action for action in actions if isinstance(action, Work) and action.rank == event["rank"])
            return any((action.round.name, action.leg) == (_round(dict(event)), event["leg"]) for action in mine)
        case "reside":
            leg, _ = dict(snapshot.residents).get(event["rank"], (0, 0))
            has_left = (event["rank"], event["leg"]) in snapshot.left
            return snapshot.outcome is None and leg <= event["leg"] and not has_left
    round_ = round_of(str(event.get("round", "")))
    # The merge that ends a run has merged its last round.
    is_last = round_ is None or round_.version == snapshot.version
    return any(
        is_last if isinstance(action, Finish) else isinstance(action, Merge) and action.round == round_
        for action in actions
    )


def follow_up(event: Mapping[str, Any], snapshot: Snapshot, *, has_made: bool = False) -> tuple[Action, ...]:
    """What may not have been said to anybody, as an event was given up after what it was for had been done.

    `has_made` says whether a merge made what the current round starts from. It may have gone on beyond its own round.
    """
    actions, version = next_actions(snapshot), snapshot.version or 0
    match event.get("task"):
        case "prepare":
            return actions if version == 0 else ()
        case "train" | "valid":
            return tuple(action for action in actions if isinstance(action, Merge | Finish))
        case "reside":
            return ()
    merged = round_of(str(event.get("round", "")))
    return actions if has_made or (merged and version <= merged.version + 1) else ()


def explain(record: dict[str, Any], functions: Mapping[Role, FunctionSettings]) -> Failure:
    """The failure that a record is about, in terms of the run's functions."""
    context, event = record["requestContext"], record["requestPayload"]
    response = record.get("responsePayload") or {}
    kind, text = str(response.get("errorType", "")), str(response.get("errorMessage", ""))
    function = str(context["functionArn"]).split(":function:")[-1].split(":")[0]
    role: Role = "worker" if function.endswith("-worker") else "merge"
    where = _where(event, function)
    reason, message, hint, exit_code = _diagnose(
        kind, text, str(context.get("condition", "")), functions[role], role, context.get("approximateInvokeCount", "?")
    )
    traceback = "".join(response.get("stackTrace") or [])
    if kind == "FileNotFoundError" and _IN_CODE.search(traceback):
        hint = "of the job's folder only Python modules go with a run: import the data, or give their path there"
    return Failure(
        reason=reason,
        message=f"{message}{where}",
        hint=hint,
        exit_code=exit_code,
        function=function,
        rank=event.get("rank") if event.get("task") in ("train", "valid", "reside") else None,
        round=_round(event),
        request_id=context["requestId"],
        log_group=f"{LOG_GROUPS}{function}",
        traceback=traceback,
    )


def _round(event: dict[str, Any]) -> str | None:
    if event.get("task") in ("train", "valid"):
        return f"{event['task']}-{event['version']:08d}"
    return event.get("round") or None


def _where(event: dict[str, Any], function: str) -> str:
    if event.get("task") in ("train", "valid"):
        return f" ({function}, rank {event['rank']}, {event['task']} round {event['version']})"
    if event.get("task") == "reside":
        return f" ({function}, rank {event['rank']}, leg {event['leg']})"
    return f" ({function}{', preparing the run' if 'task' in event else ''})"


def _diagnose(
    kind: str, text: str, condition: str, function: FunctionSettings, role: Role, attempts: Any
) -> tuple[str, str, str, int]:
    """Reason, message, hint, exit code."""
    if "Recurs" in condition:
        return (
            "RecursiveLoop",
            f"Lambda's recursive loop detection dropped the event after {LOOP_HOPS} invocations in one chain",
            f"set RecursiveLoop: Allow on the {role} function in the template (all functions of the loop need it)",
            3,
        )
    if kind in ("Runtime.OutOfMemory", "MemoryError") or "signal: killed" in text:
        return (
            "OutOfMemory",
            f"The {role} function ran out of memory at its limit of {function.memory_mb} MB",
            f"give it more with -o {role}.memory_mb=…, or make the micro-batches smaller with -o micro_batch_size=…",
            1,
        )
    if kind == "Sandbox.Timedout" or "Task timed out" in text:
        return (
            "Timeout",
            f"The {role} function was killed at its time limit of {function.timeout_s} s",
            f"one micro-batch must fit: lower it with -o micro_batch_size=…, or raise -o {role}.timeout_s=…",
            1,
        )
    if kind == "Runtime.ImportModuleError":
        return "ImportModuleError", text, "install what is missing where the functions run", 3
    if re.search(r"No space left on device|Disk quota exceeded", text):
        return "DiskFull", f"The store is full: {text}", "free some space, then resume the run", 3
    what = f"{kind}: {text.removesuffix('.')}" if kind else f"Lambda gave the event up ({condition})"
    return kind or condition, f"{what}, after {attempts} attempts", "see the function's log", 1
