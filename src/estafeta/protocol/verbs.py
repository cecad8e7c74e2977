"""What `control` is asked to do: the documents of its verbs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from estafeta.protocol.spec import Document, FunctionSettings, Role, RunSpec, Which

ExportedFile = Literal["model.safetensors", "optimizer.safetensors", "state.json"]

MOST_ROWS = 10_000
"""Rows of a preview: an answer of `control` may have 6 MB."""


class UploadedSource(Document):
    """Source that lies in a bucket.

    Attributes:
        bucket: Its name.
        files: SHA-256, in hex, by path relative to the code folder (`source.SOURCES`).
    """

    bucket: str
    files: dict[str, str]


class StartVerb(Document):
    """Publish a new run and set it going.

    Attributes:
        code: Source text by path relative to the code folder.
        uploaded: The source instead, where it came through a bucket.
    """

    verb: Literal["start"] = "start"
    spec: RunSpec
    code: dict[str, str] = Field(default_factory=dict)
    uploaded: UploadedSource | None = None


class ForkVerb(Document):
    """Publish a new run that begins with a version of another, and set it going.

    Attributes:
        run: The other.
        version: Steps done, or which of its exported versions.
        spec: Of the new run; `origin` is filled in.
    """

    verb: Literal["fork"] = "fork"
    run: str
    version: Which | int
    spec: RunSpec


class StopVerb(Document):
    """Ask a run to stop; what it has is exported."""

    verb: Literal["stop"] = "stop"
    run: str


class ResumeVerb(Document):
    """Set a run going again.

    Attributes:
        limits: The limits that change, by their names in `Limits`; null lifts one.
    """

    verb: Literal["resume"] = "resume"
    run: str
    limits: dict[str, float | None] = Field(default_factory=dict)


class TendVerb(Document):
    """Set a run going again if it stands still; None: all runs. To be called again and again."""

    verb: Literal["tend"] = "tend"
    run: str | None = None


class CleanVerb(Document):
    """Remove a run that has ended, or all of it but its exports and records."""

    verb: Literal["clean"] = "clean"
    run: str
    keep_final: bool = False


class StatusVerb(Document):
    """Ask for the state of a run.

    Attributes:
        since_epoch: The answer has the records of epochs after this one.
        newest: Most records in the answer, the newest ones; None: no bound.
        with_kept: Whether the answer says how much lies on the file system for the run.
    """

    verb: Literal["status"] = "status"
    run: str
    since_epoch: int = 0
    newest: int | None = Field(default=None, ge=0)
    with_kept: bool = False


class InspectVerb(Document):
    """Ask what lies in a run's folder, with the contributions to its newest `rounds`."""

    verb: Literal["inspect"] = "inspect"
    run: str
    rounds: int = Field(default=4, ge=1)


class SourceVerb(Document):
    """Ask for the source of a run's job, as it was sent along."""

    verb: Literal["source"] = "source"
    run: str


class RunsVerb(Document):
    """Ask which runs there are, in the order of their names, as many as an answer holds.

    Attributes:
        after: Only those whose names come after this one.
    """

    verb: Literal["runs"] = "runs"
    after: str = ""


class FetchVerb(Document):
    """Ask for a part of an exported file.

    Attributes:
        bucket: An S3 bucket through which a part may come that is too large for an answer.
    """

    verb: Literal["fetch"] = "fetch"
    run: str
    which: Which
    file: ExportedFile = "model.safetensors"
    offset: int = Field(default=0, ge=0)
    bucket: str | None = None


class InstallVerb(Document):
    """Unpack a library, or as much of it as the time allows, from S3 on the store.

    Attributes:
        bucket: Where its parts were uploaded.
        library: The digest of what was asked for.
    """

    verb: Literal["install"] = "install"
    bucket: str
    library: str = Field(pattern=r"^[0-9a-f]{16}$")


class DatasetsVerb(Document):
    """Ask which data sets there are, in the order of their names, as many as an answer holds.

    Attributes:
        after: The answer has names that come after this one.
    """

    verb: Literal["datasets"] = "datasets"
    after: str = ""


class DescribeVerb(Document):
    """Ask what a data set holds.

    Attributes:
        rows: Rows of the preview; None: no preview, and no block is read.
    """

    verb: Literal["describe"] = "describe"
    dataset: str
    rows: int | None = Field(default=None, ge=0, le=MOST_ROWS)


class VerifyVerb(Document):
    """Have a data set compared with its digests, or as much of it as the time allows.

    Attributes:
        token: Which data set of the name: the token of its manifest.
        first: The block to begin with.
    """

    verb: Literal["verify"] = "verify"
    dataset: str
    token: str
    first: int = Field(default=0, ge=0)


class ReceiveVerb(Document):
    """Copy a data set, or as much of it as the time allows, from S3 to the store.

    Attributes:
        bucket: Where its files were uploaded, under the keys of `receiving.upload_of`.
        token: Which data set: the token of its manifest.
    """

    verb: Literal["receive"] = "receive"
    bucket: str
    token: str


class RemoveVerb(Document):
    """Remove a data set, or what a broken import of that name has left."""

    verb: Literal["remove"] = "remove"
    dataset: str


class ProbeVerb(Document):
    """Try something out where the functions run, for `estafeta doctor`.

    Attributes:
        what: `mount`: how the store is mounted; `meet`: have a second invocation of `control` started, and exchange
            files with it; `answer`: be that second one; `worker`: call the worker function.
        functions: Whom to invoke.
        token: Names the folder where the two meet.
    """

    verb: Literal["probe"] = "probe"
    what: Literal["mount", "meet", "answer", "worker"]
    functions: dict[Role, FunctionSettings] = Field(default_factory=dict)
    token: str = Field(default="0", pattern=r"^[0-9a-f]+$")


ControlEvent = Annotated[
    StartVerb
    | ForkVerb
    | StopVerb
    | ResumeVerb
    | CleanVerb
    | TendVerb
    | StatusVerb
    | InspectVerb
    | SourceVerb
    | RunsVerb
    | FetchVerb
    | DatasetsVerb
    | DescribeVerb
    | VerifyVerb
    | ReceiveVerb
    | RemoveVerb
    | InstallVerb
    | ProbeVerb,
    Field(discriminator="verb"),
]
