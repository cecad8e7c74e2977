"""Runs in which some ranks are slow, and what rounds they have missed for it.

stage = Uneven(tmp_path, spec, slow={2: 30.0})
result = stage.run()
assert replayed(stage) == result
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from conformance.interposed import Interposed
from estafeta.protocol.layout import Round
from estafeta.protocol.message import form_of, glance
from estafeta.protocol.spec import RunSpec
from estafeta.store.files import OsFiles, OsReader, Watch

from .driver import Relay, Result
from .stage import Stage

T = TypeVar("T")

Missed = set[tuple[int, int]]
"""Pairs of a version and of a rank that missed the round of that version."""


class Witness(Interposed):
    """Files that keep in mind which stand-ins were published.

    Attributes:
        missed: The rounds that ranks have missed.
        refused: The same for those whose rank was first after all.
        at_links: Called before each link, with the target.
    """

    def __init__(self) -> None:
        super().__init__(OsFiles())
        self.missed: Missed = set()
        self.refused: Missed = set()
        self.at_links: Callable[[str], object] = lambda target: None

    def watch(self, paths: Any) -> Watch | None:
        """See `Files.watch`: the stage has its own."""
        raise AssertionError("the stage has its own")

    def link(self, source: str, target: str) -> None:
        """See `Files.link`."""
        self.at_links(target)
        found = _missed_by(source, target)
        try:
            super().link(source, target)
        except FileExistsError:
            self.refused |= found
            raise
        self.missed |= found


def _missed_by(source: str, target: str) -> Missed:
    folder, name = target.split("/")[-2:]
    if folder != "contributions" and not name.startswith("gradient-"):
        return set()
    with OsReader(source) as reader:
        head = glance(reader)
    return {(head.version, head.rank)} if head.is_stand_in else set()


class Uneven(Stage):
    """A stage on which some ranks are slow.

    Args:
        root: Directory of the store.
        spec: Spec of the run.
        slow: By rank, how many times as long it takes for what it does.
        shared: Let the ranks be on several machines, as far as they know.
        options: As `Stage` has them.
    """

    def __init__(
        self, root: Path, spec: RunSpec, *, slow: Mapping[int, float], shared: bool = False, **options: Any
    ) -> None:
        self.witness = Witness()
        self.slow = dict(slow)
        super().__init__(root, spec, files=self.witness, **options)
        if shared:
            self._seen_by_functions.files.watch = lambda paths: None  # type: ignore[method-assign]

    def spend(self, seconds: float) -> None:
        """See `Stage.spend`."""
        payload = self.current.event.payload if self.current is not None else {}
        is_rank = payload.get("task") in ("train", "valid", "reside")
        super().spend(seconds * self.slow.get(payload["rank"], 1.0) if is_rank else seconds)


def replayed(stage: Uneven) -> Result:
    """The result of the same run, merged one event after the other, if its rounds have the same members."""
    spec = stage.spec.model_copy(update={"topology": "merge", "token": f"{stage.spec.token}-again"})
    with TemporaryDirectory() as root:
        relay = Relay(Path(root), spec)
        relay.start()
        relay.drain_until(lambda: relay.store.exists(relay.layout.plan))
        form = form_of(relay.folder.plan, "train")
        for version, rank in stage.witness.missed:
            path = relay.layout.contribution(Round(version, "train"), rank)
            relay.store.publish(path, form.stand_in(version, rank, "given"), "given")
        relay.drain()
        return relay.result()


def assert_fair(stage: Uneven, steps_per_epoch: int, most_in_a_row: int) -> None:
    """No round is smaller than the quorum; none that must not close early did; the records count what was missed."""
    missed, spec = stage.witness.missed, stage.spec
    assert spec.quorum is not None
    assert max(Counter(version for version, _ in missed).values(), default=0) <= spec.workers - spec.quorum
    assert all(version % steps_per_epoch for version, _ in missed)
    for _, rank in missed:
        rows = [(version, rank) in missed for version in range(max(version for version, _ in missed) + 1)]
        assert max(len(run) for run in "".join("x" if row else " " for row in rows).split()) <= most_in_a_row
    final = stage.epochs()[-1]
    counted = {(version, rank) for version, rank in missed if version < final.version}
    assert final.missed == dict(sorted(Counter(rank for _, rank in counted).items()))


def files_left(stage: Stage) -> list[str]:
    """Names that are still in the outboxes and in `partial/`, private ones too."""
    folders = [stage.layout.partial, *map(stage.layout.outbox, range(stage.spec.workers))]
    paths = [Path(stage.store.root, folder) for folder in folders]
    return [f"{path.name}/{name}" for path in paths if path.is_dir() for name in os.listdir(path)]
