"""From what a user types to a run of a place: its name, the beginning of its name, or `last`."""

import contextlib
from collections.abc import Sequence

from estafeta.client.backend import Backend
from estafeta.errors import Command, RunNotFound
from estafeta.functions.verbs.status import not_found
from estafeta.protocol.spec import Status
from estafeta.protocol.verbs import RunsVerb, StatusVerb

LAST = "last"
"""Name that stands for the newest run."""


def all_runs(backend: Backend) -> tuple[list[Status], list[str]]:
    """Every run of a place, the newest last, without epochs; and the names of those that cannot be read."""
    found: list[Status] = []
    unreadable: list[str] = []
    more, after = True, ""
    while more:
        answer = backend.call(RunsVerb(after=after))
        found += [Status.model_validate(status) for status in answer["runs"]]
        unreadable += answer["unreadable"]
        more, after = answer["more"], found[-1].spec.run if found else ""
    return sorted(found, key=lambda status: status.spec.created_at), unreadable


def find_name(text: str, backend: Backend) -> str:
    """The name of the run that is meant; raises `RunNotFound` if none is, or several, with the nearest names."""
    if text != LAST:
        with contextlib.suppress(RunNotFound):  # a whole name needs no list of all runs
            backend.call(StatusVerb(run=text, newest=0))
            return text
    return choose(text, [status.spec.run for status in all_runs(backend)[0]])


def choose(text: str, names: Sequence[str]) -> str:
    """The name that is meant among `names`, oldest first; raises as `find_name` does."""
    if text in names:
        return text
    if text == LAST and names:
        return names[-1]
    if not names:
        raise RunNotFound("There are no runs yet", hint=f"start one: {Command('estafeta', 'train', 'JOB.py')}")
    beginning = [name for name in names if name.startswith(text)]
    if len(beginning) == 1:
        return beginning[0]
    if beginning:
        hint = f"it is one of {', '.join(beginning[-5:])}"
        raise RunNotFound(f"{len(beginning)} runs begin with {text!r}", hint=hint)
    raise not_found(text, names)
