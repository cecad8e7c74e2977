"""Time that a job's own code takes, where time is virtual."""

from __future__ import annotations

from collections.abc import Callable

spend: Callable[[float], object] = lambda seconds: None  # noqa: E731
"""Let so many seconds pass; on a stage it sets this to its own way."""
