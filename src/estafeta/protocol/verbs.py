"""What `control` is asked to do: the documents of its verbs."""

from typing import Annotated, Literal

from pydantic import Field

from estafeta.protocol.spec import Document, FunctionSettings, Role, RunSpec, Which

ExportedFile = Literal["model.safetensors", "optimizer.safetensors", "state.json"]
MOST_ROWS = 10_000
"""Rows of a preview: an answer of `control` may have 6 MB."""


class UploadedSource(Document):
    """Source in a bucket: SHA-256 of the files, in hex, by path relative to the code folder (`take_source.SOURCES`)."""

    bucket: str
    files: dict[str, str]


class RunVerb(Document):
    """Verb about the run of that name."""

    run: str


class DatasetVerb(Document):
    """Verb about the data set of that name."""

    dataset: str


class StartVerb(Document):
    """Publish a new run and set it going; `code` is text by path in the code folder, unless it was uploaded."""

    verb: Literal["start"] = "start"
    spec: RunSpec
    code: dict[str, str] = Field(default_factory=dict)
    uploaded: UploadedSource | None = None


class ForkVerb(RunVerb):
    """Publish a new run of `spec`, whose `origin` is filled in, and set it going.

    It begins with a version of `run`: steps done, or which of its exported versions.
    """

    verb: Literal["fork"] = "fork"
    version: Which | int
    spec: RunSpec


class StopVerb(RunVerb):
    """Ask a run to stop; what it has is exported."""

    verb: Literal["stop"] = "stop"


class ResumeVerb(RunVerb):
    """Set a run going again; limits change by their names in `Limits`, and null lifts one."""

    verb: Literal["resume"] = "resume"
    limits: dict[str, float | None] = Field(default_factory=dict)


class TendVerb(Document):
    """Set a run going again if it stands still; None: all runs. To be called again and again."""

    verb: Literal["tend"] = "tend"
    run: str | None = None


class CleanVerb(RunVerb):
    """Remove a run that has ended, or all of it but its exports and records."""

    verb: Literal["clean"] = "clean"
    keep_final: bool = False


class StatusVerb(RunVerb):
    """Ask for the state of a run, and the records of the epochs after one, the `newest` ones; None: all of them.

    With `with_kept` the answer says how much lies on the file system for the run.
    """

    verb: Literal["status"] = "status"
    since_epoch: int = 0
    newest: int | None = Field(default=None, ge=0)
    with_kept: bool = False


class InspectVerb(RunVerb):
    """Ask what lies in a run's folder, with the contributions to its newest `rounds`."""

    verb: Literal["inspect"] = "inspect"
    rounds: int = Field(default=4, ge=1)


class SourceVerb(RunVerb):
    """Ask for the source of a run's job, as it was sent along."""

    verb: Literal["source"] = "source"


class RunsVerb(Document):
    """Ask which runs have names that come after `after`, in the order of their names, as many as an answer holds."""

    verb: Literal["runs"] = "runs"
    after: str = ""


class FetchVerb(RunVerb):
    """Ask for a part of an exported file; it may come through an S3 bucket if it is too large for an answer."""

    verb: Literal["fetch"] = "fetch"
    which: Which
    file: ExportedFile = "model.safetensors"
    offset: int = Field(default=0, ge=0)
    bucket: str | None = None


class InstallVerb(Document):
    """Unpack a library, or as much of it as the time allows, from a bucket on the store.

    `library` is the digest of what was asked for.
    """

    verb: Literal["install"] = "install"
    bucket: str
    library: str = Field(pattern=r"^[0-9a-f]{16}$")


class DatasetsVerb(Document):
    """Ask which data sets have names that come after `after`, in their order, as many as an answer holds."""

    verb: Literal["datasets"] = "datasets"
    after: str = ""


class DescribeVerb(DatasetVerb):
    """Ask what a data set holds, with a preview of some rows; None: no preview, and no block is read."""

    verb: Literal["describe"] = "describe"
    rows: int | None = Field(default=None, ge=0, le=MOST_ROWS)


class VerifyVerb(DatasetVerb):
    """Have a data set, which the token of its manifest tells, compared with its digests from the block `first` on.

    The answer says how far that has come in the time.
    """

    verb: Literal["verify"] = "verify"
    token: str
    first: int = Field(default=0, ge=0)


class ReceiveVerb(Document):
    """Copy a data set, or as much of it as the time allows, from a bucket to the store.

    The token of its manifest tells which one, and so its keys (`receive.upload_of`).
    """

    verb: Literal["receive"] = "receive"
    bucket: str
    token: str


class RemoveVerb(DatasetVerb):
    """Remove a data set, or what a broken import of that name has left."""

    verb: Literal["remove"] = "remove"


class ProbeVerb(Document):
    """Try something out where the functions run, for `estafeta doctor`.

    Attributes:
        what: `mount`: how the store is mounted; `meet`: have a second invocation of `control` started, and exchange
            files with it; `answer`: be that second one; `worker`: call the worker function.
        token: Name of the folder where the two meet.
    """

    verb: Literal["probe"] = "probe"
    what: Literal["mount", "meet", "answer", "worker"]
    functions: dict[Role, FunctionSettings] = Field(default_factory=dict)
    token: str = Field(default="0", pattern=r"^[0-9a-f]+$")


_OfRuns = StartVerb | ForkVerb | StopVerb | ResumeVerb | CleanVerb | TendVerb | StatusVerb | InspectVerb
_OfFiles = SourceVerb | RunsVerb | FetchVerb | InstallVerb | ProbeVerb
_OfDatasets = DatasetsVerb | DescribeVerb | VerifyVerb | ReceiveVerb | RemoveVerb
ControlEvent = Annotated[_OfRuns | _OfFiles | _OfDatasets, Field(discriminator="verb")]
