"""What `control` says of data sets: the first rows, and in legs whether all of it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from estafeta import waiting
from estafeta.cli.commands.data import show
from estafeta.client.backend import unwrap
from estafeta.data.catalog import read_manifest, remove
from estafeta.data.manifest import Manifest
from estafeta.errors import Corrupt, UsageError
from estafeta.functions.control import control
from estafeta.functions.verbs.datasets import Dataset
from estafeta.protocol.layout import DatasetLayout
from estafeta.protocol.verbs import MOST_ROWS
from estafeta.store.store import Store

from .conftest import imported, invocation

NAME = "numbers"
BLOCKS = 10


def ask(store: Store, remaining_s: float = 300.0, **verb: Any) -> Any:
    return unwrap(control(verb, invocation(store, remaining_s)))


def legs(store: Store, manifest: Manifest, remaining_s: float) -> list[int]:
    """Where each leg of verifying ends, up to the last one."""
    ends = [0]
    while ends[-1] < len(manifest.blocks):
        answer = ask(store, remaining_s, verb="verify", dataset=NAME, token=manifest.token, first=ends[-1])
        ends.append(answer["checked"])
    return ends[1:]


@pytest.fixture
def manifest(here: Store) -> Manifest:
    return read_manifest(here, NAME)


def test_a_data_set_is_described(here: Store, manifest: Manifest) -> None:
    answer = ask(here, verb="describe", dataset=NAME, rows=3)
    assert Dataset.model_validate(answer["dataset"]) == Dataset.of(manifest)
    assert len(answer["rows"]) == 3
    assert {len(row) for row in answer["rows"]} == {len(answer["columns"])}
    with pytest.raises(UsageError, match="no data set named 'letters'"):
        ask(here, verb="describe", dataset="letters")


def test_a_preview_is_no_longer_than_an_answer() -> None:
    """The command line knows the number without importing what knows the verbs."""
    (rows,) = [option.type for option in show.params if option.name == "rows"]
    assert isinstance(rows, click.IntRange)
    assert rows.max == MOST_ROWS


@pytest.mark.parametrize(("remaining_s", "expected"), [(300.0, [BLOCKS]), (0.0, list(range(1, BLOCKS + 1)))])
def test_verifying_goes_on_from_leg_to_leg(
    remaining_s: float, expected: list[int], here: Store, manifest: Manifest
) -> None:
    assert legs(here, manifest, remaining_s) == expected


def test_a_leg_is_no_longer_than_a_client_waits(
    here: Store, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(float(waiting.LONGEST_ANSWER_S / 3 * tick) for tick in range(1000))
    monkeypatch.setattr(here.clock, "monotonic", lambda: next(times))
    ends = legs(here, manifest, 900.0)
    assert 1 < len(ends) <= BLOCKS


@pytest.mark.parametrize("block", [0, 7])
def test_damage_is_found_in_whichever_leg(block: int, here: Store, manifest: Manifest) -> None:
    path = Path(here.absolute(DatasetLayout(NAME).block(manifest.attempt, block)))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(Corrupt, match=f"Block {block} of data set 'numbers'"):
        legs(here, manifest, 0.0)


def test_another_data_set_of_the_name_is_not_taken_for_it(here: Store, manifest: Manifest) -> None:
    remove(here, NAME)
    imported(here)
    with pytest.raises(UsageError, match="has been replaced"):
        ask(here, verb="verify", dataset=NAME, token=manifest.token, first=3)
