"""Processes that really run at the same time: two on this machine, or one on each of two machines.

By default each test starts the other process itself, in a directory of its own. To try a shared directory, such as an
EFS mount, give it; to try it as it is meant to be used, run the same command on two machines that have mounted it, with
a new word for each run:

    pytest tests/conformance --store-root /mnt/efs/try
    pytest tests/conformance/test_two_machines.py --store-root /mnt/efs/try --peers-token first --peer 0    # one
    pytest tests/conformance/test_two_machines.py --store-root /mnt/efs/try --peers-token first --peer 1    # other

Each waits up to five minutes for the other, and both judge what both saw. `two-machines-<word>` stays in the directory.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from estafeta.store.store import Store

from . import races

pytestmark = pytest.mark.timeout(1200)

TESTS = Path(__file__).parents[1]

Both = Callable[[Callable[[races.Lane], Any]], list[Any]]


@pytest.fixture
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Both:
    """A function that runs a race in two processes and gives both reports."""
    given, peer, word = (request.config.getoption(name) for name in ("--store-root", "--peer", "--peers-token"))
    if peer and not (given and word):
        raise pytest.UsageError("--peer needs --store-root and --peers-token, the same on both machines")

    def run_as_one_of_two(race: Callable[[races.Lane], Any]) -> list[Any]:
        return races.run(f"{given}/two-machines-{word}", race.__name__, int(peer), patience_s=300)

    def run_both(race: Callable[[races.Lane], Any]) -> list[Any]:
        with tempfile.TemporaryDirectory(prefix="two-processes-", dir=given or tmp_path) as root:
            command = [sys.executable, "-m", "conformance.races", root, race.__name__]
            with subprocess.Popen(command, cwd=TESTS, stderr=subprocess.PIPE, text=True) as other:
                try:
                    reports = races.run(root, race.__name__, 0, patience_s=60)
                except BaseException:
                    other.kill()
                    raise
                _, complaint = other.communicate()
        assert other.returncode == 0, complaint
        return reports

    return run_as_one_of_two if peer else run_both


def test_one_of_two_publishes_each_name_and_both_see_its_file_complete(both: Both) -> None:
    for first, second in zip(*both(races.publish), strict=True):
        assert first["won"] is not second["won"]
        assert first["complete"]
        assert second["complete"]
        winner = first if first["won"] else second
        assert first["seen"] == second["seen"] == winner["mine"]


def test_the_last_to_arrive_sees_both(both: Both) -> None:
    assert all(first or second for first, second in zip(*both(races.last_arrival), strict=True))


def test_a_wait_ends_though_absence_is_remembered(both: Both) -> None:
    assert all(itertools.chain(*both(races.wait)))


def test_each_generation_has_one_holder_who_may_ask_again(both: Both) -> None:
    for first, second in zip(*both(races.claim), strict=True):
        assert sorted([first, second]) == [[False, False], [True, True]]


def test_one_of_two_moves_each_file_away(both: Both) -> None:
    for number, (first, second) in enumerate(zip(*both(races.move), strict=True)):
        assert first["moved"] is not second["moved"]
        assert first["left"] == second["left"] == [f"{number}-to-{0 if first['moved'] else 1}"]


def test_a_replaced_file_is_read_whole(both: Both) -> None:
    _, reader = both(races.replace)
    assert reader["reads"] > 0
    assert reader["torn"] == 0


def test_one_of_many_threads_publishes_each_name(tmp_path: Path) -> None:
    store = Store(tmp_path)
    threads, names = 8, 40
    barrier = threading.Barrier(threads, timeout=60)

    def publish_all(thread: int) -> list[bool]:
        won = []
        for name in range(names):
            barrier.wait()
            won.append(store.publish(f"{name}", [f"by {thread}\n".encode(), races.FILLING], f"by {thread}\n"))
        return won

    with ThreadPoolExecutor(threads) as pool:
        won = list(pool.map(publish_all, range(threads)))
    for name in range(names):
        (winner,) = (thread for thread in range(threads) if won[thread][name])
        assert store.read(f"{name}") == f"by {winner}\n".encode() + races.FILLING
    assert len(list(tmp_path.iterdir())) == names
