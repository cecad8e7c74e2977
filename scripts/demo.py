"""Train handwritten digits with a merge function, then with none, and compare: `make demo`.

Both runs take place under Lambda's rules on this machine. Their weights must have the same bits; speed, invocations and
price differ.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

JOB = Path(__file__).parents[1] / "examples/digits.py"
WORKERS = 4
ESTAFETA = [sys.executable, "-m", "estafeta", "train", str(JOB), "--workers", str(WORKERS), "--json"]

NEXT = """Activate the environment, then train with other options:

    . .venv/bin/activate
    estafeta train examples/digits.py --workers 4 -o epochs=5
"""


def train(topology: str) -> dict[str, Any]:
    """Train, show the epochs as they come, and return the summary."""
    print(
        f"\n$ estafeta train examples/digits.py --workers {WORKERS} --topology {topology}\n",
        file=sys.stderr,
        flush=True,
    )
    done = subprocess.run([*ESTAFETA, "--topology", topology], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary


def main() -> None:
    """Run both and print the comparison; exit 1 if the bits differ."""
    summaries = [train("merge"), train("auto")]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("topology", "accuracy", "rounds/s", "invocations", "price on AWS", "weights"):
        table.add_column(heading, no_wrap=True)
    for summary in summaries:
        table.add_row(
            summary["topology"],
            f"{summary['metrics']['valid_accuracy']:.4f}",
            f"{summary['rounds_per_s']:.0f}",
            str(sum(summary["invocations"].values())),
            f"${summary['cost_usd']:.6f}",
            summary["weights_sha256"][:16],
        )
    print()
    Console(width=80).print(table)
    if len({summary["weights_sha256"] for summary in summaries}) > 1:
        sys.exit("\nThe weights differ.")
    print(f"\nThe weights are the same, bit for bit.\n\n{NEXT}")


if __name__ == "__main__":
    main()
