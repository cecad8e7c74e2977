"""What lies on the file system for a run: its folder, and the data sets that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.driver import Relay
from core.specs import spec_of
from core.stage import Stage
from estafeta.cost.cost import Kept
from estafeta.cost.meter import kept_bytes
from estafeta.data.catalog import read_manifest
from estafeta.data.importing.importer import import_dataset
from estafeta.functions.verbs import kept as module
from estafeta.functions.verbs.kept import kept
from estafeta.protocol.snapshot import take_snapshot
from estafeta.protocol.spec import Plan

from ..data.test_catalog import WISHES, Numbers


def metered(folder: Path) -> int:
    """Of all that lies in a folder, as EFS meters it; taken from the disk."""
    return sum(kept_bytes(path.stat().st_size if path.is_file() else 0) for path in folder.rglob("*"))


@pytest.mark.parametrize("topology", ["merge", "sharded"])
def test_a_run_is_metered_as_its_folder_is(topology: str, tmp_path: Path) -> None:
    """But for documents of more than 4 KiB, which are counted as if they were shorter, and files without a name."""
    stage = Stage(tmp_path, spec_of("adamw", topology=topology, workers=2), seed=1)
    stage.run()
    folder = tmp_path / stage.layout.root
    longer = sum(kept_bytes(path.stat().st_size) - kept_bytes(0) for path in folder.glob("*") if path.is_file())
    inside = sum(kept_bytes(0) for path in folder.rglob("*") if path.is_dir() and path.parent.name == "exchange")
    hidden = sum(kept_bytes(path.stat().st_size) for path in folder.rglob(".*"))
    answer = Kept(**stage.control("status", with_kept=True)["kept"])
    assert answer.run_bytes == metered(folder) - longer - inside - hidden
    assert answer.data_bytes == answer.puts == answer.gets == 0


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    relay = Relay(tmp_path, spec_of("plain"), {"job.py": "x = 1\n", "package/__init__.py": "", "package/a.py": "y = 1"})
    relay.start()
    files = [path for path in (tmp_path / relay.layout.root / "code").rglob("*") if path.is_file()]
    assert len(files) == 3
    entries = len(list((tmp_path / relay.layout.root).iterdir()))
    assert kept(relay.folder, None).run_bytes == (entries + len(files) + 1) * kept_bytes(0)


def test_the_data_sets_of_the_plan_are_counted_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    relay = Relay(tmp_path, spec_of("plain"))
    relay.run()
    plan = take_snapshot(relay.folder).plan
    assert isinstance(plan, Plan)
    for name in ("mine", "other"):
        import_dataset(relay.store, name, Numbers(), (name,), WISHES)
    mine = read_manifest(relay.store, "mine")
    blocks = [extent.bytes for extent in mine.blocks]
    found = kept(relay.folder, plan.model_copy(update={"data": (mine.token, "removed")}))
    assert found.data_bytes == sum(map(kept_bytes, blocks))
    assert (found.uploaded_bytes, found.puts, found.gets) == (sum(blocks), len(blocks) + 1, len(blocks) + 1)
    relay.store.replace("datasets/other/manifest.json", [b"damaged"])
    assert kept(relay.folder, plan.model_copy(update={"data": (mine.token,)})) == found
    monkeypatch.setattr(module, "PART_BYTES", max(blocks) // 3)
    more = kept(relay.folder, plan.model_copy(update={"data": (mine.token,)}))
    assert more.puts == 1 + sum(2 + -(-size // (max(blocks) // 3)) for size in blocks)
