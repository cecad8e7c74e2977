"""What an execution environment keeps from one invocation to the next. Losing it costs time, never bits."""

import gc
from dataclasses import dataclass, field

from estafeta.protocol.layout import Round
from estafeta.protocol.patience import Patience
from estafeta.protocol.weights import Weights


@dataclass
class RunMemory:
    """What an environment keeps of one run.

    Attributes:
        token: The run's token: another run of the same name has another one.
        unsaid_usd: Dollars of this environment that no publication has reported yet.
        session: Model and data of a worker. `training` knows its type; here torch is unknown.
        patience: How long the shares of the run take, for a worker that waits for late ranks.
        weights: Newest version that a merge has published, so that it does not read its own file.
        invoked: Round whose workers a merge has invoked, so that a duplicate does not invoke them again.
    """

    token: str
    unsaid_usd: float = 0.0
    session: object = None
    patience: Patience | None = None
    weights: Weights | None = None
    invoked: Round | None = None


@dataclass
class Warm:
    """The memory of an execution environment.

    Attributes:
        has_started: Whether the environment has had an invocation.
        was_probed: Whether `doctor` has probed it, so it is not cold.
    """

    has_started: bool = False
    was_probed: bool = False
    _run: RunMemory = field(default_factory=lambda: RunMemory(""))

    def of(self, token: str) -> RunMemory:
        """Return what is kept of a run. What was kept of another run goes: two models may not fit the memory."""
        if self._run.token != token:
            had_session, self._run = self._run.session is not None, RunMemory(token)
            if had_session:
                gc.collect()  # the parts of a user's model may refer to each other
        return self._run
