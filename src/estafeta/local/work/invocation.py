"""One attempt to run one event, and how it ended.

Pure records. Invariant: `finish` of an invocation is called exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from estafeta.local.work.functions import FunctionVersion

MAX_SYNC_BYTES = 6 * 2**20  # Lambda quota: request and response of a synchronous call
MAX_ASYNC_BYTES = 2**20  # Lambda quota since October 2025: event of an asynchronous call
RESPONSE_LIMIT_BYTES = MAX_SYNC_BYTES + 100  # what Lambda's own error message names


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation ended.

    Attributes:
        payload: JSON document: the handler's answer, or an object with `errorMessage` and `errorType`.
        failed: Whether it is the latter; the API then sends `X-Amz-Function-Error: Unhandled`.
        log_tail: Last 4 KB of the invocation's log, if it was asked for.
    """

    payload: bytes
    failed: bool
    log_tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One delivery of an event to a function version.

    Attributes:
        request_id: Of the event; the same over all attempts.
        function: What to run.
        arn: As the caller addressed it.
        payload: JSON document.
        trace: Value of X-Amzn-Trace-Id, with this call counted in its lineage.
        finish: Receives the outcome.
        client_context: JSON text, or empty.
        wants_tail: Whether the outcome must bring the end of the log.
    """

    request_id: str
    function: FunctionVersion
    arn: str
    payload: bytes
    trace: str
    finish: Callable[[Outcome], None]
    client_context: str = ""
    wants_tail: bool = False
