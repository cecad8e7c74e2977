"""Prices, worked out by hand from the list prices in the docstrings, and their sums."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from estafeta.cost.cost import GIB, MONTH_S, Basis, Bill, Kept, Usage, access_usd, bill, invocation_usd, second_usd
from estafeta.cost.meter import KIB, Traffic, kept_bytes, traffic_of
from estafeta.cost.prices import PRICES, prices_of

US = PRICES["us-east-1"]


def used(**changes: object) -> Usage:
    facts: dict[str, object] = {"invocations": {"worker": 3}, "retries": 0, "legs": 3, "billed_gb_seconds": 0.0}
    return Usage(**{**facts, **changes})  # type: ignore[arg-type]


def billed(usage: Usage, basis: Basis | None = None, kept: Kept | None = None, seconds: float = 0.0) -> Bill:
    return bill(usage, basis or Basis(), kept or Kept(), seconds)


def test_compute_and_requests() -> None:
    """100,000 GB-seconds: $1.33334 on arm64, $1.66667 on x86-64; 5,000,000 requests at $0.20 a million: $1."""
    usage = used(invocations={"worker": 4_000_000, "merge": 1_000_000}, billed_gb_seconds=100_000.0)
    arm, intel = billed(usage), billed(usage, Basis(architecture="x86_64"))
    assert arm.compute == pytest.approx(1.33334)
    assert intel.compute == pytest.approx(1.66667)
    assert arm.requests == intel.requests == pytest.approx(1.0)
    assert arm.total == pytest.approx(2.33334)


def test_an_hour_of_a_worker() -> None:
    """1,769 MB are 1.7275390625 GB: $0.0829 an hour on arm64, $0.1037 on x86-64; 10,240 MB are 10 GB: $0.48, $0.60."""
    assert 3600 * second_usd(1769, Basis()) == pytest.approx(0.082922, abs=1e-6)
    assert 3600 * second_usd(1769, Basis(architecture="x86_64")) == pytest.approx(0.103653, abs=1e-6)
    assert 3600 * second_usd(10_240, Basis()) == pytest.approx(0.480002, abs=1e-6)
    assert 3600 * second_usd(10_240, Basis(architecture="x86_64")) == pytest.approx(0.600001, abs=1e-6)


def test_access_has_a_price_where_throughput_is_elastic() -> None:
    """100 GB read at $0.03 and 50 GB written at $0.06 are $6; in eu-west-1, written at $0.07, $6.50."""
    usage = used(traffic=Traffic(elastic_read_bytes=100 * GIB, elastic_write_bytes=50 * GIB))
    elastic = billed(usage, Basis(throughput="elastic"))
    assert elastic.efs == elastic.efs_if_elastic == pytest.approx(6.0)
    bursting = billed(usage)
    assert (bursting.efs, bursting.efs_if_elastic) == (0.0, pytest.approx(6.0))
    assert elastic.total - bursting.total == pytest.approx(6.0)
    assert billed(usage, Basis(region="eu-west-1", throughput="elastic")).efs == pytest.approx(6.5)


def test_one_step_of_8_workers_on_10_mib_costs_a_cent_for_access_and_a_27th_of_that_for_compute() -> None:
    """The 8 workers read 2 times 10 MiB each and write 9 times 10 MiB: 160 and 90 MiB, in requests of 1 MiB.

    160 / 1,024 * $0.03 + 90 / 1,024 * $0.06 = $0.0099609; 8 * 2 s * 1.7275390625 GB * $0.0000133334 = $0.00036855.
    """
    traffic = traffic_of({}, {10 << 20: 16}, {10 << 20: 9})
    assert access_usd(traffic, US) == pytest.approx(0.009960937)
    usage = used(billed_gb_seconds=8 * 2 * 1769 / 1024, traffic=traffic)
    costs = billed(usage, Basis(throughput="elastic"))
    assert costs.compute == pytest.approx(0.00036855, rel=1e-4)
    assert costs.efs / costs.compute == pytest.approx(27, abs=0.1)
    assert traffic.burst_credit_bytes == (90 << 20) + (160 << 20) // 3, "137 to 143 MiB of credit, and no fee"


def test_logs() -> None:
    """4 GiB of log at $0.50. A request at $0.20 a million, with 600 bytes of log: $0.0000002 and $0.00000027940."""
    assert billed(used(log_bytes=4 * GIB)).logs == pytest.approx(2.0)
    assert invocation_usd(US) == pytest.approx(0.4793968e-6, rel=1e-5)


def test_storage_is_paid_by_the_month_and_a_run_has_its_share() -> None:
    """10 GiB at $0.30 are $3 a month for any owner; for half a month, $1.50; for an hour of 720, $0.0041667."""
    kept = Kept(run_bytes=4 * GIB, data_bytes=6 * GIB)
    half = billed(used(), kept=kept, seconds=MONTH_S / 2)
    assert half.storage_month == pytest.approx(3.0)
    assert half.storage == pytest.approx(1.5)
    assert half.total == pytest.approx(1.5 + 3 * 0.2e-6)
    assert billed(used(), kept=kept, seconds=3600.0).storage == pytest.approx(3.0 / 720)
    assert half.upload == 0.0


def test_data_comes_in_through_s3_once() -> None:
    """3 GiB in 400 requests up at $5 and 300 down at $0.40 a million: $0.002 and $0.00012; an hour of 720 there at
    $0.023 a month: $0.0000958. A run's total is without it."""
    costs = billed(used(), kept=Kept(uploaded_bytes=3 * GIB, puts=400, gets=300))
    assert costs.upload == pytest.approx(0.002 + 0.00012 + 0.0000958333)
    assert costs.total == pytest.approx(3 * 0.2e-6)


def test_kept_files_are_metered_in_steps() -> None:
    """2 KiB for its inode, and its data in steps of 4 KiB, one at least."""
    for size, kib in ((0, 6), (1, 6), (4 * KIB, 6), (4 * KIB + 1, 10), (1 << 20, 1026)):
        assert kept_bytes(size) == kib * KIB


def test_least_sizes_of_what_is_metered() -> None:
    """A byte counts as 32 KiB where throughput is elastic, as 4 KiB where it is bursting; then in steps of 1 KiB."""
    for size, elastic, bursting in (
        (1, 32, 4),
        (4 * KIB, 32, 4),
        (4 * KIB + 1, 32, 5),
        (32 * KIB + 1, 33, 33),
        (1 << 20, 1024, 1024),
        ((1 << 20) + 1, 1024 + 32, 1024 + 4),
        ((5 << 20) - 1, 5 * 1024, 5 * 1024),
        (0, 0, 0),
    ):
        read, written = traffic_of({}, {size: 3}, {}), traffic_of({}, {}, {size: 2})
        assert (read.elastic_read_bytes, read.burst_read_bytes) == (3 * elastic * KIB, 3 * bursting * KIB)
        assert (written.elastic_write_bytes, written.burst_write_bytes) == (2 * elastic * KIB, 2 * bursting * KIB)
        assert (read.read_bytes, written.write_bytes) == (3 * size, 2 * size)


def test_calls_without_data_are_metered_too() -> None:
    """Five listings, two openings of two requests each: 9 * 4 KiB; a link and a creation of two: 3 * 4 KiB."""
    traffic = traffic_of({"list": 5, "open": 2, "link": 1, "create": 1}, {}, {})
    assert traffic.elastic_read_bytes == traffic.burst_read_bytes == 36 * KIB
    assert traffic.elastic_write_bytes == traffic.burst_write_bytes == 12 * KIB
    assert traffic.read_bytes == traffic.write_bytes == 0


def test_traffic_adds_up() -> None:
    one, other = traffic_of({"list": 1}, {10: 1}, {}), traffic_of({"list": 2, "link": 1}, {}, {7: 2})
    total = one + other
    assert total.calls == {"list": 3, "read": 1, "link": 1, "write": 2}
    assert (total.read_bytes, total.write_bytes) == (10, 14)
    assert access_usd(total, US) == pytest.approx(access_usd(one, US) + access_usd(other, US))
    assert sum((one, other), Traffic()) == total


def test_a_region_without_prices_is_said_to_have_those_of_us_east_1() -> None:
    assert prices_of("ap-south-2") is US
    assert "us-east-1 (none known of ap-south-2)" in Basis(region="ap-south-2").describe()
    assert Basis(region="eu-west-1").describe() == "list prices of 2026-11-23, eu-west-1, arm64, EFS bursting"


@pytest.mark.parametrize("wrong", [{"architecture": "sparc"}, {"throughput": "fast"}, {"zone": "a"}])
def test_a_basis_that_is_none(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Basis(**wrong)  # type: ignore[arg-type]
