"""The losses against references written from their definitions, in float64, by double backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core import methods
from core.catalog.methods import DKDAlignParams
from core.distill.logits.decoupled import Decoupled, Reduction
from core.distill.logits.dkd_align import dkd_align_loss
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import cross_entropy, label_term
from core.explain import explain, explain_uniform_batches
from core.specs import MethodRef

REDUCTIONS: tuple[Reduction, ...] = ("batch", "sample", "log")


def logits(batch: int, classes: int, scale: float = 3.0, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, classes, generator=random, dtype=torch.float64) * scale
    target = torch.randint(classes, (batch,), generator=random)
    return student.requires_grad_(), teacher, target


def reference_parts(z: Tensor, v: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return TCKD and NCKD of each sample (B,) with the factor T², by the formulas of the paper."""
    p, q = F.softmax(z / temperature, 1), F.softmax(v / temperature, 1)
    hit = F.one_hot(target, z.shape[1]).bool()
    p_t, q_t = p[hit], q[hit]
    p_rest, q_rest = p[~hit].view(len(z), -1), q[~hit].view(len(z), -1)
    p_hat, q_hat = p_rest / p_rest.sum(1, keepdim=True), q_rest / q_rest.sum(1, keepdim=True)
    target_part = q_t * (q_t / p_t).log() + (1 - q_t) * ((1 - q_t) / (1 - p_t)).log()
    other_part = (q_hat * (q_hat / p_hat).log()).sum(1)
    return temperature**2 * target_part, temperature**2 * other_part


def reference_alignment(z: Tensor, v: Tensor, target: Tensor, temperature: float, reduction: str) -> Tensor:
    """Return A by its definition: the mean squared difference of two differentiable autograd gradients."""
    target_part, other_part = reference_parts(z, v, target, temperature)
    if reduction == "batch":
        target_part, other_part = target_part.mean(), other_part.mean()
    (first,) = torch.autograd.grad(target_part.sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(other_part.sum(), z, create_graph=True)
    distance = (first - second).square().mean()
    return distance.log() if reduction == "log" else distance


def assert_same(ours: Tensor, reference: Tensor, z: Tensor) -> None:
    """Check that values and gradients agree to 1e-10."""
    (our_gradient,) = torch.autograd.grad(ours, z)
    (gradient,) = torch.autograd.grad(reference, z)
    assert torch.allclose(ours, reference, rtol=1e-10, atol=1e-14)
    assert (our_gradient - gradient).norm() <= 1e-10 * gradient.norm()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
@pytest.mark.parametrize(("batch", "classes"), [(1, 3), (7, 10), (64, 100)])
class TestAgainstDoubleBackward:
    def test_tckd(self, batch: int, classes: int, temperature: float) -> None:
        z, v, target = logits(batch, classes)
        reference = reference_parts(z, v, target, temperature)[0].mean()
        assert_same(methods.tckd(z, v, target, temperature), reference, z)

    def test_nckd(self, batch: int, classes: int, temperature: float) -> None:
        z, v, target = logits(batch, classes)
        reference = reference_parts(z, v, target, temperature)[1].mean()
        assert_same(methods.nckd(z, v, target, temperature), reference, z)

    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_alignment(self, batch: int, classes: int, temperature: float, reduction: Reduction) -> None:
        z, v, target = logits(batch, classes)
        reference = reference_alignment(z, v, target, temperature, reduction)
        assert_same(methods.alignment(z, v, target, temperature, reduction), reference, z)


def test_dkd_is_the_weighted_sum_of_its_terms() -> None:
    z, v, target = logits(16, 10)
    first, second = reference_parts(z, v, target, 4.0)
    reference = 0.7 * F.cross_entropy(z, target) + 0.25 * (1.5 * first.mean() + 6.0 * second.mean())
    ours = methods.dkd(z, v, target, epoch=4, alpha=1.5, beta=6.0, temperature=4.0, ce_weight=0.7, ramp_epochs=20)
    assert_same(ours, reference, z)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_dkd_align_subtracts_the_term_with_ramp_and_decay(reduction: Reduction) -> None:
    z, v, target = logits(16, 10)
    first, second = reference_parts(z, v, target, 3.0)
    term = reference_alignment(z, v, target, 3.0, reduction)
    ramp, decay = 2 / 10, 0.3**2  # epoch 2 of a ramp that counts from 0
    reference = F.cross_entropy(z, target) + ramp * (first.mean() + 8 * second.mean() - 6 * decay * term)
    ours = methods.dkd_align(
        z,
        v,
        target,
        epoch=2,
        temperature=3.0,
        reduction=reduction,
        epsilon=6.0,
        decay=0.3,
        ramp_epochs=10,
        ramp_start=0,
    )
    assert_same(ours, reference, z)


def test_log_floor_is_the_denominator_of_the_paper() -> None:
    z, v, target = logits(32, 1000)
    literal = reference_alignment(z, v, target, 4.0, "batch")
    (gradient,) = torch.autograd.grad(literal / (literal.detach() + 1e-8), z)
    (ours,) = torch.autograd.grad(methods.alignment(z, v, target, 4.0, "log", log_floor=1e-8), z)
    assert (ours - gradient).norm() <= 1e-10 * gradient.norm()


def test_kd_and_ce_match_torch() -> None:
    z, v, target = logits(16, 10)
    divergence = 16 * F.kl_div(F.log_softmax(z / 4, 1), F.softmax(v / 4, 1), reduction="batchmean")
    assert_same(methods.kd(z, v, target), 0.1 * F.cross_entropy(z, target) + 0.9 * divergence, z)
    assert_same(methods.ce(z, None, target), F.cross_entropy(z, target), z)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("epoch", [3, None])
def test_epsilon_share_is_the_share_of_the_gradient_norms(share: float, epoch: int | None) -> None:
    z, v, target = logits(64, 100)
    method = build_loss(
        MethodRef(name="dkd_align", params={"reduction": "log", "epsilon_share": share, "ramp_epochs": 10})
    )
    gradients = method(Rows(z, v, target), epoch).gradients
    norms = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    assert norms["align"] / sum(norms.values()) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("weight", [{"epsilon": 6.0}, {"epsilon_share": 0.5}])
def test_first_epoch_of_a_ramp_from_zero_is_cross_entropy(weight: dict[str, Any]) -> None:
    z, v, target = logits(16, 10)
    ours = methods.dkd_align(z, v, target, epoch=0, reduction="log", ramp_start=0, **weight)
    assert_same(ours, F.cross_entropy(z, target), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("kind", ["huge", "equal", "zero", "opposite", "confident"])
def test_losses_are_finite_for_extreme_logits(dtype: torch.dtype, temperature: float, kind: str) -> None:
    z, v, target = logits(8, 10, scale=1e4)
    if kind == "equal":
        v = z.detach().clone()
    elif kind == "zero":
        z, v = torch.zeros_like(z), torch.zeros_like(v)
    elif kind == "opposite":
        v = -z.detach()
    elif kind == "confident":
        z = torch.full_like(z, -1e4).scatter(1, target[:, None], 1e4)
    student = z.detach().clamp(-1e4, 1e4).to(dtype).requires_grad_()
    teacher = v.clamp(-1e4, 1e4).to(dtype)
    losses = {
        "kd": methods.kd(student, teacher, target, temperature=temperature),
        "dkd": methods.dkd(student, teacher, target, temperature=temperature),
    }
    weights: tuple[dict[str, Any], ...] = ({"epsilon": 6.0}, {"epsilon_share": 0.1})
    for reduction in REDUCTIONS:
        for weight in weights:
            losses[f"{reduction} {weight}"] = methods.dkd_align(
                student, teacher, target, temperature=temperature, reduction=reduction, **weight
            )
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, student)
        assert loss.isfinite(), name
        assert gradient.isfinite().all(), name
        assert gradient.dtype == dtype


def test_distance_of_equal_networks_is_zero() -> None:
    z, _, target = logits(8, 10)
    for part in (methods.tckd(z, z.detach(), target, 4.0), methods.nckd(z, z.detach(), target, 4.0)):
        assert part.item() == pytest.approx(0, abs=1e-14)
    assert methods.alignment(z, z.detach(), target, 4.0, "sample").item() == 0


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_alignment_is_invariant_under_permutations(reduction: Reduction) -> None:
    z, v, target = logits(8, 10)
    samples, classes = torch.randperm(8), torch.randperm(10)
    renamed = classes.argsort()[target[samples]]
    ours = methods.alignment(z, v, target, 4.0, reduction)
    moved = methods.alignment(z[samples][:, classes], v[samples][:, classes], renamed, 4.0, reduction)
    assert torch.allclose(ours, moved, rtol=1e-12)


def test_two_classes_are_refused() -> None:
    z, v, target = logits(4, 2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        methods.nckd(z, v, target, 4.0)


def test_similarity_is_the_mean_cosine_of_the_samples_gradients() -> None:
    z, v, target = logits(32, 10)
    first, second = reference_parts(z, v, target, 4.0)
    gradients = [torch.autograd.grad(part.sum(), z, retain_graph=True)[0] for part in (first, second)]
    reference = F.cosine_similarity(gradients[0], gradients[1], dim=1).mean()
    ours = Decoupled(Rows(z, v, target), 4.0).similarity()
    assert torch.allclose(ours, reference, rtol=1e-10)


def test_explain_equals_the_torch_losses() -> None:
    z, v, target = logits(16, 10)
    shown = explain(z.detach().numpy(), v.numpy(), target.numpy(), 4.0)
    for name, loss, gradient in (
        ("tckd", methods.tckd(z, v, target, 4.0), shown.tckd_gradient),
        ("nckd", methods.nckd(z, v, target, 4.0), shown.nckd_gradient),
        ("align_sample", methods.alignment(z, v, target, 4.0, "sample"), shown.align_gradient),
    ):
        assert getattr(shown, name) == pytest.approx(loss.item(), rel=1e-12)
        np.testing.assert_allclose(gradient, torch.autograd.grad(loss, z)[0], rtol=1e-9, atol=1e-15)
    assert shown.align_batch == pytest.approx(methods.alignment(z, v, target, 4.0, "batch").item(), rel=1e-12)
    assert shown.align_log == pytest.approx(methods.alignment(z, v, target, 4.0, "log").item(), rel=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [{"epsilon": 6.0}, {"epsilon_share": 0.2}])
@pytest.mark.parametrize("sign", ["subtracted", "added"])
def test_explanation_of_uniform_batches_equals_the_torch_loss(
    reduction: str, weight: dict[str, float], sign: str
) -> None:
    z, v, target = logits(5, 7)
    floor = 1e-8 if reduction == "log" else 0.0
    params = DKDAlignParams(
        reduction=reduction, alpha=0.5, beta=3.0, ce_weight=0.7, temperature=3.0, log_floor=floor, sign=sign, **weight
    )
    shown = explain_uniform_batches(z.detach().numpy(), v.numpy(), target.numpy(), params, batch=4)
    for row in range(len(z)):
        repeated = Rows(z[row].detach().repeat(4, 1), v[row].repeat(4, 1), target[row].repeat(4))
        loss = dkd_align_loss(repeated, params, None)
        assert shown.total[row] == pytest.approx(loss.total.item(), rel=1e-10)
        direction = 1 if sign == "added" else -1
        assert direction * shown.weights["align"][row] == pytest.approx(loss.values["epsilon"].item(), rel=1e-10)
        for name, gradient in loss.gradients.items():
            assert shown.values[name][row] == pytest.approx(loss.values[name].item(), rel=1e-10)
            np.testing.assert_allclose(shown.gradients[name][row], gradient[0], rtol=1e-8, atol=1e-15)
        assert loss.diagnostics is not None
        assert shown.similarity[row] == pytest.approx(
            loss.diagnostics(loss.gradients)["grad/similarity"].item(), rel=1e-9
        )
        norms = {name: gradient.norm().item() for name, gradient in loss.gradients.items()}
        assert shown.share[row] == pytest.approx(norms["align"] / sum(norms.values()), rel=1e-9)
    if "epsilon_share" in weight:
        np.testing.assert_allclose(shown.share, 0.2)


def test_undefined_directions_are_nan_and_invalid_input_is_refused() -> None:
    z, _, target = logits(2, 5)
    same = explain_uniform_batches(
        z.detach().numpy(), z.detach().numpy(), target.numpy(), DKDAlignParams(reduction="log", epsilon=6.0)
    )
    assert np.isfinite(same.total).all()
    assert np.isnan(same.similarity).all()
    params = DKDAlignParams(reduction="sample", epsilon=6.0)
    with pytest.raises(ValueError, match="at least one sample"):
        explain_uniform_batches([[1, 2, 3]], [[1, 2, 3]], [0], params, batch=0)
    with pytest.raises(ValueError, match="standardised"):
        explain_uniform_batches([[1, 2, 3]], [[1, 2, 3]], [0], params.model_copy(update={"standardise": True}))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("weighted", [False, True])
def test_smoothed_cross_entropy_equals_that_of_torch(smoothing: float, weighted: bool) -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=random, dtype=torch.float64, requires_grad=True)
    target = torch.randint(5, (7,), generator=random)
    weight = torch.rand(7, generator=random, dtype=torch.float64) if weighted else None
    term = cross_entropy(logits.detach(), target, weight, smoothing)
    each = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction="none")
    expected = each.mean() if weight is None else (each * weight).sum() / weight.sum()
    (gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(term.value, expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(term.gradient, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["ce", "kd", "dkd", "dist", "nkd", "rld"])
def test_every_method_smooths_only_its_cross_entropy(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    target = torch.randint(5, (7,), generator=random)
    loss = build_loss(MethodRef(name=name))
    plain, smoothed = (loss(Rows(z, v, target, label_smoothing=share), None) for share in (0.0, 0.2))
    for term, value in plain.values.items():
        assert (smoothed.values[term].item() == value.item()) == (term != "ce"), term
    assert smoothed.values["ce"].item() == pytest.approx(F.cross_entropy(z, target, label_smoothing=0.2).item())


def test_rank_without_rows_has_a_cross_entropy_of_nothing() -> None:
    """A last batch may have fewer samples than there are ranks."""
    rows = Rows(torch.zeros(0, 5), None, torch.zeros(0, dtype=torch.long))
    term = label_term(rows)
    assert term.value.isnan()
    assert term.gradient.shape == (0, 5)
