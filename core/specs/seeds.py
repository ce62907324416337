"""Seeds until it is known: ``{until: decided, first: 3, most: 20, difference: 0.5, alpha: 0.05}``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from common.sequential.decision import Rule
from common.sequential.spending import schedule
from core.specs.components import Seed, SpecModel
from core.specs.problems import validation_error

MOST_SEEDS = 100
_SEED_LIMIT = 2**31


class UntilDecided(SpecModel):
    """Seeds are added one by one until every comparison with the first method is decided, or ``most`` is reached."""

    until: Literal["decided"] = Field(description="Add seeds until each comparison with the first method is decided.")
    start: Seed = Field(0, description="The first seed; the others follow it.")
    first: int = Field(
        3,
        ge=2,
        description="Number of seeds that are trained before the first look. There is another look after each further "
        "seed.",
    )
    most: int = Field(20, le=MOST_SEEDS, description="The maximum number of seeds.")
    difference: float = Field(
        gt=0,
        examples=[0.5],
        description="The difference that matters, in the unit of the metric that the task is judged by: a method may "
        "also be decided to differ by less than this.",
    )
    alpha: float = Field(
        0.05, gt=0, le=0.2, description="Probability of a false decision, over all looks and comparisons."
    )
    race: bool = Field(
        False,
        description="In a sweep: a method gets no more seeds in an experiment if it is surely better in another one.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems: list[tuple[tuple[str], str, Any]] = []
        if self.most < self.first:
            problems.append((("most",), f"must be at least first, which is {self.first}", self.most))
        if self.start + self.most > _SEED_LIMIT:
            problems.append((("start",), f"the last of {self.most} seeds would be above {_SEED_LIMIT - 1}", self.start))
        if problems:
            raise validation_error("UntilDecided", *problems)
        return self

    @property
    def rule(self) -> Rule:
        """When to stop, for the function that decides."""
        return Rule(self.first, self.most, self.difference, self.alpha)

    def seeds(self, count: int) -> tuple[int, ...]:
        """Return the first ``count`` seeds, in their fixed order."""
        return tuple(range(self.start, self.start + count))

    def fewest_pairs(self, comparisons: int) -> int | None:
        """Return the number of pairs from which on the exact sign-flip test can decide; None if the most is below."""
        return next((n for n in range(2, self.most + 1) if self._can_decide(n, comparisons)), None)

    def _can_decide(self, pairs: int, comparisons: int) -> bool:
        ((_, spent),) = schedule([(pairs, pairs)], self.most, self.alpha / max(1, comparisons))
        return 2.0 ** (1 - pairs) <= spent


def is_until_decided(value: Any) -> bool:
    """Return whether a spec's seeds are this form, and not a list or a range."""
    return isinstance(value, UntilDecided) or (isinstance(value, Mapping) and not {"from", "to"} & value.keys())


def race_problem(seeds: Any, axes: Sequence[str]) -> str:
    """Return why the settings of a sweep cannot race; empty if they can, or do not.

    Args:
        seeds: The seeds of an experiment of the sweep.
        axes: Paths of the fields that vary.
    """
    if not (isinstance(seeds, UntilDecided) and seeds.race):
        return ""
    # Values of other test images, or at other seeds, form no pairs; and methods are compared by their places.
    fixed = [axis for axis in axes if axis == "methods" or axis.partition(".")[0] in ("dataset", "seeds")]
    return f"settings that differ in {fixed[0]} cannot race" if fixed else ""
