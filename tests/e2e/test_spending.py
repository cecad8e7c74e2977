"""What whole runs on the local service cost, and how they stop at their price."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from conftest import Start, digest
from estafeta.client.backend import Backend
from estafeta.client.run import Run
from estafeta.cost.cost import GIB, LOG_BYTES, Basis, bill
from estafeta.errors import UsageError
from estafeta.protocol.spec import Choice

pytestmark = [pytest.mark.xdist_group("local-service"), pytest.mark.timeout(180)]

OPTIONS = {"epochs": 2, "batch_size": 192}
ROUNDS = 8
"""Train rounds of an epoch. Its record says what they have cost."""

TOPOLOGIES = pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])


@TOPOLOGIES
def test_the_bill_is_the_sum_of_report_lines_and_counted_file_operations(
    on_local: Backend, begin: Start, whole_logs: None, topology: Choice
) -> None:
    """Added up here from the text of the log, line by line."""
    run = begin(on_local, "small.py:job", 2, {"epochs": 1}, topology=topology)
    digest(run)
    summary = run.summary().to_dict()
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
        assert entry.role == "control" or entry.size >= LOG_BYTES
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
        "storage": pytest.approx(run.kept.bytes / GIB * summary["train_s"] / (30 * 86400) * 0.30, rel=1e-3),
        "storage_month": pytest.approx(run.kept.bytes / GIB * 0.30),
        "efs_if_elastic": pytest.approx(elastic),
        "upload": 0.0,
    }
    assert summary["kept"]["run_bytes"] == run.kept.run_bytes > 0
    other = bill(run.usage, Basis(throughput="elastic"), run.kept, summary["train_s"])
    assert other.total == pytest.approx(summary["cost_usd"] + elastic)
    assert run.cost == pytest.approx(summary["cost_usd"])


@pytest.fixture(scope="module")
def expected(inline: Backend, begin: Start) -> str:
    """The bits of the run that nothing stops."""
    return digest(begin(inline, "small.py:job", 2, OPTIONS))


@pytest.mark.parametrize("where", ["inline", "merge", "sharded", "replicated"])
def test_a_run_stops_within_a_round_of_its_price_and_goes_on_with_the_same_bits(
    on_local: Backend, inline: Backend, begin: Start, expected: str, where: str
) -> None:
    """GIVEN a run that has stopped after its first epoch WHEN it may cost hardly more than it has cost by then THEN the
    round that it goes on with is its last, however fast this machine is; with the limit lifted, it gets to its end.

    That a third of the price lets a third of the run be done is tested where time is virtual.
    """
    place, topology = (inline, "auto") if where == "inline" else (on_local, where)
    run = begin(place, "small.py:job", 2, OPTIONS, topology=topology, limits={"max_rounds": ROUNDS})
    run.wait()
    assert version(run) == ROUNDS
    spent = run.status().spent_usd
    assert 0 < spent < run.cost
    run.resume(max_rounds=None, max_cost_usd=1.001 * spent)
    run.wait()
    assert version(run) == ROUNDS + 1
    with pytest.raises(UsageError, match="it has cost"):
        run.resume()
    run.resume(max_cost_usd=None)
    assert digest(run) == expected


def version(run: Run) -> int | None:
    """With which version a run has stopped at a limit."""
    outcome = run.status().outcome
    assert outcome is not None
    assert (outcome.state, outcome.limited) == ("stopped", True)
    return outcome.version
