"""The file operations that `estafeta plan` assumes are those of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from estafeta.client.plan.round import Profile, Setting, traffic, valid_traffic
from estafeta.cost.meter import Meter, Traffic
from estafeta.protocol.snapshot import take_snapshot
from estafeta.store.files import OsFiles

from .driver import Relay
from .specs import spec_of
from .stage import Stage

EPOCHS = 12


@pytest.mark.parametrize("topology", ["merge", "sharded", "replicated"])
def test_predicted_traffic_is_close_to_the_metered(topology: Any, tmp_path: Path) -> None:
    """To a third, since preparing, saving, ending, and looking again while one waits are not foreseen.

    Environments are taken to be warm; on a stage, those of the merge are often not.
    """
    meter, spec = Meter(), spec_of("adamw", topology=topology, workers=3, epochs=EPOCHS)
    stage = (Relay if topology == "merge" else Stage)(tmp_path, spec, files=OsFiles(meter))
    stage.run()
    plan = take_snapshot(stage.store, stage.layout, stage.spec).plan
    assert plan is not None
    profile = Profile(
        parameters=plan.size,
        state_vectors=2,
        train_rows=plan.train_rows,
        valid_rows=plan.valid_rows,
        batch_size=6,
        micro_batch_size=2,
        steps=plan.total_steps,
        epochs=EPOCHS,
        row_s=0,
        pass_s=0,
        valid_row_s=0,
        element_s=0,
        parallel=0,
        worker_bytes=0,
        model_bytes=0,
    )
    setting = Setting(3, 1769, topology)
    foreseen = Traffic()
    for _ in range(plan.total_steps):
        foreseen += traffic(profile, setting)
    for _ in range(EPOCHS):
        foreseen += valid_traffic(setting)
    metered = meter.traffic()
    assert foreseen.elastic_read_bytes == pytest.approx(metered.elastic_read_bytes, rel=0.33)
    assert foreseen.elastic_write_bytes == pytest.approx(metered.elastic_write_bytes, rel=0.33)
