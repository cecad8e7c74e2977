"""Which topology a run gets."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from estafeta.protocol.spec import Topology
from estafeta.protocol.topology import REPLICATED_UP_TO, choose

MOST = REPLICATED_UP_TO // 4
"""Parameters up to which replicated is chosen."""


@pytest.mark.parametrize("asked", get_args(Topology))
@pytest.mark.parametrize("workers", [1, 2, 100])
def test_what_is_asked_for_is_what_one_gets(asked: Any, workers: int) -> None:
    assert choose(asked, 1, workers) == choose(asked, 10**9, workers) == asked


@pytest.mark.parametrize(
    ("parameters", "workers", "topology"),
    [
        (1, 3, "replicated"),
        (MOST, 3, "replicated"),
        (MOST + 1, 3, "sharded"),
        (MOST + 1, 100, "sharded"),
        (10**9, 2, "replicated"),
        (10**9, 1, "replicated"),
    ],
)
def test_the_sizes_of_model_and_world_decide(parameters: int, workers: int, topology: Topology) -> None:
    assert choose("auto", parameters, workers) == topology
