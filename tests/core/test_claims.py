"""Claims of Decoupled Gradient Knowledge Distillation (2025) about its loss: when they hold and when not.

Probabilities are of the target class after softening; p̂ and q̂ are the distributions over the other classes.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from core import methods
from core.distill.logits.decoupled import Decoupled, Reduction
from core.distill.rows import Rows
from core.explain import Explanation, explain
from tests.core.test_losses import reference_parts

T = 4.0


def predict_logits(target_probability: float, others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return logits (1, C) with this softened target probability and non-target distribution; the target is class 0."""
    return T * np.log(np.concatenate(([target_probability], (1 - target_probability) * others)))[None]


def terms(p_t: float, q_t: float, p_hat: NDArray[np.float64], q_hat: NDArray[np.float64]) -> Explanation:
    return explain(predict_logits(p_t, p_hat), predict_logits(q_t, q_hat), [0], T)


def s_of(terms_: Explanation, classes: int) -> float:
    """Return s = Δ² + Σ u²; A_sample of one sample is T²/C·s."""
    return terms_.align_sample * classes / T**2


def distribution(seed: int, sharpness: float, size: int = 9) -> NDArray[np.float64]:
    values = np.exp(sharpness * np.random.default_rng(seed).standard_normal(size))
    normed: NDArray[np.float64] = values / values.sum()
    return normed


class TestClaimOneLossIsNearlySymmetricInStudentAndTeacher:
    """(p_t, q_t) = (0.6, 0.8) against (0.8, 0.6), p̂ and q̂ kept."""

    @pytest.mark.parametrize("sharpness", [0.1, 1.0, 3.0])
    def test_alignment_terms_of_swapped_networks_differ_by_a_known_amount(self, sharpness: float) -> None:
        p_hat, q_hat = distribution(0, sharpness), distribution(1, sharpness)
        a, b = terms(0.6, 0.8, p_hat, q_hat), terms(0.8, 0.6, p_hat, q_hat)
        difference = -4 * 0.2 * (p_hat * (p_hat - q_hat)).sum()
        assert s_of(a, 10) - s_of(b, 10) == pytest.approx(difference, rel=1e-9)

    def test_claim_holds_if_the_non_target_classes_agree(self) -> None:
        p_hat = distribution(0, 2.0)
        assert s_of(terms(0.6, 0.8, p_hat, p_hat), 10) == pytest.approx(s_of(terms(0.8, 0.6, p_hat, p_hat), 10))

    def test_claim_holds_for_uniform_students(self) -> None:
        uniform, q_hat = np.full(9, 1 / 9), distribution(1, 2.0)
        a, b = terms(0.6, 0.8, uniform, q_hat), terms(0.8, 0.6, uniform, q_hat)
        assert s_of(a, 10) == pytest.approx(s_of(b, 10))

    def test_claim_does_not_hold_for_peaked_students(self) -> None:
        peaked, flat = np.array([0.92] + [0.01] * 8), np.full(9, 1 / 9)
        a, b = s_of(terms(0.6, 0.8, peaked, flat), 10), s_of(terms(0.8, 0.6, peaked, flat), 10)
        assert b > 1.5 * a

    def test_claim_does_not_hold_for_tckd(self) -> None:
        p_hat = distribution(0, 1.0)
        assert terms(0.6, 0.8, p_hat, p_hat).tckd == pytest.approx(1.464, abs=5e-4)
        assert terms(0.8, 0.6, p_hat, p_hat).tckd == pytest.approx(1.674, abs=5e-4)


class TestClaimTwoTermIsHigherIfOnlyTheStudentIsRight:
    """Logits in which one class stands out by 4, on 200 random backgrounds; then scaled."""

    def mean(
        self, student_right: bool, teacher_right: bool, student_scale: float = 1.0, teacher_scale: float = 1.0
    ) -> float:
        values = []
        for seed in range(200):
            z, v = np.random.default_rng(seed).standard_normal((2, 1, 10))
            z[0, 0 if student_right else 1] += 4
            v[0, 0 if teacher_right else 1] += 4
            values.append(s_of(explain(student_scale * z, teacher_scale * v, [0], T), 10))
        return float(np.mean(values))

    @pytest.mark.parametrize("scale", [0.5, 1.0, 5.0])
    def test_claim_holds_against_agreement_at_equal_scale(self, scale: float) -> None:
        wrong_teacher, agreement = (self.mean(True, right, scale, scale) for right in (False, True))
        assert wrong_teacher > agreement

    def test_claim_is_not_specific_to_a_wrong_teacher(self) -> None:
        # A right teacher and a wrong student are as far apart: it is disagreement that counts, not who is right.
        disagreement = self.mean(student_right=False, teacher_right=True)
        assert disagreement > self.mean(student_right=True, teacher_right=True)

    def test_claim_does_not_hold_for_a_student_far_flatter_than_a_confident_teacher(self) -> None:
        # Such a student is far from a teacher that is right, too: Δ is then most of the distance.
        wrong_teacher, agreement = (self.mean(True, right, 0.1, teacher_scale=5.0) for right in (False, True))
        assert wrong_teacher < 0.95 * agreement

    def test_claim_holds_for_a_flat_student_of_a_less_confident_teacher(self) -> None:
        wrong_teacher, agreement = (self.mean(True, right, 0.1) for right in (False, True))
        assert wrong_teacher > 1.1 * agreement

    def test_higher_alignment_term_lowers_the_loss(self) -> None:
        # The reading "prioritises the teacher" has the sign backwards: the term is subtracted.
        z, v = (torch.randn(8, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        target = torch.zeros(8, dtype=torch.long)
        near = v + 0.1 * (z - v)

        def loss_at(student: Tensor, epsilon: float) -> float:
            return methods.dkd_align(
                student, v, target, reduction="sample", epsilon=epsilon, ce_weight=0.0, ramp_epochs=0
            ).item()

        gain_far = loss_at(z, 0.0) - loss_at(z, 6.0)
        gain_near = loss_at(near, 0.0) - loss_at(near, 6.0)
        assert gain_far > gain_near > 0


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("reduction", ["sample", "log"])
def test_alignment_gradient_opposes_the_distillation_gradient(classes: int, reduction: Reduction) -> None:
    random = torch.Generator().manual_seed(0)
    z, v = 3 * torch.randn(2, 64, classes, generator=random, dtype=torch.float64)
    target = torch.randint(classes, (64,), generator=random)
    near = v + 0.3 * (z - v)
    parts = Decoupled(Rows(near, v, target), T)
    distillation = parts.tckd().gradient + parts.nckd().gradient
    pull = -parts.alignment(reduction).gradient
    assert torch.cosine_similarity(pull.flatten(), distillation.flatten(), dim=0) < -0.7


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (2.0, 1.0)])
@pytest.mark.parametrize("classes", [3, 10])
def test_matching_the_teacher_is_an_optimum_up_to_the_stability_bound(classes: int, alpha: float, beta: float) -> None:
    """α·TCKD + β·NCKD − ε·A is a minimum at z = v for every teacher up to ε = C·min(α, β), and not far beyond."""
    bound = classes * min(alpha, beta)

    def curvature(v: Tensor, epsilon: float) -> float:
        def value(z: Tensor) -> Tensor:
            target = torch.zeros(1, dtype=torch.long)
            first, second = reference_parts(z[None], v[None], target, T)
            p, q = torch.softmax(z / T, 0), torch.softmax(v / T, 0)
            p_hat, q_hat, delta = p[1:] / p[1:].sum(), q[1:] / q[1:].sum(), p[0] - q[0]
            s = delta**2 + (((1 + delta) * p_hat - q_hat) ** 2).sum()
            return alpha * first.sum() + beta * second.sum() - epsilon * T**2 / classes * s

        hessian = torch.autograd.functional.hessian(value, v)  # type: ignore[no-untyped-call]
        return float(torch.linalg.eigvalsh(hessian)[0])  # shifting all logits changes nothing: one eigenvalue is 0

    random = torch.Generator().manual_seed(0)
    teachers = [
        s * torch.randn(classes, generator=random, dtype=torch.float64) for s in (0.3, 3, 20) for _ in range(20)
    ]
    # The hardest teachers: all but sure of one non-target class, or torn between two.
    spike = torch.full((classes,), -60.0, dtype=torch.float64)
    torn = spike.clone()
    spike[:2], torn[:3] = 0.0, torch.tensor([-30.0, 0.0, 0.0])
    teachers += [spike, torn]
    assert min(curvature(v, 0.999 * bound) for v in teachers) > -1e-9
    assert min(curvature(v, 1.2 * bound) for v in teachers) < -1e-6
