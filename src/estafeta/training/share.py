"""A rank's share of a round, micro-batch by micro-batch: the part of a worker that computes.

The sum that it leaves in the learner is a function of the weights, the seed, the round and the rank; how often it was
broken off, and by whom it was continued, does not show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from estafeta.data.sampler import seed_of
from estafeta.protocol.contribution import BUFFER, GRADIENT, Tally, contribution, tally_of
from estafeta.protocol.deadline import Deadline
from estafeta.protocol.layout import Round
from estafeta.protocol.spec import Plan, RunSpec
from estafeta.store.files import Buffer, Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import TensorFile
from estafeta.training.batches import MicroBatches
from estafeta.training.learner import Ship, check_gradient, seed_generators
from estafeta.training.session import Session
from estafeta.training.table import Batch


@dataclass
class Share:
    """The rows of one rank in one round.

    Attributes:
        parts: Row numbers of each micro-batch.
        done: Micro-batches done.
        spent_usd: What the legs before have said it cost.
    """

    session: Session
    spec: RunSpec
    round: Round
    rank: int
    parts: MicroBatches
    done: int = 0
    spent_usd: float = 0.0

    @classmethod
    def of(cls, session: Session, spec: RunSpec, plan: Plan, round_: Round, rank: int) -> Share:
        """The share that falls to a rank. The session's learner begins a new sum.

        Raises:
            UsageError: The data set has changed since the run was prepared.
        """
        session.learner.reset()
        return cls(session, spec, round_, rank, session.data.micro_batches(round_, rank, spec, plan))

    @property
    def is_complete(self) -> bool:
        """Whether all micro-batches are done."""
        return self.done == len(self.parts)

    def resume(self, store: Store, path: str) -> None:
        """Go on where an unfinished contribution ends.

        Raises:
            Gone: It has been swept.
        """
        learner = self.session.learner

        def read(reader: Reader) -> Tally:
            file = TensorFile(reader)
            tally = tally_of(file)
            if GRADIENT in file.entries:
                learner.resume(file.read(GRADIENT), tally.absent, tally.rows, dict(tally.sums))
                for name, array in learner.buffers.items():
                    array[...] = file.read(BUFFER + name)
            else:
                learner.rows, learner.sums = tally.rows, dict(tally.sums)
            return tally

        tally = store.reading(path, read)
        self.done, self.spent_usd = tally.parts, tally.spent_usd

    def work(self, deadline: Deadline, ship: Ship | None = None, in_vain: Callable[[], bool] | None = None) -> None:
        """Do micro-batches until all are done or the time is short; one is always done.

        Args:
            deadline: Knows the time.
            ship: In a train round, takes the gradients of the last micro-batch as they come.
            in_vain: Asked before each micro-batch, whether to break off.

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
        """What has been summed so far as a tensor file, complete or not.

        Args:
            token: Of the publication.
            spent_usd: What this leg has cost.

        Raises:
            NotFinite: The gradient is NaN or infinite.
        """
        learner = self.session.learner
        train = self.round.phase == "train" and learner.rows > 0
        gradient = learner.gradient() if train else None
        if gradient is not None:
            check_gradient(gradient)
        absent = () if self.is_complete else learner.absent
        tally = Tally(learner.rows, learner.sums, self.done, absent, self.spent_usd + spent_usd)
        return contribution(self.round, self.rank, tally, gradient, learner.buffers if train else {}, token)

    def prefetch(self) -> None:
        """Read the first micro-batch now, while there is nothing else to do.

        The generators are left as reading it leaves them; nothing may draw from them before it is used.
        """
        if len(self.parts):
            self.session.prefetched = self._key(0), self._read(0)

    def _batch(self, part: int) -> Batch:
        key, batch = self.session.prefetched
        self.session.prefetched = (), ()
        return batch if key == self._key(part) else self._read(part)

    def _read(self, part: int) -> Batch:
        seed_generators(seed_of(self.spec.seed, self.round, self.rank, part))  # first: the rows may be augmented
        return self.session.data.batch(self.round.phase, self.parts, part)

    def _key(self, part: int) -> tuple[object, ...]:
        return self.round, self.rank, part
