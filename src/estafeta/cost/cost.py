"""The cost of a run on AWS: functions, requests, access to the file system, logs, and storage.

Pure arithmetic on the counts (`Usage`), the stored bytes (`Kept`) and dated list prices (`prices.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as document

from estafeta.cost.meter import Traffic
from estafeta.cost.prices import PRICES_AS_OF, Prices, prices_of

GIB = 1 << 30
MB_PER_GB = 1024
"""MB in a gigabyte of memory, as Lambda counts."""
LOG_BYTES = 600
"""Smallest log volume of one invocation: START, END, REPORT and two notes. Where invocations are short and many, the
log costs more than the requests."""
MONTH_S = 30 * 86400.0
"""Seconds of 30 days; AWS takes the days of the current month."""
ASSUMED = {
    "local": ", for functions as fast as this machine's",
    "inline": ", for functions as fast as this process, without starting them",
    "aws": "",
}
"""Assumption of a price that was not measured on AWS."""

Architecture = Literal["arm64", "x86_64"]
Throughput = Literal["bursting", "elastic"]


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Basis:
    """The choices that decide on prices.

    Attributes:
        region: AWS Region.
        architecture: Processor of the functions.
        throughput: Throughput mode of the file system: access is free for `bursting`, and billed by the byte for
            `elastic`.
    """

    region: str = "us-east-1"
    architecture: Architecture = "arm64"
    throughput: Throughput = "bursting"

    @property
    def prices(self) -> Prices:
        """The prices of the Region."""
        return prices_of(self.region)

    def describe(self) -> str:
        """The basis in words: date, Region, architecture, throughput mode."""
        prices = self.prices
        region = self.region if prices.region == self.region else f"{prices.region} (none known of {self.region})"
        return f"list prices of {PRICES_AS_OF}, {region}, {self.architecture}, EFS {self.throughput}"


@dataclass(frozen=True)
class Usage:
    """The work of the functions for a run.

    Attributes:
        invocations: Number of invocations of each function, retries included.
        retries: Number of them that were retries.
        legs: Number of ranks' invocations for a round, without retries. A round has several legs of a rank if a share
            did not fit the time limit.
        billed_gb_seconds: Billed duration, init included, times memory size, in GB-seconds. An invocation without a
            REPORT line counts from its start to now.
        traffic: File operations of the invocations that ended by themselves, and so have reported them.
        log_bytes: Bytes that they wrote to their logs.
    """

    invocations: Mapping[str, int]
    retries: int
    legs: int
    billed_gb_seconds: float
    traffic: Traffic = field(default_factory=Traffic)
    log_bytes: int = 0


@document(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Kept:
    """The files of a run on the file system, and the upload of its data.

    Attributes:
        run_bytes: Bytes of its own files, as EFS meters them (`meter.kept_bytes`).
        data_bytes: Bytes of the stored data sets that it reads; other runs may read them, too.
        uploaded_bytes: Bytes of these data sets that came through S3, once, as they are and not as EFS meters them.
        puts: Number of requests that bring them to S3.
        gets: Number of requests that fetch them from S3.
    """

    run_bytes: int = 0
    data_bytes: int = 0
    uploaded_bytes: int = 0
    puts: int = 0
    gets: int = 0

    @property
    def bytes(self) -> int:
        """All metered bytes."""
        return self.run_bytes + self.data_bytes


@dataclass(frozen=True)
class Bill:
    """The dollars of a run, by purpose.

    Attributes:
        compute: Dollars for GB-seconds.
        requests: Dollars for invocations.
        efs: Dollars for access to the file system; 0 with Bursting throughput.
        efs_if_elastic: Dollars for access if throughput is, or were, Elastic. Not part of the total.
        logs: Dollars for the bytes that CloudWatch takes in.
        storage: Dollars for the files on the file system now, from the run's beginning to its end.
        storage_month: Dollars for a month of storage, until the files are removed. Not part of the total.
        upload: Dollars for bringing its data in through S3, which the first run to need it pays. Not part of the total.
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
        """Dollars that the run has cost."""
        return self.compute + self.requests + self.efs + self.logs + self.storage

    def to_dict(self) -> dict[str, float]:
        """The bill, JSON-ready, in dollars."""
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
    """The cost of a run.

    Args:
        usage: The work of its functions.
        basis: The choices that decide on prices.
        kept: Its files on the file system.
        seconds: Seconds from its beginning to its end, or to now.
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
    """Dollars for an invocation, however short: the request, and its log."""
    return prices.request + LOG_BYTES / GIB * prices.log_gb


def storage_usd(stored_bytes: float, seconds: float, prices: Prices) -> float:
    """Dollars for keeping bytes on the file system for some time."""
    return stored_bytes / GIB * seconds / MONTH_S * prices.efs_gb_month


def upload_usd(kept: Kept, prices: Prices) -> float:
    """Dollars for bringing data in through S3: requests, and an hour of storage there, though minutes are usual.

    Transfer in from the internet, and between S3 and functions of one Region, is free.
    """
    waiting = kept.uploaded_bytes / GIB * prices.s3_gb_month * 3600 / MONTH_S
    return kept.puts * prices.s3_put + kept.gets * prices.s3_get + waiting
