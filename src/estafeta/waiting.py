"""Every constant that says how long somebody waits, and when a rank, a leg or a run counts as lost.

docs/protocol.md shows them in one table. None of them decides a bit: a wait that is too short costs an invocation or a
look at the store, one that is too long costs time.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Waits that depend on whether all writers are on one machine.

    Attributes:
        floor_s: Shortest time after which a rank counts as lost. On NFS a look may be answered from a cache of 60 s
            (nfs(5), acdirmax), or after a fail-over of the server, 30 s and more. On one machine the scheduler decides.
        start_s: Shortest time that a rank gets if it may have to start first: to import, to load, and on Lambda to have
            a package unpacked.
        quorum_floor_s: Shortest time after which a round closes without late ranks: the scheduler, or a busy network
            file system, may delay any rank that long. It is shorter than `floor_s`, because a wrong guess costs a
            contribution, not an invocation.
    """

    floor_s: float
    start_s: float
    quorum_floor_s: float


LOCAL = Timing(floor_s=1.0, start_s=10.0, quorum_floor_s=0.1)
SHARED = Timing(floor_s=90.0, start_s=180.0, quorum_floor_s=2.0)


def timing(*, is_local: bool) -> Timing:
    """Return the waits of one machine, or of machines with a network file system in the middle."""
    return LOCAL if is_local else SHARED


# A rank waits for files

SPIN_S = 100e-6
"""Seconds in which a rank looks for names in a loop, if every writer has a processor of its own. A longer loop burns
what the others could use; a kernel wake-up costs about as much."""
POLL_S = 0.0005
"""Seconds between two looks where inotify is missing: half a round of a small model, a twentieth of a processor."""
ALARM_S = 0.5
"""Seconds, at most, between two calls of `alarm`, in which the waiting rank looks after itself and its peers."""
FIRST_ALARM = 1 / 8
"""Fraction of `ALARM_S` before the first call of `alarm`: the waiting leg may be close to its deadline."""
EAGERNESS = 0.8
"""Fraction of the usual wait after which a rank looks first: files seen at the first look may have come earlier."""
SECOND_LOOK = 0.125
"""Fraction of the expected wait before the second look; the pauses after that grow."""
RECENT_WAITS = 9
"""Number of waits from which a rank learns when to look first."""

# A rank learns how long rounds take

RECENT_ROUNDS = 32
"""Number of durations from which `Patience` learns."""
KNOWN_ROUNDS = 3
"""Number of durations below which `Patience` knows nothing."""
DEVIATIONS = 8.0
"""Number of deviations from the median that are no reason to worry."""
LEAST_DEVIATION = 1 / 16
"""Fraction of the median that counts as one deviation at least: the limit is always half as long again."""

# An invocation keeps back time for its end

STEP_MARGIN = 1.5
"""Factor for the next micro-batch over the longest so far."""
TRANSFER_MARGIN = 4.0
"""Factor for publishing over reading the weights: EFS writes more slowly than it reads, and a gradient is as large as
the parameters."""
ANSWER_RESERVE_S = 0.1
"""Seconds that every invocation keeps for a listing, an invocation, and the answer to Lambda."""
LONGEST_ANSWER_S = 20.0
"""Seconds, at most, until `control` answers a client that shows progress, however much time the invocation has."""

# A resident leg hands over

LEAD_MARGIN = 1.5
"""Factor for the successor's start over the start of this leg."""
ROUND_MARGIN = 1.5
"""Factor for the next round over this rank's longest share and the usual round together."""
SAVE_MARGIN = 2.0
"""Factor for the next saving over the longest so far."""
LEG_RESERVE_S = 0.2
"""Seconds that every leg keeps for its marks, an invocation, and the answer to Lambda."""
CHECK_S = 1.0
"""Seconds between two looks whether the run has ended, or another leg has taken over."""
LOOK_CALLS = 8
"""Number of store calls, and one more a rank, from one look of a waiting leg to its next look, or to its end."""
READY_LOOK_S = 0.02
"""Seconds between two looks for the successor's mark."""

# A rank is lost

ROUNDS_OF_PATIENCE = 4.0
"""Number of its own rounds without a publication after which a leg may be dead."""
STARTS_OF_PATIENCE = 3.0
"""Factor for a start elsewhere over the start here, where everything may have been warm."""
SHARES_OF_PATIENCE = 2.0
"""Factor for a peer's share of a round over this rank's own share."""
CALL_GROWTH = 2.0
"""Factor for the wait after each further call: the rank may be slow to start, or to restore."""
LONGEST_WAIT = 1 / 3
"""Fraction of the leg's own time: the wait before the first call is not longer. A longer one would outlive the leg."""
LONGEST_WAIT_FOR_SHARE = 1 / 2
"""Fraction of the leg's own time, instead of `LONGEST_WAIT`, for a peer whose share may take as long as that."""
MOST_CALLS = 5
"""Number of calls for a rank at one version. If the rank is still missing then, the run fails."""
MOST_WATCHDOG_CALLS = 4
"""Number of times that the watchdog sets a run going again that does not move."""
RECENT_STRETCHES = 9
"""Number of stretches without change from which the watchdog learns how long they are."""

# A round closes without late ranks

MOST_MISSED = 8
"""Number of rounds that a rank may miss in a row; then its peers wait for it. Its rows are part of the data, its
contributions must be kept until it has read them, and if it is dead somebody has to notice."""
CLOSED_LOOK_S = 0.05
"""Seconds between two looks whether the round was closed without this rank, while it computes its share."""
CLOSING_RESERVE_S = 2.0
"""Seconds that a waiting worker keeps for the stand-ins, the claim, and the invocation of the merge."""

# Residents save

SAVING_FRACTION = 0.02
"""Fraction of the time, at most, that may go into saving."""
FIRST_SAVING = 10
"""Number of rounds before the first saving, whose cost is not known yet."""
MOST_REDO = 500
"""Number of rounds, at most, between two savings. A polled directory should not have many more names, and a lost rank
should not have more to redo."""
MOST_REDO_BYTES = 1 << 29
"""Bytes of a rank's contributions, at most, between two savings, where files are used again. A file that is kept takes
new pages, which the system has to clear and to write. With large models that costs more than saving more often."""
RESTORE_ATTEMPTS = 10
"""Number of times that a rank begins to restore, if the files were replaced by newer ones while it read them."""
