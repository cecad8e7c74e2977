"""The Invoke operation of the Lambda API.

It knows headers, statuses and limits; the pool and the queue run the functions. Invariant: a refused request has had no
effect. Source: Lambda API reference, "Invoke".
"""

import base64
import binascii
import json
import uuid
from functools import partial

from estafeta.local.api.api_error import ApiError, invalid
from estafeta.local.api.http import Reply, Request, Response
from estafeta.local.work.async_queue import AsyncQueue
from estafeta.local.work.functions import FunctionVersion, Registry
from estafeta.local.work.invocation import MAX_ASYNC_BYTES, MAX_SYNC_BYTES, Invocation, Outcome
from estafeta.local.work.lineage import LIMIT, count_call
from estafeta.local.work.pool import Pool


class InvokeApi:
    """Starts invocations for callers.

    Args:
        registry: The functions.
        pool: Pool that runs synchronous invocations.
        queue: Queue that takes asynchronous events.
    """

    def __init__(self, registry: Registry, pool: Pool, queue: AsyncQueue) -> None:
        self._registry = registry
        self._pool = pool
        self._queue = queue

    def invoke(self, reference: str, request: Request, reply: Reply) -> None:
        """Answer one Invoke request, now or when the function has ended.

        Raises:
            ApiError: The API refuses the request.
        """
        qualifier = request.query.get("Qualifier", "")
        function = self._registry.resolve(reference, qualifier)
        arn = (
            f"{function.arn}:{function.version}"
            if qualifier or reference.endswith(f":{function.version}")
            else function.arn
        )
        trace = request.headers.get("x-amzn-trace-id", "")
        kind = request.headers.get("x-amz-invocation-type", "RequestResponse")
        if kind == "RequestResponse":
            payload = _checked(request.body, MAX_SYNC_BYTES)
            self._run(function, arn, payload, trace, request, reply)
        elif kind == "Event":
            payload = _checked(request.body, MAX_ASYNC_BYTES)
            request_id = self._queue.accept(function, arn, payload, trace)
            reply(Response(202, headers={"x-amzn-RequestId": request_id}))
        elif kind == "DryRun":
            reply(Response(204, headers={"x-amzn-RequestId": str(uuid.uuid4())}))
        else:
            raise invalid(f"Value {kind!r} at 'invocationType' is not one of RequestResponse, Event, DryRun.")

    def _run(
        self, function: FunctionVersion, arn: str, payload: bytes, trace: str, request: Request, reply: Reply
    ) -> None:
        trace, before = count_call(trace, function.arn)
        if before >= LIMIT and function.config.recursive_loop == "Terminate":
            raise ApiError(
                400,
                "RecursiveInvocationException",
                "Lambda has detected your function being invoked in a recursive loop and stopped the invocation.",
            )
        reason = self._pool.throttle(function)
        if reason:
            raise ApiError(
                429, "TooManyRequestsException", "Rate Exceeded.", headers={"Retry-After": "1"}, Reason=reason
            )
        request_id = str(uuid.uuid4())
        self._pool.submit(
            Invocation(
                request_id=request_id,
                function=function,
                arn=arn,
                payload=payload,
                trace=trace,
                finish=partial(_answer, reply, request_id, function.version),
                client_context=_client_context(request.headers.get("x-amz-client-context", "")),
                wants_tail=request.headers.get("x-amz-log-type") == "Tail",
            )
        )


def _answer(reply: Reply, request_id: str, version: str, outcome: Outcome) -> None:
    headers = {"Content-Type": "application/json", "x-amzn-RequestId": request_id, "X-Amz-Executed-Version": version}
    if outcome.failed:
        headers["X-Amz-Function-Error"] = "Unhandled"
    if outcome.log_tail:
        headers["X-Amz-Log-Result"] = base64.b64encode(outcome.log_tail).decode()
    reply(Response(200, outcome.payload, headers))


def _checked(payload: bytes, limit: int) -> bytes:
    if len(payload) > limit:
        raise ApiError(
            413,
            "RequestTooLargeException",
            f"{len(payload)} byte payload is too large for this invocation type (limit {limit} bytes)",
        )
    if not payload:
        return b"{}"
    try:
        json.loads(payload)
    except ValueError as error:
        raise ApiError(
            400, "InvalidRequestContentException", f"Could not parse request body into json: {error}"
        ) from error
    return payload


def _client_context(header: str) -> str:
    if not header:
        return ""
    try:
        context = json.loads(base64.b64decode(header, validate=True))
    except (binascii.Error, ValueError) as error:
        raise ApiError(
            400, "InvalidRequestContentException", f"Client context must be JSON in base64: {error}"
        ) from error
    return json.dumps(context)  # pure ASCII, as a header must be
