"""Functions may die between any two calls to the file system, and in the middle of writing a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from .driver import Relay, undisturbed
from .faults import Killed, Mortal
from .specs import spec_of

STRIDE = 7
"""Calls between two deaths that are tried; prime to the number of calls of most invocations."""

ENVIRONMENTS = pytest.mark.parametrize("cold", [True, False], ids=["cold", "warm"])


@pytest.mark.parametrize(("workers", "cold"), [(1, False), (3, True)], ids=["1 warm", "3 cold"])
def test_every_invocation_dies_after_each_of_its_calls(workers: int, cold: bool, tmp_path: Path) -> None:
    """Each attempt gets one call further than the one before."""
    files = Mortal()
    relay = Relay(tmp_path, spec_of("plain", workers=workers), files=files, attempts=1000, cold=cold)
    relay.on_delivery = lambda event: files.start(dies_after=event.attempt)
    relay.on_error = lambda event: relay.assert_whole()
    assert relay.run() == undisturbed("plain", workers)
    assert len(relay.errors) > 100
    assert all(isinstance(error, Killed) for error in relay.errors)


@ENVIRONMENTS
def test_one_death_at_any_call_of_the_run(cold: bool, tmp_path: Path) -> None:
    def relay_that_dies(after: int | None) -> tuple[Relay, Mortal]:
        files = Mortal()
        spec = spec_of("plain", run=f"dies-after-{after or 0}", epochs=1, batch_size=36)
        relay = Relay(tmp_path, spec, files=files, cold=cold)
        relay.start()
        files.start(after)
        relay.on_error = lambda event: files.start(None)
        relay.drain()
        return relay, files

    relay, files = relay_that_dies(None)
    expected = relay.result().weights_sha256
    for after in range(1, files.calls, STRIDE):
        relay, _ = relay_that_dies(after)
        assert len(relay.errors) == 1
        assert relay.result().weights_sha256 == expected, after
