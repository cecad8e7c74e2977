"""A data set from the store of this machine to that of a stack: its files go up to S3, and `control` brings them in.

    files that are not in the bucket yet → bucket, the manifest last → leg after leg of `control` → out of the bucket

Whatever is interrupted is repeated by sending again: what has arrived in the bucket or in the store is not sent twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from estafeta.aws.bucket import Bucket
from estafeta.client.backend import Backend
from estafeta.data.catalog import names, read_manifest
from estafeta.data.manifest import Manifest
from estafeta.errors import Corrupt, UsageError
from estafeta.functions.verbs.receive import upload_of
from estafeta.job.dataset_name import BUNDLED
from estafeta.job.job import Job
from estafeta.protocol.layout import MANIFEST, DatasetLayout
from estafeta.store.store import Store

Show = Callable[[str, int, int], None]
"""Told what is going on, and how many bytes of how many that is."""


def in_silence(_what: str, _done: int, _total: int) -> None:
    """`Show` for those who do not want to know."""


def send_missing(job: Job, backend: Backend, store: Store, show: Show) -> None:
    """Send the data sets that a job names, and that are not where it is to run; raises as `send` does."""
    wanted = [name for name in (job.dataset, job.valid_dataset) if isinstance(name, str) and name not in BUNDLED]
    if backend.bucket is None or not wanted:  # without a bucket, the functions read the store of this machine
        return
    here, there = names(store), datasets(backend)
    for name in dict.fromkeys(wanted):
        if name in here:
            send(name, backend, store, show)
        elif name not in there:
            raise UsageError(
                f"there is no data set named {name!r}, neither on this machine nor on AWS",
                hint=f"import it: estafeta data import {name} SOURCE",
            )


def datasets(backend: Backend) -> dict[str, dict[str, Any]]:
    """The data sets of a place by name: `token`, `rows`, `bytes`, `blocks`, `created_at`."""
    return {found["name"]: found for found in backend.call({"verb": "datasets"})["datasets"]}


def send(name: str, backend: Backend, store: Store, show: Show) -> None:
    """Send a data set; nothing happens if it is there.

    Raises:
        UsageError: There is another of its name, or this one cannot be read.
        EnvironmentProblem: The bucket or the functions cannot be reached.
        Corrupt: A file is damaged here, or was on its way.
    """
    bucket, manifest = backend.bucket, read_manifest(store, name)
    there = datasets(backend).get(name)
    if bucket is None or (there and there["token"] == manifest.token):
        return
    if there:
        raise UsageError(
            f"the data set {name!r} of this machine is not the one that AWS has by this name",
            hint=f"remove one of them: estafeta data rm {name} --on local, or: estafeta data rm {name} --on aws",
        )
    _upload(manifest, bucket, store, show)
    try:
        _bring_in(manifest, bucket, backend, show)
    except (Corrupt, UsageError):  # what was sent is of no use
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
        answer = backend.call({"verb": "receive", "bucket": bucket.name, "token": manifest.token})
        show(f"copying {manifest.name} to the file system", answer["bytes"], manifest.bytes)
        complete = answer["complete"]
