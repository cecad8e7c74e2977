"""The numbers of a training: what a job says, `-o` changes, and the run's spec keeps.

A further number is one line here and one in docs/protocol.md. `Job` and `protocol.spec.RunSpec` have its fields.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any

from annotated_types import Ge, Lt
from pydantic import Field

from estafeta.job.checks import Count, Fraction, Whole

SEEDS = 1 << 63
"""Number of seeds: PyTorch's generators take no larger one."""
Seed = Annotated[Whole, Ge(0), Lt(SEEDS), Field(description="a whole number in [0, 2**63)")]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers that a run's bits are a function of.

    Attributes:
        epochs: Most passes over the training rows.
        batch_size: Rows in a global batch; each worker takes its part.
        micro_batch_size: Most rows in one forward and backward pass. A worker hands over between two of these passes,
            and contributes the sum over them. So this number is part of the result's bits.
        drop_last: Leave out the last batch of an epoch if it is short.
        validation: Fraction of the rows that is held out, chosen by the seed; 0 for none. A data set that was imported
            with a fraction keeps that one.
        window_mb: MiB of an imported data set that are shuffled together. More mixes the rows better and takes more
            memory. It is part of the result's bits.
        dense: Make dense tensors of sparse rows.
        seed: Start of the random numbers for initial weights, split, order of rows and dropout.
    """

    epochs: Count = 10
    batch_size: Count = 64
    micro_batch_size: Count = 64
    drop_last: bool = False
    validation: Fraction = 0.2
    window_mb: Count = 128
    dense: bool = False
    seed: Seed = 0


def numbers_of(recipe: Recipe) -> dict[str, Any]:
    """Return the fields of `Recipe` and their values in a job or a spec."""
    return {field.name: getattr(recipe, field.name) for field in fields(Recipe)}
