"""Calculations of the loss explorer: class distributions, the comparison of two scenarios, loss curves and surfaces."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from core.explain import Array, DKDAlignParams, UniformBatches, explain_uniform_batches

DistributionShape = Literal["even", "one", "falling", "custom"]
SHAPES: dict[DistributionShape, str] = {
    "even": "all equal",
    "one": "one class stands out",
    "falling": "decreasing",
    "custom": "custom weights",
}
Quantity = Literal["total", "align", "tckd", "nckd", "share", "cosine", "similarity"]
QUANTITIES: dict[Quantity, tuple[str, str]] = {
    "total": ("Loss", "nats"),
    "align": ("Alignment term A", ""),
    "tckd": ("TCKD", "nats"),
    "nckd": ("NCKD", "nats"),
    "share": ("Alignment term's share of the gradient", "%"),
    "cosine": ("Cosine of the alignment term with TCKD + NCKD", ""),
    "similarity": ("Cosine of TCKD with NCKD", ""),
}
"""Title and unit of each quantity that the surface can show."""
SCENARIOS = ((0.6, 0.8), (0.8, 0.6))
"""Scenarios 1 and 2: (student, teacher) softened probabilities of the target class. A is the alignment term.

Decoupled Gradient Knowledge Distillation (2025) claims that the loss is nearly the same in both.
"""
TOLERANCE = 0.05
"""Relative difference up to which two values count as nearly equal, as in the report on the claims."""
# Smallest probability of a class; probability 0 has no logit.
_LEAST = 1e-9


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of a network, softened by T.

    Attributes:
        target: Probability of the target class, between 0 and 1.
        others: Distribution (C−1,) over the non-target classes, p̂ or q̂.
    """

    target: float
    others: Array

    def logits(self, temperature: float) -> Array:
        """Return logits (C,), target class first, that have these probabilities at this temperature."""
        logits = temperature * np.log(np.concatenate(([self.target], (1 - self.target) * self.others)))
        return np.asarray(logits, dtype=np.float64)

    def plain_target(self, temperature: float) -> float:
        """Return the probability of the target class that the same logits have at T = 1."""
        logits = self.logits(temperature)
        weights = np.exp(logits - logits.max())
        return float(weights[0] / weights.sum())


def class_distribution(
    shape: DistributionShape, count: int, *, strength: float = 0.5, first: int = 1, custom_weights: str = ""
) -> Array:
    """Return a distribution (count,) over the non-target classes.

    Args:
        shape: Shape of the distribution.
        count: Number of non-target classes.
        strength: From 0 to 1. For ``one``, 0 gives equal probabilities and 1 gives one class all probability; for
            ``falling``, it is the relative decrease from each class to the next.
        first: The most probable class, counted from 1; ``falling`` wraps around to class 1.
        custom_weights: Weights as text; the last weight is repeated for all remaining classes.

    Raises:
        ValueError: The weights cannot be used; the text gives the reason.
    """
    if shape == "even":
        weights = np.ones(count)
    elif shape == "one":
        weights = np.full(count, (1 - strength) / count)
        weights[0] += strength
    elif shape == "falling":
        weights = (1 - strength) ** np.arange(count, dtype=np.float64)
    else:
        weights = _parse_weights(custom_weights, count)
    weights = np.maximum(weights / weights.sum(), _LEAST)
    result: Array = np.roll(weights / weights.sum(), 0 if shape == "custom" else first - 1)
    return result


def _parse_weights(text: str, count: int) -> Array:
    words = text.replace(";", ",").replace(",", " ").split()
    try:
        weights = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of numbers, such as 5, 2, 1") from None
    if not weights:
        raise ValueError("enter at least one weight, such as 5, 2, 1; the last one is repeated")
    if len(weights) > count:
        raise ValueError(f"{len(weights)} weights for {count} non-target classes")
    if any(not math.isfinite(value) or value < 0 for value in weights) or sum(weights) <= 0:
        raise ValueError("weights must be finite, not below 0, and not all 0")
    return np.array(weights + [weights[-1]] * (count - len(weights)))


def evaluate(student: Prediction, teacher: Prediction, params: DKDAlignParams, batch: int) -> UniformBatches:
    """Evaluate the loss at one point."""
    return explain_uniform_batches(
        student.logits(params.temperature)[None], teacher.logits(params.temperature)[None], [0], params, batch
    )


@dataclass(frozen=True)
class ScenarioComparison:
    """Comparison of scenarios 1 and 2 with the same distributions over the non-target classes.

    Attributes:
        tckd: TCKD in scenarios 1 and 2, in nats, including the factor T².
        distance: S = Δ² + Σu² in scenarios 1 and 2; the term A with reduction ``sample`` is T²/C·s.
        formula: −4|Δ|·p̂·(p̂−q̂), which equals s₁ − s₂.
    """

    tckd: tuple[float, float]
    distance: tuple[float, float]
    formula: float

    @property
    def relative_difference(self) -> float:
        """Difference of the alignment terms, relative to the larger of the two."""
        return abs(self.distance[0] - self.distance[1]) / max(self.distance)

    @property
    def tckd_relative_difference(self) -> float:
        return abs(self.tckd[0] - self.tckd[1]) / max(self.tckd)

    @property
    def holds(self) -> bool:
        """Whether the alignment term is nearly equal in both scenarios."""
        return self.relative_difference <= TOLERANCE


def compare_scenarios(student: Array, teacher: Array, params: DKDAlignParams) -> ScenarioComparison:
    """Compare scenarios 1 and 2 for these distributions (C−1,) over the non-target classes."""
    first, second = (evaluate(Prediction(p, student), Prediction(q, teacher), params, 1) for p, q in SCENARIOS)
    return ScenarioComparison(
        tckd=(float(first.values["tckd"][0]), float(second.values["tckd"][0])),
        distance=(float(first.distance[0]), float(second.distance[0])),
        formula=float(-4 * abs(SCENARIOS[0][0] - SCENARIOS[0][1]) * (student @ (student - teacher))),
    )


def scenario_sentence(result: ScenarioComparison, student: Array, teacher: Array) -> str:
    """Return the verdict on the claim for these distributions, with its general condition, in Markdown."""
    if np.allclose(student, teacher):
        condition = "here p̂ = q̂"
    elif np.allclose(student, student[0]):
        condition = "here p̂ is uniform"
    else:
        condition = f"here {_signed_text(result.formula)}"
    verdict = "holds" if result.holds else "does not hold"
    one, two = result.distance
    return (
        f"The claim **{verdict}** for the alignment term with these distributions: s₁ is {one:.4g} and s₂ is "
        f"{two:.4g}, a difference of {100 * result.relative_difference:.1f} %. In general s₁ − s₂ = −4|Δ|·p̂·(p̂−q̂), "
        f"{condition}: the values are equal if p̂ = q̂ or p̂ is uniform, and differ most if the student is confident in "
        f"one wrong class. The claim **never holds exactly for TCKD**, which does not depend on the other classes: "
        f"{result.tckd[0]:.4g} and {result.tckd[1]:.4g} nats, a difference of "
        f"{100 * result.tckd_relative_difference:.1f} %."
    )


def _signed_text(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True)
class LossCurve:
    """The loss as a function of the student's probability of the target class.

    Attributes:
        student: Probabilities (N,) of the student.
        parts: Weighted terms (N,) by name; ``total`` is their sum.
    """

    student: Array
    parts: dict[str, Array]


def loss_curve(student: Prediction, teacher: Prediction, params: DKDAlignParams, batch: int) -> LossCurve:
    """Evaluate the weighted terms for student probabilities from 0.01 to 0.99."""
    grid = np.linspace(0.01, 0.99, 99)
    z = np.stack([replace(student, target=float(p)).logits(params.temperature) for p in grid])
    v = np.broadcast_to(teacher.logits(params.temperature), z.shape)
    result = explain_uniform_batches(z, v, np.zeros(len(grid), dtype=np.int64), params, batch)
    parts = {name: result.weights[name] * value for name, value in result.values.items()}
    return LossCurve(grid, parts | {"total": result.total})


@dataclass(frozen=True)
class LossSurface:
    """A quantity over both target probabilities; ``height[i, j]`` belongs to ``teacher[i]`` and ``student[j]``."""

    student: Array
    teacher: Array
    height: Array


def loss_surface(quantity: Quantity, student: Array, teacher: Array, params: DKDAlignParams, batch: int) -> LossSurface:
    """Evaluate a quantity over both target probabilities, for these distributions (C−1,) over the non-target classes.

    The height is NaN where a gradient is zero, because it then has no direction.
    """
    # With 1,000 classes, the finer grid would take half a second for each movement of a slider.
    steps = 41 if len(student) < 200 else 21
    grid = np.linspace(0.02, 0.98, steps)
    z = np.stack([Prediction(float(p), student).logits(params.temperature) for p in grid])
    v = np.stack([Prediction(float(q), teacher).logits(params.temperature) for q in grid])
    result = explain_uniform_batches(
        np.tile(z, (steps, 1)), np.repeat(v, steps, axis=0), np.zeros(steps**2, dtype=np.int64), params, batch
    )
    return LossSurface(grid, grid, quantity_values(result, quantity).reshape(steps, steps))


def quantity_values(result: UniformBatches, quantity: Quantity) -> Array:
    """Return a quantity (N,) in the unit that ``QUANTITIES`` gives."""
    if quantity in ("align", "tckd", "nckd"):
        return result.values[quantity]
    if quantity == "share":
        return 100 * result.share
    return {"total": result.total, "cosine": result.cosine, "similarity": result.similarity}[quantity]


def most_probable_classes(student: Array, teacher: Array, limit: int = 16) -> list[int]:
    """Return the non-target classes that a chart shows, in order: the most probable ones, at most ``limit``."""
    if len(student) <= limit:
        return list(range(len(student)))
    return sorted(np.argsort(-np.maximum(student, teacher), kind="stable")[:limit].tolist())
