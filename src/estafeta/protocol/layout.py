"""Every path of the store, built here and nowhere else.

    runs/<run>/run.json                                 the validated spec
               plan.json                                what preparing found: rows, rounds, parameter layout
               code/<module>.py …                       the user's modules
               weights/00000012.safetensors             parameters and buffers after 12 steps
                       00000012.optimizer.safetensors   the optimiser's state after 12 steps
                       00000012-0003.safetensors        slice of both that rank 3 keeps, instead of these two
                       frozen.safetensors               parameters that are not trained
               contributions/train-00000012-0003         what rank 3 found for step 12
                             valid-00000012-0003         its part of the validation of version 12
               partial/train-00000012-0003-01            the same, unfinished: where leg 1 goes on
               legs/merge-train-00000012.g00            who merges step 12 (generation 0)
                    close-train-00000012.g00            who waits for its late ranks
                    rank-0003-02.g00                    who is leg 2 of resident rank 3 (generation 0)
                    ready-0003-02                       that leg is ready to take over
                    left-0003-01                        leg 1 has left, and where
                    crashed-0003-02.g00                 leg 2 of generation 0 has ended with an error
                    call-0003-00000012.g00              who sends for rank 3, missing at version 12, the first time
               exchange/0003/gradient-00000012          what resident rank 3 found for step 12
                             scores-00000012            its part of the validation of version 12
                             slice-00000013             its slice of version 13
                             norms-00000012             sums of squares of its slice of the gradient
               epochs/0003.json                         metrics after 3 epochs, best so far, verdict
               best/ final/                             model.safetensors, optimizer.safetensors, state.json
               ending.json                              the version that it ends with
               limits-0001.json                         the limits since it was resumed for the first time
               STOP, done.json | stopped.json | failed.json     how it ended
               watch.json                               what the watchdog remembers
               reserve                                  room for the last words of a run that fills the disk
    datasets/<name>/manifest.json                       what is in the data set; where it is, the data set is
                    0123456789abcdef-000012.safetensors block 12, as this attempt at importing has written it
    probes/<token>/                                     where two functions meet that try the file system out
    libraries/<digest>/files/…                          PyTorch and what else jobs need: goes on the worker's sys.path
                       parts/0012                       part 12 is unpacked
                       ready                            all of it is

Paths are strings relative to the root of the store. Nothing here touches a disk. What the names in a listing say, their
inverse, is in `listing.py`.
"""

import re
from dataclasses import dataclass
from typing import Literal

Phase = Literal["train", "valid"]
"""A train round makes the next weights version; a valid round scores a version on the validation split."""
RUNS = "runs"
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
DATASETS = "datasets"
MANIFEST = "manifest.json"
LIBRARIES = "libraries"
OPTIMIZER_SUFFIX = ".optimizer.safetensors"
FROZEN = "frozen.safetensors"


@dataclass(frozen=True, order=True)
class Round:
    """One exchange between the workers: the phase, and the weights version that it starts from."""

    version: int
    phase: Phase

    @property
    def name(self) -> str:
        """As it stands in file names."""
        return f"{self.phase}-{self.version:08d}"


class RunLayout:
    """The paths of one run; the drawing above says what lies there."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.root = root = f"{RUNS}/{run}"
        self.code, self.weights, self.contributions = f"{root}/code", f"{root}/weights", f"{root}/contributions"
        self.partial, self.legs, self.epochs = f"{root}/partial", f"{root}/legs", f"{root}/epochs"
        self.exchange = f"{root}/exchange"
        self.spec, self.plan, self.ending = f"{root}/run.json", f"{root}/plan.json", f"{root}/ending.json"
        self.stop, self.watch, self.reserve = f"{root}/STOP", f"{root}/watch.json", f"{root}/reserve"
        self.frozen = f"{self.weights}/{FROZEN}"

    def limits(self, number: int) -> str:
        """The limits since a resumption, counted from 1."""
        return f"{self.root}/limits-{number:04d}.json"

    def outbox(self, rank: int) -> str:
        """Folder of what one resident rank publishes for the others."""
        return f"{self.exchange}/{rank:04d}"

    def directories(self, residents: int = 0) -> tuple[str, ...]:
        """All folders that a run needs from its first moment, with an outbox for each resident rank."""
        return (
            self.code,
            self.weights,
            self.contributions,
            self.partial,
            self.legs,
            self.epochs,
            self.export("best"),
            self.export("final"),
            *map(self.outbox, range(residents)),
        )

    def version(self, version: int) -> str:
        """Parameters and buffers of one version."""
        return f"{self.weights}/{version:08d}.safetensors"

    def optimizer(self, version: int) -> str:
        """Optimiser state of one version."""
        return f"{self.weights}/{version:08d}{OPTIMIZER_SUFFIX}"

    def piece(self, version: int, rank: int) -> str:
        """One rank's slice of a version, parameters and optimiser state."""
        return f"{self.weights}/{version:08d}-{rank:04d}.safetensors"

    def message(self, rank: int, kind: str, version: int) -> str:
        """What a resident rank publishes: `gradient`, `scores`, `slice` or `norms`."""
        return f"{self.outbox(rank)}/{message_name(kind, version)}"

    def ready(self, rank: int, leg: int) -> str:
        """The word that a leg is ready to take over."""
        return f"{self.legs}/ready-{rank:04d}-{leg:02d}"

    def left(self, rank: int, leg: int) -> str:
        """The word that a leg has left."""
        return f"{self.legs}/left-{rank:04d}-{leg:02d}"

    def crashed(self, rank: int, leg: int, generation: int) -> str:
        """The word that a leg has ended with an error, which Lambda will try again."""
        return f"{self.legs}/crashed-{rank:04d}-{leg:02d}.g{generation:02d}"

    def contribution(self, round_: Round, rank: int) -> str:
        """What one rank publishes for one round."""
        return f"{self.contributions}/{contribution_name(round_, rank)}"

    def partial_of(self, round_: Round, rank: int, leg: int) -> str:
        """Where leg `leg` of a rank goes on in a round."""
        return f"{self.partial}/{round_.name}-{rank:04d}-{leg:02d}"

    def epoch(self, epoch: int) -> str:
        """Record of one epoch; the first is 1."""
        return f"{self.epochs}/{epoch:04d}.json"

    def export(self, which: str) -> str:
        """Folder of an exported version: `best` or `final`."""
        return f"{self.root}/{which}"

    def outcome(self, state: str) -> str:
        """The marker that ends a run: `done`, `stopped` or `failed`."""
        return f"{self.root}/{state}.json"


class DatasetLayout:
    """The paths of one data set."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.root = f"{DATASETS}/{name}"
        self.manifest = f"{self.root}/{MANIFEST}"

    def block(self, attempt: str, number: int) -> str:
        """One block. Its name is that of one attempt, so that a repeated import meets no name of an earlier one."""
        return f"{self.root}/{attempt}-{number:06d}.safetensors"


class LibraryLayout:
    """The paths of one library, named by the digest of what was asked for."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.root = f"{LIBRARIES}/{digest}"
        self.files, self.parts, self.ready = f"{self.root}/files", f"{self.root}/parts", f"{self.root}/ready"

    def part(self, number: int) -> str:
        """The word that a part is unpacked."""
        return f"{self.parts}/{number:04d}"


def name_of(path: str) -> str:
    """Name of a file in its folder, as listings have it."""
    return path.rpartition("/")[2]


def probe_folder(token: str) -> str:
    """Folder where two functions meet that try the file system out."""
    return f"probes/{token}"


def contribution_name(round_: Round, rank: int) -> str:
    """File name of a contribution."""
    return f"{round_.name}-{rank:04d}"


def claim_of(round_: Round) -> str:
    """Name of the claim to merge a round, without the generation."""
    return f"merge-{round_.name}"


def closing_of(round_: Round) -> str:
    """Name of the claim to wait for the late ranks of a round, without the generation."""
    return f"close-{round_.name}"


def claim_of_leg(rank: int, leg: int) -> str:
    """Name of the claim to be a leg of a resident rank, without the generation."""
    return f"rank-{rank:04d}-{leg:02d}"


def claim_of_call(rank: int, version: int) -> str:
    """Name of the claim to send for a resident rank that is missing at a version; each time is a generation."""
    return f"call-{rank:04d}-{version:08d}"


def message_name(kind: str, version: int) -> str:
    """File name of what a resident rank publishes."""
    return f"{kind}-{version:08d}"
