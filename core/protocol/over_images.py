"""Differences of methods over the test images: how they would vary with other images, for the networks as trained."""

from __future__ import annotations

from pydantic import Field

from core.protocol.base import Message


class ImageInterval(Message):
    """A 95 % percentile bootstrap interval over the test images; it contains nothing of other seeds or teachers."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is not in the interval."""
        return self.low > 0 or self.high < 0


class DifferenceOverImages(Message):
    """Results on the test images, and their difference with its interval over images."""

    value: float = Field(description="Result of the method; of several seeds the mean.")
    baseline: float = Field(description="Result of the baseline in the same pairs.")
    difference: float
    interval: ImageInterval | None = Field(
        description="Null if no resample of the images changes the difference, as where the networks do not differ."
    )


class SeedOverImages(DifferenceOverImages):
    """One pair of runs."""

    seed: int
    teacher_seed: int | None = None
    run_id: str
    baseline_run_id: str


class MethodOverImages(Message):
    """One method against the baseline."""

    label: str
    method: str
    pooled: DifferenceOverImages | None = Field(
        description="Means over the pairs, with the same images drawn for all runs; null without a pair."
    )
    pairs: list[SeedOverImages] = Field(description="Every pair alone.")
    sentence: str = Field(description="What the numbers say.")


class ComparedOverImages(Message):
    """The methods of an experiment against the baseline, by a paired bootstrap over the test images.

    It is not the test over seeds of ``GET /comparisons``: it says nothing of how much training again would change.
    """

    baseline: str
    metric: str = Field(description="The metric that results are judged by, such as test/ap.")
    title: str
    unit: str
    images: int = Field(description="Number of test images; 0 until a run is evaluated.")
    resamples: int = Field(description="Number of resamples of the images.")
    evaluated: int = Field(description="Number of runs whose results on the resamples are known.")
    pending: int = Field(
        description="Number of runs that are still to be evaluated: repeat the request until it is 0. Until then the "
        "numbers are of the other runs."
    )
    methods: list[MethodOverImages] = Field(description="All methods but the baseline.")
    notes: list[str] = Field(description="What the interval means, and what holds for the numbers.")
