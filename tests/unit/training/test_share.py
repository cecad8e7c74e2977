"""A rank's share of a round, however often it was broken off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.driver import Relay
from core.specs import spec_of
from estafeta.client.inline import NO_LIMIT_S
from estafeta.errors import Gone, NotFinite, UsageError
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan
from estafeta.protocol.warm import Warm
from estafeta.store.tensorfile import Array
from estafeta.training.session import Session, open_session
from estafeta.training.share import Share

FIRST = Round(0, "train")


class Bench:
    """A run of one worker that is prepared: 16 rows in a batch, in micro-batches of four."""

    def __init__(self, root: Path, name: str = "plain", **changes: Any) -> None:
        self.relay = Relay(root, spec_of(name, workers=1, **changes))
        self.relay.start()
        self.relay.step()
        self.plan: Plan = self.relay.folder.plan
        self.session = self.open_session()

    def open_session(self) -> Session:
        """A worker's memory of its own, with version 0 loaded."""
        invocation = Invocation(self.relay.store, lambda functions: self.relay, "t", lambda: NO_LIMIT_S, warm=Warm())
        session = open_session(self.relay.folder, invocation)
        session.load(self.relay.folder, 0)
        return session

    def share(self, round_: Round = FIRST, session: Session | None = None) -> Share:
        folder = RunFolder(self.relay.store, "r", self.relay.spec, self.plan)
        return Share.of(session or self.session, folder, round_, 0)

    def worked(self, ship: Any = None) -> Array:
        """The gradient of a share that nothing happens to; zeros if it is shipped."""
        share = self.share()
        share.work(plenty(), ship)
        assert share.is_complete
        return self.session.learner.gradient()


def plenty() -> Deadline:
    return Deadline(lambda: NO_LIMIT_S)


def short() -> Deadline:
    return Deadline(lambda: 0.0)


def shipped_into(flat: Array) -> Callable[[int, int, Array], None]:
    def ship(number: int, first: int, values: Array) -> None:
        flat[first : first + values.size] = values

    return ship


@pytest.mark.parametrize("name", ["plain", "dropout", "noisy", "batch_norm", "tied"])
@pytest.mark.parametrize("is_shipped", [True, False])
def test_how_often_it_was_broken_off_does_not_show(name: str, is_shipped: bool, tmp_path: Path) -> None:
    """Each leg does one micro-batch, in an environment that knows nothing."""
    bench = Bench(tmp_path, name)
    expected = bench.worked()
    whole = bench.session.learner
    store, path = bench.relay.store, bench.relay.layout.partial_of
    flat = np.full(bench.plan.size, np.nan, np.float32)
    for leg in range(4):
        session = bench.open_session()
        share = bench.share(session=session)
        if leg:
            share.resume(store, path(FIRST, 0, leg))
        share.work(short(), shipped_into(flat) if is_shipped else None)
        assert share.done == leg + 1
        assert share.is_complete == (leg == 3)
        if leg < 3:
            assert np.isnan(flat).all(), "only what is complete is shipped"
            store.publish(path(FIRST, 0, leg + 1), share.content(f"t{leg}", 0.25), f"t{leg}")
    found = flat if is_shipped else session.learner.gradient()
    assert found.tobytes() == expected.tobytes()
    assert (session.learner.rows, session.learner.sums) == (whole.rows, whole.sums)
    for name_, array in whole.buffers.items():
        assert session.learner.buffers[name_].tobytes() == array.tobytes()


def test_one_micro_batch_is_done_however_short_the_time_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    share = bench.share()
    for done in range(1, 5):
        share.work(short())
        assert share.done == done
    share.work(short())
    assert share.done == 4


@pytest.mark.parametrize("name", ["plain", "dropout", "noisy"])
def test_rows_read_ahead_are_the_same_rows(name: str, tmp_path: Path) -> None:
    """Also where reading draws random numbers, and the model does."""
    bench = Bench(tmp_path, name)
    expected = bench.worked()
    share = bench.share()
    share.prefetch()
    share.work(plenty())
    assert bench.session.learner.gradient().tobytes() == expected.tobytes()


def test_rows_read_ahead_for_another_round_are_not_used(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    expected = bench.worked()
    bench.share(Round(1, "train")).prefetch()
    assert bench.worked().tobytes() == expected.tobytes()


def test_scores_are_broken_off_and_gone_on_with_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    valid = Round(0, "valid")
    share = bench.share(valid)
    share.work(plenty())
    learner = bench.session.learner
    expected = learner.rows, dict(learner.sums)
    share = bench.share(valid)
    share.work(short())
    bench.relay.store.publish("partial", share.content("t", 0.0), "t")
    share = bench.share(valid, bench.open_session())
    share.resume(bench.relay.store, "partial")
    share.work(plenty())
    assert (share.session.learner.rows, share.session.learner.sums) == expected
    assert not share.session.learner.gradient().any()


def test_a_loss_that_is_no_number_is_noticed_in_training_alone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.session.learner.parameters[:] = np.nan
    with pytest.raises(NotFinite, match="The loss"):
        bench.share().work(plenty())
    bench.share(Round(0, "valid")).work(plenty())


def test_a_gradient_that_is_no_number_is_not_published(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    share = bench.share()
    share.work(short())
    gradient = bench.session.learner.gradient()
    gradient[3] = np.nan
    learner = bench.session.learner
    learner.resume(gradient, learner.absent, learner.rows, learner.sums)
    with pytest.raises(NotFinite, match="The gradient"):
        share.content("t", 0.0)


def test_a_partial_that_was_swept_is_gone(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(Gone):
        bench.share().resume(bench.relay.store, bench.relay.layout.partial_of(FIRST, 0, 1))


def test_data_that_have_changed_since_the_run_was_prepared(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.plan = bench.plan.model_copy(update={"train_rows": 35})
    with pytest.raises(UsageError, match="has 36 rows for this phase, and had 35"):
        bench.share()
