"""Feature methods on random outputs, and a check of them against a slow NumPy oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog import METHODS
from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from tests.core.methods import slow_layers
from tests.core.methods.slow_layers import Array

Shapes = Mapping[str, tuple[int, ...]]

_H = 1e-6


@dataclass(frozen=True)
class Numbers:
    """What an oracle reads, in float64.

    Attributes:
        logits: (R, C) of the student.
        taps: Those of the student by name.
        own: The parameters and buffers of the method by name.
        teacher_logits: (R, C).
        teacher_taps: By name.
        target: (R,).
        share: (R,), what each row is of a mean; they add up to 1.
    """

    logits: Array
    taps: dict[str, Array]
    own: dict[str, Array]
    teacher_logits: Array
    teacher_taps: dict[str, Array]
    target: NDArray[np.int64]
    share: Array

    def mean(self, values: list[float]) -> float:
        """Return the mean of one number for each row."""
        return sum(float(share) * value for share, value in zip(self.share, values, strict=True))

    def moved(self, directions: Mapping[str, Array], distance: float) -> Numbers:
        """Return the numbers with some of the student's and of the method's own moved."""

        def shifted(values: dict[str, Array], prefix: str) -> dict[str, Array]:
            return {name: value + distance * directions.get(prefix + name, 0.0) for name, value in values.items()}

        logits = self.logits + distance * directions.get("logits", 0.0)
        return replace(self, logits=logits, taps=shifted(self.taps, "tap "), own=shifted(self.own, "own "))


@dataclass(frozen=True)
class FeatureProblem:
    """A method in float64, and random outputs of two networks.

    Attributes:
        objective: The method.
        student: Leaves.
        teacher: Constants.
        target: (R,).
        index: (R,), the samples' numbers.
    """

    objective: Objective
    student: Outputs
    teacher: Outputs
    target: Tensor
    index: Tensor = field(default_factory=lambda: torch.arange(0))

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Everything that may receive a gradient."""
        taps = {f"tap {name}": tap for name, tap in self.student.taps.items()}
        own = {f"own {name}": value for name, value in self.objective.named_parameters() if value.requires_grad}
        return {"logits": self.student.logits} | taps | own

    def step(self, weight: Tensor | None = None, epoch: int | None = None) -> Step:
        rows = Rows(self.student.logits, self.teacher.logits, self.target, weight)
        return Step(rows, self.student, self.teacher, self.index, epoch)

    def terms(self, weight: Tensor | None = None, epoch: int | None = None) -> LossTerms:
        terms: LossTerms = self.objective(self.step(weight, epoch))
        return terms

    def gradients(self, weight: Tensor | None = None, epoch: int | None = None) -> dict[str, Tensor]:
        """Return the gradients by name, without those of leaves on which the loss does not depend."""
        total = self.terms(weight, epoch).total
        found = torch.autograd.grad(total, list(self.leaves.values()), allow_unused=True)
        return {name: gradient for name, gradient in zip(self.leaves, found, strict=True) if gradient is not None}

    def numbers(self, weight: Tensor | None = None) -> Numbers:
        weights = np.ones(len(self.target)) if weight is None else weight.double().numpy()
        return Numbers(
            self.student.logits.detach().double().numpy(),
            {name: tap.detach().double().numpy() for name, tap in self.student.taps.items()},
            {name: value.detach().double().numpy() for name, value in self.objective.state_dict().items()},
            self.teacher.logits.double().numpy(),
            {name: tap.double().numpy() for name, tap in self.teacher.taps.items()},
            self.target.numpy(),
            weights / weights.sum(),
        )

    def part(self, index: list[int]) -> FeatureProblem:
        """Return the problem with some of its rows, which are new leaves."""

        def chosen(outputs: Outputs, *, trained: bool) -> Outputs:
            taps = {name: tap.detach()[index].requires_grad_(trained) for name, tap in outputs.taps.items()}
            return Outputs(outputs.logits.detach()[index].requires_grad_(trained), taps)

        student, teacher = chosen(self.student, trained=True), chosen(self.teacher, trained=False)
        return replace(self, student=student, teacher=teacher, target=self.target[index], index=self.index[index])

    def to(self, dtype: torch.dtype) -> FeatureProblem:
        """Return the problem with the outputs of both networks in another type, and the method in float32."""

        def converted(outputs: Outputs, *, trained: bool) -> Outputs:
            taps = {name: tap.detach().to(dtype).requires_grad_(trained) for name, tap in outputs.taps.items()}
            return Outputs(outputs.logits.detach().to(dtype).requires_grad_(trained), taps)

        student, teacher = converted(self.student, trained=True), converted(self.teacher, trained=False)
        return replace(self, objective=self.objective.float(), student=student, teacher=teacher)


def feature_problem(
    name: str,
    params: Mapping[str, Any],
    student: Shapes,
    teacher: Shapes,
    *,
    rows: int = 4,
    classes: int = 3,
    norm: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    batch_size: int = 6,
    seed: int = 0,
) -> FeatureProblem:
    """Return a method of the catalog with random outputs of two networks.

    Args:
        name: The method.
        params: Its parameters.
        student: The shapes of the student's taps, without the batch.
        teacher: Those of the teacher's.
        rows: R.
        classes: C.
        norm: ``NetworkShape.norm`` of the teacher.
        batch_size: ``Setting.batch_size``.
        seed: Decides all random numbers.
    """
    generator = torch.Generator().manual_seed(seed)

    def sample(*shape: int) -> Tensor:
        return torch.randn(rows, *shape, generator=generator, dtype=torch.float64)

    def outputs(shapes: Shapes, scale: float, *, trained: bool) -> Outputs:
        taps = {tap: sample(*shape).requires_grad_(trained) for tap, shape in shapes.items()}
        return Outputs((scale * sample(classes)).requires_grad_(trained), taps)

    students, teachers = outputs(student, 1.0, trained=True), outputs(teacher, 2.0, trained=False)
    objective = build(name, params, student, teacher, classes=classes, norm=norm, batch_size=batch_size, seed=seed)
    target = torch.randint(classes, (rows,), generator=generator)
    return FeatureProblem(objective.double(), students, teachers, target, torch.arange(10, 10 + rows))


def build(
    name: str,
    params: Mapping[str, Any],
    student: Shapes,
    teacher: Shapes,
    *,
    classes: int = 3,
    norm: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    batch_size: int = 6,
    seed: int = 0,
) -> Objective:
    """Return a method of the catalog for two networks, with parameters of its own that are not the initial ones."""
    entry = METHODS[name]
    shapes = [{tap: torch.Size(shape) for tap, shape in taps.items()} for taps in (student, teacher)]
    setting = Setting(
        NetworkShape(classes, shapes[0]),
        NetworkShape(classes, shapes[1], norm=dict(norm or {})),
        samples=20,
        batch_size=batch_size,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        objective: Objective = entry.load()(entry.params(**params), setting)
        for parameter in objective.parameters():  # batch norm would start from ones and zeros
            nn.init.normal_(parameter, std=0.4) if parameter.requires_grad else None
    return objective


def assert_equals_oracle(
    problem: FeatureProblem,
    oracle: Callable[[Numbers], float],
    *,
    weight: Tensor | None = None,
    epoch: int | None = None,
    directions: int = 2,
) -> None:
    """Check the loss and its gradient, with respect to all that is trained, against an oracle.

    Args:
        problem: The method and the outputs.
        oracle: The loss in NumPy.
        weight: (R,) of the rows.
        epoch: Counted from 0; None for full strength of every schedule.
        directions: The number of random directions in which the gradients are compared.
    """
    numbers = problem.numbers(weight)
    assert float(problem.terms(weight, epoch).total.detach()) == pytest.approx(oracle(numbers), rel=1e-9)
    gradients = problem.gradients(weight, epoch)
    generator = np.random.default_rng(1)
    for _ in range(directions):
        moves = {name: generator.normal(size=leaf.shape) for name, leaf in problem.leaves.items()}
        slope = (oracle(numbers.moved(moves, _H)) - oracle(numbers.moved(moves, -_H))) / (2 * _H)
        expected = sum(float((gradient.numpy() * moves[name]).sum()) for name, gradient in gradients.items())
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-7)


def assert_finite_for_one_row(problem: FeatureProblem, epoch: int | None = None) -> None:
    """Check that a batch of one row has a finite loss with a finite gradient."""
    one = problem.part([1])
    assert one.terms(epoch=epoch).total.isfinite()
    assert all(gradient.isfinite().all() for gradient in one.gradients(epoch=epoch).values())


def assert_near_in_16_bits(problem: FeatureProblem, epoch: int | None = None, tolerance: float = 0.03) -> None:
    """Check that bfloat16 outputs give a finite loss in float32, near that of float32 outputs."""
    exact = float(problem.to(torch.float32).terms(epoch=epoch).total.detach())
    coarse = problem.to(torch.bfloat16)
    total = coarse.terms(epoch=epoch).total
    assert total.dtype == torch.float32
    assert float(total.detach()) == pytest.approx(exact, rel=tolerance)
    assert all(gradient.isfinite().all() for gradient in coarse.gradients(epoch=epoch).values())


def cross_entropy(numbers: Numbers) -> float:
    """Return the mean cross-entropy with the labels."""
    return slow_layers.cross_entropy(numbers.logits, numbers.target, numbers.share)


def kd(numbers: Numbers, temperature: float) -> float:
    """Return T²·KL(teacher ‖ student), a mean over the rows."""
    values = []
    for student, teacher in zip(numbers.logits / temperature, numbers.teacher_logits / temperature, strict=True):
        p, q = (np.exp(logits) / np.exp(logits).sum() for logits in (student, teacher))
        values.append(temperature**2 * float((q * np.log(q / p)).sum()))
    return numbers.mean(values)
