"""The platform's log lines, character by character."""

from estafeta.local.logs import lines as report


def test_a_plain_report() -> None:
    lines = report.end_lines("id", duration_ms=1.001, init_ms=None, memory_mb=128, peak_mb=40.2)
    assert lines == (
        "END RequestId: id\n"
        "REPORT RequestId: id\tDuration: 1.00 ms\tBilled Duration: 2 ms\t"
        "Memory Size: 128 MB\tMax Memory Used: 41 MB\t\n"
    )


def test_a_cold_start_is_billed() -> None:
    lines = report.end_lines("id", duration_ms=10.0, init_ms=90.0, memory_mb=128, peak_mb=1)
    assert "\tDuration: 10.00 ms\tBilled Duration: 100 ms\t" in lines
    assert lines.endswith("\tInit Duration: 90.00 ms\t\n")


def test_a_failure_is_named_and_memory_is_shown_up_to_the_limit() -> None:
    lines = report.end_lines(
        "id", duration_ms=1, init_ms=None, memory_mb=128, peak_mb=400, status="error", error_type="Runtime.OutOfMemory"
    )
    assert lines.endswith("\tMax Memory Used: 128 MB\tStatus: error\tError Type: Runtime.OutOfMemory\t\n")


def test_a_failed_init_phase() -> None:
    assert report.init_line(12.345, "timeout") == "INIT_REPORT Init Duration: 12.35 ms\tPhase: init\tStatus: timeout\n"
    assert report.init_line(1, "error", "X").endswith("\tStatus: error\tError Type: X\n")
