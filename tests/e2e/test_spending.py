"""What whole runs on the local service cost, and how they stop at their price."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from conftest import Start, digest
from estafeta.backend import Backend
from estafeta.cost import GIB, Basis, bill
from estafeta.spec import Choice

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]

OPTIONS = {"epochs": 5, "batch_size": 192}
TOPOLOGIES = pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])


@TOPOLOGIES
def test_the_bill_is_the_sum_of_report_lines_and_counted_file_operations(
    on_local: Backend, begin: Start, topology: Choice
) -> None:
    """Added up here from the text of the log, line by line."""
    run = begin(on_local, "small.py:job", 2, {"epochs": 1}, topology=topology)
    digest(run)
    summary = run.summary()
    entries = run.log()[: sum(summary["invocations"].values())]  # asking has cost another one
    gb_seconds, read, written, calls, size = 0.0, 0, 0, Counter[str](), 0
    for entry in entries:
        billed = re.search(r"\tBilled Duration: (\d+) ms\tMemory Size: (\d+) MB", entry.report)
        assert billed, "each of them has ended"
        gb_seconds += int(billed[1]) / 1000 * int(billed[2]) / 1024
        (said,) = (json.loads(line)["traffic"] for line in entry.lines if '"traffic"' in line)
        read, written = read + said["elastic_read_bytes"], written + said["elastic_write_bytes"]
        calls.update(said["calls"])
        size += entry.size
    assert calls["link"] >= 2 * summary["rounds"], "each rank has published in each round"
    assert summary["traffic"]["calls"] == calls
    assert summary["billed_gb_seconds"] == pytest.approx(gb_seconds, abs=1e-6)
    prices = run.status().spec.basis.prices
    elastic = (read * prices.efs_read_gb + written * prices.efs_write_gb) / GIB
    assert summary["costs"] == {
        "compute": pytest.approx(gb_seconds * prices.gb_second["arm64"]),
        "requests": pytest.approx(len(entries) * 0.2e-6),
        "efs": 0.0,
        "logs": pytest.approx(size / GIB * 0.5),
        "efs_if_elastic": pytest.approx(elastic),
    }
    assert bill(run.usage, Basis(throughput="elastic")).total == pytest.approx(summary["cost_usd"] + elastic)
    assert run.cost == pytest.approx(summary["cost_usd"])


@TOPOLOGIES
def test_a_run_stops_at_a_third_of_its_price_and_goes_on_with_the_same_bits(
    on_local: Backend, begin: Start, topology: Choice
) -> None:
    """GIVEN what a run has said that it costs WHEN it may cost a third THEN it stops, and resuming gives its bits."""
    whole = begin(on_local, "small.py:job", 2, OPTIONS, topology=topology)
    expected = digest(whole)
    price = whole.status().spent_usd
    assert 0.5 * whole.bill.compute < price < whole.cost
    run = begin(on_local, "small.py:job", 2, OPTIONS, topology=topology, limits={"max_cost_usd": price / 3})
    *_, stopped = run.follow()
    outcome = stopped.outcome
    assert outcome is not None
    assert (outcome.state, outcome.limited) == ("stopped", True)
    assert outcome.version is not None
    assert 0 < outcome.version < whole.status().version
    run.resume(max_cost_usd=None)
    assert digest(run) == expected
