"""What an environment keeps from one invocation to the next, and when it must not."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.interposed import Interposed
from core.driver import Relay
from core.environment import forget
from core.specs import spec_of
from estafeta.client.inline import NO_LIMIT_S
from estafeta.errors import Gone, UsageError
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import Round
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.warm import Warm
from estafeta.store.files import OsFiles, Reader
from estafeta.store.store import Store
from estafeta.training.session import Data, Session, check_rows, open_session
from estafeta.training.share import Share


class Counting(Interposed):
    """Files that count how often each name is opened."""

    def __init__(self) -> None:
        super().__init__(OsFiles())
        self.opened: list[str] = []

    def open(self, path: str) -> Reader:
        self.opened.append(path.rpartition("/")[2])
        return super().open(path)


def session_of(relay: Relay, store: Store | None = None, **fields: Any) -> Session:
    folder = RunFolder(store or relay.store, relay.spec.run, relay.spec)
    return open_session(folder, Invocation(folder.store, relay_of_nobody, "t", lambda: NO_LIMIT_S, **fields))


def relay_of_nobody(functions: object) -> Any:
    raise AssertionError("opening a session invokes nobody")


@pytest.fixture
def relay(tmp_path: Path) -> Relay:
    """A run that has made its second version."""
    relay = Relay(tmp_path, spec_of("batch_norm"))
    relay.start()
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(2)))
    forget()
    return relay


def test_a_session_is_kept_until_another_run_comes(relay: Relay, tmp_path: Path) -> None:
    session = session_of(relay)
    assert session_of(relay) is session
    other = Relay(tmp_path, spec_of("plain", run="other"))
    other.start()
    assert session_of(other) is not session
    assert session_of(relay) is not session


def test_the_model_of_another_run_is_gone_before_the_next_is_made(relay: Relay) -> None:
    """PyTorch keeps what hooks its parameters for itself: that must not keep the model."""
    old = weakref.ref(session_of(relay).learner)
    relay.spec = relay.spec.model_copy(update={"token": "another run"})
    assert session_of(relay).learner is not old()
    assert old() is None


def test_each_environment_has_a_session_of_its_own(relay: Relay) -> None:
    one = Warm()
    session = session_of(relay, warm=one)
    assert session_of(relay, warm=Warm()) is not session
    assert session_of(relay, warm=one) is session
    assert session_of(relay) is not session


def test_parameters_are_read_once_and_buffers_put_back(relay: Relay) -> None:
    files = Counting()
    store = Store(relay.store.root, files)
    session = session_of(relay, store)
    session.load(RunFolder(store, relay.spec.run, relay.spec), 2)
    found = {name: array.copy() for name, array in session.learner.buffers.items()}
    learner = session.learner
    learner.train(session.data.tables["train"].batch(np.arange(8)))
    assert any((learner.buffers[name] != array).any() for name, array in found.items())
    session.load(RunFolder(store, relay.spec.run, relay.spec), 2)
    assert files.opened.count("00000002.safetensors") == 1
    assert all((learner.buffers[name] == array).all() for name, array in found.items())
    session.load(RunFolder(store, relay.spec.run, relay.spec), 1)
    assert files.opened.count("00000001.safetensors") == 1


def test_a_new_share_begins_a_new_sum(relay: Relay) -> None:
    session = session_of(relay)
    session.load(relay.folder, 2)
    learner = session.learner
    learner.train(session.data.tables["train"].batch(np.arange(8)))
    assert learner.gradient().any()
    Share.of(session, relay.folder, Round(2, "train"), 0)
    assert not learner.gradient().any()
    assert (learner.rows, learner.sums) == (0, {"loss": 0.0, "accuracy": 0.0})


def test_after_a_failed_reading_nothing_is_taken_for_loaded(relay: Relay) -> None:
    session = session_of(relay)
    session.load(relay.folder, 2)
    parameters = session.learner.parameters.copy()
    with pytest.raises(Gone):
        session.load(relay.folder, 9)
    session.learner.parameters[:] = 0
    session.load(relay.folder, 2)
    np.testing.assert_array_equal(session.learner.parameters, parameters)


def test_data_are_split_by_the_seed(relay: Relay) -> None:
    session = session_of(relay)
    train, valid = session.data.rows["train"], session.data.rows["valid"]
    assert sorted([*train, *valid]) == list(range(48))
    assert len(valid) == 12
    assert session.data.tables["train"] is session.data.tables["valid"]


def rows(train: int, valid: int) -> Data:
    return Data({}, {"train": np.arange(train), "valid": np.arange(valid)})


@pytest.mark.parametrize(
    ("data", "workers", "steps", "message", "hint"),
    [
        (rows(3, 0), 4, 1, "has 3 training rows, fewer than the 4 workers", "--workers 3 or fewer"),
        (rows(3, 1), 4, 1, r"has 3 training rows \(1 are held out", "--workers 3 or fewer"),
        (rows(0, 4), 1, 0, "has 0 training rows", "--workers 1 or fewer"),
        (rows(9, 0), 2, 0, "9 training rows make no full batch of 16", "batch_size=9"),
    ],
)
def test_data_that_are_too_few(data: Data, workers: int, steps: int, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        check_rows(data, spec_of("plain", workers=workers), steps)
    assert hint in caught.value.hint


def test_data_that_are_just_enough() -> None:
    check_rows(rows(4, 0), spec_of("plain", workers=4), 1)
