"""The protocol's table of waits is the module's."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from estafeta import waiting

TABLE = (Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8").partition("\n## Waiting\n")[2]


def values() -> dict[str, list[float]]:
    """Return what the table says: by name, the numbers of its value."""
    rows = re.findall(r"^\| `([\w.()]+)` \| ([^|]+) \|", TABLE, re.MULTILINE)
    return {name: [float(Fraction(n)) for n in re.findall(r"\d[\d./]*", value)] for name, value in rows}


def test_the_table_has_every_wait_with_its_value() -> None:
    constants = {name: [float(value)] for name, value in vars(waiting).items() if isinstance(value, int | float)}
    timings = {
        f"timing().{name}": [getattr(waiting.LOCAL, name), getattr(waiting.SHARED, name)]
        for name in waiting.Timing.__dataclass_fields__
    }
    assert values() == constants | timings
