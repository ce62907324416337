"""The state of seeds that are added until the comparisons are decided, as a part of a comparison."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.protocol.base import Message

SequentialVerdict = Literal["better", "worse", "higher", "lower", "no difference", "cannot tell", "undecided"]


class SequentialLook(Message):
    """One look at a comparison, after all runs of a seed have ended."""

    seeds: int = Field(description="Number of seeds at the look.")
    n: int = Field(description="Number of pairs that have a value.")
    mean: float | None = Field(None, description="Mean difference to the baseline.")
    low: float | None = Field(
        None,
        description="Lower end of the interval. The intervals of all looks and all comparisons contain the true "
        "differences with probability 1 − alpha. Null if the look brought no new pair.",
    )
    high: float | None = None


class MissingSeed(Message):
    """A seed without a pair, with the reason."""

    seed: int
    label: str = Field(description="The method without a value.")
    run_id: str = ""
    reason: str = ""


class SequentialComparison(Message):
    """A method against the baseline, look by look."""

    label: str
    verdict: SequentialVerdict
    seeds: int = Field(
        description="Number of seeds at the look that decided; at the newest look if the comparison is undecided.",
    )
    looks: list[SequentialLook] = Field(default_factory=list)
    missing: list[MissingSeed] = Field(default_factory=list)
    sentence: str
    outrun: str = Field(
        "",
        description="Name of the experiment of the sweep in which the method is surely better, so that it gets no more "
        "seeds here; empty if there is none, or the comparison is decided.",
    )


class Sequential(Message):
    """An experiment whose seeds are added until each comparison with the baseline is decided."""

    baseline: str
    start: int = Field(description="The first seed.")
    first: int
    most: int
    difference: float
    alpha: float
    open: bool = Field(description="Whether seeds may still be added.")
    seeds: int = Field(description="Number of seeds whose runs have all ended.")
    runs: int = Field(description="Number of students' runs, also of those that have not ended.")
    most_runs: int = Field(description="Number of students' runs if every comparison took the most seeds.")
    comparisons: list[SequentialComparison]
    note: str = Field(
        "", description="Why no seed is added although a comparison is undecided; or how many were saved."
    )
