"""What a run has cost so far, as its own functions know it: each says with what it publishes what that has cost.

A contribution carries what its rank has cost since it said so last, a version and an epoch record the sum of all that
was said. So a run can stop at its price while no client and no log is at hand. Nothing that is computed depends on it.

The sum is a lower bound of the bill. What an environment has not said yet (the end of an invocation, a duplicate, an
attempt that failed) it keeps in its memory and says with its next publication; only what dies with the environment, or
is never followed by a publication of the same one, is missing. Of logs it has what all invocations write, not what the
user's code prints. Neither `control` nor storage is in it.
"""

from estafeta.cost.cost import access_usd, invocation_usd, second_usd
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.spec import Role, RunSpec


class Tab:
    """Of one invocation: what its environment has cost a run, and nobody has been told of yet."""

    def __init__(self, role: Role, spec: RunSpec, invocation: Invocation) -> None:
        self._spec, self._invocation = spec, invocation
        self._clock = invocation.store.clock
        self._second_usd = second_usd(spec.functions[role].memory_mb, spec.basis)
        self._memory = invocation.warm.of(spec.token)
        self._before = self._memory.unsaid_usd
        self._before += invocation.init_s * self._second_usd + invocation_usd(spec.basis.prices)
        self._began = self._clock.monotonic()

    def usd(self) -> float:
        """Dollars up to now."""
        spent = self._before + (self._clock.monotonic() - self._began) * self._second_usd
        if self._spec.basis.throughput == "elastic":
            spent += access_usd(self._invocation.meter.traffic(), self._spec.basis.prices)
        return spent

    def said(self, usd: float) -> None:
        """Take off what a publication has said that is now the run's."""
        self._before -= usd

    def close(self) -> None:
        """Leave the rest to the environment's next invocation."""
        self._memory.unsaid_usd = self.usd()
