"""Turns what the benchmarks print with `--json` into one Markdown table.

    python benchmarks/bench_exchange.py --json > exchange.txt; …
    python benchmarks/table.py exchange.txt training.txt …

Of each file the last line is read. Machine and commit stand in the table, once for each machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

SETTINGS = ("ranks", "service", "batch", "redo_rounds")
"""What a row says about how it was measured, if it says it."""

FIGURES = {
    "median_us": "us",
    "median_ms": "ms",
    "samples_per_s": "samples/s",
    "seconds": "s",
    "stall_ms": "ms",
    "mean_us": "us",
    "mb_per_s": "MB/s",
    "max_mb": "MB",
    "peak_mb": "MB",
}
"""The figure that a row is about, whichever it has; with its unit."""

SPREAD = {
    "p10_us": "p10",
    "p999_us": "p99.9",
    "p10_ms": "p10",
    "p90_ms": "p90",
    "longest_stall_ms": "longest",
    "longest_ms": "longest",
    "peak_mb": "peak MB",
    "plan_mb": "planned MB",
    "times": "times the memory",
}


def rows_in(text: str) -> list[Row]:
    """The rows in the output of a benchmark.

    Raises:
        ValueError: Its last line is no JSON list.
    """
    lines = text.strip().splitlines()
    rows = json.loads(lines[-1]) if lines else None
    if not isinstance(rows, list):
        raise ValueError("the last line is no JSON list: was it run with --json?")
    return rows


def cells(row: Row) -> list[str]:
    """A row's cells: what, how, figure, spread, comparisons."""
    how = [f"{name.replace('_', ' ')} {row[name]}" for name in SETTINGS if row.get(name)]
    if row.get("topology") and row["topology"] not in row["case"]:
        how.append(str(row["topology"]))
    name = next(name for name in FIGURES if name in row)
    spread = [f"{word} {_number(row[key])}" for key, word in SPREAD.items() if row.get(key) is not None and key != name]
    ratios = [
        f"{key.removeprefix('vs_').replace('_', ' ')} {_number(row[key])}"
        for key in row
        if key.startswith("vs_") and row[key] is not None
    ]
    return [
        str(row["case"]),
        ", ".join(how),
        f"{_number(row[name])} {FIGURES[name]}",
        ", ".join(spread),
        ", ".join(ratios),
    ]


def table(rows: Sequence[Row]) -> str:
    """The Markdown table."""
    lines = ["| case | with | result | spread | beside |", "| --- | --- | --: | --- | --- |"]
    for machine in dict.fromkeys(row.get("machine", "machine not named") for row in rows):
        lines.append(f"| **{machine}** | | | | |")
        lines += [f"| {' | '.join(cells(row))} |" for row in rows if row.get("machine", "machine not named") == machine]
    return "\n".join(lines)


def _number(value: float) -> str:
    """Three significant digits, with commas, never as a power of ten."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def main() -> None:
    """Print the table of all files."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit(__doc__)
    print(table([row for path in sys.argv[1:] for row in rows_in(Path(path).read_text())]))


if __name__ == "__main__":
    main()
