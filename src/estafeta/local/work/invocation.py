"""One attempt to run one event, and its outcome.

Pure records. Invariant: `finish` of an invocation is called exactly once.
"""

from collections.abc import Callable
from dataclasses import dataclass

from estafeta.local.work.functions import FunctionVersion

MAX_SYNC_BYTES = 6 * 2**20  # Lambda quota: request and response of a synchronous call
MAX_ASYNC_BYTES = 2**20  # Lambda quota since October 2025: event of an asynchronous call
RESPONSE_LIMIT_BYTES = MAX_SYNC_BYTES + 100  # the limit that Lambda's own error message names


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an invocation.

    Attributes:
        payload: JSON document: the handler's answer, or an object with `errorMessage` and `errorType`.
        failed: Whether it is an error; the API then sends `X-Amz-Function-Error: Unhandled`.
        log_tail: Last 4 KB of the invocation's log, if the caller asked for it.
    """

    payload: bytes
    failed: bool
    log_tail: bytes = b""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One delivery of an event to a function version.

    Attributes:
        request_id: Request id of the event, the same over all attempts.
        function: Function version to run.
        arn: ARN by which the caller addressed it.
        payload: JSON document.
        trace: Value of X-Amzn-Trace-Id, with this call counted in its lineage.
        finish: Function that receives the outcome.
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
