"""The real code without one of its safeguards: the simulation must notice each.

A mutant comes with the worlds in which what the safeguard is for does happen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from estafeta.functions import merge, watchdog
from estafeta.protocol.message import Head
from estafeta.residents import claim, leg
from estafeta.residents.exchange import Exchange
from estafeta.residents.saving import Saver
from estafeta.store.arrivals import Arrivals
from estafeta.store.drafts import Draft
from estafeta.store.files import Reader
from estafeta.store.store import Store
from estafeta.store.tensorfile import TensorFile


@dataclass(frozen=True)
class Mutant:
    """A safeguard that is missing.

    Attributes:
        profile: Profile of the worlds.
        within: Number of worlds in which the tests must notice it.
        missing: Takes it away.
    """

    profile: str
    within: int
    missing: Callable[[], AbstractContextManager[object]]


def _publish_once() -> AbstractContextManager[object]:
    def give_name(store: Store, temporary: str, path: str, token: str, head_bytes: int) -> bool:
        store.files.rename(temporary, store.absolute(path))
        return True

    return patch.object(Store, "give_name", give_name)


def _temporary_names() -> AbstractContextManager[object]:
    def publish(store: Store, path: str, chunks: Sequence[Any], token: str) -> bool:
        try:
            store.files.create(store.absolute(path), chunks)
        except FileExistsError:
            return store._carries(path, token, len(bytes(chunks[0])))
        return True

    return patch.object(Store, "publish", publish)


@contextlib.contextmanager
def _complete_drafts() -> Iterator[None]:
    write, publish = Draft.write, Draft.publish
    waiting: dict[Draft, list[tuple[Sequence[Any], int]]] = {}

    def write_later(draft: Draft, chunks: Sequence[Any], offset: int) -> None:
        waiting.setdefault(draft, []).append(([bytes(chunk) for chunk in chunks], offset))

    def publish_first(draft: Draft, name: str, token: str, head_bytes: int) -> bool:
        pieces = waiting.pop(draft)
        mine = publish(draft, name, token, head_bytes)
        for chunks, offset in pieces:
            write(draft, chunks, offset)
        return mine

    with patch.object(Draft, "write", write_later), patch.object(Draft, "publish", publish_first):
        yield


def _token_check() -> AbstractContextManager[object]:
    return patch.object(Store, "_carries", lambda *_: False)


@contextlib.contextmanager
def _generation_fence() -> Iterator[None]:
    with patch.object(leg, "generation_in", lambda *_: -1), patch.object(claim, "generation_in", lambda *_: -1):
        yield


def _listing_before_opening() -> AbstractContextManager[object]:
    def by_name(arrivals: Arrivals, paths: Sequence[str], found: dict[str, Reader]) -> None:
        while pending := [path for path in paths if path not in found]:
            for path in pending:
                arrivals._try(path, found)
            arrivals._alarm(pending)
            arrivals._pause(0.5, pending)

    return patch.object(Arrivals, "_by_listing", by_name)


def _redo_log() -> AbstractContextManager[object]:
    retire = Exchange.retire
    return patch.object(Exchange, "retire", lambda exchange, version, redo_from: retire(exchange, version, version))


@contextlib.contextmanager
def _digest_check() -> Iterator[None]:
    with patch.object(TensorFile, "_check", lambda *_: None), patch.object(Head, "check_slice", lambda *_: None):
        yield


def _living_left_alone() -> AbstractContextManager[object]:
    return patch.object(watchdog, "_without_the_living", lambda actions, *_: actions)


def _record_after_saving() -> AbstractContextManager[object]:
    return patch.object(Saver, "is_pending", lambda *_: False)


def _retry_of_rank_0() -> AbstractContextManager[object]:
    return patch.object(claim, "_is_dead", lambda *_: False)


def _retry_of_a_merge() -> AbstractContextManager[object]:
    return patch.object(merge, "_concluded", lambda *_: False)


MUTANTS: Mapping[str, Mutant] = {
    "publish-once": Mutant("doubled", 10, _publish_once),
    "temporary names": Mutant("killed", 60, _temporary_names),
    "complete drafts": Mutant("killed", 20, _complete_drafts),
    "token check after EEXIST": Mutant("failover", 20, _token_check),
    "generation fence": Mutant("replaced", 20, _generation_fence),
    "listing before opening": Mutant("prompt", 20, _listing_before_opening),
    "redo log": Mutant("calm", 20, _redo_log),
    "digest check": Mutant("damaged", 20, _digest_check),
    "living residents are left alone": Mutant("tended", 10, _living_left_alone),
    "record after saving": Mutant("given-up", 20, _record_after_saving),
    "a retry of rank 0 looks": Mutant("given-up", 10, _retry_of_rank_0),
    "a retry of a merge invokes": Mutant("killed", 20, _retry_of_a_merge),
}
