"""The limits of a run: dollars, hours, rounds. Where one is reached, the run stops by itself, and can be resumed.

They stand in the spec; who resumes the run may change them, so the newest document counts. They are looked at between
rounds, by the functions themselves: nobody else has to be there. Dollars and hours end a run before its next round,
whichever that is; rounds before its next train round, so that an epoch that is complete gets its record.
"""

from collections.abc import Collection, Mapping

from pydantic import ValidationError

from estafeta.errors import Gone
from estafeta.job.checks import usage_error
from estafeta.job.stopping import EpochRecord
from estafeta.protocol.layout import Round
from estafeta.protocol.listing import limits_in
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Limits
from estafeta.protocol.weights import spent_at

HOUR_S = 3600.0


def newest_limits(folder: RunFolder, names: Collection[str]) -> Limits:
    """The limits that hold now; `names` is a listing of the run's folder."""
    number = max(limits_in(names), default=0)
    return Limits.model_validate_json(folder.store.read(folder.layout.limits(number))) if number else folder.spec.limits


def limits_after(before: Limits, changes: Mapping[str, float | None], token: str, now: float) -> Limits:
    """The limits after a resumption: those before it, but for what changes (None lifts one); hours count from `now` on.

    Raises:
        UsageError: A value does not fit.
    """
    try:
        return Limits.model_validate({**before.model_dump(), **changes, "token": token, "since": now})
    except ValidationError as error:
        raise usage_error(error, Limits) from None


def limit_reached(limits: Limits, following: Round | None, *, spent_usd: float, now: float) -> str:
    """Which limit a run has reached before the round `following`, in words for its user; nothing if none.

    `following` is None after the last round; `now` is in seconds since 1970.
    """
    if following is None:
        return ""
    if limits.max_cost_usd is not None and spent_usd >= limits.max_cost_usd:
        return f"it has cost ${spent_usd:.6g}, and may cost ${limits.max_cost_usd:.6g}"
    if limits.max_rounds is not None and following.phase == "train" and following.version >= limits.max_rounds:
        return f"it has done {following.version} rounds, and may do {limits.max_rounds}"
    if limits.max_hours is not None and now - limits.since >= limits.max_hours * HOUR_S:
        return f"it may run for {limits.max_hours:.6g} hours at a time"
    return ""


def spent_so_far(folder: RunFolder, version: int, last_epoch: EpochRecord | None) -> float:
    """Dollars that a run has cost, by its newest version and its newest epoch record."""
    recorded = last_epoch.spent_usd if last_epoch else 0.0
    try:
        return max(recorded, spent_at(folder, version))
    except Gone:  # the run has moved on, and whoever moved it knows better
        return recorded


def limit_at(folder: RunFolder, names: Collection[str], following: Round | None, last_epoch: EpochRecord | None) -> str:
    """Which limit a run has reached whose folder shows which round is next; the arguments are as above."""
    limits = newest_limits(folder, names)
    spent_usd = 0.0
    if limits.max_cost_usd is not None and following is not None:
        spent_usd = spent_so_far(folder, following.version, last_epoch)
    return limit_reached(limits, following, spent_usd=spent_usd, now=folder.store.clock.time())
