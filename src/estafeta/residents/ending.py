"""Why a resident leg ends."""

from enum import Enum


class Ending(Enum):
    """Why a leg ends after a round. The value is the sentence for its log."""

    STOPPED = "the run is to stop"
    LIMITED = "a limit of the run is reached"
    TIME_SHORT = "the time of a rank is short"
    OWN_TIME_SHORT = "its time is short"
    SUCCESSORS_READY = "all successors are ready"

    @property
    def is_of_run(self) -> bool:
        """Whether the run ends, and not only this leg."""
        return self in (Ending.STOPPED, Ending.LIMITED)


class Refusal(Enum):
    """Why an invocation does not become a leg. The value is what the function returns."""

    LATER_LEG = "left: a later leg is there"
    LONG_OVER = "left: the leg is long over"
    DUPLICATE = "left: a duplicate"
    PEERS_NOTICE = "left: a duplicate, or its peers will notice"
    LEG_AT_WORK = "left: a duplicate of a leg that is at work"


class Leaving(Exception):  # an order to its own leg, not an error
    """Raised to end this leg cleanly; what it leaves is in the store.

    Attributes:
        silently: Another leg has its place, so this one must not even say that it has left.
    """

    def __init__(self, why: str, *, silently: bool = False) -> None:
        super().__init__(why)
        self.silently = silently
