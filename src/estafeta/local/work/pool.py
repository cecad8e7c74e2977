"""All execution environments, and the choice of one for an invocation.

It knows capacity, not retries. Invariant: the number of invocations in progress never exceeds the account's limit, nor
a function's reserved concurrency. Each admitted invocation waits for, or is in, exactly one environment.
"""

import asyncio
from collections import Counter, deque
from dataclasses import replace

from estafeta.local.work.environment import Environment, Host, Phase
from estafeta.local.work.functions import FunctionVersion, Registry
from estafeta.local.work.invocation import Invocation, Outcome

# Reasons of TooManyRequestsException (Lambda API reference, Invoke).
ACCOUNT_LIMIT = "ConcurrentInvocationLimitExceeded"
RESERVED_LIMIT = "ReservedFunctionConcurrentInvocationLimitExceeded"


class Fleet:
    """The environments of one function version."""

    def __init__(self, function: FunctionVersion, host: Host) -> None:
        self._function = function
        self._host = host
        self._waiting: deque[Invocation] = deque()
        self.members: set[Environment] = set()
        self._idle: list[Environment] = []  # the last used comes last, and is taken first: it is the warmest
        self._retired = False

    def submit(self, invocation: Invocation) -> None:
        """Run an invocation in an idle environment, or in the first that becomes free."""
        if self._idle:
            self._idle.pop().invoke(invocation)
            return
        self._waiting.append(invocation)
        coming = sum(member.phase in (Phase.LAUNCHING, Phase.FINISHING) for member in self.members)
        if coming < len(self._waiting):
            self.members.add(Environment(self._function, self._host, self._available))

    def retire(self) -> None:
        """Close the idle environments now, and the others as soon as no invocation waits for them."""
        self._retired = True
        while self._idle:
            self._close(self._idle.pop())

    def reap(self, idle_before: float) -> None:
        """Close environments that have been idle since before a moment of the event loop's time."""
        for environment in [member for member in self._idle if member.idle_since < idle_before]:
            self._idle.remove(environment)
            self._close(environment)

    def close(self) -> None:
        """Close every environment, busy or not."""
        self._retired = True
        self._idle.clear()
        for environment in tuple(self.members):
            self._close(environment)

    def _available(self, environment: Environment) -> None:
        if self._waiting:
            environment.invoke(self._waiting.popleft())
        elif self._retired:
            self._close(environment)
        else:
            self._idle.append(environment)

    def _close(self, environment: Environment) -> None:
        self.members.discard(environment)
        environment.close()


class Pool:
    """All fleets, under the limits of concurrency.

    Args:
        host: Parts of the service that environments need.
        registry: The functions, with their reserved concurrency.
        account_limit: Most invocations at a time over all functions; also an attribute.
    """

    def __init__(self, host: Host, registry: Registry, account_limit: int) -> None:
        self._host = host
        self._registry = registry
        self.account_limit = account_limit
        self._running: Counter[str] = Counter()
        self._fleets: dict[tuple[str, str, str], Fleet] = {}

    @property
    def running(self) -> int:
        """Number of invocations in progress."""
        return self._running.total()

    def throttle(self, function: FunctionVersion) -> str | None:
        """The reason why one more invocation of a function would be too many, or None."""
        name = function.config.name
        own = self._registry.function(name).reserved_concurrency
        if own is not None:
            return RESERVED_LIMIT if self._running[name] >= own else None
        reserved = {item.latest.config.name: item.reserved_concurrency for item in self._registry.functions()}
        unreserved_limit = self.account_limit - sum(limit or 0 for limit in reserved.values())
        unreserved = sum(count for other, count in self._running.items() if reserved[other] is None)
        return ACCOUNT_LIMIT if unreserved >= unreserved_limit else None

    def submit(self, invocation: Invocation) -> None:
        """Run an invocation that `throttle` allows."""
        name = invocation.function.config.name
        self._running[name] += 1

        def finish(outcome: Outcome) -> None:
            self._running[name] -= 1
            invocation.finish(outcome)

        key = invocation.function.key
        fleet = self._fleets.get(key)
        if fleet is None:
            fleet = self._fleets[key] = Fleet(invocation.function, self._host)
        fleet.submit(replace(invocation, finish=finish))

    def retire(self, function: FunctionVersion) -> None:
        """Give up the environments of outdated settings."""
        fleet = self._fleets.get(function.key)
        if fleet:
            fleet.retire()

    def reap(self, idle_s: float) -> None:
        """Close environments that have been idle for longer than so many seconds."""
        idle_before = asyncio.get_running_loop().time() - idle_s
        for fleet in self._fleets.values():
            fleet.reap(idle_before)

    async def close(self, limit_s: float) -> None:
        """Close every environment, and wait until their processes are gone."""
        members = [member for fleet in self._fleets.values() for member in fleet.members]
        for fleet in self._fleets.values():
            fleet.close()
        if members:
            await asyncio.wait([asyncio.ensure_future(member.gone.wait()) for member in members], timeout=limit_s)
