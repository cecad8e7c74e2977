"""What is to be done next, for every state that a run can be in, and that doing it comes to an end."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.driver import Relay
from core.environment import elsewhere
from core.faults import HeldUp
from core.specs import spec_of
from estafeta.job.stopping import EarlyStopping, EpochRecord
from estafeta.protocol.layout import Round, claim_of_leg
from estafeta.protocol.snapshot import (
    Action,
    Finish,
    Merge,
    Prepare,
    Reside,
    Snapshot,
    Work,
    current_round,
    is_current,
    newest_epoch,
    next_actions,
    read_epoch,
    take_snapshot,
    takeovers,
)
from estafeta.protocol.spec import Plan, Topology
from estafeta.store.store import Store, claim_name

WORKERS = 3
STEPS = 4
"""In an epoch, of which there are two."""


def plan_of(valid_rows: int = 10, steps: int = STEPS, epochs: int = 2, topology: Topology = "merge") -> Plan:
    return Plan(
        token="t",
        topology=topology,
        train_rows=40,
        valid_rows=valid_rows,
        steps_per_epoch=steps,
        total_steps=steps * epochs,
        sums=("loss",),
        parameters=(),
        buffers=(),
        frozen=(),
        state_dict=(),
    )


def record(epoch: int, stop: str | None = None) -> EpochRecord:
    return EpochRecord(
        token="t",
        epoch=epoch,
        version=epoch * STEPS,
        metrics={},
        best_version=0,
        best_value=None,
        stale_epochs=0,
        stop=stop,
        ended_at=0.0,
    )


def at(version: int, **changes: Any) -> Snapshot:
    return Snapshot(WORKERS, **{"plan": plan_of(), "version": version, **changes})


def work(version: int, phase: Any, *ranks: int) -> tuple[Work, ...]:
    return tuple(Work(Round(version, phase), rank) for rank in ranks)


ALL = frozenset(range(WORKERS))
STOPPED = (Finish("stopped", "on request"),)


@pytest.mark.parametrize(
    ("snapshot", "actions"),
    [
        (Snapshot(WORKERS), (Prepare(),)),
        (Snapshot(WORKERS, plan=plan_of()), (Prepare(),)),
        (Snapshot(WORKERS, version=0), (Prepare(),)),
        (Snapshot(WORKERS, stop_requested=True), STOPPED),
        (at(0), work(0, "train", 0, 1, 2)),
        (at(0, ranks=frozenset({1})), work(0, "train", 0, 2)),
        (at(2, ranks=frozenset({0, 1}), legs=((1, 4), (2, 3))), (Work(Round(2, "train"), 2, leg=3),)),
        (at(3, ranks=ALL), (Merge(Round(3, "train")),)),
        (at(3, ranks=ALL, stop_requested=True), STOPPED),
        (at(4), work(4, "valid", 0, 1, 2)),
        (at(4, ranks=ALL), (Merge(Round(4, "valid")),)),
        (at(4, stop_requested=True), STOPPED),
        (at(4, last_epoch=record(1)), work(4, "train", 0, 1, 2)),
        (at(4, last_epoch=record(1, stop="good enough")), (Finish("done", "good enough"),)),
        (at(4, plan=plan_of(valid_rows=0)), (Merge(Round(4, "valid")),)),
        (at(5, last_epoch=record(1)), work(5, "train", 0, 1, 2)),
        (at(8, last_epoch=record(1)), work(8, "valid", 0, 1, 2)),
        (at(8, last_epoch=record(2)), (Finish("done", "all epochs are done"),)),
        (at(8, last_epoch=record(2, stop="good enough")), (Finish("done", "good enough"),)),
        (at(8, last_epoch=record(2), stop_requested=True), STOPPED),
        *[(at(3, outcome=state), ()) for state in ("done", "stopped", "failed")],
        (Snapshot(WORKERS, outcome="failed"), ()),
    ],
)
def test_what_is_next(snapshot: Snapshot, actions: tuple[Action, ...]) -> None:
    assert next_actions(snapshot) == actions


def carried_out(action: Action, snapshot: Snapshot, stop_at_epoch: int | None) -> Snapshot:
    """The snapshot after an action; one that is no longer due changes nothing."""
    due = next_actions(snapshot)
    match action:
        case Prepare() if action in due:
            return replace(snapshot, version=0, plan=snapshot.plan or plan_of())
        case Work(round_, rank, leg) if any(isinstance(d, Work) and (d.round, d.rank) == (round_, rank) for d in due):
            if leg == 0 and rank == 1:  # its share takes two legs
                return replace(snapshot, legs=((1, 1),))
            return replace(snapshot, ranks=snapshot.ranks | {rank})
        case Merge(Round(version, "train")) if action in due:
            return replace(snapshot, version=version + 1, ranks=frozenset(), legs=())
        case Merge(Round(version, "valid")) if action in due:
            assert snapshot.plan is not None
            epoch = version // snapshot.plan.steps_per_epoch
            stop = "early" if epoch == stop_at_epoch else None
            return replace(snapshot, last_epoch=record(epoch, stop), ranks=frozenset(), legs=())
        case Finish(state, _) if action in due:
            return replace(snapshot, outcome=state)
    return snapshot


@given(
    workers=st.integers(1, 4),
    plan=st.builds(plan_of, valid_rows=st.sampled_from([0, 5]), steps=st.integers(1, 3), epochs=st.integers(1, 3)),
    stop_at_epoch=st.one_of(st.none(), st.integers(1, 3)),
    choose=st.randoms(use_true_random=False),
)
def test_any_order_of_actions_comes_to_the_end(
    workers: int, plan: Plan, stop_at_epoch: int | None, choose: Any
) -> None:
    """All that has ever been due stays queued, and may be carried out again at any later time."""
    snapshot = Snapshot(workers, plan=plan)
    queued: list[Action] = []
    useful = 0
    while due := next_actions(snapshot):
        queued.extend(due)
        action = choose.choice(queued)
        if action not in due and choose.random() < 0.5:
            action = choose.choice(due)
        after = carried_out(action, snapshot, stop_at_epoch)
        assert (after != snapshot) == (action in due)
        useful += after != snapshot
        snapshot = after
    epochs = plan.total_steps // plan.steps_per_epoch
    last = min(stop_at_epoch or epochs, epochs)
    assert snapshot.outcome == "done"
    assert snapshot.version == last * plan.steps_per_epoch
    assert snapshot.last_epoch is not None
    assert snapshot.last_epoch.epoch == last
    rounds_of_workers = snapshot.version + (last if plan.valid_rows else 0)
    legs = workers + (workers > 1)
    assert useful == 1 + rounds_of_workers * legs + snapshot.version + last + 1


def test_a_snapshot_says_what_the_folder_shows(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=WORKERS, micro_batch_size=2), remaining_s=lambda: 0.0)
    relay.start()
    store, layout, spec = relay.store, relay.layout, relay.spec
    assert take_snapshot(store, layout, spec) == Snapshot(WORKERS)
    relay.step()
    prepared = take_snapshot(store, layout, spec)
    assert prepared.plan is not None
    assert prepared == Snapshot(WORKERS, plan=prepared.plan, version=0)
    relay.drain_until(lambda: len(take_snapshot(store, layout, spec).legs) == WORKERS)
    assert take_snapshot(store, layout, spec).legs == ((0, 1), (1, 1), (2, 1))
    relay.drain_until(lambda: bool(take_snapshot(store, layout, spec).ranks))
    assert take_snapshot(store, layout, spec).ranks == {0}
    relay.control("stop")
    assert take_snapshot(store, layout, spec).stop_requested
    relay.drain()
    assert take_snapshot(store, layout, spec).outcome == "stopped"


def test_a_round_is_current_until_it_is_merged(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.start()
    first = Round(0, "train")
    assert not is_current(first, relay.store, relay.spec), "not before the run is prepared"
    relay.step()
    assert is_current(first, relay.store, relay.spec)
    assert not is_current(Round(0, "valid"), relay.store, relay.spec)
    assert not is_current(None, relay.store, relay.spec)
    relay.drain_until(lambda: relay.store.exists(relay.layout.version(1)))
    assert not is_current(first, relay.store, relay.spec)
    relay.drain()
    assert not is_current(Round(6, "train"), relay.store, relay.spec), "not after the end"


@pytest.mark.parametrize("calls", range(8))
def test_no_verdict_is_newer_than_the_version(calls: int, tmp_path: Path) -> None:
    """The run goes from its first round to the end of an epoch while the snapshot is taken."""
    rule = EarlyStopping(monitor="train_loss", target=9.0)
    relay = Relay(tmp_path, spec_of("plain", early_stopping=rule))

    def meanwhile() -> None:
        with elsewhere():
            relay.drain_until(lambda: bool(relay.store.list(relay.layout.epochs)))

    files = HeldUp(meanwhile)
    relay.start()
    relay.step()
    files.start(calls)
    snapshot = take_snapshot(Store(tmp_path, files), relay.layout, relay.spec)
    assert snapshot.version is not None
    if snapshot.last_epoch:
        assert snapshot.version >= snapshot.last_epoch.version
    assert not any(isinstance(action, Finish) for action in next_actions(snapshot)) or snapshot.version == 3


def test_the_round_after_the_last_is_none() -> None:
    rounds = [
        current_round(plan_of(), version, record(version // STEPS) if version // STEPS else None)
        for version in range(9)
    ]
    assert rounds == [*(Round(version, "train") for version in range(8)), None]


def test_there_is_no_record_of_epoch_0(tmp_path: Path) -> None:
    assert read_epoch(Store(os.fspath(tmp_path)), Relay(tmp_path, spec_of("plain")).layout, 0) is None


# Residents


@pytest.fixture(params=["sharded", "replicated"])
def resident(request: pytest.FixtureRequest) -> Plan:
    return plan_of(topology=request.param)


def test_each_resident_is_sent_for_once(resident: Plan) -> None:
    assert next_actions(at(0, plan=resident)) == (Reside(0), Reside(1), Reside(2))
    assert next_actions(at(5, plan=resident, residents=((1, (4, 2)),))) == (Reside(0), Reside(2))
    there = tuple((rank, (0, 0)) for rank in range(WORKERS))
    for version in range(9):
        assert next_actions(at(version, plan=resident, residents=there)) == (), "what is next they find out themselves"


def test_residents_see_by_themselves_that_they_are_to_stop(resident: Plan) -> None:
    assert next_actions(at(0, plan=resident, stop_requested=True)) == STOPPED, "where nobody is at work"
    some = ((1, (0, 0)),)
    assert next_actions(at(0, plan=resident, stop_requested=True, residents=some)) == (Reside(0), Reside(2))


@pytest.mark.parametrize("outcome", ["done", "stopped", "failed"])
def test_of_a_run_that_has_ended_nobody_is_sent_for(outcome: Any, resident: Plan) -> None:
    ended = at(3, plan=resident, outcome=outcome, residents=((1, (0, 0)),))
    assert next_actions(ended) == takeovers(ended) == ()


def test_who_may_be_dead_is_replaced_by_the_next_generation(resident: Plan) -> None:
    there = ((0, (3, 0)), (2, (2, 5)))
    replaced = (Reside(0, 3, 1), Reside(1), Reside(2, 2, 6))
    assert takeovers(at(3, plan=resident, residents=there)) == replaced
    assert takeovers(at(3, plan=resident, residents=there, stop_requested=True)) == replaced
    assert takeovers(at(3, plan=resident, stop_requested=True)) == (Reside(0), Reside(1), Reside(2)), "also to stop"


def test_a_leg_that_has_left_is_followed_and_not_replaced(resident: Plan) -> None:
    """Its successor's event was lost, or failed before its claim; the leg itself would see that it has left."""
    there = ((0, (3, 0)), (1, (3, 1)), (2, (4, 0)))
    left = frozenset({(0, 3), (2, 3)})
    assert takeovers(at(3, plan=resident, residents=there, left=left)) == (
        Reside(0, 4),
        Reside(1, 3, 2),
        Reside(2, 4, 1),
    )


@pytest.mark.parametrize("snapshot", [Snapshot(WORKERS), at(3), at(3, stop_requested=True), at(4, ranks=ALL)], ids=str)
def test_where_nobody_stays_nobody_is_replaced(snapshot: Snapshot) -> None:
    assert takeovers(snapshot) == next_actions(snapshot)


def test_a_snapshot_of_residents(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain", workers=WORKERS, topology="sharded"))
    relay.start()
    relay.step()
    store, layout, spec = relay.store, relay.layout, relay.spec
    before = take_snapshot(store, layout, spec)
    assert (before.version, before.reached, before.residents) == (0, 0, ())
    assert [event.payload["rank"] for event in relay.queued()] == [0, 1, 2]
    for name in (
        claim_name(claim_of_leg(1, 0), 0),
        claim_name(claim_of_leg(1, 2), 1),
        claim_name(claim_of_leg(0, 3), 0),
    ):
        store.publish(f"{layout.legs}/{name}", [b"t"], "t")
    for version in (5, 6):
        store.publish(layout.message(0, "gradient", version), [b"t"], "t")
    store.publish(layout.message(0, "scores", 9), [b"t"], "t")
    for rank, version in ((0, 4), (1, 4), (2, 4), (0, 6), (1, 6)):
        store.publish(layout.piece(version, rank), [b"t"], "t")
    after = take_snapshot(store, layout, spec)
    assert after.residents == ((0, (3, 0)), (1, (2, 1)))
    assert after.version == 4, "of version 6 a piece is missing"
    assert after.reached == 6
    assert take_snapshot(store, layout, spec, after.plan) == after


def test_of_the_records_one_may_want_an_older_one(tmp_path: Path) -> None:
    """A rank that goes on from an older version must not know of verdicts that come after it."""
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    store, layout = relay.store, relay.layout
    found = [newest_epoch(store, layout, most) for most in range(4)]
    assert [record.epoch if record else None for record in found] == [None, 1, 2, 2]
