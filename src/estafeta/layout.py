"""Every path of the store, built and read back here and nowhere else.

    runs/<run>/run.json                                 the validated spec
               plan.json                                what preparing found: rows, rounds, parameter layout
               code/<module>.py …                       the user's modules
               weights/00000012.safetensors             parameters and buffers after 12 steps
                       00000012.optimizer.safetensors   the optimiser's state after 12 steps
                       00000012-0003.safetensors        slice of both that rank 3 keeps, instead of these two
                       frozen.safetensors               parameters that are not trained
               contributions/train-00000012-0003.safetensors   what rank 3 found for step 12
                             valid-00000012-0003.safetensors   its part of the validation of version 12
               partial/train-00000012-0003-01.safetensors      the same, unfinished: where leg 1 goes on
               legs/merge-train-00000012.g00            who merges step 12 (generation 0)
                    close-train-00000012.g00            who waits for its late ranks
                    rank-0003-02.g00                    who is leg 2 of resident rank 3 (generation 0)
                    ready-0003-02                       that leg is ready to take over
                    left-0003-01                        leg 1 has left, and where
                    fell-0003-02.g00                    leg 2 of generation 0 has ended with an error
                    call-0003-00000012.g00              who sends for rank 3, missing at version 12, the first time
               exchange/0003/gradient-00000012          what resident rank 3 found for step 12
                             scores-00000012            its part of the validation of version 12
                             slice-00000013             its slice of version 13
                             norms-00000012             sums of squares of its slice of the gradient
               epochs/0003.json                         metrics after 3 epochs, best so far, verdict
               best/ final/                             model.safetensors, optimizer.safetensors, state.json
               ending.json                              the version that it ends with
               STOP, done.json | stopped.json | failed.json     how it ended
               watch.json                               what the watchdog remembers
               reserve                                  room for the last words of a run that fills the disk
    datasets/<name>/manifest.json                       what is in the data set; where it is, the data set is
                    0123456789abcdef-000012.safetensors block 12, as this attempt at importing has written it

Paths are strings relative to the root of the store. Nothing here touches a disk. The inverse of every name that a
listing can show is here too, so that what a run has to do next can be computed from listings alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Phase = Literal["train", "valid"]
"""A train round makes the next weights version; a valid round scores a version on the validation split."""

RUNS = "runs"
RUN_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

DATASETS = "datasets"
DATASET_NAME = RUN_NAME
MANIFEST = "manifest.json"

OPTIMIZER_SUFFIX = ".optimizer.safetensors"
FROZEN = "frozen.safetensors"

_WEIGHTS = re.compile(r"(\d{8})\.safetensors")
_PIECE = re.compile(r"(\d{8})-(\d{4})\.safetensors")
_MESSAGE = re.compile(r"(gradient|scores|slice|norms)-(\d{8})")
_MARK = re.compile(r"(?:rank|ready|left|fell)-(\d{4})-(\d{2,})")
_RESIDENT = re.compile(r"rank-(\d{4})-(\d{2,})\.g(\d{2,})")
_CONTRIBUTION = re.compile(r"(train|valid)-(\d{8})-(\d{4})\.safetensors")
_PARTIAL = re.compile(r"(train|valid)-(\d{8})-(\d{4})-(\d{2,})\.safetensors")
_CLAIM = re.compile(r"merge-(train|valid)-(\d{8})\.g(\d{2,})")
_CALL = re.compile(r"call-(\d{4})-(\d{8})\.g(\d{2,})")
_EPOCH = re.compile(r"(\d{4,})\.json")
_BLOCK = re.compile(r"([0-9a-f]{16})-(\d{6,})\.safetensors")


@dataclass(frozen=True, order=True)
class Round:
    """One exchange between the workers: the phase, and the weights version that it starts from."""

    version: int
    phase: Phase

    @property
    def name(self) -> str:
        """As it stands in file names."""
        return f"{self.phase}-{self.version:08d}"


@dataclass(frozen=True)
class RunLayout:
    """The paths of one run."""

    run: str

    @property
    def root(self) -> str:
        """The run's folder."""
        return f"{RUNS}/{self.run}"

    @property
    def spec(self) -> str:
        """`run.json`."""
        return f"{self.root}/run.json"

    @property
    def plan(self) -> str:
        """`plan.json`."""
        return f"{self.root}/plan.json"

    @property
    def code(self) -> str:
        """Folder of the user's modules."""
        return f"{self.root}/code"

    @property
    def weights(self) -> str:
        """Folder of the weights versions."""
        return f"{self.root}/weights"

    @property
    def contributions(self) -> str:
        """Folder of what the ranks publish for each round."""
        return f"{self.root}/contributions"

    @property
    def partial(self) -> str:
        """Folder of shares that did not fit one invocation."""
        return f"{self.root}/partial"

    @property
    def legs(self) -> str:
        """Folder of claims."""
        return f"{self.root}/legs"

    @property
    def epochs(self) -> str:
        """Folder of the epochs' records."""
        return f"{self.root}/epochs"

    @property
    def exchange(self) -> str:
        """Folder of the outboxes."""
        return f"{self.root}/exchange"

    def outbox(self, rank: int) -> str:
        """Folder of what one resident rank publishes for the others."""
        return f"{self.exchange}/{rank:04d}"

    def directories(self, residents: int = 0) -> tuple[str, ...]:
        """All folders that a run needs from its first moment, with an outbox for each resident rank."""
        return (self.code, self.weights, self.contributions, self.partial, self.legs, self.epochs,
                self.export("best"), self.export("final"), *map(self.outbox, range(residents)))  # fmt: skip

    @property
    def stop(self) -> str:
        """The request to stop."""
        return f"{self.root}/STOP"

    @property
    def ending(self) -> str:
        """The decision with which version the run ends."""
        return f"{self.root}/ending.json"

    @property
    def watch(self) -> str:
        """What the watchdog remembers."""
        return f"{self.root}/watch.json"

    @property
    def reserve(self) -> str:
        """Room for the last words of a run that fills the disk."""
        return f"{self.root}/reserve"

    @property
    def frozen(self) -> str:
        """Parameters that are not trained."""
        return f"{self.weights}/{FROZEN}"

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

    def fell(self, rank: int, leg: int, generation: int) -> str:
        """The word that a leg has ended with an error, which Lambda will try again."""
        return f"{self.legs}/fell-{rank:04d}-{leg:02d}.g{generation:02d}"

    def contribution(self, round_: Round, rank: int) -> str:
        """What one rank publishes for one round."""
        return f"{self.contributions}/{contribution_name(round_, rank)}"

    def partial_of(self, round_: Round, rank: int, leg: int) -> str:
        """Where leg `leg` of a rank goes on in a round."""
        return f"{self.partial}/{round_.name}-{rank:04d}-{leg:02d}.safetensors"

    def epoch(self, epoch: int) -> str:
        """Record of one epoch; the first is 1."""
        return f"{self.epochs}/{epoch:04d}.json"

    def export(self, which: str) -> str:
        """Folder of an exported version: `best` or `final`."""
        return f"{self.root}/{which}"

    def outcome(self, state: str) -> str:
        """The marker that ends a run: `done`, `stopped` or `failed`."""
        return f"{self.root}/{state}.json"


@dataclass(frozen=True)
class DatasetLayout:
    """The paths of one data set."""

    name: str

    @property
    def root(self) -> str:
        """The data set's folder."""
        return f"{DATASETS}/{self.name}"

    @property
    def manifest(self) -> str:
        """`manifest.json`."""
        return f"{self.root}/{MANIFEST}"

    def block(self, attempt: str, number: int) -> str:
        """One block. Its name is that of one attempt, so that a repeated import meets no name of an earlier one."""
        return f"{self.root}/{attempt}-{number:06d}.safetensors"


def contribution_name(round_: Round, rank: int) -> str:
    """File name of a contribution."""
    return f"{round_.name}-{rank:04d}.safetensors"


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


def versions_in(names: Iterable[str], pieces: int = 0) -> frozenset[int]:
    """Complete weights versions in a listing of `weights/`: whole ones, and those of which so many pieces are there."""
    names = list(names)
    found = Counter(int(match[1]) for name in names if (match := _PIECE.fullmatch(name)))
    whole = (int(match[1]) for name in names if (match := _WEIGHTS.fullmatch(name)))
    return frozenset((*whole, *(version for version, count in found.items() if count == pieces)))


def pieces_in(names: Iterable[str], version: int) -> frozenset[int]:
    """Ranks whose piece of a version is in a listing of `weights/`."""
    matches = (_PIECE.fullmatch(name) for name in names)
    return frozenset(int(match[2]) for match in matches if match and int(match[1]) == version)


def version_of(name: str) -> int | None:
    """The weights version that a file of `weights/` belongs to, or None if it belongs to none."""
    match = re.match(r"(\d{8})[.-]", name)
    return int(match[1]) if match else None


def messages_in(names: Iterable[str], kind: str) -> frozenset[int]:
    """Versions of which a listing of a rank's outbox has a message of one kind."""
    matches = (_MESSAGE.fullmatch(name) for name in names)
    return frozenset(int(match[2]) for match in matches if match and match[1] == kind)


def contributions_in(names: Iterable[str]) -> frozenset[str]:
    """Names of a resident rank's contributions, in a listing of its outbox."""
    matches = (_MESSAGE.fullmatch(name) for name in names)
    return frozenset(match[0] for match in matches if match and match[1] in ("gradient", "scores"))


def rank_of_outbox(path: str) -> int:
    """The resident rank whose message a path is of."""
    return int(path.split("/")[-2])


def leg_of(name: str) -> tuple[int, int] | None:
    """The resident rank and leg that a file of `legs/` belongs to, or None."""
    match = _MARK.match(name)
    return (int(match[1]), int(match[2])) if match else None


def generation_in(names: Iterable[str], rank: int, leg: int) -> int:
    """The newest generation in which a leg has been claimed, from a listing of `legs/`; -1 if it has not been."""
    matches = (_RESIDENT.fullmatch(name) for name in names)
    return max((int(m[3]) for m in matches if m and (int(m[1]), int(m[2])) == (rank, leg)), default=-1)


def leg_claimed_in(name: str) -> tuple[int, int, int] | None:
    """Rank, leg and generation that a claim in `legs/` is of, or None if it is no claim to be a leg."""
    match = _RESIDENT.fullmatch(name)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def left_in(names: Iterable[str]) -> frozenset[tuple[int, int]]:
    """Ranks and legs of which it is said that they have left, in a listing of `legs/`."""
    return frozenset(mark for name in names if name.startswith("left-") and (mark := leg_of(name)))


def residents_in(names: Iterable[str]) -> dict[int, tuple[int, int]]:
    """By rank, the newest leg and its newest generation that have been claimed, from a listing of `legs/`."""
    newest: dict[int, tuple[int, int]] = {}
    for match in (_RESIDENT.fullmatch(name) for name in names):
        if match:
            rank, leg, generation = (int(text) for text in match.groups())
            newest[rank] = max((leg, generation), newest.get(rank, (0, 0)))
    return newest


def calls_in(names: Iterable[str], rank: int) -> dict[int, int]:
    """By version, how often a resident rank has been sent for because it was missing, from a listing of `legs/`."""
    calls: dict[int, int] = {}
    for match in (_CALL.fullmatch(name) for name in names):
        if match and int(match[1]) == rank:
            calls[int(match[2])] = max(calls.get(int(match[2]), 0), int(match[3]) + 1)
    return calls


def all_calls_in(names: Iterable[str]) -> list[str]:
    """File names of all calls, in a listing of `legs/`."""
    return [name for name in names if _CALL.fullmatch(name)]


def ranks_in(names: Iterable[str], round_: Round) -> frozenset[int]:
    """Ranks whose contribution to a round is in a listing of `contributions/`."""
    matches = (_CONTRIBUTION.fullmatch(name) for name in names)
    return frozenset(int(match[3]) for match in matches if match and _round(match) == round_)


def legs_in(names: Iterable[str], round_: Round) -> dict[int, int]:
    """By rank, the highest leg that a listing of `partial/` allows to go on in a round."""
    legs: dict[int, int] = {}
    for match in (_PARTIAL.fullmatch(name) for name in names):
        if match and _round(match) == round_:
            rank, leg = int(match[3]), int(match[4])
            legs[rank] = max(leg, legs.get(rank, 0))
    return legs


def partial_rank(name: str) -> int | None:
    """The rank that a file of `partial/` belongs to, or None if it is no such file."""
    match = _PARTIAL.fullmatch(name)
    return int(match[3]) if match else None


def generations_in(names: Iterable[str], round_: Round) -> frozenset[int]:
    """Generations in which the merge of a round has been claimed, from a listing of `legs/`."""
    matches = (_CLAIM.fullmatch(name) for name in names)
    return frozenset(int(match[3]) for match in matches if match and _round(match) == round_)


def epochs_in(names: Iterable[str]) -> frozenset[int]:
    """Epochs that have a record, from a listing of `epochs/`."""
    return frozenset(int(match[1]) for name in names if (match := _EPOCH.fullmatch(name)))


def attempt_of(name: str) -> str | None:
    """The attempt at importing that a file of a data set's folder belongs to, or None if it is no block."""
    match = _BLOCK.fullmatch(name)
    return match[1] if match else None


def round_of(name: str) -> Round | None:
    """The round that a file of `contributions/`, `partial/` or `legs/` belongs to, or None."""
    match = re.match(r"(?:merge-|close-)?(train|valid)-(\d{8})", name)
    return _round(match) if match else None


def _round(match: re.Match[str]) -> Round:
    phase: Phase = "train" if match[1] == "train" else "valid"
    return Round(int(match[2]), phase)
