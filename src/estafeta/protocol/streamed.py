"""The contributions to a round of topology `merge`, read one after the other: never more than one file is open.

Memory is that of the sum and one chunk, however many ranks there are.
"""

import numpy as np

from estafeta.errors import Corrupt
from estafeta.protocol.layout import Round
from estafeta.protocol.message import CHUNK, Head, form_of, kind_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.step import add_in_order
from estafeta.protocol.totals import Totals
from estafeta.store.files import Reader
from estafeta.store.tensorfile import Array


class Streamed:
    """The contributions of all ranks to a round; it is a source for `step.Step`.

    Raises:
        Gone: A contribution has been swept: the run has moved on.
        Corrupt: A contribution's bytes are not those that were published.
    """

    def __init__(self, folder: RunFolder, round_: Round) -> None:
        plan = folder.plan
        self.totals = Totals(plan.sums)
        size = plan.size if round_.phase == "train" else 0
        self._sum: Array = np.zeros(size, np.float32)
        scratch: Array = np.empty(max(1, min(CHUNK, size)), np.float32)
        form, kind = form_of(plan, round_.phase), kind_of(round_.phase)
        for rank in range(folder.spec.workers):
            added = 0  # elements; the store may begin a reading once more, and they stay

            def read(reader: Reader, rank: int = rank) -> Head:
                nonlocal added
                head, vector = form.read(reader)
                head.check(kind, round_.version, rank)
                for first, piece in form.stream(reader, head, vector, scratch):
                    if first >= added:
                        span = self._sum[first : first + piece.size]
                        add_in_order((span, piece) if self.totals.rows else (piece,), span)
                        added = first + piece.size
                return head

            path = folder.layout.contribution(round_, rank)
            try:
                with np.errstate(all="ignore"):  # as in PyTorch; the step finds what is not finite
                    self.totals.add(folder.store.reading(path, read))
            except Corrupt as error:
                raise Corrupt(f"{path} is damaged: {error}") from error

    def add_up(self, index: int, first: int, out: Array) -> None:
        """Give the sum of a chunk; see `step.Gradients`. There is one slice, with all parameters."""
        out[:] = self._sum[first : first + out.size]
