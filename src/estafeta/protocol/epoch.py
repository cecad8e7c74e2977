"""The end of an epoch: its metrics and the verdict, from the version that it ended with and its valid round.

The merge, or every resident rank, makes the record. It is a function of what the ranks have summed, but for token,
time and dollars.
"""

from estafeta.job.stopping import EpochRecord, judge
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.totals import Totals, means
from estafeta.protocol.weights import Weights


def conclude(
    folder: RunFolder,
    last: EpochRecord | None,
    weights: Weights,
    valid: Totals | None,
    *,
    token: str,
    unsaid_usd: float = 0.0,
) -> EpochRecord:
    """Judge the epoch that ended with a version; `last` is the record of the epoch before, if there is one.

    `valid` is what the ranks have summed over the validation rows, None if there are none. The run has cost
    `unsaid_usd` dollars beside those that `weights` and `valid` know of.
    """
    metrics = means("train", weights.rows, weights.sums)
    if valid is not None:
        metrics.update(means("valid", valid.rows, valid.sums))
    return judge(
        folder.spec.early_stopping,
        last,
        epoch=weights.version // folder.plan.steps_per_epoch,
        version=weights.version,
        metrics=metrics,
        missed=weights.attendance.missed,
        token=token,
        now=folder.store.clock.time(),
        spent_usd=weights.spent_usd + unsaid_usd + (valid.spent_usd if valid is not None else 0.0),
    )
