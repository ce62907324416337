"""A fair choice of settings: ``tune: {trials: 8, on: validation, methods: each}``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from core.catalog import DATASETS
from core.catalog.datasets import SplitParams
from core.specs.components import DatasetRef, Seed, SpecModel
from core.specs.problems import ProblemParts

MOST_TRIALS = 200
_SEED_OF_TRIALS = 10_000
"""Apart from the seeds that experiments begin with."""


class Tune(SpecModel):
    """Before the students are trained, each method gets the settings that were best on images held out for it."""

    trials: int = Field(
        8,
        ge=2,
        le=MOST_TRIALS,
        description="Settings that are tried of each method. The first are those of the spec; the others are drawn "
        "from the method's search space.",
    )
    on: Literal["validation"] = Field(
        "validation",
        description="The images on which settings are compared: held out of the training images. No test image is "
        "used before the choice is made.",
    )
    methods: Literal["each"] = Field("each", description="Every method gets the same number of trials.")
    val_fraction: float = Field(
        0.1,
        gt=0,
        le=0.5,
        description="Share of the training images held out, unless the data set has a val_fraction of its own. The "
        "students are trained on all of them again afterwards.",
    )
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=20)] = Field(
        (_SEED_OF_TRIALS,),
        description="Seeds of each trial, whose mean counts. They are others than those of the experiment.",
    )
    sampler: Literal["qmc", "random"] = Field(
        "qmc",
        description="How Optuna draws the settings. qmc: a scrambled Sobol sequence, which covers the space evenly. "
        "random: independent draws. Neither looks at results, so the trials of all methods run side by side.",
    )
    seed: Seed = Field(0, description="Seed of the draws.")


def tune_problems(tune: Tune, dataset: DatasetRef, seeds: tuple[int, ...]) -> Iterator[ProblemParts]:
    """Yield why settings cannot be chosen on held-out images, with paths within the experiment's spec.

    Args:
        tune: How they are chosen.
        dataset: The data set.
        seeds: Seeds of the students.
    """
    if not isinstance(params := dataset.parsed_params, SplitParams):
        yield ("tune", "on"), f"{DATASETS[dataset.name].name} holds no images out of the training images", tune.on
    elif params.evaluate == "validation":
        text = "the trials hold images out by themselves; the students are measured on the test images, so leave it out"
        yield ("dataset", "params", "evaluate"), text, params.evaluate
    if len(set(tune.seeds)) < len(tune.seeds):
        yield ("tune", "seeds"), "a seed is given twice", list(tune.seeds)
    if shared := sorted(set(tune.seeds) & set(seeds)):
        text = f"seed {shared[0]} is one of the experiment's; a seed that chooses settings cannot judge them as well"
        yield ("tune", "seeds"), text, list(tune.seeds)
