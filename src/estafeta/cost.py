"""What a run's invocations cost on AWS Lambda: GB-seconds and requests, at dated list prices.

Storage and throughput of EFS, the logs and data transfer are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

PRICES_AS_OF = "2026-11-23"
"""When the prices were read off https://aws.amazon.com/lambda/pricing/ (us-east-1, first tier, without free tier)."""

USD_PER_GB_SECOND = {"arm64": 0.0000133334, "x86_64": 0.0000166667}
USD_PER_REQUEST = 0.20e-6


@dataclass(frozen=True)
class Usage:
    """What the functions did for a run.

    Attributes:
        invocations: How many invocations each function had, retries included.
        retries: How many of them were further attempts at an event.
        legs: Invocations of ranks for a round, without further attempts: more than one leg makes a round where a share
            did not fit the time limit.
        billed_gb_seconds: Billed duration times memory size, in GB-seconds.
    """

    invocations: dict[str, int]
    retries: int
    legs: int
    billed_gb_seconds: float


def cost_usd(usage: Usage, architecture: str = "arm64") -> float:
    """Dollars for compute and requests."""
    requests = sum(usage.invocations.values())
    return usage.billed_gb_seconds * USD_PER_GB_SECOND[architecture] + requests * USD_PER_REQUEST
