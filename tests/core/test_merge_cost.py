"""The merge function is small: no torch, and memory for one model however many workers there are."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from estafeta.functions.merge import merge
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.message import Kind, form_of
from estafeta.protocol.spec import MergeEvent, Plan, Slot
from estafeta.protocol.weights import Weights, publish_weights, read_weights
from estafeta.store.tensorfile import CHUNK_BYTES

from .driver import Relay
from .specs import spec_of

SIZE = 1 << 20
VECTOR_BYTES = 4 * SIZE
BOOKKEEPING_BYTES = 1 << 20
"""For everything that is no vector: specs, headers, listings, 64 events; measured: less than half of it."""


@pytest.mark.parametrize("module", ["estafeta.functions.merge", "estafeta.functions.control"])
def test_torch_is_not_imported(module: str) -> None:
    program = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {"estafeta", "numpy", "pydantic"} <= loaded
    assert not loaded & {"torch", "sklearn", "scipy", "safetensors"}


def ready_to_merge(tmp_path: Path, workers: int) -> Relay:
    """A run whose first round is complete; all ranks have contributed ones, for one row each."""
    relay = Relay(tmp_path, spec_of("adam", workers=workers, batch_size=workers))
    relay.start()
    store, layout = relay.store, relay.layout
    plan = Plan(
        token="t",
        train_rows=640,
        valid_rows=0,
        steps_per_epoch=10,
        total_steps=20,
        sums=("loss", "accuracy"),
        parameters=(Slot(name="w", shape=(SIZE,)),),
        buffers=(),
        frozen=(),
        state_dict=(("w", "parameter", "w"),),
    )
    vector = np.zeros(SIZE, np.float32)
    publish_weights(store, layout, Weights(0, vector, {}, {"exp_avg": vector, "exp_avg_sq": vector}), "t")
    store.publish(layout.plan, [plan.to_json()], "t")
    first, form = Round(0, "train"), form_of(plan, "train")
    for rank in range(workers):
        head = {"version": 0, "rank": rank, "rows": 1, "sums": (1.0, 1.0), "token": "t"}
        store.publish(layout.contribution(first, rank), form.content(Kind.GRADIENT, vector + 1, **head), "t")
    return relay


@pytest.mark.parametrize("workers", [2, 64])
def test_memory_is_that_of_one_model(workers: int, tmp_path: Path) -> None:
    relay = ready_to_merge(tmp_path, workers)
    invocation = Invocation(relay.store, lambda functions: relay, "the merge", lambda: 900.0, quiet=True)
    event = MergeEvent(run="r", round="train-00000000")
    tracemalloc.start()
    try:
        assert merge(event, invocation)["done"] == f"merged train-00000000, invoked {workers} workers"
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    parameters, gradient, state = VECTOR_BYTES, VECTOR_BYTES, 2 * VECTOR_BYTES
    assert peak < parameters + gradient + state + CHUNK_BYTES + BOOKKEEPING_BYTES
    stepped = read_weights(relay.store, relay.layout, 1)
    assert stepped.rows == workers
    np.testing.assert_allclose(stepped.parameters, -0.02, rtol=1e-5)
