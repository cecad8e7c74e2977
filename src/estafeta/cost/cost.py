"""What a run costs on AWS: functions, requests, access to the file system, logs, and what lies there for it.

Pure arithmetic on what was counted (`Usage`), on what is kept (`Kept`) and on dated list prices (`prices.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as document

from estafeta.cost.meter import Traffic
from estafeta.cost.prices import PRICES_AS_OF, Prices, prices_of

GIB = 1 << 30
MB_PER_GB = 1024
"""Lambda counts a gigabyte of memory as 1,024 MB."""

LOG_BYTES = 600
"""Of START, END and REPORT, and of the two lines that each invocation of a worker or the merge notes, at least: where
invocations are short and many, these cost more than the requests."""

MONTH_S = 30 * 86400.0
"""Of 30 days; AWS takes the days of the month at hand."""

ASSUMED = {
    "local": ", for functions as fast as this machine's",
    "inline": ", for functions as fast as this process, without starting them",
    "aws": "",
}
"""What a price rests on that was not measured on AWS."""

Architecture = Literal["arm64", "x86_64"]
Throughput = Literal["bursting", "elastic"]


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Basis:
    """What a price depends on beside what was used.

    Attributes:
        region: AWS region.
        architecture: Of the functions.
        throughput: Throughput mode of the file system: `bursting` has no price for access, `elastic` one for each byte.
    """

    region: str = "us-east-1"
    architecture: Architecture = "arm64"
    throughput: Throughput = "bursting"

    @property
    def prices(self) -> Prices:
        """The prices that hold."""
        return prices_of(self.region)

    def describe(self) -> str:
        """In words, for people: date, region, architecture, throughput mode."""
        prices = self.prices
        region = self.region if prices.region == self.region else f"{prices.region} (none known of {self.region})"
        return f"list prices of {PRICES_AS_OF}, {region}, {self.architecture}, EFS {self.throughput}"


@dataclass(frozen=True)
class Usage:
    """What the functions did for a run.

    Attributes:
        invocations: How many invocations each function had, retries included.
        retries: How many of them were further attempts at an event.
        legs: Invocations of ranks for a round, without further attempts: more than one leg makes a round where a share
            did not fit the time limit.
        billed_gb_seconds: Billed duration, init included, times memory size, in GB-seconds; of invocations that have
            no REPORT line yet, the time since their start.
        traffic: File operations of the invocations that have said what they were: those that ended by themselves.
        log_bytes: What they wrote to their logs.
    """

    invocations: Mapping[str, int]
    retries: int
    legs: int
    billed_gb_seconds: float
    traffic: Traffic = field(default_factory=Traffic)
    log_bytes: int = 0


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Kept:
    """What lies on the file system for a run, and how its data came there.

    Attributes:
        run_bytes: Of its own files, as EFS meters them (`metering.kept_bytes`).
        data_bytes: Of the stored data sets that it reads; other runs may read them, too.
        uploaded_bytes: Of these, without what metering adds: they came through S3, once.
        puts: Requests that bring them there.
        gets: Requests that fetch them from there.
    """

    run_bytes: int = 0
    data_bytes: int = 0
    uploaded_bytes: int = 0
    puts: int = 0
    gets: int = 0

    @property
    def bytes(self) -> int:
        """All that lies there."""
        return self.run_bytes + self.data_bytes


@dataclass(frozen=True)
class Bill:
    """Dollars, by what they are for.

    Attributes:
        compute: GB-seconds.
        requests: Invocations.
        efs: Access to the file system; none where throughput is bursting.
        efs_if_elastic: What it is, or would be, with Elastic throughput. It is not part of the total.
        logs: What CloudWatch takes in.
        storage: What lies on the file system now, taken to have lain there from the run's beginning to its end.
        storage_month: A month of that; it is paid until it is removed. It is not part of the total.
        upload: Bringing its data in through S3, which is paid once, whichever run is the first to need it. Nor is this.
    """

    compute: float
    requests: float
    efs: float
    efs_if_elastic: float
    logs: float
    storage: float
    storage_month: float
    upload: float

    @property
    def total(self) -> float:
        """All that is the run's."""
        return self.compute + self.requests + self.efs + self.logs + self.storage

    def to_dict(self) -> dict[str, float]:
        """JSON-ready, in dollars."""
        return {
            "compute": self.compute,
            "requests": self.requests,
            "efs": self.efs,
            "logs": self.logs,
            "storage": self.storage,
            "efs_if_elastic": self.efs_if_elastic,
            "storage_month": self.storage_month,
            "upload": self.upload,
        }


def bill(usage: Usage, basis: Basis, kept: Kept, seconds: float) -> Bill:
    """What a run costs.

    Args:
        usage: What its functions did.
        basis: What prices depend on.
        kept: What lies on the file system for it.
        seconds: From its beginning to its end, or to now.
    """
    prices = basis.prices
    elastic = access_usd(usage.traffic, prices)
    return Bill(
        compute=usage.billed_gb_seconds * prices.gb_second[basis.architecture],
        requests=sum(usage.invocations.values()) * prices.request,
        efs=elastic if basis.throughput == "elastic" else 0.0,
        efs_if_elastic=elastic,
        logs=usage.log_bytes / GIB * prices.log_gb,
        storage=storage_usd(kept.bytes, seconds, prices),
        storage_month=storage_usd(kept.bytes, MONTH_S, prices),
        upload=upload_usd(kept, prices),
    )


def access_usd(traffic: Traffic, prices: Prices) -> float:
    """Dollars for access to a file system with Elastic throughput."""
    read, written = traffic.elastic_read_bytes, traffic.elastic_write_bytes
    return read / GIB * prices.efs_read_gb + written / GIB * prices.efs_write_gb


def second_usd(memory_mb: int, basis: Basis) -> float:
    """Dollars for a billed second of a function."""
    return memory_mb / MB_PER_GB * basis.prices.gb_second[basis.architecture]


def invocation_usd(prices: Prices) -> float:
    """Dollars for an invocation, however short: the request, and what it logs."""
    return prices.request + LOG_BYTES / GIB * prices.log_gb


def storage_usd(stored_bytes: float, seconds: float, prices: Prices) -> float:
    """Dollars for keeping bytes on the file system for some time."""
    return stored_bytes / GIB * seconds / MONTH_S * prices.efs_gb_month


def upload_usd(kept: Kept, prices: Prices) -> float:
    """Dollars for bringing data in through S3: requests, and an hour there, though minutes are usual.

    Transfer in from the internet, and between S3 and functions of one region, has no price.
    """
    waiting = kept.uploaded_bytes / GIB * prices.s3_gb_month * 3600 / MONTH_S
    return kept.puts * prices.s3_put + kept.gets * prices.s3_get + waiting
