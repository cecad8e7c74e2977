"""What lies on the file system for a run, as EFS meters it: by names where files are small, by their lengths elsewhere.

Records, claims and marks have less than the 4 KiB that EFS meters at least, and there may be thousands; so they are
counted, and not opened. Files that have no name yet, or none any more, are left out.
"""

from contextlib import suppress

from estafeta.aws.bucket import PART_BYTES
from estafeta.cost.cost import Kept
from estafeta.cost.meter import kept_bytes
from estafeta.data.catalog import names, read_manifest
from estafeta.data.manifest import Manifest
from estafeta.errors import Corrupt, Gone, UsageError
from estafeta.protocol.run_folder import RunFolder
from estafeta.protocol.spec import Plan
from estafeta.store.store import Store


def kept(folder: RunFolder, plan: Plan | None) -> Kept:
    """Look at a run's folder, and at the data sets that its plan names; what is removed meanwhile does not count."""
    store, layout, spec = folder.store, folder.layout, folder.spec
    small = (layout.root, layout.legs, layout.epochs)
    large = set(layout.directories(spec.workers if plan and plan.is_resident else 0)) - {*small, layout.code}
    own = sum(len(store.list(place)) for place in small) * kept_bytes(0)
    own += sum(_folder_bytes(store, place) for place in large) + _code_bytes(store, layout.code)
    data = _data_of(plan, store)
    blocks = [extent.bytes for manifest in data for extent in manifest.blocks]
    return Kept(
        run_bytes=own,
        data_bytes=sum(map(kept_bytes, blocks)),
        uploaded_bytes=sum(blocks),
        puts=sum(map(_puts, blocks)) + len(data),
        gets=len(blocks) + len(data),
    )


def _data_of(plan: Plan | None, store: Store) -> list[Manifest]:
    """The manifests of a run's data sets, among all that there are; whose cannot be read is not what a bill is for."""
    found = []
    for name in names(store) if plan and plan.data else ():
        with suppress(UsageError, Corrupt):
            found.append(read_manifest(store, name))
    return [manifest for manifest in found if plan and manifest.token in plan.data]


def _folder_bytes(store: Store, folder: str) -> int:
    return sum(_file_bytes(store, f"{folder}/{name}") for name in store.list(folder))


def _code_bytes(store: Store, folder: str) -> int:
    """Of the user's modules, in packages that are folders of their own."""
    total = 0
    for name in store.list(folder):
        path = f"{folder}/{name}"
        total += _file_bytes(store, path) if name.endswith(".py") else kept_bytes(0) + _code_bytes(store, path)
    return total


def _file_bytes(store: Store, path: str) -> int:
    try:
        return store.reading(path, lambda reader: kept_bytes(reader.size))
    except Gone:
        return 0


def _puts(size: int) -> int:
    """Requests of an upload: one, or a first, a last, and one for each part (S3 User Guide, "Multipart upload")."""
    return 1 if size < PART_BYTES else 2 + -(-size // PART_BYTES)
