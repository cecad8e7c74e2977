"""A data set comes from S3 into the store: in legs, checked, and not to be seen before it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.faults import Killed, Mortal
from estafeta.aws.bucket import Bucket
from estafeta.data.catalog import names, read_manifest, verify
from estafeta.data.manifest import Manifest
from estafeta.errors import Corrupt, UsageError
from estafeta.functions.verbs.receive import receive, upload_of
from estafeta.protocol.layout import MANIFEST, DatasetLayout
from estafeta.store.store import Store

from .conftest import imported, invocation

NAME = "numbers"
BLOCKS = 10


@pytest.fixture
def manifest(here: Store, bucket: Bucket) -> Manifest:
    """The data set's, whose files are in the bucket."""
    manifest = read_manifest(here, NAME)
    for file in here.list(DatasetLayout(NAME).root):
        bucket.upload(upload_of(manifest.token) + file, Path(here.absolute(f"{DatasetLayout(NAME).root}/{file}")))
    return manifest


def content_of(store: Store) -> dict[str, bytes]:
    root = DatasetLayout(NAME).root
    return {file: store.read(f"{root}/{file}") for file in store.list(root)}


def test_all_of_it_arrives(manifest: Manifest, bucket: Bucket, here: Store, there: Store) -> None:
    answer = receive(bucket, manifest.token, invocation(there))
    assert answer == {"blocks": BLOCKS, "bytes": manifest.bytes, "complete": True}
    assert content_of(there) == content_of(here)
    assert len(list(verify(there, read_manifest(there, NAME)))) == BLOCKS


def test_a_leg_without_time_copies_one_block_and_the_next_goes_on(
    manifest: Manifest, bucket: Bucket, here: Store, there: Store
) -> None:
    for leg in range(1, BLOCKS):
        answer = receive(bucket, manifest.token, invocation(there, remaining_s=0.0))
        assert (answer["blocks"], answer["complete"]) == (leg, False)
        assert names(there) == []
    assert receive(bucket, manifest.token, invocation(there, remaining_s=0.0))["complete"]
    assert content_of(there) == content_of(here)


def test_repeating_a_leg_changes_nothing(manifest: Manifest, bucket: Bucket, there: Store) -> None:
    receive(bucket, manifest.token, invocation(there))
    before = content_of(there)
    assert receive(bucket, manifest.token, invocation(there))["complete"]
    assert content_of(there) == before


class Kept(Bucket):
    """A bucket that is asked once for each object."""

    def __init__(self, bucket: Bucket) -> None:
        super().__init__(bucket.name, bucket._client)
        self._kept: dict[str, bytes] = {}

    def read(self, key: str) -> bytes:
        if key not in self._kept:
            self._kept[key] = super().read(key)
        return self._kept[key]


def test_a_leg_that_dies_at_any_call_is_repeated(
    manifest: Manifest, bucket: Bucket, here: Store, tmp_path: Path
) -> None:
    expected, kept = content_of(here), Kept(bucket)
    deaths = 0
    while True:
        (tmp_path / str(deaths)).mkdir()
        files = Mortal()
        there = Store(tmp_path / str(deaths), files)
        files.start(deaths + 1)
        try:
            receive(kept, manifest.token, invocation(there))
            break
        except Killed:
            deaths += 1
        files.start(None)
        shown = content_of(there)
        assert {file: expected[file] for file in shown} == shown, "half of a file shows"
        assert (NAME in names(there)) == (len(shown) == BLOCKS + 1)
        assert receive(kept, manifest.token, invocation(there))["complete"]
        assert content_of(there) == expected
    assert deaths > 3 * BLOCKS


@pytest.mark.parametrize("damage", ["a bit", "cut short", "another block"])
def test_damaged_block_is_refused(damage: str, manifest: Manifest, bucket: Bucket, here: Store, there: Store) -> None:
    layout = DatasetLayout(NAME)
    content = here.read(layout.block(manifest.attempt, 4))
    wrong = {
        "a bit": content[:-1] + bytes([content[-1] ^ 1]),
        "cut short": content[:-8],
        "another block": here.read(layout.block(manifest.attempt, 5)),
    }[damage]
    bucket.upload(upload_of(manifest.token) + layout.block(manifest.attempt, 4).rpartition("/")[2], wrong)
    with pytest.raises(Corrupt, match="Block 4 of data set 'numbers'"):
        receive(bucket, manifest.token, invocation(there))
    assert names(there) == []
    assert layout.block(manifest.attempt, 4).rpartition("/")[2] not in there.list(layout.root)


def test_a_manifest_that_is_none(bucket: Bucket, there: Store) -> None:
    bucket.upload(upload_of("t") + MANIFEST, b"{}")
    with pytest.raises(Corrupt, match="cannot be read"):
        receive(bucket, "t", invocation(there))
    with pytest.raises(UsageError, match="There is no uploads/none/"):
        receive(bucket, "none", invocation(there))


@pytest.mark.parametrize("changes", [{"name": "../runs"}, {"attempt": "../../runs/r"}, {"attempt": "x"}])
def test_a_manifest_that_leads_out_of_its_folder(
    changes: dict[str, str], manifest: Manifest, bucket: Bucket, there: Store, tmp_path: Path
) -> None:
    wrong = manifest.model_copy(update=changes)
    bucket.upload(upload_of("w") + MANIFEST, wrong.to_json())
    with pytest.raises((Corrupt, UsageError)):
        receive(bucket, "w", invocation(there))
    assert list((tmp_path / "there").rglob("*")) == []


def test_a_name_is_given_once(manifest: Manifest, bucket: Bucket, there: Store) -> None:
    other = imported(there, NAME)
    before = content_of(there)
    with pytest.raises(UsageError, match="another data set named 'numbers'") as caught:
        receive(bucket, manifest.token, invocation(there))
    assert "estafeta data rm numbers --on aws" in caught.value.hint
    assert content_of(there) == before
    assert read_manifest(there, NAME).token == other.token
