"""Claims and marks in `legs/`: which invocation is a resident leg, and which leg has left.

Must not know why anybody leaves, or is replaced.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from estafeta.protocol.invocation import Invocation, dispatch
from estafeta.protocol.layout import RunLayout, claim_of_leg, name_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.snapshot import Action, Reside
from estafeta.store.store import claim_name


@dataclass(frozen=True)
class Claim:
    """The claim of a leg.

    Attributes:
        holder: Token of the leg: a request id, and a suffix for each attempt at it.
        expires_at: Time after which the holder is dead for sure, in seconds since 1970.
    """

    holder: str
    expires_at: float
    log_group: str
    log_stream: str

    @property
    def request_id(self) -> str:
        """Request id of the event that the holder was invoked with."""
        return self.holder.partition("/")[0]


def read_claim(folder: RunFolder, rank: int, leg: int, generation: int) -> Claim:
    """Read the claim of a leg.

    Raises:
        Gone: A later leg has swept it.
    """
    path = f"{folder.layout.legs}/{claim_name(claim_of_leg(rank, leg), generation)}"
    facts = json.loads(folder.store.read(path))
    return Claim(facts["holder"], facts["expires_at"], facts["log_group"], facts["log_stream"])


def has_left(rank: int, leg: int, names: Collection[str], layout: RunLayout) -> bool:
    """Tell whether a leg has left, by a listing of `legs/`."""
    return name_of(layout.left(rank, leg)) in names


def publish_left(folder: RunFolder, rank: int, leg: int, token: str, version: int | None) -> None:
    """Say that a leg has left at a version; None if it is dead, or is to go.

    If another says it, it is an order: the leg leaves when it sees the mark.
    """
    mark = {"token": token, "version": version, "at": folder.store.clock.time()}
    folder.store.publish(folder.layout.left(rank, leg), [json.dumps(mark).encode()], token)


def send_for(actions: Sequence[Action], folder: RunFolder, invocation: Invocation) -> None:
    """Invoke what carries out the actions; a resident that replaces another need not wait for the leg before it."""
    for action in actions:
        if isinstance(action, Reside) and action.generation and action.leg:  # the leg before may still be at work
            publish_left(folder, action.rank, action.leg - 1, invocation.token, None)
    dispatch(tuple(actions), folder.spec, invocation)
