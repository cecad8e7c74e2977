"""Lambda's failure records in words: what, where, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from core.events import Event, failure_record
from core.specs import FUNCTIONS
from estafeta.failures import explain, is_failure_record, run_of
from estafeta.spec import MergeEvent, Role, WorkerEvent

TRAIN = WorkerEvent(run="r", task="train", version=12, rank=3, leg=1)
PREPARE = WorkerEvent(run="r", task="prepare")
RESIDE = WorkerEvent(run="r", task="reside", rank=3, leg=2)
MERGE = MergeEvent(run="r", round="valid-00000004")


def record_of(event: WorkerEvent | MergeEvent, kind: str, text: str, **context: Any) -> dict[str, Any]:
    role: Role = "merge" if isinstance(event, MergeEvent) else "worker"
    record = failure_record(Event(role, event.model_dump(), "request-1", attempt=3), kind, text)
    record["requestContext"].update(context)
    return record


@pytest.mark.parametrize(
    ("kind", "text", "reason", "message", "hint", "exit_code"),
    [
        ("Runtime.OutOfMemory", "RequestId: 1 Error: Runtime exited with error: signal: killed", "OutOfMemory",
         "The worker function ran out of memory at its limit of 1769 MB", "-o worker.memory_mb=…", 1),
        ("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: signal: killed", "OutOfMemory",
         "ran out of memory", "micro_batch_size", 1),
        ("MemoryError", "Unable to allocate 4.00 GiB", "OutOfMemory", "ran out of memory", "worker.memory_mb", 1),
        ("Sandbox.Timedout", "RequestId: 1 Error: Task timed out after 3.00 seconds", "Timeout",
         "The worker function was killed at its time limit of 900 s", "-o worker.timeout_s=…", 1),
        ("Unhandled", "2026-01-01T00:00:00Z 1 Task timed out after 3.00 seconds", "Timeout", "limit", "timeout", 1),
        ("ConnectTimeoutError", "the request to example.org timed out", "ConnectTimeoutError",
         "ConnectTimeoutError: the request to example.org timed out, after 3 attempts", "log", 1),
        ("Runtime.ImportModuleError", "Unable to import module: No module named 'torch'", "ImportModuleError",
         "No module named 'torch'", "install what is missing", 3),
        ("OSError", "[Errno 28] No space left on device: 'x'", "DiskFull", "The store is full", "free some space", 3),
        ("OSError", "[Errno 122] Disk quota exceeded: 'x'", "DiskFull", "The store is full", "resume", 3),
        ("KeyError", "'w'", "KeyError", "KeyError: 'w', after 3 attempts", "log", 1),
        ("", "", "RetriesExhausted", "Lambda gave the event up (RetriesExhausted), after 3 attempts", "log", 1),
    ],
)  # fmt: skip
def test_what_happened(kind: str, text: str, reason: str, message: str, hint: str, exit_code: int) -> None:
    failure = explain(record_of(TRAIN, kind, text), FUNCTIONS)
    assert failure.reason == reason
    assert message in failure.message
    assert hint in failure.hint
    assert failure.exit_code == exit_code


def test_a_loop_that_lambda_cut() -> None:
    record = record_of(MERGE, "", "", condition="RecursiveInvocationLoop")
    failure = explain(record, FUNCTIONS)
    assert failure.reason == "RecursiveLoop"
    assert "RecursiveLoop: Allow on the merge function" in failure.hint
    assert failure.exit_code == 3


@pytest.mark.parametrize(
    ("event", "where", "function", "rank", "round_"),
    [
        (TRAIN, "(estafeta-worker, rank 3, train round 12)", "estafeta-worker", 3, "train-00000012"),
        (RESIDE, "(estafeta-worker, rank 3, leg 2)", "estafeta-worker", 3, None),
        (PREPARE, "(estafeta-worker, preparing the run)", "estafeta-worker", None, None),
        (MERGE, "(estafeta-merge)", "estafeta-merge", None, "valid-00000004"),
        (MergeEvent(run="r"), "(estafeta-merge)", "estafeta-merge", None, None),
    ],
)
def test_where_it_happened(
    event: WorkerEvent | MergeEvent, where: str, function: str, rank: int | None, round_: str | None
) -> None:
    record = record_of(event, "KeyError", "'w'")
    record["responsePayload"]["stackTrace"] = ["  line one\n", "  line two\n"]
    failure = explain(record, FUNCTIONS)
    assert run_of(record) == "r"
    assert failure.message.endswith(where)
    assert (failure.function, failure.rank, failure.round) == (function, rank, round_)
    assert (failure.request_id, failure.log_group) == ("request-1", f"/aws/lambda/{function}")
    assert failure.traceback == "  line one\n  line two\n"


def test_an_event_that_was_never_answered() -> None:
    """One that grew too old, or that no concurrency was left for, has no response."""
    record = record_of(TRAIN, "", "", condition="EventAgeExceeded", approximateInvokeCount=0)
    del record["responsePayload"], record["responseContext"]
    failure = explain(record, FUNCTIONS)
    assert failure.reason == "EventAgeExceeded"
    assert failure.message.startswith("Lambda gave the event up (EventAgeExceeded), after 0 attempts")


@pytest.mark.parametrize("event", [None, [], {}, {"verb": "runs"}, {"requestContext": {}}])
def test_other_events_are_no_failure_records(event: Any) -> None:
    assert not is_failure_record(event)
    assert is_failure_record(record_of(TRAIN, "KeyError", ""))
