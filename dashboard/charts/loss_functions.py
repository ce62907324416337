"""What the loss explorer computes: distributions from a few numbers, the claim about swapped probabilities, the map."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from core.explain import Array, DKDAlignParams, UniformBatches, explain_uniform_batches

Shape = Literal["even", "one", "falling", "own"]
SHAPES: dict[Shape, str] = {
    "even": "all equal",
    "one": "one class stands out",
    "falling": "each less than the last",
    "own": "weights of your own",
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
"""What the map can show: its name and unit."""
SWAPPED = ((0.6, 0.8), (0.8, 0.6))
"""Scenarios A and B of the author's claim: (student, teacher) probabilities of the target class."""
NEARLY = 0.05
"""What counts as nearly the same, as in the report on the claims: within 5 % of the larger."""
# A class of probability 0 has no logit.
_LEAST = 1e-9


@dataclass(frozen=True)
class Network:
    """What a network gives, softened by T.

    Attributes:
        target: probability of the target class, between 0 and 1.
        others: (C−1,), the distribution over the other classes, p̂ or q̂.
    """

    target: float
    others: Array

    def logits(self, temperature: float) -> Array:
        """(C,), the target first, with these probabilities at this temperature."""
        at = temperature * np.log(np.concatenate(([self.target], (1 - self.target) * self.others)))
        return np.asarray(at, dtype=np.float64)


def others(shape: Shape, count: int, *, strength: float = 0.5, first: int = 1, own: str = "") -> Array:
    """A distribution (count,) over the non-target classes.

    Args:
        strength: 0 to 1. ``one``: from equal shares to all of it on one class; ``falling``: how much each class has
            less than the one before.
        first: the class that has most, counted from 1; ``falling`` goes on from it and begins again at the first.
        own: weights as text; the last of them stands for all classes that follow.

    Raises ValueError, with what to write instead, where the weights cannot be used.
    """
    if shape == "even":
        weights = np.ones(count)
    elif shape == "one":
        weights = np.full(count, (1 - strength) / count)
        weights[0] += strength
    elif shape == "falling":
        weights = (1 - strength) ** np.arange(count, dtype=np.float64)
    else:
        weights = _own(own, count)
    weights = np.maximum(weights / weights.sum(), _LEAST)
    result: Array = np.roll(weights / weights.sum(), 0 if shape == "own" else first - 1)
    return result


def _own(text: str, count: int) -> Array:
    words = text.replace(";", ",").replace(",", " ").split()
    try:
        given = [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{text!r} is not a list of numbers, such as 5, 2, 1") from None
    if not given:
        raise ValueError("write at least one weight, such as 5, 2, 1; the last stands for all that follow")
    if len(given) > count:
        raise ValueError(f"{len(given)} weights for {count} non-target classes")
    if any(not math.isfinite(value) or value < 0 for value in given) or sum(given) <= 0:
        raise ValueError("weights are finite, not below 0, and not all 0")
    return np.array(given + [given[-1]] * (count - len(given)))


def at(student: Network, teacher: Network, params: DKDAlignParams, batch: int) -> UniformBatches:
    """The loss at one point."""
    return explain_uniform_batches(
        student.logits(params.temperature)[None], teacher.logits(params.temperature)[None], [0], params, batch
    )


@dataclass(frozen=True)
class Swapped:
    """Scenario A against B, the distributions over the other classes as they are.

    Attributes:
        tckd: TCKD in A and in B, T² included, nats.
        distance: s = Δ² + Σu² in A and in B; A in ``sample`` is T²/C times.
        formula: −4|Δ|·p̂·(p̂−q̂), which s_A − s_B equals.
    """

    tckd: tuple[float, float]
    distance: tuple[float, float]
    formula: float

    @property
    def apart(self) -> float:
        """Of the alignment term: the difference as a share of the larger."""
        return abs(self.distance[0] - self.distance[1]) / max(self.distance)

    @property
    def tckd_apart(self) -> float:
        return abs(self.tckd[0] - self.tckd[1]) / max(self.tckd)

    @property
    def holds(self) -> bool:
        """Whether the alignment term is nearly the same in both."""
        return self.apart <= NEARLY


def swapped(student: Array, teacher: Array, params: DKDAlignParams) -> Swapped:
    """The author's claim for these distributions (C−1,) over the other classes."""
    one, two = (at(Network(p, student), Network(q, teacher), params, 1) for p, q in SWAPPED)
    return Swapped(
        tckd=(float(one.values["tckd"][0]), float(two.values["tckd"][0])),
        distance=(float(one.distance[0]), float(two.distance[0])),
        formula=float(-4 * abs(SWAPPED[0][0] - SWAPPED[0][1]) * (student @ (student - teacher))),
    )


def claim_sentence(found: Swapped, student: Array, teacher: Array) -> str:
    """Where the claim holds, and whether it does here."""
    if np.allclose(student, teacher):
        why = "here p̂ = q̂"
    elif np.allclose(student, student[0]):
        why = "here p̂ is uniform"
    else:
        why = f"here {_signed(found.formula)}"
    verdict = "holds" if found.holds else "does not hold"
    one, two = found.distance
    return (
        f"The claim **{verdict}** for the alignment term with these distributions: s is {one:.4g} in A and {two:.4g} "
        f"in B, {100 * found.apart:.1f} % apart. They differ by exactly s_A − s_B = −4|Δ|·p̂·(p̂−q̂), {why}: "
        "equal when p̂ = q̂ or p̂ is uniform, far apart when the student is sure of one wrong class. "
        f"It **never holds exactly for TCKD**, whatever the other classes do: {found.tckd[0]:.4g} against "
        f"{found.tckd[1]:.4g} nats, {100 * found.tckd_apart:.1f} % apart."
    )


def _signed(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


@dataclass(frozen=True)
class Line:
    """The loss along the student's probability of the target class, everything else as it is.

    Attributes:
        student: (N,).
        parts: (N,) each, weighted, by the term's name; ``total`` is their sum.
    """

    student: Array
    parts: dict[str, Array]


def line(student: Network, teacher: Network, params: DKDAlignParams, batch: int) -> Line:
    """The weighted terms for a student's probability from 0.01 to 0.99."""
    grid = np.linspace(0.01, 0.99, 99)
    z = np.stack([replace(student, target=float(p)).logits(params.temperature) for p in grid])
    v = np.broadcast_to(teacher.logits(params.temperature), z.shape)
    found = explain_uniform_batches(z, v, np.zeros(len(grid), dtype=np.int64), params, batch)
    parts = {name: found.weights[name] * value for name, value in found.values.items()}
    return Line(grid, parts | {"total": found.total})


@dataclass(frozen=True)
class Surface:
    """A quantity over both probabilities of the target class; ``height[i, j]`` is at ``teacher[i]``, ``student[j]``."""

    student: Array
    teacher: Array
    height: Array


def surface(quantity: Quantity, student: Array, teacher: Array, params: DKDAlignParams, batch: int) -> Surface:
    """The map for these distributions (C−1,) over the other classes. NaN where a direction does not exist."""
    # 1,000 classes at every point of the finer grid would take half a second at each touch of a slider.
    steps = 41 if len(student) < 200 else 21
    grid = np.linspace(0.02, 0.98, steps)
    z = np.stack([Network(float(p), student).logits(params.temperature) for p in grid])
    v = np.stack([Network(float(q), teacher).logits(params.temperature) for q in grid])
    both = explain_uniform_batches(
        np.tile(z, (steps, 1)), np.repeat(v, steps, axis=0), np.zeros(steps**2, dtype=np.int64), params, batch
    )
    return Surface(grid, grid, shown(both, quantity).reshape(steps, steps))


def shown(found: UniformBatches, quantity: Quantity) -> Array:
    """A quantity (N,) in the unit that QUANTITIES names."""
    if quantity in ("align", "tckd", "nckd"):
        return found.values[quantity]
    if quantity == "share":
        return 100 * found.share
    return {"total": found.total, "cosine": found.cosine, "similarity": found.similarity}[quantity]


def drawn_classes(student: Array, teacher: Array, most: int = 16) -> list[int]:
    """Which of the other classes a chart shows, in order: all of them, or those with most probability in either."""
    if len(student) <= most:
        return list(range(len(student)))
    return sorted(np.argsort(-np.maximum(student, teacher), kind="stable")[:most].tolist())
