"""What holds for every method that reads logits alone, against an oracle of the method in NumPy with plain loops.

A test module subclasses ``LogitMethodTests`` once for each setting of a method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.catalog import METHODS, METRICS
from core.distill.gradients import measure_gradients
from core.distill.loss import Loss, build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef

Array = NDArray[np.float64]
Oracle = Callable[[Array, Array, NDArray[np.int64], Array], float]
"""Student's logits, teacher's logits, targets and weights whose sum is 1 -> the loss at full strength."""

_H = 1e-5


def log_softmax(logits: Array) -> Array:
    """Return the logarithm of the softmax of one row."""
    shifted = logits - logits.max()
    return np.asarray(shifted - math.log(np.exp(shifted).sum()))


def kl(teacher: Array, student: Array) -> float:
    """Return KL between the softmax of two rows of logits."""
    log_q, log_p = log_softmax(teacher), log_softmax(student)
    return float(sum(math.exp(a) * (a - b) for a, b in zip(log_q, log_p, strict=True)))


def kl_of(teacher: Array, student: Array) -> float:
    """Return KL between two distributions."""
    return float(sum(q * math.log(q / p) for q, p in zip(teacher, student, strict=True) if q > 0))


def cross_entropies(z: Array, target: NDArray[np.int64]) -> Array:
    """Return the cross-entropy of each row."""
    return np.array([-log_softmax(row)[t] for row, t in zip(z, target, strict=True)])


def standardised(logits: Array) -> Array:
    """Return each row with mean 0 and standard deviation 1."""
    rows = [(row - row.mean()) / (row.std(ddof=1) + 1e-7) for row in logits]
    return np.array(rows)


def numerical_gradient(function: Callable[[Array], Any], at: Array) -> Array:
    """Return central differences of a function; of one that returns several numbers, the Jacobian."""
    columns = []
    for index in range(at.size):
        sides = []
        for sign in (1, -1):
            moved = at.copy()
            moved.reshape(-1)[index] += sign * _H
            sides.append(np.asarray(function(moved)))
        columns.append((sides[0] - sides[1]) / (2 * _H))
    return np.stack(columns, -1)


def distance_of_gradients(
    first: Callable[[Array, int], float],
    second: Callable[[Array, int], float],
    z: Array,
    weight: Array,
    reduction: str,
) -> float:
    """Return A by its definition, from differences of two losses of one row.

    Args:
        first: the first loss of a row, by its logits and its number.
        second: the second loss.
        z: the student's logits.
        weight: the weights of the rows, whose sum is 1.
        reduction: sample, batch or log.
    """
    total = 0.0
    for row, logits in enumerate(z):
        a, b = (numerical_gradient(partial(_of_row, loss, row), logits) for loss in (first, second))
        total += weight[row] ** (3 if reduction == "batch" else 1) * float(((a - b) ** 2).mean())
    return math.log(total) if reduction == "log" else total


def _of_row(loss: Callable[[Array, int], float], row: int, logits: Array) -> float:
    return loss(logits, row)


def random_rows(rows: int, classes: int, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits of student and teacher, and targets."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64) * scale
    return student.requires_grad_(), teacher, torch.randint(classes, (rows,), generator=generator)


def gradient_of(terms: LossTerms, student: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(terms.total, student, retain_graph=True)
    return gradient


def assert_same(ours: LossTerms, z: Tensor, expected: LossTerms, other: Tensor, tolerance: float = 1e-9) -> None:
    assert ours.total.item() == pytest.approx(expected.total.item(), rel=tolerance, abs=1e-12)
    a, b = gradient_of(ours, z), gradient_of(expected, other)
    assert (a - b).norm() <= tolerance * b.norm() + 1e-12


class LogitMethodTests:
    """The tests of one setting of a method."""

    name: ClassVar[str]
    """The method."""
    params: ClassVar[dict[str, Any]] = {}
    """Its parameters, without ramps, so that every term acts."""
    changes: ClassVar[dict[str, Any]] = {}
    """Another value of each parameter, which changes the loss. A test compares them with all parameters."""
    elsewhere: ClassVar[frozenset[str]] = frozenset()
    """Parameters that the ``changes`` of another setting have."""
    shape: ClassVar[tuple[int, int]] = (5, 7)
    """Rows and classes for the oracle."""
    by_class: ClassVar[bool] = True
    """Whether the order of the classes does not matter."""

    @classmethod
    def loss(cls, **changes: Any) -> Loss:
        """Return the method, with some parameters changed."""
        return build_loss(MethodRef(name=cls.name, params=cls.params | changes))

    @classmethod
    def terms(cls, rows: Rows, epoch: int | None = None, **changes: Any) -> LossTerms:
        return cls.loss(**changes)(rows, epoch)

    def test_gradients_of_the_terms_add_up_to_the_total(self) -> None:
        z, v, target = random_rows(6, self.shape[1])
        weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0])
        terms = self.terms(Rows(z, v, target, weight))
        total = gradient_of(terms, z)
        if terms.parts:
            parts = [torch.autograd.grad(part, z, retain_graph=True)[0] for part in terms.parts.values()]
        else:
            parts = list(terms.gradients.values())
        assert torch.allclose(torch.stack(parts).sum(0), total, rtol=1e-10, atol=1e-13)

    def test_every_term_has_a_title(self) -> None:
        terms = self.terms(Rows(*random_rows(6, self.shape[1])))
        reported = {f"train/{name}" for name in terms.values}
        known = {metric.name for metric in METHODS[self.name].metrics}
        if terms.diagnostics:
            reported |= set(terms.diagnostics(terms.gradients))
        assert reported <= known
        assert known <= set(METRICS)

    @pytest.mark.parametrize("content", [1e4, 1e300, math.nan])
    def test_rows_of_weight_zero_are_absent(self, content: float) -> None:
        z, v, target = random_rows(9, self.shape[1])
        weight = torch.rand(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
        weight[2::3] = 0
        used = weight > 0
        kept = z.detach()[used].requires_grad_()
        expected = self.terms(Rows(kept, v[used], target[used], weight[used]))
        filled = z.detach().clone()
        filled[~used] = content
        v[~used], target[~used] = content, -1
        filled.requires_grad_()
        batch = Rows(filled, v, target, weight)
        ours = self.terms(batch)
        assert ours.total.item() == pytest.approx(expected.total.item(), rel=1e-10)
        for name, value in expected.values.items():
            assert ours.values[name].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), name
        gradient = gradient_of(ours, filled)
        assert torch.allclose(gradient[used], gradient_of(expected, kept), rtol=1e-8, atol=1e-13)
        assert (gradient[~used] == 0).all()
        metrics = measure_gradients(ours, batch)
        plain = measure_gradients(expected, Rows(kept, v[used], target[used], weight[used]))
        for name, number in plain.items():
            assert metrics[name].item() == pytest.approx(number.item(), rel=1e-8, nan_ok=True), name

    @pytest.mark.parametrize("factor", [1e-6, 1e6])
    def test_only_ratios_of_weights_matter(self, factor: float) -> None:
        z, v, target = random_rows(6, self.shape[1])
        weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)
        assert_same(self.terms(Rows(z, v, target, factor * weight)), z, self.terms(Rows(z, v, target, weight)), z)

    def test_equal_weights_are_no_weights(self) -> None:
        z, v, target = random_rows(6, self.shape[1])
        assert_same(self.terms(Rows(z, v, target, torch.full((6,), 7))), z, self.terms(Rows(z, v, target)), z)

    @pytest.mark.parametrize("scale", [3.0, 1e4])
    def test_loss_is_zero_if_all_weights_are(self, scale: float) -> None:
        z, v, target = random_rows(6, self.shape[1], scale)
        terms = self.terms(Rows(z, v, target, torch.zeros(6)))
        assert terms.total.item() == 0
        assert all(value.item() == 0 for name, value in terms.values.items() if name != "epsilon")
        assert (gradient_of(terms, z) == 0).all()

    def test_order_of_rows_and_classes_does_not_matter(self) -> None:
        z, v, target = random_rows(8, self.shape[1])
        generator = torch.Generator().manual_seed(3)
        rows = torch.randperm(8, generator=generator)
        classes = torch.randperm(z.shape[1], generator=generator) if self.by_class else torch.arange(z.shape[1])
        moved = z.detach()[rows][:, classes].requires_grad_()
        ours = self.terms(Rows(moved, v[rows][:, classes], classes.argsort()[target[rows]]))
        plain = self.terms(Rows(z, v, target))
        assert ours.total.item() == pytest.approx(plain.total.item(), rel=1e-10)
        assert torch.allclose(gradient_of(ours, moved), gradient_of(plain, z)[rows][:, classes], rtol=1e-7, atol=1e-11)

    def test_batch_of_one_is_finite(self) -> None:
        for weight in (None, torch.tensor([0.3])):
            z, v, target = random_rows(1, self.shape[1])
            terms = self.terms(Rows(z, v, target, weight))
            assert terms.total.isfinite()
            assert gradient_of(terms, z).isfinite().all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("kind", ["huge", "equal", "zero", "opposite", "flat teacher"])
    def test_extreme_logits_give_finite_values(self, dtype: torch.dtype, kind: str) -> None:
        z, v, target = random_rows(8, self.shape[1], scale=1e4)
        z, v = z.detach().clamp(-1e4, 1e4), v.clamp(-1e4, 1e4)
        if kind == "equal":
            v = z.clone()
        elif kind == "zero":
            z, v = torch.zeros_like(z), torch.zeros_like(v)
        elif kind == "opposite":
            v = -z
        elif kind == "flat teacher":
            v = torch.ones_like(v)
        student = z.to(dtype).requires_grad_()
        for weight in (None, torch.tensor([1.0, 0.0] * 4)):
            terms = self.terms(Rows(student, v.to(dtype), target, weight))
            assert terms.total.isfinite()
            gradient = gradient_of(terms, student)
            assert gradient.isfinite().all()
            assert gradient.dtype == dtype

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_low_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        z, v, target = random_rows(16, self.shape[1])
        student, teacher = z.detach().to(dtype).requires_grad_(), v.to(dtype)
        exact = student.detach().double().requires_grad_()
        ours, expected = (self.terms(Rows(a, b, target)) for a, b in ((student, teacher), (exact, teacher.double())))
        assert ours.total.dtype == torch.float32
        assert ours.total.item() == pytest.approx(expected.total.item(), rel=2e-5)
        gradient, reference = gradient_of(ours, student).double(), gradient_of(expected, exact)
        assert (gradient - reference).norm() <= (2 * torch.finfo(dtype).eps + 2e-5) * reference.norm()

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast_does_not_change_the_loss(self, dtype: torch.dtype) -> None:
        z, v, target = random_rows(8, self.shape[1])
        student, teacher = z.detach().float().requires_grad_(), v.float()
        outside = self.terms(Rows(student, teacher, target))
        with torch.autocast("cpu", dtype):
            inside = self.terms(Rows(student, teacher, target))
        assert torch.equal(inside.total, outside.total)
        assert torch.equal(gradient_of(inside, student), gradient_of(outside, student))

    def test_no_value_is_read_from_the_device(self) -> None:
        """On the device ``meta`` tensors have no values, so every step of a loss that waits for one fails there."""
        z, v = torch.randn(2, 8, self.shape[1], device="meta")
        target = torch.zeros(8, dtype=torch.long, device="meta")
        rows = Rows(z.requires_grad_(), v, target, torch.ones(8, device="meta"))
        terms = self.terms_on_meta(rows)
        measure_gradients(terms, rows)
        terms.total.backward()  # type: ignore[no-untyped-call]
        assert z.grad is not None

    @classmethod
    def terms_on_meta(cls, rows: Rows) -> LossTerms:
        # Not by build_loss, which asks for the autocast of a device, and ``meta`` has none.
        method = MethodRef(name=cls.name, params=cls.params)
        terms: LossTerms = METHODS[cls.name].load()(rows, method.parsed_params, None)
        return terms

    def test_only_cross_entropy_is_smoothed(self) -> None:
        z, v, target = random_rows(7, self.shape[1])
        plain, smoothed = (self.terms(Rows(z, v, target, label_smoothing=share)) for share in (0.0, 0.2))
        for term, value in plain.values.items():
            same = smoothed.values[term].item() == value.item()
            assert same == (term != "ce") or term == "epsilon", term
        expected = F.cross_entropy(z, target, label_smoothing=0.2).item()
        assert smoothed.values["ce"].item() == pytest.approx(expected)

    def test_every_parameter_changes_the_loss(self) -> None:
        assert set(self.changes) | self.elsewhere == set(METHODS[self.name].params.model_fields)
        z, v, target = random_rows(8, self.shape[1] + 2)
        for name, changed in self.changes.items():
            base = {"ramp_epochs": 20} if "ramp" in name else {}
            value = changed if isinstance(changed, dict) else {name: changed}
            before, after = (self.terms(Rows(z, v, target), 3, **each) for each in (base, base | value))
            assert (gradient_of(before, z) - gradient_of(after, z)).norm() > 1e-6 * gradient_of(before, z).norm(), name


class AgainstOracle(LogitMethodTests):
    """The tests of one setting of a method whose loss has an oracle."""

    value_tolerance: ClassVar[float] = 1e-9
    gradient_tolerance: ClassVar[float] = 1e-6
    has_exact_gradient: ClassVar[bool] = True
    """False for a loss whose weights depend on its own gradients."""

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        """Return the loss from its formula."""
        raise NotImplementedError

    @pytest.mark.parametrize("weighted", [False, True])
    def test_value_and_gradient_are_those_of_the_oracle(self, weighted: bool) -> None:
        z, v, target = random_rows(*self.shape)
        weight = torch.tensor([1.0, 0.0, 2.5, 0.5, 1.0][: len(z)], dtype=torch.float64) if weighted else None
        ours = self.terms(Rows(z, v, target, weight))
        share = (torch.ones(len(z), dtype=torch.float64) if weight is None else weight).numpy()
        used = share > 0
        share = share[used] / share.sum()
        student, teacher, label = z.detach().numpy()[used], v.numpy()[used], target.numpy()[used]
        assert ours.total.item() == pytest.approx(
            self.oracle(student, teacher, label, share), rel=self.value_tolerance, abs=self.value_tolerance
        )
        gradient = gradient_of(ours, z).numpy()
        assert not gradient[~used].any()
        if not self.has_exact_gradient:
            return
        reference = numerical_gradient(lambda x: self.oracle(x, teacher, label, share), student)
        np.testing.assert_allclose(
            gradient[used].reshape(-1), reference, rtol=0, atol=self.gradient_tolerance * np.abs(reference).max()
        )
