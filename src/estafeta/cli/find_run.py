"""From what a user typed to a run: its name, the beginning of its name, or `last`."""

from __future__ import annotations

import contextlib
import difflib
from typing import TYPE_CHECKING

from estafeta.errors import RunNotFound

if TYPE_CHECKING:
    from estafeta.cli.options import Place
    from estafeta.client.backend import Backend
    from estafeta.client.run import Run
    from estafeta.protocol.spec import Status

LAST = "last"


def attach(on: Place) -> Backend:
    """The place where a run is."""
    from estafeta.client.launch import attach

    return attach(on.name, **on.choices)


def all_runs(backend: Backend) -> tuple[list[Status], list[str]]:
    """Every run of a place, the newest last, without epochs; and the names of those that cannot be read."""
    from estafeta.protocol.spec import Status

    found: list[Status] = []
    unreadable: list[str] = []
    more, after = True, ""
    while more:
        answer = backend.call({"verb": "runs", "after": after})
        found += [Status.model_validate(status) for status in answer["runs"]]
        unreadable += answer["unreadable"]
        more, after = answer["more"], found[-1].spec.run if found else ""
    return sorted(found, key=lambda status: status.spec.created_at), unreadable


def find_run(text: str, on: Place) -> Run:
    """The run that is meant.

    Raises:
        RunNotFound: There is none of that name, or the beginning fits several; the hint names those that are close.
    """
    from estafeta.client.run import Run

    backend = attach(on)
    if text != LAST:
        with contextlib.suppress(RunNotFound):  # a whole name needs no list of all runs
            Run(text, backend).status()
            return Run(text, backend)
    found, _ = all_runs(backend)
    return Run(choose(text, [status.spec.run for status in found]), backend)


def choose(text: str, names: list[str]) -> str:
    """The name that is meant, of the names that there are, oldest first; raises as `find_run` does."""
    if text in names:
        return text
    if text == LAST and names:
        return names[-1]
    if not names:
        raise RunNotFound("there are no runs yet", hint="start one: estafeta train JOB.py")
    beginning = [name for name in names if name.startswith(text)]
    if len(beginning) == 1:
        return beginning[0]
    if beginning:
        raise RunNotFound(f"{len(beginning)} runs begin with {text!r}", hint=f"it is one of {_listing(beginning)}")
    close = difflib.get_close_matches(text, names, 3) or [name for name in names if text in name]
    suggestion = f"did you mean {_listing(close)}?" if close else "estafeta runs lists them"
    raise RunNotFound(f"there is no run named {text!r}", hint=suggestion)


def _listing(names: list[str]) -> str:
    return ", ".join(names[-5:])
