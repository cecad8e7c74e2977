"""Who is a leg, when it has to go, and who comes after it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from conformance.clock import VirtualClock
from conformance.faults import Interrupted
from core.specs import spec_of
from estafeta import waiting
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout, claim_of_leg
from estafeta.protocol.message import Form, Kind, Wish
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import OUTCOMES
from estafeta.protocol.spec import WorkerEvent
from estafeta.residents.claim import take
from estafeta.residents.ending import Leaving, Refusal
from estafeta.residents.leg import Leg
from estafeta.store.files import Files, OsFiles
from estafeta.store.store import Store, claim_name

from ..ring import shared

LAYOUT = RunLayout("r")
LIMIT_S = 900.0


class Scene:
    """A rank of a run on a shared file system, with a clock of its own, and note of what it sends.

    Attributes:
        rank: Which rank.
        sent: Events of workers.
    """

    def __init__(self, root: Path, rank: int = 1, **changes: Any) -> None:
        self.rank = rank
        self.clock = VirtualClock()
        self.store = Store(root, shared(), self.clock)
        self.spec = spec_of("plain", topology="sharded", workers=2, **changes)
        self.sent: list[WorkerEvent] = []
        for directory in LAYOUT.directories(2):
            self.store.make_directories(directory)

    def send(self, role: str, event: Mapping[str, Any]) -> None:
        assert role == "worker"
        self.sent.append(WorkerEvent.model_validate(event))

    def invocation(self, token: str = "request", limit_s: float = LIMIT_S, files: Files | None = None) -> Invocation:
        store = Store(self.store.root, files, self.clock) if files else self.store
        ends = self.clock.monotonic() + limit_s
        return Invocation(store, lambda functions: self, token, lambda: ends - self.clock.monotonic(), quiet=True)  # type: ignore[arg-type, return-value]

    def take(
        self, token: str = "request", limit_s: float = LIMIT_S, files: Files | None = None, **event: Any
    ) -> Leg | Refusal:
        invocation = self.invocation(token, limit_s, files)
        worker_event = WorkerEvent(run="r", task="reside", **{"rank": self.rank, **event})
        return take(worker_event, RunFolder(invocation.store, "r", self.spec), invocation)

    def leg(self, token: str = "request", limit_s: float = LIMIT_S, **event: Any) -> Leg:
        leg = self.take(token, limit_s, **event)
        assert isinstance(leg, Leg)
        return leg

    def publish(self, kind: Kind, version: int, round_s: float = 0.0) -> None:
        form = Form(0)
        head = form.head()
        form.pack(head, kind, version=version, rank=self.rank, token="t", round_s=round_s)
        self.store.publish(LAYOUT.message(self.rank, kind.name.lower(), version), [head], "t")

    def mark(self, path: str, content: str = '{"at": 7.0}') -> None:
        self.store.publish(path, [content.encode()], "")

    @property
    def names(self) -> set[str]:
        return set(self.store.list(LAYOUT.legs))


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture
def rank_0(tmp_path: Path) -> Scene:
    """The rank whose second deliveries look for signs of life."""
    return Scene(tmp_path, 0)


def claim(leg: int, generation: int, rank: int = 1) -> str:
    return claim_name(claim_of_leg(rank, leg), generation)


def name_of(path: str) -> str:
    return path.rpartition("/")[2]


# Coming


def test_the_first_to_come_is_the_leg(scene: Scene) -> None:
    leg = scene.leg(leg=3)
    assert (leg.rank, leg.leg, leg.generation) == (1, 3, 0)
    assert scene.names == {claim(3, 0)}
    facts = json.loads(scene.store.read(f"{LAYOUT.legs}/{claim(3, 0)}"))
    assert facts == {"holder": leg.token, "generation": 0, "expires_at": LIMIT_S, "log_group": "", "log_stream": ""}
    assert leg.token.partition("/")[0] == "request"


def test_a_duplicate_of_another_request_leaves_at_once(scene: Scene) -> None:
    scene.leg("one")
    assert scene.take("other") is Refusal.DUPLICATE
    assert scene.clock.monotonic() == 0
    assert scene.names == {claim(0, 0)}
    assert scene.sent == []


def test_other_ranks_have_legs_of_their_own(scene: Scene) -> None:
    scene.leg("one", rank=0, leg=4)
    assert scene.leg("other", rank=1, leg=0).generation == 0


def test_a_second_delivery_leaves_at_once(scene: Scene) -> None:
    """If the first is dead, its peers will notice: they wait for it."""
    scene.leg()
    scene.publish(Kind.GRADIENT, 7, round_s=1.0)
    assert scene.take() is Refusal.PEERS_NOTICE
    assert scene.clock.monotonic() == 0
    assert scene.names == {claim(0, 0)}


@pytest.mark.parametrize("rank", [0, 1])
def test_a_second_delivery_takes_the_place_of_one_that_said_that_it_failed(rank: int, tmp_path: Path) -> None:
    scene = Scene(tmp_path, rank)
    scene.leg(leg=2).crash()
    second = scene.leg(leg=2)
    assert (second.leg, second.generation, scene.clock.monotonic()) == (2, 1, 0)
    assert scene.take("other", leg=2) is Refusal.DUPLICATE
    second.crash()
    assert scene.leg(leg=2).generation == 2


@pytest.mark.parametrize("after_s", [0.1, 30.0, 150.0])
def test_of_rank_0_a_second_delivery_looks_whether_the_holder_publishes(after_s: float, rank_0: Scene) -> None:
    """Nothing was published before: it may still be loading."""
    rank_0.leg()
    rank_0.clock.after(after_s, lambda: rank_0.publish(Kind.GRADIENT, 0))
    assert rank_0.take() is Refusal.LEG_AT_WORK
    assert rank_0.names == {claim(0, 0, 0)}


def test_it_takes_the_place_of_a_dead_holder(rank_0: Scene) -> None:
    """Which has published, and then no more."""
    first = rank_0.leg()
    rank_0.publish(Kind.GRADIENT, 7, round_s=1.0)
    second = rank_0.leg()
    assert (second.leg, second.generation) == (0, 1)
    assert second.token != first.token, "what each of them publishes can be told apart"
    assert rank_0.names == {claim(0, 0, 0), claim(0, 1, 0)}
    assert waiting.SHARED.floor_s <= rank_0.clock.monotonic() < waiting.SHARED.floor_s + 2
    third = rank_0.leg()
    assert third.generation == 2


def test_before_its_first_message_a_holder_has_more_time(rank_0: Scene) -> None:
    rank_0.leg()
    assert rank_0.leg(limit_s=10_000).generation == 1
    assert rank_0.clock.monotonic() == pytest.approx(waiting.SHARED.start_s, abs=2)


@pytest.mark.parametrize("between", [False, True])
def test_a_holder_has_the_time_that_its_rounds_take(between: bool, rank_0: Scene) -> None:
    """Between rounds, the newest message of a sharded rank is its slice of the next version."""
    rank_0.leg()
    rank_0.publish(Kind.GRADIENT, 7, round_s=100.0)
    if between:
        rank_0.publish(Kind.SLICE, 8)
    rank_0.clock.after(waiting.ROUNDS_OF_PATIENCE * 100 - 5, lambda: rank_0.publish(Kind.GRADIENT, 8, round_s=100.0))
    assert rank_0.take() is Refusal.LEG_AT_WORK


def test_a_holder_is_dead_when_its_time_is_up(rank_0: Scene) -> None:
    rank_0.leg(limit_s=20)
    rank_0.clock.sleep(15)
    assert rank_0.leg(limit_s=20).generation == 1
    assert rank_0.clock.monotonic() == pytest.approx(20, abs=0.1)


def test_half_of_ones_time_is_kept_for_work(rank_0: Scene) -> None:
    rank_0.leg()
    assert rank_0.leg(limit_s=20).generation == 1
    assert rank_0.clock.monotonic() == pytest.approx(10, abs=0.1)


def test_who_was_sent_to_take_over_does_not_ask(scene: Scene) -> None:
    scene.leg("one", leg=2)
    assert scene.leg("sent by resume", leg=2, generation=1).generation == 1
    assert scene.clock.monotonic() == 0
    assert scene.take("a duplicate of it", leg=2, generation=1) is Refusal.DUPLICATE
    assert scene.take("an older one", leg=2, generation=0) is Refusal.DUPLICATE


def test_when_a_later_leg_is_there_it_is_told_that_this_one_has_left(rank_0: Scene) -> None:
    """The retry of a leg that died when it had called its successor, which waits."""
    rank_0.leg("one", leg=0)
    rank_0.leg("two", leg=1)
    assert rank_0.take("one", leg=0) is Refusal.LATER_LEG
    assert json.loads(rank_0.store.read(LAYOUT.left(0, 0)))["version"] is None
    began = rank_0.clock.monotonic()
    assert rank_0.take("one", leg=0) is Refusal.LATER_LEG
    assert rank_0.clock.monotonic() == began, "it was told already"


def test_a_later_leg_is_told_nothing_while_this_one_is_at_work(rank_0: Scene) -> None:
    rank_0.leg("one", leg=0)
    rank_0.leg("two", leg=1)
    rank_0.clock.after(20, lambda: rank_0.publish(Kind.GRADIENT, 3))
    assert rank_0.take("one", leg=0) is Refusal.LATER_LEG
    assert rank_0.names == {claim(0, 0, 0), claim(1, 0, 0)}


@pytest.mark.parametrize(("rank", "request_id"), [(0, "other"), (1, "one"), (1, "other")])
def test_nobody_else_looks_whether_the_leg_before_is_alive(rank: int, request_id: str, tmp_path: Path) -> None:
    scene = Scene(tmp_path, rank)
    scene.leg("one", leg=0)
    scene.leg("two", leg=1)
    assert scene.take(request_id, leg=0) is Refusal.LATER_LEG
    assert scene.clock.monotonic() == 0
    assert scene.names == {claim(0, 0, rank), claim(1, 0, rank)}


def test_who_comes_much_later_leaves_at_once(scene: Scene) -> None:
    scene.leg("three", leg=3)
    assert scene.take("one", leg=1) is Refusal.LATER_LEG
    assert scene.clock.monotonic() == 0
    assert scene.names == {claim(3, 0)}


def test_a_claim_that_is_swept_meanwhile_was_of_long_ago(scene: Scene) -> None:
    scene.leg("one")
    files = Interrupted(OsFiles(), "open", lambda: scene.store.sweep(LAYOUT.legs, [claim(0, 0)]))
    assert scene.take("other", files=files) is Refusal.LONG_OVER


def test_the_first_leg_waits_for_nobody(scene: Scene) -> None:
    scene.clock.sleep(10)
    leg = scene.leg(sent_at=4.0)
    leg.await_turn()
    assert scene.clock.monotonic() == 10
    assert leg.lead_s == 6
    assert scene.names == {claim(0, 0)}


def test_a_successor_says_that_it_is_ready_and_waits_until_the_leg_before_has_left(scene: Scene) -> None:
    leg = scene.leg(leg=1, sent_at=-3.0, expires_at=100.0)
    seen: list[set[str]] = []
    scene.clock.after(5.0, lambda: seen.append(scene.names))
    scene.clock.after(7.0, lambda: scene.mark(LAYOUT.left(1, 0)))
    leg.await_turn()
    assert name_of(LAYOUT.ready(1, 1)) in seen[0]
    assert 7 <= scene.clock.monotonic() <= 7.5
    assert leg.lead_s == 3, "the time in which it waited is none that starting took"
    assert leg.relieved_at == 7


def test_a_successor_goes_on_when_the_leg_before_must_be_dead(scene: Scene) -> None:
    leg = scene.leg(leg=1, expires_at=20.0)
    leg.await_turn()
    assert 20 <= scene.clock.monotonic() <= 21
    assert name_of(LAYOUT.left(1, 0)) in scene.names


def test_a_successor_leaves_when_the_run_has_ended(scene: Scene) -> None:
    leg = scene.leg(leg=1, expires_at=100.0)
    scene.clock.after(5.0, lambda: scene.mark(LAYOUT.outcome("failed")))
    with pytest.raises(Leaving, match="the run has ended") as order:
        leg.await_turn()
    assert order.value.silently
    assert scene.clock.monotonic() <= 5 + waiting.CHECK_S + 0.5


def test_who_was_sent_to_take_over_waits_for_nobody(scene: Scene) -> None:
    scene.leg("one", leg=1)
    leg = scene.leg("sent by resume", leg=1, generation=1)
    leg.await_turn()
    assert scene.clock.monotonic() == 0
    assert scene.names == {claim(1, 0), claim(1, 1)}


def test_in_place_of_a_dead_leg_one_learns_nothing_of_starting(rank_0: Scene) -> None:
    rank_0.clock.sleep(1)
    rank_0.leg(sent_at=1.0, lead_s=2.5)
    leg = rank_0.leg(sent_at=1.0, lead_s=2.5)
    assert leg.generation == 1
    leg.await_turn()
    assert leg.lead_s == 2.5


def test_a_second_delivery_takes_the_place_of_a_successor_that_still_waits(rank_0: Scene) -> None:
    """Whether that one lives does not show, as it publishes nothing; so it is not asked."""
    rank_0.leg("zero", leg=0)
    waiting = rank_0.leg("one", leg=1, expires_at=100.0)
    leg = rank_0.leg("one", leg=1, expires_at=100.0)
    assert (leg.generation, rank_0.clock.monotonic()) == (1, 0)
    with pytest.raises(Leaving, match="another leg"):
        waiting.check_place()
    rank_0.clock.after(7.0, lambda: rank_0.mark(LAYOUT.left(0, 0)))
    leg.await_turn()
    assert 7 <= rank_0.clock.monotonic() <= 7.5


def test_when_the_leg_before_has_left_a_second_delivery_asks(rank_0: Scene) -> None:
    rank_0.leg("one", leg=1)
    rank_0.mark(LAYOUT.left(0, 0))
    rank_0.clock.after(20, lambda: rank_0.publish(Kind.GRADIENT, 3))
    assert rank_0.take("one", leg=1) is Refusal.LEG_AT_WORK


def test_peers_are_given_the_time_that_starting_took(scene: Scene) -> None:
    leg = scene.leg()
    leg.await_turn()
    assert leg.pace.limit_s == waiting.SHARED.start_s
    scene.clock.sleep(100)
    leg = scene.leg("other", leg=1, generation=1, sent_at=0.1)
    leg.await_turn()
    assert leg.pace.limit_s == pytest.approx(waiting.STARTS_OF_PATIENCE * 99.9)


# Staying


def test_there_is_nothing_to_wish_while_there_is_time(scene: Scene) -> None:
    leg = scene.leg(lead_s=5.0)
    for _ in range(10):
        leg.note_share(0.5)
        leg.note_round(1.0)
        assert leg.wishes() is Wish.NONE
    assert leg.rounds == 10
    assert scene.sent == []


def test_how_long_a_share_takes_is_known_from_the_leg_before(scene: Scene) -> None:
    leg = scene.leg(share_s=3.0)
    assert leg.share_s == 3.0
    leg.note_share(0.5)
    assert leg.share_s == 0.5


def test_the_successor_is_called_once_and_so_early_that_it_can_start(scene: Scene) -> None:
    leg = scene.leg(lead_s=5.0)
    leg.note_share(0.5)
    leg.note_round(1.0)
    scene.clock.sleep(LIMIT_S - waiting.LEAD_MARGIN * 5 - leg.margin_s - 0.1)
    assert leg.wishes() is Wish.NONE
    assert scene.sent == []
    scene.clock.sleep(0.2)
    now = scene.clock.time()
    for _ in range(3):
        assert leg.wishes() is Wish.NONE
    (event,) = scene.sent
    assert event.expires_at == pytest.approx(LIMIT_S)
    assert event == WorkerEvent(
        run="r", task="reside", rank=1, leg=1, sent_at=now, lead_s=5.0, share_s=0.5, expires_at=event.expires_at
    )


def test_it_wishes_to_go_when_its_successor_is_ready(scene: Scene) -> None:
    leg = scene.leg(lead_s=400.0)
    scene.clock.sleep(LIMIT_S - 300)
    assert leg.wishes() is Wish.NONE
    scene.mark(LAYOUT.ready(0, 1))
    scene.clock.sleep(1)
    assert leg.wishes() is Wish.NONE, "that is another rank's"
    scene.mark(LAYOUT.ready(1, 1))
    scene.clock.sleep(1)
    assert leg.wishes() is Wish.READY
    scene.store.sweep(LAYOUT.legs, [name_of(LAYOUT.ready(1, 1))])
    assert leg.wishes() is Wish.READY, "once is enough"


def test_it_wishes_to_leave_when_two_more_rounds_would_not_fit(scene: Scene) -> None:
    leg = scene.leg()
    leg.note_share(3.0)
    leg.note_round(4.0)
    leg.note_save(2.0)
    assert leg.margin_s >= 3.0 + 4.0 + 2.0 + waiting.LEG_RESERVE_S
    scene.clock.sleep(LIMIT_S - 2 * leg.margin_s - 0.1)
    assert not leg.wishes() & Wish.LEAVE
    scene.clock.sleep(0.2)
    assert leg.wishes() & Wish.LEAVE


def test_one_long_wait_is_no_measure_of_the_next_round(scene: Scene) -> None:
    leg = scene.leg()
    for _ in range(9):
        leg.note_share(0.5)
        leg.note_round(1.0)
    before = leg.margin_s
    leg.note_share(0.5)
    leg.note_round(80.0)
    assert leg.round_s == 1.0
    assert leg.margin_s == before
    leg.note_share(5.0)
    leg.note_round(5.0)
    assert leg.margin_s > before + 4, "but its own work is"


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_rounds_may_be_limited(limit: int, tmp_path: Path) -> None:
    scene = Scene(tmp_path, rounds_per_invocation=limit)
    leg = scene.leg(lead_s=0.01)
    wishes = []
    for _ in range(limit):
        wishes.append(bool(leg.wishes() & Wish.LEAVE))
        leg.note_share(0.5)
        leg.note_round(1.0)
    assert wishes == [False] * (limit - 1) + [True]
    assert [event.leg for event in scene.sent] == [1]


@pytest.mark.parametrize(("rank", "wish"), [(0, Wish.STOP), (1, Wish.NONE)])
def test_rank_0_alone_passes_on_that_the_run_is_to_stop(rank: int, wish: Wish, scene: Scene) -> None:
    leg = scene.leg(rank=rank)
    scene.mark(LAYOUT.stop)
    assert leg.wishes() is Wish.NONE, "it does not look in every round"
    scene.clock.sleep(waiting.CHECK_S)
    assert leg.wishes() is wish
    assert leg.wishes() is wish


@pytest.mark.parametrize("state", OUTCOMES)
def test_a_leg_leaves_when_the_run_has_ended(state: str, scene: Scene) -> None:
    leg = scene.leg()
    leg.check_place()
    scene.mark(LAYOUT.outcome(state))
    with pytest.raises(Leaving, match="the run has ended") as order:
        leg.check_place()
    assert order.value.silently


def test_a_leg_leaves_when_a_newer_generation_is_there(scene: Scene) -> None:
    leg = scene.leg("one", leg=2)
    newer = scene.leg("other", leg=2, generation=1)
    newer.check_place()
    with pytest.raises(Leaving, match="another leg") as order:
        leg.check_place()
    assert order.value.silently


def test_a_leg_leaves_when_a_later_one_has_swept_the_marks_of_its_replacement(scene: Scene) -> None:
    leg = scene.leg("one", leg=2)
    scene.leg("other", leg=2, generation=1)
    scene.leg("third", leg=4).sweep()
    with pytest.raises(Leaving, match="another leg"):
        leg.check_place()


def test_a_leg_leaves_when_its_turn_is_long_over_as_it_learns_of_it(scene: Scene) -> None:
    """GIVEN the mark of the leg before, which it has opened WHEN the rank goes on without it meanwhile, and sweeps."""

    def goes_on() -> None:
        scene.leg("other", leg=2, generation=1)
        scene.leg("third", leg=4).sweep()

    scene.mark(LAYOUT.left(1, 1))
    opened: list[float] = []

    def second_time() -> None:
        opened.append(scene.clock.monotonic())
        if len(opened) == 2:
            goes_on()

    leg = scene.take("one", leg=2, files=Interrupted(shared(), "open", second_time))
    assert isinstance(leg, Leg)
    opened.clear()
    with pytest.raises(Leaving, match="another leg") as order:
        leg.await_turn()
    assert order.value.silently


def test_a_leg_leaves_when_somebody_said_that_it_has_left(scene: Scene) -> None:
    leg = scene.leg(leg=2)
    scene.mark(LAYOUT.left(1, 1))
    scene.mark(LAYOUT.left(0, 2))
    leg.check_place()
    scene.mark(LAYOUT.left(1, 2))
    with pytest.raises(Leaving, match="another leg") as order:
        leg.check_place()
    assert order.value.silently


def test_ones_own_successor_is_no_reason_to_leave(scene: Scene) -> None:
    leg = scene.leg("one", leg=2)
    scene.leg("two", leg=3)
    scene.leg("of another rank", rank=0, leg=2, generation=1)
    scene.leg("in its place", leg=3, generation=1)
    leg.check_place()


def test_a_leg_whose_time_is_up_says_so(scene: Scene) -> None:
    leg = scene.leg(limit_s=10)
    leg.check()
    scene.clock.sleep(10 - waiting.LEG_RESERVE_S / 2)
    with pytest.raises(Leaving, match="time is up") as order:
        leg.check()
    assert not order.value.silently


def test_looks_have_their_pace(scene: Scene, tmp_path: Path) -> None:
    listed: list[float] = []
    files = Interrupted(OsFiles(), "listdir", lambda: listed.append(scene.clock.monotonic()))
    leg = scene.take(files=files)
    assert isinstance(leg, Leg)
    listed.clear()
    for _ in range(100):
        leg.check()
        scene.clock.sleep(0.1)
    assert len(set(listed)) == pytest.approx(10 / waiting.CHECK_S, abs=1)


def test_who_never_waits_looks_now_and_then_all_the_same(scene: Scene) -> None:
    leg = scene.leg("one")
    scene.leg("other", generation=1)
    assert leg.wishes() is Wish.NONE
    scene.clock.sleep(waiting.CHECK_S)
    with pytest.raises(Leaving, match="another leg"):
        leg.wishes()


# Going


@pytest.mark.parametrize("mark", [claim(0, 1), "left-0001-00"])
def test_who_has_been_replaced_says_nothing_in_the_name_of_another(mark: str, scene: Scene) -> None:
    leg = scene.leg()
    scene.mark(f"{LAYOUT.legs}/{mark}")
    names = scene.names
    leg.leave(3, "its time is up")
    assert scene.names == names
    assert scene.sent == []


def test_who_leaves_says_where_and_calls_its_successor(scene: Scene) -> None:
    leg = scene.leg(leg=4, lead_s=2.0)
    leg.leave(17, "the time of a rank is short")
    assert json.loads(scene.store.read(LAYOUT.left(1, 4))) == {"token": leg.token, "version": 17, "at": 0.0}
    assert [(event.rank, event.leg, event.generation) for event in scene.sent] == [(1, 5, 0)]
    leg.leave(17, "again")
    assert len(scene.sent) == 1


def test_a_successor_that_was_called_is_not_called_again(scene: Scene) -> None:
    leg = scene.leg()
    leg.call_successor()
    leg.leave(None, "its time is up")
    assert len(scene.sent) == 1


def test_a_leg_sweeps_what_no_leg_before_it_needs(scene: Scene) -> None:
    for leg in range(4):
        scene.leg(f"request {leg}", leg=leg)
        scene.mark(LAYOUT.ready(1, leg))
        scene.mark(LAYOUT.left(1, leg))
    scene.mark(LAYOUT.left(0, 0))
    scene.mark(f"{LAYOUT.legs}/merge-train-00000000.g00")
    scene.leg("request 4", leg=4).sweep()
    assert scene.names == {
        claim(3, 0),
        claim(4, 0),
        "ready-0001-03",
        "left-0001-03",
        "left-0000-00",
        "merge-train-00000000.g00",
    }
