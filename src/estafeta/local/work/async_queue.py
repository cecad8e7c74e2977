"""Asynchronous events: accepted at once, delivered at least once, retried, and handed on when given up.

This module knows Lambda's rules for asynchronous invocation and the pool, not HTTP. Invariant: an accepted event ends
in exactly one of three ways, unless fault injection drops it. An attempt succeeds, the failure destination gets a
record, or (without a destination) the service's log gets a line. Waiting events are in memory and end with the service.
Sources: Lambda Developer Guide, "How Lambda handles errors and retries with asynchronous invocation" and "Capturing
records of Lambda asynchronous invocations".
"""

import asyncio
import json
import logging
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import Any

from estafeta.local.fault_log import FaultLog
from estafeta.local.faults import Injectors, kinds
from estafeta.local.work.functions import FunctionVersion, Registry
from estafeta.local.work.invocation import Invocation, Outcome
from estafeta.local.work.lineage import LIMIT, count_call
from estafeta.local.work.pool import Pool

log = logging.getLogger(__name__)
RETRY_DELAYS_S = (60.0, 120.0)  # after the first and the second failed attempt
SHORTEST_DELAY_S = 0.001  # shortest delay after scaling: waiting for capacity must not keep the processor busy
THROTTLE_DELAYS_S = (1.0, 300.0)  # first and longest wait for capacity; it doubles in between

# `condition` of a failure record. AWS documents the first two; its values in the other cases are unknown.
RETRIES_EXHAUSTED = "RetriesExhausted"
EVENT_AGE_EXCEEDED = "EventAgeExceeded"
NO_CONCURRENCY = "ZeroReservedConcurrency"
RECURSIVE_LOOP = "RecursiveInvocationLoop"


@dataclass(slots=True)
class Event:
    """One accepted event.

    Attributes:
        request_id: Request id, the same over all attempts.
        arn: ARN by which the caller addressed the function.
        version: Version to run, `$LATEST` or a number.
        payload: JSON document.
        trace: Trace header, this call included.
        accepted_s: Monotonic time at which it was accepted.
        attempts: Number of deliveries so far.
        throttled: Number of times that it found no capacity.
    """

    request_id: str
    arn: str
    function: str
    version: str
    payload: bytes
    trace: str
    accepted_s: float = field(default_factory=monotonic)
    attempts: int = 0
    throttled: int = 0


class AsyncQueue:
    """The queues of all functions; events are independent of each other, and come in no promised order.

    Args:
        registry: The functions.
        pool: Pool that runs the attempts.
        faults: Injectors, which drop, duplicate and delay events.
        fault_log: Log of the injected faults.
        delay_scale: Factor on Lambda's delays.
    """

    def __init__(
        self, registry: Registry, pool: Pool, faults: Injectors, fault_log: FaultLog, delay_scale: float
    ) -> None:
        self._registry = registry
        self._pool = pool
        self._faults = faults
        self._fault_log = fault_log
        self._delay_scale = delay_scale
        self._open = 0
        self._closed = False

    @property
    def waiting(self) -> int:
        """Number of events that have not ended."""
        return self._open

    def accept(self, function: FunctionVersion, arn: str, payload: bytes, trace: str = "") -> str:
        """Take an event.

        Args:
            function: Function version that gets the event.
            arn: ARN by which the caller addressed it.
            payload: JSON document.
            trace: Trace header of the caller.

        Returns:
            The request id.
        """
        request_id = str(uuid.uuid4())
        trace, before = count_call(trace, function.arn)
        new_event = partial(Event, request_id, arn, function.config.name, function.version, payload, trace)
        if before >= LIMIT and function.config.recursive_loop == "Terminate":
            self._open += 1
            self._give_up(new_event(), RECURSIVE_LOOP, None)
            return request_id
        deliveries = self._faults.of(function.config.environment).deliveries()
        for fault in kinds(deliveries):
            self._fault_log.write(function, fault, request_id)
        for delay_s in deliveries:
            self._open += 1
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._attempt, new_event())
            else:
                self._attempt(new_event())
        return request_id

    def close(self) -> None:
        """Start no more attempts."""
        self._closed = True

    def _attempt(self, event: Event) -> None:
        if self._closed:
            return
        owner = self._registry.function(event.function)
        if monotonic() - event.accepted_s > owner.event_config(event.version).max_event_age_s:
            self._give_up(event, EVENT_AGE_EXCEEDED, None)
            return
        if owner.reserved_concurrency == 0:
            self._give_up(event, NO_CONCURRENCY, None)
            return
        function = self._registry.resolve(event.function, event.version)
        if self._pool.throttle(function):
            first_s, longest_s = THROTTLE_DELAYS_S
            delay_s = min(first_s * 2**event.throttled, longest_s)
            event.throttled += 1
            self._again(delay_s, event)
            return
        event.attempts += 1
        self._pool.submit(
            Invocation(
                request_id=event.request_id,
                function=function,
                arn=event.arn,
                payload=event.payload,
                trace=event.trace,
                finish=partial(self._finished, event),
            )
        )

    def _finished(self, event: Event, outcome: Outcome) -> None:
        if not outcome.failed:
            self._open -= 1
        elif event.attempts <= self._registry.function(event.function).event_config(event.version).retries:
            self._again(RETRY_DELAYS_S[event.attempts - 1], event)
        else:
            self._give_up(event, RETRIES_EXHAUSTED, outcome)

    def _again(self, delay_s: float, event: Event) -> None:
        delay_s = max(delay_s * self._delay_scale, SHORTEST_DELAY_S)
        asyncio.get_running_loop().call_later(delay_s, self._attempt, event)

    def _give_up(self, event: Event, condition: str, outcome: Outcome | None) -> None:
        self._open -= 1
        destination = self._registry.function(event.function).event_config(event.version).on_failure
        if destination is None:
            log.warning("Event %s of %s is given up: %s", event.request_id, event.function, condition)
            return
        record = json.dumps(failure_record(event, condition, outcome)).encode()
        target = self._registry.resolve(destination)
        # Without a trace header a failure begins a new chain. Otherwise a stopped loop would stop its own handler, too.
        self.accept(target, target.qualified_arn, record)


def failure_record(event: Event, condition: str, outcome: Outcome | None) -> dict[str, Any]:
    """The record of an event that was given up, as Lambda sends it to a destination.

    Args:
        event: The event.
        condition: Reason why it is not retried.
        outcome: Outcome of the last attempt, if there was one.
    """
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "requestContext": {
            "requestId": event.request_id,
            "functionArn": f"{event.arn.removesuffix(f':{event.version}')}:{event.version}",
            "condition": condition,
            "approximateInvokeCount": event.attempts,
        },
        "requestPayload": json.loads(event.payload),
    }
    if outcome is not None:
        record["responseContext"] = {"statusCode": 200, "executedVersion": event.version, "functionError": "Unhandled"}
        record["responsePayload"] = json.loads(outcome.payload)
    return record
