"""GDKD and GDKD3 against loops over the classes, with and without the alignment term."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core import methods
from core.catalog.methods import MethodContext
from core.catalog.methods.gdkd import GDKDParams, gdkd_warnings
from core.distill.logits.alignment import alignment
from core.distill.logits.decoupled import Decoupled, Reduction
from core.distill.logits.partition import Partition, top_groups
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef, SpecError, parse_experiment
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    AgainstOracle,
    Array,
    cross_entropies,
    distance_of_gradients,
    gradient_of,
    kl,
    kl_of,
    log_softmax,
    random_rows,
    standardised,
)

_T = 3.0


def groups_of(v: Array, sizes: tuple[int, ...]) -> list[list[int]]:
    """Return the classes of each group of one row: those of the largest logits first, and the rest last."""
    ranked = sorted(range(len(v)), key=lambda index: -v[index])
    groups, first = [], 0
    for size in sizes:
        groups.append(ranked[first : first + size])
        first += size
    return [*groups, ranked[first:]]


def between(z: Array, v: Array, groups: list[list[int]]) -> float:
    p, q = np.exp(log_softmax(z / _T)), np.exp(log_softmax(v / _T))
    return _T**2 * kl_of(*(np.array([side[group].sum() for group in groups]) for side in (q, p)))


def within(z: Array, v: Array, group: list[int]) -> float:
    return _T**2 * kl(v[group] / _T, z[group] / _T)


def gdkd(z: Array, v: Array, sizes: tuple[int, ...], w: tuple[float, float, float]) -> float:
    groups = groups_of(v, sizes)
    return w[0] * between(z, v, groups) + w[1] * within(z, v, groups[-2]) + w[2] * within(z, v, groups[-1])


class TestGDKD(AgainstOracle):
    name = "gdkd"
    params: ClassVar[dict[str, Any]] = {"k": 3, "temperature": _T, "w0": 0.5, "w1": 2.0, "w2": 6.0, "ramp_epochs": 0}
    changes: ClassVar[dict[str, Any]] = {
        "w0": 1.0,
        "w1": 1.0,
        "w2": 1.0,
        "k": 2,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "standardise": True,
        "align": {"align": "sample", "align_epsilon": 3.0},
    }
    elsewhere = frozenset({"align_epsilon", "align_epsilon_share", "align_decay", "align_log_floor"})

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        rows = [gdkd(a, b, (3,), (0.5, 2.0, 6.0)) for a, b in zip(z, v, strict=True)]
        return float(weight @ (cross_entropies(z, target) + np.array(rows)))


class TestStandardisedGDKD(AgainstOracle):
    name = "gdkd"
    params: ClassVar[dict[str, Any]] = TestGDKD.params | {"standardise": True}
    elsewhere = frozenset(GDKDParams.model_fields)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        sides = zip(standardised(z), standardised(v), strict=True)
        rows = [gdkd(a, b, (3,), (0.5, 2.0, 6.0)) for a, b in sides]
        return float(weight @ (cross_entropies(z, target) + np.array(rows)))


class TestGDKD3(AgainstOracle):
    name = "gdkd3"
    params: ClassVar[dict[str, Any]] = {"k": 3, "temperature": _T, "w0": 0.5, "w1": 2.0, "w2": 6.0, "ramp_epochs": 0}
    changes: ClassVar[dict[str, Any]] = TestGDKD.changes
    elsewhere = TestGDKD.elsewhere

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        rows = [gdkd(a, b, (1, 2), (0.5, 2.0, 6.0)) for a, b in zip(z, v, strict=True)]
        return float(weight @ (cross_entropies(z, target) + np.array(rows)))


def aligned(z: Array, v: Array, target: NDArray[np.int64], weight: Array, sizes: tuple[int, ...], how: str) -> float:
    """Return the loss with the alignment term, whose gradients come from differences of the formula."""
    groups = [groups_of(row, sizes) for row in v]

    def first(x: Array, row: int) -> float:
        return between(x, v[row], groups[row])

    def second(x: Array, row: int) -> float:
        return sum(within(x, v[row], group) for group in groups[row][-2:])

    rows = [gdkd(a, b, sizes, (0.5, 2.0, 6.0)) for a, b in zip(z, v, strict=True)]
    plain = float(weight @ (cross_entropies(z, target) + np.array(rows)))
    return plain - 3.0 * distance_of_gradients(first, second, z, weight, how)


class _Aligned(AgainstOracle):
    """A has second derivatives of the oracle's differences in its gradient, so only its value is compared here."""

    value_tolerance = 1e-7
    has_exact_gradient = False


class TestAlignedSample(_Aligned):
    name = "gdkd"
    params: ClassVar[dict[str, Any]] = TestGDKD.params | {"align": "sample", "align_epsilon": 3.0}
    changes: ClassVar[dict[str, Any]] = {
        "align": "batch",
        "align_epsilon": 1.0,
        "align_epsilon_share": {"align_epsilon": None, "align_epsilon_share": 0.2},
        "align_decay": 0.5,
    }
    elsewhere = frozenset(set(GDKDParams.model_fields) - set(changes))

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return aligned(z, v, target, weight, (3,), "sample")


class TestAlignedBatch(_Aligned):
    name = "gdkd3"
    params: ClassVar[dict[str, Any]] = TestGDKD.params | {"align": "batch", "align_epsilon": 3.0}
    elsewhere = frozenset(GDKDParams.model_fields)

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return aligned(z, v, target, weight, (1, 2), "batch")


class TestAlignedLog(_Aligned):
    name = "gdkd"
    params: ClassVar[dict[str, Any]] = TestGDKD.params | {"align": "log", "align_epsilon": 3.0}
    changes: ClassVar[dict[str, Any]] = {"align_log_floor": 1.0}
    elsewhere = frozenset(set(GDKDParams.model_fields) - set(changes))

    @staticmethod
    def oracle(z: Array, v: Array, target: NDArray[np.int64], weight: Array) -> float:
        return aligned(z, v, target, weight, (3,), "log")


def loss(name: str, rows: Rows, **params: Any) -> LossTerms:
    return build_loss(MethodRef(name=name, params=params))(rows, None)


@pytest.mark.parametrize("reduction", ["sample", "batch", "log"])
@pytest.mark.parametrize("standardise", [False, True])
def test_gradient_with_alignment_is_that_of_finite_differences(reduction: str, standardise: bool) -> None:
    z, v, target = random_rows(4, 6)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5])
    params = {"k": 2, "align": reduction, "align_epsilon": 3.0, "standardise": standardise, "align_log_floor": 0.0}

    def total(student: Tensor) -> Tensor:
        return loss("gdkd", Rows(student, v, target, weight), **params).total

    assert torch.autograd.gradcheck(total, (z,), atol=1e-6)


@pytest.mark.parametrize("reduction", ["sample", "batch", "log"])
@pytest.mark.parametrize("weighted", [False, True])
def test_distance_of_two_terms_is_that_of_dkd_align(reduction: Reduction, weighted: bool) -> None:
    z, v, target = random_rows(6, 8)
    weight = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64) if weighted else None
    rows = Rows(z, v, target, weight)
    parts = Partition(rows, 4.0, (target.unsqueeze(1),))
    ours = alignment(rows, parts.between(), parts.within(1), reduction, 1e-3 if reduction == "log" else 0.0)
    theirs = Decoupled(rows, 4.0).alignment(reduction, 1e-3 if reduction == "log" else 0.0)
    assert ours.value.item() == pytest.approx(theirs.value.item(), rel=1e-11)
    torch.testing.assert_close(ours.gradient, theirs.gradient, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize(
    "align", [{}, {"align": "log", "align_epsilon": 2.0}, {"align": "sample", "align_epsilon_share": 0.2}]
)
def test_with_one_top_class_it_is_dkd_if_the_teacher_is_right(align: dict[str, Any]) -> None:
    z, v, _ = random_rows(6, 8)
    target = v.argmax(1)
    ours = loss("gdkd", Rows(z, v, target), k=1, w0=1.5, w2=5.0, ramp_epochs=0, **align)
    theirs = {name.removeprefix("align_"): value for name, value in align.items()}
    if theirs:
        theirs["reduction"] = theirs.pop("align")
    expected = loss("dkd_align" if align else "dkd", Rows(z, v, target), alpha=1.5, beta=5.0, ramp_epochs=0, **theirs)
    assert ours.total.item() == pytest.approx(expected.total.item(), rel=1e-11)
    assert torch.allclose(gradient_of(ours, z), gradient_of(expected, z), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("name", "sizes"), [("gdkd", (3,)), ("gdkd3", (1, 2))])
def test_with_the_groups_probabilities_as_weights_it_is_kd(name: str, sizes: tuple[int, ...]) -> None:
    """KL(q ‖ p) of one row is the divergence between the groups plus those within, each times its group's Q."""
    z, v, target = random_rows(1, 7)
    q = (v / 4).softmax(1)
    groups = groups_of(v.numpy()[0], sizes)
    top, rest = (q[0, group].sum().item() for group in groups[-2:])
    params = {"k": 3, "w0": 1.0, "w1": top, "w2": rest, "ce_weight": 0.0, "ramp_epochs": 0}
    expected = methods.kd(z, v, target, ce_weight=0.0, kd_weight=1.0)
    assert loss(name, Rows(z, v, target), **params).total.item() == pytest.approx(expected.item(), rel=1e-11)


def test_groups_are_the_teachers_ranks() -> None:
    logits = torch.tensor([[0.0, 5.0, 3.0, 4.0, 1.0]])
    first, second = top_groups(logits, (1, 2))
    assert first.tolist() == [[1]]
    assert second.tolist() == [[3, 2]]


def test_too_few_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="leave no rest beside the teacher's top 5"):
        loss("gdkd", Rows(*random_rows(3, 5)))


def test_too_few_classes_of_a_data_set_are_refused_with_the_path() -> None:
    model = {"model": "small_cnn"}
    spec = {
        "name": "s",
        "dataset": "digits",
        "teacher": model,
        "student": model,
        "seeds": [0],
        "training": {"epochs": 1},
    }
    with pytest.raises(SpecError) as refused:
        parse_experiment(spec | {"methods": [{"name": "gdkd", "params": {"k": 10}}]})
    [problem] = refused.value.problems
    assert problem.path == "methods.0.params.k"
    assert "outside the teacher's top 10 and needs at least 11 classes; digits has 10" in problem.message
    parse_experiment(spec | {"methods": [{"name": "gdkd", "params": {"k": 9}}]})


@pytest.mark.parametrize("sizes", [(1,), (2,), (1, 2)])
def test_epsilon_up_to_the_bound_keeps_the_teacher_an_optimum(sizes: tuple[int, ...]) -> None:
    """docs/method.md: matching the teacher is a minimum up to ε = C·min(w), for every partition."""
    classes, weights = 5, (1.0, 2.0)
    v = torch.full((1, classes), -60.0, dtype=torch.float64)
    v[0, -2:] = torch.tensor([0.0, 0.0])  # the hardest teacher: torn between two classes of the rest
    v[0, : sum(sizes)] = torch.arange(sum(sizes), 0, -1)
    groups = top_groups(v, sizes)

    def lowest(epsilon: float) -> float:
        step, columns = 1e-4, []
        for index in range(classes):
            sides = []
            for sign in (1, -1):
                z = v.clone()
                z[0, index] += sign * step
                rows = Rows(z, v, torch.zeros(1, dtype=torch.long))
                parts = Partition(rows, 4.0, groups)
                inner = parts.within(len(groups))
                for group in range(len(groups)):
                    inner = inner + parts.within(group)
                pull = weights[0] * parts.between().gradients + weights[1] * inner.gradients
                term = alignment(rows, parts.between(), inner, "sample")
                sides.append((pull - epsilon * term.gradient).view(-1))
            columns.append((sides[0] - sides[1]) / (2 * step))
        hessian = torch.stack(columns)
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[0])

    assert lowest(0.99 * classes * min(weights)) > -1e-7
    assert lowest(1.05 * classes * max(weights)) < -1e-4


class TestWarnings:
    CONTEXT = MethodContext(epochs=240, batch_size=64, num_classes=100)

    def messages(self, **params: Any) -> list[str]:
        return [warning.message for warning in gdkd_warnings(GDKDParams(**params), self.CONTEXT)]

    def test_epsilon_beyond_the_bound(self) -> None:
        [message] = self.messages(align="sample", align_epsilon=101.0)
        assert "stability bound 100" in message
        assert not self.messages(align="sample", align_epsilon=99.0)

    def test_log_that_repels(self) -> None:
        [message] = self.messages(align="log", align_epsilon=6.0)
        assert "settles above 0" in message

    def test_decay_that_leaves_nothing(self) -> None:
        [message] = self.messages(align="sample", align_epsilon=6.0, align_decay=0.3, ramp_epochs=40)
        assert "does not act in any epoch" in message

    def test_ramp_that_does_not_end(self) -> None:
        [message] = self.messages(ramp_epochs=400)
        assert "60 % of its weight" in message


class TestContract(MethodContract):
    method: ClassVar[Any] = {
        "name": "gdkd",
        "params": {"k": 2, "ramp_epochs": 1, "align": "log", "align_epsilon": 1.0, "align_decay": 0.9},
    }


class TestContract3(MethodContract):
    method: ClassVar[Any] = {"name": "gdkd3", "params": {"k": 3, "ramp_epochs": 1}}
