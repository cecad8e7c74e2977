"""AWS's list prices, dated: a table by region, read by `cost.py`.

The prices are on demand, of the first tier, without the free tier. A Region whose prices nobody has looked up has no
row. `prices_of` then gives those of us-east-1 and says so: most prices are the same in the large Regions, and none is
far off.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

PRICES_AS_OF = "2026-11-23"
"""Date of the table; each source below has its own."""
DEFAULT_REGION = "us-east-1"


@dataclass(frozen=True)
class Prices:
    """Dollars for each unit. A gigabyte of memory, of a file system and of a log has 2**30 bytes.

    Attributes:
        region: Region of the prices.
        gb_second: Lambda's memory size times billed duration, by architecture.
        request: Lambda invocation.
        efs_read_gb: EFS bytes read as metered with Elastic throughput. Bursting throughput is free.
        efs_write_gb: EFS bytes written as metered with Elastic throughput.
        efs_gb_month: EFS Regional Standard storage.
        log_gb: CloudWatch Logs bytes taken in.
        s3_gb_month: S3 Standard storage.
        s3_put: S3 PUT, COPY, POST or LIST; each part of an upload is one.
        s3_get: S3 GET.
        vm_hour: vCPU with its 4 GiB of an EC2 instance of the m7g family; the price is linear in the size.
    """

    region: str
    gb_second: Mapping[str, float]
    request: float
    efs_read_gb: float
    efs_write_gb: float
    efs_gb_month: float
    log_gb: float
    s3_gb_month: float
    s3_put: float
    s3_get: float
    vm_hour: float


# The source is AWS's own page where its text has the number. A script fills the numbers in on the pages of EFS,
# CloudWatch, S3 and EC2, so the sources for these are other people's copies, with their dates if they have one.
_US_EAST_1 = Prices(
    region="us-east-1",
    # https://aws.amazon.com/lambda/pricing/, 2026
    gb_second={"arm64": 0.0000133334, "x86_64": 0.0000166667},
    request=0.20e-6,
    # https://www.factualminds.com/blog/amazon-efs-pricing-throughput-modes-storage-classes/, June 2026; the same in
    # https://cloudburn.io/blog/amazon-efs-pricing, March 2026
    efs_read_gb=0.03,
    efs_write_gb=0.06,
    efs_gb_month=0.30,
    # https://c3x.dev/blog/cloudwatch-logs-cost-optimization, June 2026
    log_gb=0.50,
    # https://zeonedge.com/blog/cloud-storage-cost-guide-s3-ebs-efs-fsx-choosing-right-tier, April 2026
    s3_gb_month=0.023,
    # https://c3x.dev/blog/s3-request-fees-explained, without a date: $0.005 and $0.0004 a thousand
    s3_put=5e-6,
    s3_get=0.4e-6,
    # https://www.factualminds.com/blog/amazon-ec2-on-demand-pricing-instance-families-2026/, June 2026: m7g.large, of
    # two vCPUs, $0.0816
    vm_hour=0.0408,
)

PRICES: Mapping[str, Prices] = {
    "us-east-1": _US_EAST_1,
    # Only the prices that are known to differ; the rest of the row is that of us-east-1.
    # https://repost.aws/articles/ARLxw4PqmeQK6VVrpGL4-jzA, how to estimate the cost of Elastic throughput
    "eu-west-1": replace(_US_EAST_1, region="eu-west-1", efs_write_gb=0.07),
}


def prices_of(region: str) -> Prices:
    """The prices of a Region, or those of us-east-1 (see their `region`) if there is no row."""
    return PRICES.get(region, PRICES[DEFAULT_REGION])
