"""Drafts are published like all other files, for every reader and after every loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estafeta.store.drafts import Draft, Drafts
from estafeta.store.store import Store

from .conftest import Nfs, TwoClients
from .faults import LostReplies
from .test_failover import losing
from .test_publishing import ORDERS, PROPERTY, chunks, content, look_again_and_again
from .turns import interleave

HEAD_BYTES = len(chunks("A")[0])


def drafts_of(store: Store, directory: str = "d") -> Drafts:
    """Drafts as `Exchange` makes them: it fills them again only where no other machine can be."""
    return Drafts(store, directory, reuse=store.files.watch([store.absolute(directory)]) is not None)


def publish(drafts: Drafts, name: str, token: str) -> tuple[Draft, bool]:
    draft = drafts.take()
    first, *others = chunks(token)
    draft.write(others, len(first))
    draft.write([first], 0)
    return draft, draft.publish(name, token, HEAD_BYTES)


@pytest.fixture
def directory(two_clients: TwoClients) -> str:
    two_clients[0].store.make_directories("d")
    return "d"


def test_other_clients_read_what_was_published(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    assert b.store.list("d") == frozenset()
    assert not b.looks_up("d/f")
    _, mine = publish(drafts_of(a.store), "f", "A")
    assert mine
    assert b.store.list("d") == {"f"}
    assert b.store.read("d/f") == content("A")


def test_filling_a_draft_publishes_nothing(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    drafts = drafts_of(a.store)
    drafts.take().write(chunks("A"), 0)
    assert b.store.list("d") == frozenset()
    drafts.close()
    assert a.all_names("d") == []


def test_second_publisher_loses_and_reads_the_first(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    drafts = drafts_of(b.store)
    publish(drafts_of(a.store), "f", "A")
    loser, mine = publish(drafts, "f", "B")
    assert not mine
    drafts.give_back(loser)
    assert b.store.read("d/f") == a.store.read("d/f") == content("A")


def test_retiring_takes_the_name_back_and_closing_leaves_it(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    drafts = drafts_of(a.store)
    draft, _ = publish(drafts, "f", "A")
    publish(drafts, "g", "A")
    drafts.give_back(draft)
    assert b.store.list("d") == {"g"}
    drafts.close()
    assert b.all_names("d") == ["g"]
    assert b.store.read("d/g") == content("A")


def test_on_a_shared_file_system_content_is_never_written_over(nfs: Nfs) -> None:
    a, b = nfs.clients()
    a.store.make_directories("d")
    drafts = drafts_of(a.store)
    draft, _ = publish(drafts, "v1", "A")
    with b.files.open(b.store.absolute("d/v1")) as reader:
        drafts.give_back(draft)
        again, _ = publish(drafts, "v2", "B")
        assert again is not draft
        buffer = bytearray(reader.size)
        reader.readinto(buffer, 0)
    assert buffer == content("A")
    assert b.store.read("d/v2") == content("B")


def test_ones_own_publication_is_known_by_its_token(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    drafts = drafts_of(losing(a, "link", "unlink"))
    draft, mine = publish(drafts, "f", "A")
    assert mine
    assert b.store.read("d/f") == content("A")
    drafts.give_back(draft)
    drafts.close()
    assert b.all_names("d") == []


def test_anothers_publication_is_known_too(two_clients: TwoClients, directory: str) -> None:
    a, b = two_clients
    publish(drafts_of(b.store), "f", "B")
    drafts = drafts_of(losing(a, "unlink"))
    loser, mine = publish(drafts, "f", "A")
    assert not mine
    drafts.give_back(loser)
    drafts.close()
    assert b.store.read("d/f") == content("B")


@PROPERTY
@given(order=ORDERS, losses=st.lists(st.booleans(), max_size=8))
def test_one_of_two_publishes_whatever_is_lost_and_nobody_sees_less_than_all(
    two_clients: TwoClients, new_directory: Callable[[], str], order: list[int], losses: list[bool]
) -> None:
    a, b = two_clients
    directory = new_directory()
    path = f"{directory}/f"
    a.looks_up(path)
    b.looks_up(path)
    fate = iter(losses)
    flaky_a, flaky_b = (c.through(LostReplies(c.files, lambda call: next(fate, False))) for c in two_clients)
    seen: set[bytes] = set()

    def go(store: Store, token: str) -> bool:
        drafts = drafts_of(store, directory)
        draft, mine = publish(drafts, "f", token)
        if not mine:
            drafts.give_back(draft)
        drafts.close()
        return mine

    a_won, b_won, _ = interleave(
        order,
        lambda: go(flaky_a, "A"),
        lambda: go(flaky_b, "B"),
        lambda: look_again_and_again(b.store, directory, seen),
    )
    assert a_won is not b_won
    assert b.store.read(path) == content("A" if a_won else "B")
    assert seen <= {b.store.read(path)}
    assert a.all_names(directory) == ["f"]
