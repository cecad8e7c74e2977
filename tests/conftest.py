"""Options of the test suite; `tests/conformance/test_two_machines.py` tells what they are for."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# Examples come from fixed seeds, and no timing decides a test.
settings.register_profile("estafeta", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("estafeta")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("estafeta")
    group.addoption("--store-root", metavar="DIR", help="run the store's conformance suite in this directory, too")
    group.addoption("--thorough", action="store_true", help="all seeds and moments of tests/e2e/test_chaos.py")
    group.addoption("--peer", choices=("0", "1"), help="which of two machines this is")
    group.addoption("--peers-token", metavar="WORD", help="a new word for each run on two machines, the same on both")
