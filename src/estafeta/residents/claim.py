"""How an invocation becomes a resident leg: it claims the leg that its event is for, or finds a reason not to.

Lambda may deliver an event twice, and it retries one whose function died; the claims tell these cases apart.
"""

import secrets
from collections.abc import Collection

from estafeta import waiting
from estafeta.errors import Gone
from estafeta.protocol.invocation import Invocation
from estafeta.protocol.layout import claim_of_leg, name_of
from estafeta.protocol.listing import contributions_in, generation_in, residents_in
from estafeta.protocol.message import round_time_of
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import WorkerEvent
from estafeta.residents.ending import Refusal
from estafeta.residents.exchange import is_stand_in
from estafeta.residents.leg import Leg
from estafeta.residents.marks import has_left, publish_left, read_claim
from estafeta.store.arrivals import is_local

LOOKING_RANK = 0
"""Number of the one rank whose second deliveries look for signs of life. One rank must, if all are dead or have
ended."""


def take(event: WorkerEvent, folder: RunFolder, invocation: Invocation) -> Leg | Refusal:
    """Claim the leg that an event is for.

    A second delivery of an event whose leg is claimed is either the retry of a leg that died, or the duplicate of one
    that is at work; Lambda does not tell. If the leg has published that it crashed, the delivery is a retry. Otherwise
    the invocation leaves at once: if the leg is dead, its peers will notice. Only rank 0 looks whether the leg still
    publishes.
    """
    store, layout = folder.store, folder.layout
    token = f"{invocation.token}/{secrets.token_hex(4)}"
    facts = {
        "expires_at": store.clock.time() + invocation.remaining_s(),
        "log_group": invocation.log_group,
        "log_stream": invocation.log_stream,
    }
    generation = event.generation
    while True:
        names = store.list(layout.legs)
        leg, newest = residents_in(names).get(event.rank, (0, 0))
        if leg > event.leg:
            must_look = leg == event.leg + 1 and _must_look(event, names, folder, invocation)
            if must_look and _is_dead(event, folder, invocation):
                publish_left(folder, event.rank, event.leg, token, None)  # its successor waits for that
            return Refusal.LATER_LEG
        generation = max(generation, newest if leg == event.leg else 0)
        name = claim_of_leg(event.rank, event.leg)
        if store.claim(layout.legs, name, generation=generation, token=token, **facts):
            return Leg(event, generation, token, folder, invocation)
        try:
            claim = read_claim(folder, event.rank, event.leg, generation)
        except Gone:
            return Refusal.LONG_OVER
        if claim.request_id != invocation.token:
            return Refusal.DUPLICATE
        if name_of(layout.crashed(event.rank, event.leg, generation)) not in names:
            if event.rank != LOOKING_RANK:
                return Refusal.PEERS_NOTICE
            # A leg that still waits for its turn publishes nothing, so its life cannot be seen. Replacing it is safe.
            has_turn = event.leg == 0 or has_left(event.rank, event.leg - 1, names, layout)
            if has_turn and not _is_dead(event, folder, invocation, claim.expires_at - store.clock.time()):
                return Refusal.LEG_AT_WORK
        generation += 1


def relieve(request_id: str, folder: RunFolder, rank: int, leg: int, invocation: Invocation) -> None:
    """Publish `left` for a leg whose event Lambda gave up: the leg is dead, and its successor need not wait."""
    names = folder.store.list(folder.layout.legs)
    if residents_in(names).get(rank, (0, 0))[0] > leg and _holds(request_id, rank, leg, names, folder):
        publish_left(folder, rank, leg, invocation.token, None)


def _must_look(event: WorkerEvent, names: Collection[str], folder: RunFolder, invocation: Invocation) -> bool:
    """Tell whether this is a second delivery of an event whose leg has called the next one, which may wait for it."""
    return event.rank == LOOKING_RANK and _holds(invocation.token, event.rank, event.leg, names, folder)


def _holds(request_id: str, rank: int, leg: int, names: Collection[str], folder: RunFolder) -> bool:
    """Tell whether a request has the newest claim of a leg that has not left."""
    generation = generation_in(names, rank, leg)
    if generation < 0 or has_left(rank, leg, names, folder.layout):
        return False
    try:
        return read_claim(folder, rank, leg, generation).request_id == request_id
    except Gone:
        return False


def _is_dead(event: WorkerEvent, folder: RunFolder, invocation: Invocation, most_s: float = float("inf")) -> bool:
    """Tell whether a rank contributes nothing within the time in which it should, or within `most_s` seconds."""
    store, outbox = folder.store, folder.layout.outbox(event.rank)
    before, timing = contributions_in(store.list(outbox)), waiting.timing(is_local=is_local(store, outbox))
    if before:
        newest = max(before, key=lambda name: name.rpartition("-")[2])
        try:
            rounds_s = waiting.ROUNDS_OF_PATIENCE * store.reading(f"{outbox}/{newest}", round_time_of)
        except Gone:
            return False
        patience_s = max(timing.floor_s, rounds_s)
    else:
        patience_s = timing.start_s  # it may still be loading

    def shows_life(names: Collection[str]) -> bool:
        return any(not is_stand_in(store, f"{outbox}/{name}") for name in contributions_in(names) - before)

    timeout_s = min(patience_s, most_s, invocation.remaining_s() / 2)
    return store.wait(outbox, shows_life, timeout_s=timeout_s) is None
