"""How a run ends: one marker, published once, that every function looks for before it goes on."""

from __future__ import annotations

import errno

from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import RunLayout
from estafeta.protocol.snapshot import OUTCOMES
from estafeta.protocol.spec import Failure, Outcome

RESERVE_BYTES = 64 * 1024
"""Room kept free on the disk for the last words of a run that fills it."""


def publish_outcome(invocation: Invocation, layout: RunLayout, outcome: Outcome) -> bool:
    """Publish the end of a run; a full disk cannot keep it from being said, as the run's reserve is given up for it.

    A run ends once: what a late function has to say after that is not heard.

    Returns:
        Whether it was this call that ended the run.
    """
    if not invocation.store.list(layout.root).isdisjoint(f"{state}.json" for state in OUTCOMES):
        return False
    path, content = layout.outcome(outcome.state), [outcome.to_json()]
    try:
        return invocation.store.publish(path, content, outcome.token)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        invocation.store.sweep(layout.root, [layout.reserve.rpartition("/")[2]])
        return invocation.store.publish(path, content, outcome.token)


def fail(invocation: Invocation, layout: RunLayout, failure: Failure) -> None:
    """End a run as failed, for the reason given; where the log is, is added."""
    failure = failure.model_copy(
        update={
            "function": failure.function or invocation.function,
            "request_id": failure.request_id or invocation.token,
            "log_group": failure.log_group or invocation.log_group,
            "log_stream": failure.log_stream or invocation.log_stream,
        }
    )
    outcome = Outcome(
        token=invocation.token,
        state="failed",
        why=failure.message,
        failure=failure,
        ended_at=invocation.store.clock.time(),
    )
    publish_outcome(invocation, layout, outcome)
    invocation.note(layout.run, failed=failure.message)
