"""Several machines that take turns in a fixed order, so that an interleaving can be repeated.

Each machine's code runs on a thread of its own and stops at every `pause()`, which the file systems under test call
before each request. Whose thread goes on is read from a list of numbers; hypothesis makes and shrinks such lists.
Outside `interleave`, `pause` does nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from .interposed import Interposed

T = TypeVar("T")

DEADLINE_S = 30.0
"""Seconds after which a machine that does not reach its next pause, or its end, is given up."""

_here = threading.local()


class Machine(Generic[T]):
    """Code that runs up to its next pause at each `step`."""

    def __init__(self, code: Callable[[], T]) -> None:
        self._code = code
        self._go = _closed_gate()
        self._back = _closed_gate()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.finished = False
        self.results: list[T] = []
        self.errors: list[BaseException] = []

    def start(self) -> None:
        """Bring the machine to its first pause."""
        self._thread.start()
        _pass(self._back)

    def is_elsewhere(self) -> bool:
        """Whether the calling thread is not the machine's own."""
        return threading.current_thread() is not self._thread

    def step(self) -> None:
        """Let it go on to its next pause, or its end."""
        self._go.release()
        _pass(self._back)

    def pause(self) -> None:
        """Stop until `step`. Called on the machine's own thread."""
        self._back.release()
        self._go.acquire()  # however long others take

    def _run(self) -> None:
        _here.machine = self
        self.pause()
        try:
            self.results.append(self._code())
        except BaseException as error:  # raised by `interleave`, on the thread of the test
            self.errors.append(error)
        self.finished = True
        self._back.release()


class Paced(Interposed):
    """Files of a machine that stops before each call."""

    def around(self, call: str, path: str, carry_out: Callable[[], T]) -> T:
        """Wait for one's turn, then do the call."""
        pause()
        return carry_out()


def pause() -> None:
    """Let another machine go first, if this thread belongs to one."""
    machine: Machine[object] | None = getattr(_here, "machine", None)
    if machine:
        machine.pause()


def interleave(order: Iterable[int], *codes: Callable[[], T]) -> list[T]:
    """Run all codes to their end, one at a time.

    Args:
        order: Whose turn it is, each number taken modulo those that have not finished. When it is used up, they take
            turns evenly.
        codes: Function that each machine carries out.

    Returns:
        The result of each. If one fails, the others still go to their end before its error is raised.
    """
    machines = [Machine(code) for code in codes]
    for machine in machines:
        machine.start()
    turns = itertools.chain(order, itertools.count())
    while waiting := [machine for machine in machines if not machine.finished]:
        waiting[next(turns) % len(waiting)].step()
    for error in itertools.chain.from_iterable(machine.errors for machine in machines):
        raise error
    return [machine.results[0] for machine in machines]


def _closed_gate() -> threading.Lock:
    """A lock that one thread waits at and another opens: much faster than a semaphore."""
    gate = threading.Lock()
    gate.acquire()
    return gate


def _pass(gate: threading.Lock) -> None:
    if not gate.acquire(timeout=DEADLINE_S):
        raise TimeoutError(f"a machine neither paused nor ended within {DEADLINE_S:.0f} s")
