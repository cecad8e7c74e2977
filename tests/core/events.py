"""Events in Lambda's queue: how often each is delivered, when, and what is told of one that is given up."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from estafeta.protocol.spec import Role

from .specs import FUNCTIONS


@dataclass(frozen=True)
class Event:
    """An event in Lambda's queue."""

    role: Role
    payload: Mapping[str, Any]
    token: str
    attempt: int = 1


Arrivals = Callable[[Event], Sequence[int]]
"""For each copy of an event that is delivered: how many deliveries of other events it lets go first."""


def in_order(_event: Event) -> Sequence[int]:
    """Each event once, the oldest first."""
    return (0,)


def twice(_event: Event) -> Sequence[int]:
    """Each event twice in a row."""
    return 0, 0


def twice_and_late(deliveries: int) -> Arrivals:
    """Each event at once, and again when the run has moved on."""
    return lambda _event: (0, deliveries)


def shuffled(seed: int, copies: int = 2, spread: int = 12) -> Arrivals:
    """Each event some times, in an order that is chosen by the seed."""
    numbers = random.Random(seed)
    return lambda _event: [numbers.randrange(spread) for _ in range(copies)]


def failure_record(event: Event, kind: str, message: str) -> dict[str, Any]:
    """The record that Lambda sends to the failure destination for an event that it has given up."""
    arn = f"arn:aws:lambda:eu-central-1:000000000000:function:{FUNCTIONS[event.role].name}:$LATEST"
    return {
        "version": "1.0",
        "timestamp": "2026-01-01T00:00:00.000Z",
        "requestContext": {
            "requestId": event.token,
            "functionArn": arn,
            "condition": "RetriesExhausted",
            "approximateInvokeCount": event.attempt,
        },
        "requestPayload": dict(event.payload),
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorType": kind, "errorMessage": message, "stackTrace": []},
    }
