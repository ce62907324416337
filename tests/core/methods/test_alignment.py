"""The alignment term in the methods that offer it: against differences of their formulas, and as fields of a spec."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from core.catalog import METHODS
from core.catalog.methods.alignment import AlignmentParams
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef, SpecError, parse_experiment, warnings_of
from core.specs.labels import is_automatic_label, misleading_label
from core.testing import MethodContract
from tests.core.methods.logit_suite import (
    Array,
    LogitMethodTests,
    distance_of_gradients,
    gradient_of,
    kl,
    kl_of,
    log_softmax,
    random_rows,
    standardised,
)

ALIGNED = sorted(
    entry.name for entry in METHODS if issubclass(entry.params, AlignmentParams) and not isinstance(entry.load(), type)
)
"""The methods with the term that are functions of rows; SDD is tested in test_sdd.py."""


def loss(name: str, rows: Rows, **params: Any) -> LossTerms:
    return build_loss(MethodRef(name=name, params=params))(rows, None)


def without_target(logits: Array, target: int) -> Array:
    return np.delete(logits, target)


def nkd_target(z: Array, v: Array, target: int) -> float:
    return -float(np.exp(log_softmax(v)[target]) * log_softmax(z)[target])


def nckd(z: Array, v: Array, target: int, temperature: float) -> float:
    sides = (without_target(logits, target) / temperature for logits in (v, z))
    return temperature**2 * kl(*sides)


def tckd(z: Array, v: Array, target: int, temperature: float) -> float:
    p, q = (float(np.exp(log_softmax(logits / temperature)[target])) for logits in (z, v))
    return temperature**2 * kl_of(np.array([q, 1 - q]), np.array([p, 1 - p]))


def scd(z: Array, v: Array, target: int) -> float:
    p, q = float(np.exp(log_softmax(z / 4)[target])), float(np.exp(log_softmax(v / 4).max()))
    return 16 * kl_of(np.array([q, 1 - q]), np.array([p, 1 - p]))


def mcd(z: Array, v: Array, target: int) -> float:
    below = v < v[target]
    return 16 * kl(v[below] / 4, z[below] / 4) if below.any() else 0.0


class _Aligned(LogitMethodTests):
    standardise: ClassVar[bool] = False

    @staticmethod
    def first(z: Array, v: Array, target: int) -> float:
        raise NotImplementedError

    @staticmethod
    def second(z: Array, v: Array, target: int) -> float:
        raise NotImplementedError

    def test_value_is_that_of_the_method_minus_the_distance(self) -> None:
        z, v, target = random_rows(*self.shape)
        weight = torch.tensor([1.0, 0.5, 2.5, 0.25, 1.0], dtype=torch.float64)
        rows = Rows(z, v, target, weight)
        params = {name: value for name, value in self.params.items() if not name.startswith("align")}
        plain = loss(self.name, rows, **params).total.item()
        sides = [logits.detach().numpy() for logits in (z, v)]
        student, teacher = (standardised(side) if self.standardise else side for side in sides)
        distance = distance_of_gradients(
            lambda x, row: self.first(x, teacher[row], int(target[row])),
            lambda x, row: self.second(x, teacher[row], int(target[row])),
            student,
            (weight / weight.sum()).numpy(),
            self.params["align"],
        )
        expected = plain - self.params["align_epsilon"] * distance
        assert self.terms(rows).total.item() == pytest.approx(expected, rel=1e-7)

    def test_gradient_is_that_of_finite_differences(self) -> None:
        z, v, target = random_rows(4, 5)
        weight = torch.tensor([1.0, 0.0, 2.0, 0.5])

        def total(student: Tensor) -> Tensor:
            return self.terms(Rows(student, v, target, weight)).total

        assert torch.autograd.gradcheck(total, (z,), atol=1e-6)


class TestNKDSample(_Aligned):
    name = "nkd"
    params: ClassVar[dict[str, Any]] = {"temperature": 2.0, "align": "sample", "align_epsilon": 3.0}
    changes: ClassVar[dict[str, Any]] = {
        "align": "batch",
        "align_epsilon": 1.0,
        "align_epsilon_share": {"align_epsilon": None, "align_epsilon_share": 0.2},
        "align_decay": 0.5,
        "temperature": 3.0,
        "gamma": 1.0,
        "ce_weight": 0.5,
    }
    elsewhere = frozenset({"align_log_floor"})
    first = staticmethod(nkd_target)

    @staticmethod
    def second(z: Array, v: Array, target: int) -> float:
        return nckd(z, v, target, 2.0)


class TestNKDLog(TestNKDSample):
    params: ClassVar[dict[str, Any]] = {"temperature": 2.0, "align": "log", "align_epsilon": 3.0}
    changes: ClassVar[dict[str, Any]] = {"align_log_floor": 1.0}
    elsewhere = frozenset(set(METHODS["nkd"].params.model_fields) - set(changes))


class TestRLD(_Aligned):
    name = "rld"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "align": "batch", "align_epsilon": 50.0}
    changes: ClassVar[dict[str, Any]] = {"align_epsilon": 1.0, "align_decay": 0.5, "confidence_temperature": 2.0}
    elsewhere = frozenset(set(METHODS["rld"].params.model_fields) - set(changes))
    first = staticmethod(scd)
    second = staticmethod(mcd)


class TestStandardisedRLD(TestRLD):
    params: ClassVar[dict[str, Any]] = TestRLD.params | {"standardise": True}
    standardise = True


class TestDKDDivergence(_Aligned):
    name = "dkd_divergence"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "align": "sample", "align_epsilon": 3.0}
    changes: ClassVar[dict[str, Any]] = {
        "align": "log",
        "align_epsilon": 1.0,
        "align_epsilon_share": {"align_epsilon": None, "align_epsilon_share": 0.2},
        "align_decay": 0.5,
    }
    elsewhere = frozenset(set(METHODS["dkd_divergence"].params.model_fields) - set(changes))

    @staticmethod
    def first(z: Array, v: Array, target: int) -> float:
        return tckd(z, v, target, 4.0)

    @staticmethod
    def second(z: Array, v: Array, target: int) -> float:
        return nckd(z, v, target, 4.0)


def masked_nckd(z: Array, v: Array, target: int) -> float:
    """NCKD over the three non-target classes that the teacher ranks first."""
    kept = [k for k in np.argsort(-v) if k != target][:3]
    return 16 * kl(v[kept] / 4, z[kept] / 4)


class TestDeepKD(TestDKDDivergence):
    name = "deepkd"
    params: ClassVar[dict[str, Any]] = {"ramp_epochs": 0, "mask": "static", "top": 3 / 7} | {
        "align": "sample",
        "align_epsilon": 3.0,
    }
    elsewhere = frozenset(set(METHODS["deepkd"].params.model_fields) - set(TestDKDDivergence.changes))

    @staticmethod
    def second(z: Array, v: Array, target: int) -> float:
        return masked_nckd(z, v, target)


class TestStandardisedDeepKD(TestDeepKD):
    params: ClassVar[dict[str, Any]] = TestDeepKD.params | {"standardise": True, "align": "log"}
    changes: ClassVar[dict[str, Any]] = {"align": "batch", "align_log_floor": 1.0}
    elsewhere = frozenset(set(METHODS["deepkd"].params.model_fields) - set(changes))
    standardise = True


@pytest.mark.parametrize("reduction", ["sample", "batch", "log"])
def test_deepkd_without_a_mask_has_the_term_of_dkd_align(reduction: str) -> None:
    rows = Rows(*random_rows(8, 10))
    ours = loss("deepkd", rows, mask="off", align=reduction, align_epsilon=0.7)
    theirs = loss("dkd_align", rows, reduction=reduction, epsilon=0.7)
    assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-10)
    assert torch.allclose(gradient_of(ours, rows.student), gradient_of(theirs, rows.student), rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["deepkd", "sd_dkd"])
def test_bound_on_epsilon_is_that_of_dkd(name: str) -> None:
    def warned(epsilon: float) -> bool:
        params = {"ramp_epochs": 0, "beta": 2.0, "align": "sample", "align_epsilon": epsilon}
        spec = parse_experiment(spec_with({"name": name, "params": params}))
        return any(problem.path == "methods.0.params.align_epsilon" for problem in warnings_of(spec))

    assert not warned(10.0)  # C·min(α, β) with C = 10 and α = 1
    assert warned(10.5)


def test_epsilon_up_to_the_bound_keeps_a_masked_teacher_an_optimum() -> None:
    """With fewer classes in NCKD the bound holds too; beyond it, a teacher that is torn is no optimum."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(40, 6, generator=generator, dtype=torch.float64) * 4
    target = torch.randint(6, (40,), generator=generator)
    v[0], target[0] = torch.tensor([10.0, 10.0, -9.0, -9.0, -9.0, -9.0]), 0
    params = {"ramp_epochs": 0, "ce_weight": 0.0, "beta": 1.0, "mask": "static", "top": 0.34, "temperature": 1.0}

    def least_curvature(epsilon: float, row: int) -> float:
        def value(student: Tensor) -> Tensor:
            rows = Rows(student.unsqueeze(0), v[row : row + 1], target[row : row + 1])
            return loss("deepkd", rows, **params, align="sample", align_epsilon=epsilon).total

        def slope(student: Tensor) -> Tensor:
            leaf = student.clone().requires_grad_()
            return torch.autograd.grad(value(leaf), leaf)[0]

        h = 1e-5
        moves = h * torch.eye(6, dtype=torch.float64)
        hessian = torch.stack([(slope(v[row] + move) - slope(v[row] - move)) / (2 * h) for move in moves])
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[0])

    assert min(least_curvature(6.0, row) for row in range(40)) > -1e-6
    assert least_curvature(6.6, 0) < -1e-3


def test_two_classes_are_refused_with_the_term_alone() -> None:
    with pytest.raises(SpecError) as refused:
        parse_experiment(
            spec_with(
                {"name": "deepkd", "params": {"beta": 0.0, "align": "sample", "align_epsilon": 1.0}},
                dataset={"name": "synthetic", "params": {"num_classes": 2}},
            )
        )
    assert [problem.path for problem in refused.value.problems] == ["methods.0.params.align"]


def test_rld_equals_dkd_align_if_the_teacher_is_right() -> None:
    z, v, _ = random_rows(8, 10)
    target = v.argmax(1)
    ours = loss("rld", Rows(z, v, target), ramp_epochs=0, align="log", align_epsilon_share=0.3)
    theirs = loss("dkd_align", Rows(z, v, target), ramp_epochs=0, reduction="log", epsilon_share=0.3)
    assert ours.total.item() == pytest.approx(theirs.total.item(), rel=1e-10)
    assert torch.allclose(gradient_of(ours, z), gradient_of(theirs, z), rtol=1e-8, atol=1e-12)
    assert ours.diagnostics is not None
    assert theirs.diagnostics is not None
    mine, expected = ours.diagnostics(ours.gradients), theirs.diagnostics(theirs.gradients)
    for name in ("grad/similarity", "grad/align_share", "grad/align_cosine"):
        assert mine[name].item() == pytest.approx(expected[name].item(), rel=1e-9), name


@pytest.mark.parametrize("name", ALIGNED)
def test_share_is_that_of_the_summed_gradient_norms(name: str) -> None:
    rows = Rows(*random_rows(16, 12))
    gradients = loss(name, rows, align="sample", align_epsilon_share=0.25).gradients
    norms = {term: float(gradient.norm()) for term, gradient in gradients.items()}
    assert norms["align"] / sum(norms.values()) == pytest.approx(0.25, rel=1e-9)


@pytest.mark.parametrize("name", ALIGNED)
def test_decay_and_ramp_scale_the_term(name: str) -> None:
    rows = Rows(*random_rows(16, 12))
    params = {"align": "sample", "align_epsilon": 6.0, "align_decay": 0.5}
    terms = build_loss(MethodRef(name=name, params=params))(rows, 2)
    ramp = 3 / 20 if "ramp_epochs" in METHODS[name].params.model_fields else 1.0
    assert terms.values["epsilon"].item() == pytest.approx(6 / 4)
    weight, _ = terms.weighted["align"]
    assert float(weight) == pytest.approx(-ramp * 6 / 4)


def spec_with(*chosen: Any, **extra: Any) -> dict[str, Any]:
    model = {"model": "small_cnn"}
    return {
        "name": "s",
        "dataset": "digits",
        "teacher": model,
        "student": model,
        "seeds": [0],
        "training": {"epochs": 2},
        "methods": list(chosen),
        **extra,
    }


def problem_of(**params: Any) -> str:
    with pytest.raises(SpecError) as refused:
        parse_experiment(spec_with({"name": "nkd", **params}))
    [problem] = refused.value.problems
    return str(problem)


class TestInSpecs:
    def test_term_that_is_off_is_left_out(self) -> None:
        plain, off = (MethodRef(name="nkd", params=params) for params in ({}, {"align": "off"}))
        assert plain.params == off.params
        assert not [name for name in plain.params if "align" in name]
        assert plain.label == "nkd"

    def test_label_says_what_is_compared(self) -> None:
        params = {"align": "log", "align_epsilon": 1.0}
        method = MethodRef(name="nkd", params=params)
        assert method.label == "nkd + align (log)"
        assert is_automatic_label(method.model_dump())
        assert misleading_label("nkd", method.params, "nkd + align (log)") is None
        assert "says batch" in (misleading_label("nkd", method.params, "NKD, batch") or "")
        assert "another method" in (misleading_label("nkd", method.params, "nkd + align (sample)") or "")
        assert misleading_label("dkd_align", {"reduction": "log"}, "dkd_align") is None

    def test_weight_without_the_term_is_refused(self) -> None:
        assert "align_epsilon has no effect while align is off" in problem_of(params={"align_epsilon": 1.0})

    def test_term_without_a_weight_is_refused(self) -> None:
        assert "exactly one of align_epsilon and align_epsilon_share" in problem_of(params={"align": "log"})

    def test_floor_of_another_reduction_is_refused(self) -> None:
        params = {"align": "sample", "align_epsilon": 1.0, "align_log_floor": 1e-8}
        assert "only with align: log" in problem_of(params=params)

    def test_share_of_a_term_that_is_off_is_refused_with_the_path(self) -> None:
        text = problem_of(shares={"align": 0.2})
        assert text.startswith("methods.0.shares.align: align is off")

    def test_share_beside_a_share_parameter_is_refused(self) -> None:
        text = problem_of(params={"align": "log", "align_epsilon_share": 0.1}, shares={"align": 0.2})
        assert "align_epsilon_share gives this term its share already" in text

    def test_shares_of_all_terms_but_the_one_that_is_off_are_refused(self) -> None:
        text = problem_of(shares={"ce": 0.2, "target": 0.2, "non_target": 0.2})
        assert "at least one term needs a weight of its own" in text

    def test_two_settings_that_differ_in_the_term_are_told_apart(self) -> None:
        on = {"name": "nkd", "params": {"align": "log", "align_epsilon": 1.0}, "label": "x"}
        with pytest.raises(SpecError, match="they differ in align"):
            parse_experiment(spec_with(on, {"name": "nkd", "label": "x"}))


class TestContractNKD(MethodContract):
    method: ClassVar[Any] = {"name": "nkd", "params": {"align": "batch", "align_epsilon": 20.0}}


class TestContractDeepKD(MethodContract):
    method: ClassVar[Any] = {
        "name": "deepkd",
        "params": {"ramp_epochs": 1, "mask": "static", "top": 0.5, "align": "sample", "align_epsilon": 1.0},
    }


class TestContractRLD(MethodContract):
    method: ClassVar[Any] = {"name": "rld", "params": {"ramp_epochs": 1, "align": "log", "align_epsilon_share": 0.1}}
    has_exact_gradient = False


class TestControlWithTheOtherSign:
    """``sign: added`` of DKD-Align, which moves the two gradients together."""

    PARAMS: ClassVar[dict[str, Any]] = {"reduction": "log", "epsilon_share": 0.2}

    @pytest.mark.parametrize("reduction", ["batch", "sample", "log"])
    def test_loss_is_the_mirror_of_the_usual_one_around_dkd(self, reduction: str) -> None:
        random = torch.Generator().manual_seed(0)
        z, v = torch.randn(2, 6, 5, dtype=torch.float64, generator=random)
        rows = Rows(z, v, torch.tensor([0, 1, 2, 3, 4, 0]))
        own = {"reduction": reduction, "epsilon": 3.0, "beta": 2.0, "ramp_epochs": 0}
        usual, added = (
            build_loss(MethodRef(name="dkd_align", params=own | {"sign": sign}))(rows, 3)
            for sign in ("subtracted", "added")
        )
        without = build_loss(MethodRef(name="dkd", params={"beta": 2.0, "ramp_epochs": 0}))(rows, 3)
        torch.testing.assert_close((usual.total + added.total) / 2, without.total, rtol=1e-12, atol=0)
        torch.testing.assert_close(usual.gradients["align"], -added.gradients["align"], rtol=0, atol=0)

    def test_usual_sign_is_left_out_of_the_spec(self) -> None:
        plain, named = (MethodRef(name="dkd_align", params=self.PARAMS | more) for more in ({}, {"sign": "subtracted"}))
        assert plain.params == named.params
        assert "sign" not in plain.params

    def test_label_says_that_it_is_added(self) -> None:
        method = MethodRef(name="dkd_align", params=self.PARAMS | {"sign": "added"})
        assert method.label == "dkd_align (log, added)"
        assert is_automatic_label(method.model_dump())

    def test_there_is_no_bound_on_epsilon_but_a_warning_of_log(self) -> None:
        def messages(**params: Any) -> list[str]:
            method = {"name": "dkd_align", "params": {"sign": "added", "epsilon": 500.0, "ramp_epochs": 0} | params}
            spec = {
                "name": "n",
                "dataset": "cifar10",
                "teacher": {"model": "resnet20"},
                "student": {"model": "resnet8"},
                "methods": ["dkd", method],
                "seeds": [0],
                "training": {"epochs": 30},
            }
            return [item.message for item in warnings_of(parse_experiment(spec)) if "methods.1.params" in item.path]

        assert messages(reduction="sample") == []
        assert any("no lower bound" in message for message in messages(reduction="log"))
