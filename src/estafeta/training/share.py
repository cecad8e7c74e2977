"""A rank's share of a round, micro-batch by micro-batch: the part of a worker that computes.

The sum that the share leaves in the learner is a function of the weights, the seed, the round and the rank. It does not
show how often a leg broke off, nor which leg went on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from estafeta.data.sampler import seed_of
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.layout import Round
from estafeta.protocol.message import ABSENT, Head, form_of, kind_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.protocol.spending import Tab
from estafeta.protocol.step import check_gradient
from estafeta.store.files import Buffer, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import Array
from estafeta.training.batches import MicroBatches
from estafeta.training.learner import Ship, seed_generators
from estafeta.training.session import Session
from estafeta.training.table import Batch


@dataclass
class Share:
    """The rows of one rank in one round.

    Attributes:
        parts: Row numbers of each micro-batch.
        done: Number of micro-batches done.
        spent_usd: Dollars that the share has cost the legs before.
    """

    session: Session
    spec: RunSpec
    plan: Plan
    round: Round
    rank: int
    parts: MicroBatches
    done: int = 0
    spent_usd: float = 0.0

    @classmethod
    def of(cls, session: Session, folder: RunFolder, round_: Round, rank: int) -> Share:
        """Return the share that falls to a rank. The session's learner begins a new sum.

        Raises:
            UsageError: The data set has changed since the run was prepared.
        """
        session.learner.reset()
        rows = session.data.micro_batches(round_, rank, folder.spec, folder.plan)
        return cls(session, folder.spec, folder.plan, round_, rank, rows)

    @property
    def is_complete(self) -> bool:
        """Whether all micro-batches are done."""
        return self.done == len(self.parts)

    def resume(self, store: Store, path: str) -> None:
        """Go on where an unfinished share ends.

        Raises:
            Gone: Somebody has swept the file.
            Corrupt: The file is damaged.
        """
        learner, phase, size = self.session.learner, self.round.phase, self.plan.size
        form = form_of(self.plan, phase, unfinished=True)

        def read(reader: Reader) -> Head:
            head, vector = form.read(reader)
            head.check(kind_of(phase), self.round.version, self.rank)
            learner.rows, learner.sums = head.rows, dict(zip(self.plan.sums, head.sums, strict=True))
            if phase == "train":
                for _, gradient in form.stream(reader, head, vector, np.empty(size, np.float32)):  # in one piece
                    absent = np.flatnonzero(head.buffers[ABSENT]).tolist()
                    learner.resume(gradient, absent, learner.rows, learner.sums)
                for name, array in learner.buffers.items():
                    array[...] = head.buffers[name]
            return head

        head = store.reading(path, read)
        self.done, self.spent_usd = head.parts, head.spent_usd

    def work(self, deadline: Deadline, ship: Ship | None = None, in_vain: Callable[[], bool] | None = None) -> None:
        """Do micro-batches until all are done or the time is short. The rank always does one.

        In a train round `ship` takes the gradients of the last micro-batch as they come. Before each micro-batch
        `in_vain` says whether to break off.

        Raises:
            UserCodeError: The job's code raised.
            NotFinite: The loss, or a gradient that was shipped, is NaN or infinite.
        """
        learner, first = self.session.learner, self.done
        while not self.is_complete and (self.done == first or not deadline.is_near()):
            if in_vain is not None and in_vain():
                return
            with deadline.step():
                batch = self._batch(self.done)
                if self.round.phase == "train":
                    learner.train(batch, ship if self.done + 1 == len(self.parts) else None)
                else:
                    learner.evaluate(batch)
            self.done += 1
        if self.round.phase == "train":
            learner.check_loss()

    def content(self, token: str, spent_usd: float) -> list[Buffer]:
        """Return what this rank has summed so far as a message, complete or not; this leg has cost `spent_usd` dollars.

        Raises:
            NotFinite: The gradient is NaN or infinite.
        """
        learner, phase = self.session.learner, self.round.phase
        gradient = learner.gradient() if phase == "train" and learner.rows else None
        buffers: dict[str, Array] = {}
        if gradient is not None:
            check_gradient(gradient)
            buffers.update(learner.buffers)
            if not self.is_complete:
                buffers[ABSENT] = np.isin(np.arange(len(learner.slots)), learner.absent)
        return form_of(self.plan, phase, unfinished=not self.is_complete).content(
            kind_of(phase),
            gradient,
            version=self.round.version,
            rank=self.rank,
            token=token,
            parts=self.done,
            rows=learner.rows,
            spent_usd=self.spent_usd + spent_usd,
            sums=tuple(learner.sums.values()),
            buffers=buffers,
        )

    def publish(self, store: Store, path: str, token: str, deadline: Deadline, tab: Tab) -> bool:
        """Publish what this rank has summed so far: a contribution if the share is complete, otherwise a partial.

        It returns whether the published file is this one; if not, another delivery of the leg was first. The session
        keeps for its next share how long the transfer takes.

        Raises:
            NotFinite: The gradient is NaN or infinite.
        """
        spent_usd = tab.usd()
        content = self.content(token, spent_usd)
        with deadline.transfer():
            mine = store.publish(path, content, token)
        if mine:
            tab.said(spent_usd)
        self.session.transfer_s = deadline.transfer_s
        return mine

    def prefetch(self) -> None:
        """Read the first micro-batch now, while there is nothing else to do.

        The generators stay as reading leaves them. Nothing may draw from them before the rank uses the micro-batch.
        """
        if len(self.parts):
            self.session.prefetched = self._key(0), self._read(0)

    def _batch(self, part: int) -> Batch:
        key, batch = self.session.prefetched
        self.session.prefetched = (), ()
        return batch if key == self._key(part) else self._read(part)

    def _read(self, part: int) -> Batch:
        seed_generators(seed_of(self.spec.seed, self.round, self.rank, part))  # first: reading may augment the rows
        return self.session.data.batch(self.round.phase, self.parts, part)

    def _key(self, part: int) -> tuple[object, ...]:
        return self.round, self.rank, part
