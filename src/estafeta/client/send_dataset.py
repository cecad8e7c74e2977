"""A data set goes from this machine to a stack: its files go up to S3, and `control` copies them to its store.

    files that are not in the bucket yet → bucket, the manifest last → leg after leg of `control` → out of the bucket

If sending is interrupted, the client sends again: files that have arrived in the bucket or in the store are skipped.
"""

from collections.abc import Callable
from pathlib import Path

from estafeta.aws.bucket import Bucket
from estafeta.client.backend import Backend
from estafeta.data.catalog import names, read_manifest
from estafeta.data.manifest import Manifest
from estafeta.errors import Command, Corrupt, UsageError
from estafeta.functions.verbs.datasets import Listing
from estafeta.functions.verbs.receive import upload_of
from estafeta.job.dataset_name import BUNDLED
from estafeta.job.job import Job
from estafeta.protocol.layout import MANIFEST, DatasetLayout
from estafeta.protocol.verbs import DatasetsVerb, ReceiveVerb
from estafeta.store.store import Store

Show = Callable[[str, int, int], object]
"""Function that is told what goes on, and how many bytes of how many are done."""


def in_silence(_what: str, _done: int, _total: int) -> None:
    """`Show` for callers that show nothing."""


def send_missing(job: Job, backend: Backend, store: Store, show: Show) -> None:
    """Send the data sets that a job names and its place does not have; raises as `send` does."""
    wanted = [name for name in (job.dataset, job.valid_dataset) if isinstance(name, str) and name not in BUNDLED]
    if backend.bucket is None or not wanted:  # without a bucket, the functions read the store of this machine
        return
    here, there = names(store), {found.name for found in listing(backend).datasets}
    for name in dict.fromkeys(wanted):
        if name in here:
            send(name, backend, store, show)
        elif name not in there:
            raise UsageError(
                f"There is no data set named {name!r}, neither on this machine nor on AWS",
                hint=f"import it: {Command('estafeta', 'data', 'import', name, 'SOURCE')}",
            )


def listing(backend: Backend) -> Listing:
    """All data sets of a place, however many calls that takes."""
    page = Listing.model_validate(backend.call(DatasetsVerb()))
    found = page.datasets
    while page.more:
        page = Listing.model_validate(backend.call(DatasetsVerb(after=found[-1].name)))
        found += page.datasets
    return Listing(datasets=found, unfinished=page.unfinished)


def send(name: str, backend: Backend, store: Store, show: Show) -> None:
    """Send a data set to a stack; nothing happens if the stack has it.

    Raises:
        UsageError: The stack has another one of that name, or this one cannot be read.
        EnvironmentProblem: The bucket or the functions cannot be reached.
        Corrupt: A file was damaged here, or on its way.
    """
    bucket, manifest = backend.bucket, read_manifest(store, name)
    if bucket is None:
        return
    there = {found.name: found.token for found in listing(backend).datasets}
    if there.get(name) == manifest.token:
        return
    if name in there:
        here, on_aws = (Command("estafeta", "data", "rm", name, "--on", on) for on in ("local", "aws"))
        raise UsageError(
            f"The data set {name!r} of this machine is not the one that AWS has by this name",
            hint=f"remove one of them: {here}, or: {on_aws}",
        )
    _upload(manifest, bucket, store, show)
    try:
        _bring_in(manifest, bucket, backend, show)
    except (Corrupt, UsageError):  # the uploaded files are of no use
        bucket.remove(upload_of(manifest.token))
        raise
    bucket.remove(upload_of(manifest.token))


def _upload(manifest: Manifest, bucket: Bucket, store: Store, show: Show) -> None:
    layout, upload = DatasetLayout(manifest.name), upload_of(manifest.token)
    paths = [Path(store.absolute(layout.block(manifest.attempt, n))) for n in range(len(manifest.blocks))]
    for done in bucket.upload_missing(upload, {path.name: path for path in paths}):
        show(f"sending {manifest.name}", done, manifest.bytes)
    bucket.upload(upload + MANIFEST, manifest.to_json())


def _bring_in(manifest: Manifest, bucket: Bucket, backend: Backend, show: Show) -> None:
    complete = False
    while not complete:
        answer = backend.call(ReceiveVerb(bucket=bucket.name, token=manifest.token))
        show(f"copying {manifest.name} to the file system", answer["bytes"], manifest.bytes)
        complete = answer["complete"]
