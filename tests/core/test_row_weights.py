"""Weights of rows: the value, the gradient and the metrics of every method are weighted means over the batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core import methods
from core.catalog import METHODS
from core.distill.gradients import measure_gradients
from core.distill.logits.decoupled import Decoupled, Reduction
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef
from tests.core.test_losses import REDUCTIONS, assert_same, logits, reference_parts
from tests.core.test_methods import ALL, REFERENCES, SETTINGS, _Counted, dkd_reference, kl_term

Batch = tuple[Tensor, Tensor, Tensor]


def random_weights(size: int, seed: int = 0) -> Tensor:
    """Weights in float64, of which every third is zero."""
    weights = 3 * torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1
    weights[2::3] = 0
    return weights


def terms_of(setting: str, batch: Batch, weight: Tensor | None) -> LossTerms:
    method = MethodRef(name=setting.split()[0], params=SETTINGS[setting])
    return build_loss(method)(Rows(*batch, weight), None)


def metrics_of(setting: str, batch: Batch, weight: Tensor | None) -> dict[str, float]:
    metrics = measure_gradients(terms_of(setting, batch, weight), Rows(*batch, weight))
    return {name: value.item() for name, value in metrics.items()}


def gradient_of(total: Tensor, z: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(total, z, retain_graph=True)
    return gradient


def mean(values: Tensor, weight: Tensor) -> Tensor:
    return (weight * values).sum() / weight.sum()


def alignment_reference(
    z: Tensor, v: Tensor, target: Tensor, weight: Tensor, temperature: float, reduction: str, log_floor: float = 0.0
) -> Tensor:
    """Return A by its definition, from two differentiable gradients. Every mean over the rows is weighted.

    The literal form has three: those of the two losses, and that of the squared difference.
    """
    parts = reference_parts(z, v, target, temperature)
    if reduction == "batch":
        first, second = (torch.autograd.grad(mean(part, weight), z, create_graph=True)[0] for part in parts)
    else:
        first, second = (torch.autograd.grad(part.sum(), z, create_graph=True)[0] for part in parts)
    distance = mean((first - second).square().mean(1), weight)
    share = weight / weight.sum()
    return (distance + log_floor / (share**3).sum()).log() if reduction == "log" else distance


def dist_reference(z: Tensor, v: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    def correlation(a: Tensor, b: Tensor, weights: Tensor | None) -> Tensor:
        covariance = torch.cov(torch.stack((a, b)), aweights=weights, correction=0)
        return covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()

    p, q = F.softmax(z / 4, 1), F.softmax(v / 4, 1)
    inter = torch.stack([correlation(a, b, None) for a, b in zip(p, q, strict=True)])
    intra = torch.stack([correlation(a, b, weight) for a, b in zip(p.T, q.T, strict=True)])
    ce = F.cross_entropy(z, target, reduction="none")
    return mean(ce + 2 * 16 * (1 - inter), weight) + 2 * 16 * (1 - intra.mean())


# Losses that are a mean over the rows: one row's loss, as a batch of one.
OF_ONE_ROW: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ce": lambda z, v, t: F.cross_entropy(z, t),
    "kd": lambda z, v, t: 0.1 * F.cross_entropy(z, t) + 0.9 * kl_term(z, v, 4.0),
    "dkd": lambda z, v, t: F.cross_entropy(z, t) + dkd_reference(z, v, t),
} | {setting: reference for setting, reference in REFERENCES.items() if setting != "dist"}


def reference_of(setting: str, z: Tensor, v: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    if setting == "dist":
        return dist_reference(z, v, target, weight)
    single = OF_ONE_ROW["dkd" if setting not in OF_ONE_ROW else setting]
    losses = [single(z[[row]], v[[row]], target[[row]]) for row in range(len(z))]
    total = mean(torch.stack(losses), weight)
    if setting in OF_ONE_ROW:
        return total
    reduction = str(SETTINGS[setting]["reduction"])
    term = alignment_reference(z, v, target, weight, 4.0, reduction)
    if "epsilon" in SETTINGS[setting]:
        epsilon: float = SETTINGS[setting]["epsilon"]
        return total - epsilon * term
    share: float = SETTINGS[setting]["epsilon_share"]
    first, second = (mean(part, weight) for part in reference_parts(z, v, target, 4.0))
    others = (mean(F.cross_entropy(z, target, reduction="none"), weight), first, 8 * second)
    norms = torch.stack([gradient_of(other, z).norm() for other in others]).sum()
    weighted: Tensor = share / (1 - share) * norms / gradient_of(term, z).norm() * term
    return total - weighted


class TestAgainstDoubleBackward:
    @ALL
    @pytest.mark.parametrize(("size", "classes"), [(2, 4), (13, 7)])
    def test_every_method_equals_its_weighted_reference(self, setting: str, size: int, classes: int) -> None:
        z, v, target = logits(size, classes)
        weight = random_weights(size)
        reference = reference_of(setting, z, v, target, weight)
        assert_same(terms_of(setting, (z, v, target), weight).total, reference, z)

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
    @pytest.mark.parametrize(("size", "classes"), [(7, 3), (64, 100)])
    def test_single_terms_equal_their_weighted_reference(self, size: int, classes: int, temperature: float) -> None:
        z, v, target = logits(size, classes)
        weight = random_weights(size)
        for index, term in enumerate((methods.tckd, methods.nckd)):
            reference = mean(reference_parts(z, v, target, temperature)[index], weight)
            assert_same(term(z, v, target, temperature, weight=weight), reference, z)
        for reduction in REDUCTIONS:
            reference = alignment_reference(z, v, target, weight, temperature, reduction)
            assert_same(methods.alignment(z, v, target, temperature, reduction, weight=weight), reference, z)

    def test_log_floor_with_weights_equals_its_reference(self) -> None:
        z, v, target = logits(32, 100)
        weight = random_weights(32)
        reference = alignment_reference(z, v, target, weight, 4.0, "log", log_floor=1e-3)
        assert_same(methods.alignment(z, v, target, 4.0, "log", 1e-3, weight=weight), reference, z)

    def test_ramp_and_decay_scale_weighted_terms(self) -> None:
        z, v, target = logits(9, 5)
        weight = random_weights(9)
        first, second = (mean(part, weight) for part in reference_parts(z, v, target, 4.0))
        term = alignment_reference(z, v, target, weight, 4.0, "batch")
        ce = mean(F.cross_entropy(z, target, reduction="none"), weight)
        reference = ce + 3 / 10 * (first + 8 * second - 6 * 0.5**2 * term)
        ours = methods.dkd_align(
            z, v, target, epoch=2, weight=weight, reduction="batch", epsilon=6.0, decay=0.5, ramp_epochs=10
        )
        assert_same(ours, reference, z)

    @ALL
    def test_gradients_of_terms_add_up_to_the_total(self, setting: str) -> None:
        z, v, target = logits(8, 10)
        terms = terms_of(setting, (z, v, target), random_weights(8))
        parts: Any = sum(terms.gradients.values())
        assert torch.allclose(parts, gradient_of(terms.total, z), rtol=1e-12, atol=1e-14)


PUBLIC: dict[str, Callable[..., Tensor]] = {
    "ce": methods.ce,
    "kd": methods.kd,
    "dkd": methods.dkd,
    "dkd_align": methods.dkd_align,
    "dkd_divergence": methods.dkd_divergence,
    "dist": methods.dist,
    "nkd": methods.nkd,
    "rld": methods.rld,
}


@ALL
def test_public_functions_accept_weights(setting: str) -> None:
    z, v, target = logits(6, 5)
    weight = random_weights(6)
    ours = PUBLIC[setting.split()[0]](z, v, target, weight=weight, **SETTINGS[setting])
    assert torch.equal(ours, terms_of(setting, (z, v, target), weight).total)


# What each loss was before rows had weights: operations in forward and backward pass, the total, and Σ k·g_k over the
# gradient's elements, counted from 1.
BEFORE: dict[str, tuple[int, str, str]] = {
    "ce": (11, "0x1.d98f630603f6dp-1", "-0x1.d411703e9f280p-5"),
    "kd": (27, "0x1.46ac106896c64p+0", "0x1.18086ea5beac0p-4"),
    "kd standardised": (47, "0x1.3d325dae78ba3p+2", "0x1.44024c52c3f80p-2"),
    "dkd": (43, "0x1.e57707ddca76ep+3", "0x1.cdae34cfbf754p+1"),
    "dkd standardised": (75, "0x1.b46a880437f2fp+2", "0x1.ad2f08d38a2f6p+0"),
    "dkd_align batch": (61, "0x1.df441ddb80364p+3", "0x1.c9bf461b8130ap+1"),
    "dkd_align sample": (60, "0x1.adaccdc92e314p+3", "0x1.aa47d0798f184p+1"),
    "dkd_align log": (65, "0x1.696108c739e45p+4", "0x1.53da2a1d3cdcdp+1"),
    "dkd_align share": (87, "0x1.47936f6646aa8p+4", "0x1.768fd37d4ad60p+1"),
    "dkd_align standardised": (104, "0x1.83c76ed92c977p+2", "0x1.7b4d4828502d4p+0"),
    "dkd_divergence": (76, "0x1.e9662eebc5af6p+3", "0x1.c4d3344a3def0p+1"),
    "dist": (109, "0x1.699dbde662ba6p+5", "0x1.91b6160625160p+2"),
    "nkd": (57, "0x1.2fd708f3d3db1p+2", "0x1.32a1e81920900p-2"),
    "rld": (77, "0x1.e57707ddca770p+3", "0x1.cdae34cfbf752p+1"),
    "rld standardised": (109, "0x1.b46a880437f30p+2", "0x1.ad2f08d38a2e8p+0"),
}


@ALL
def test_loss_without_weights_has_its_recorded_value(setting: str) -> None:
    z = torch.tensor([[1.5, -0.25, 0.75, -2.0], [0.5, 2.25, -1.0, 0.0], [-0.75, 0.25, 3.0, 1.25]], dtype=torch.float64)
    v = torch.tensor([[2.0, 0.5, -1.5, 0.25], [-0.5, 1.0, 0.75, -3.0], [1.25, -1.0, 0.5, 2.5]], dtype=torch.float64)
    batch = z.requires_grad_(), v, torch.tensor([0, 1, 3])
    with _Counted() as operations:
        total = terms_of(setting, batch, None).total
        total.backward()  # type: ignore[no-untyped-call]
    assert z.grad is not None
    count, value, gradient = BEFORE[setting]
    assert operations.count <= count
    # Not bit for bit: another processor rounds exponentials differently.
    assert total.item() == pytest.approx(float.fromhex(value), rel=1e-13)
    numbered = torch.arange(1, 13, dtype=torch.float64).view(3, 4)
    assert (numbered * z.grad).sum().item() == pytest.approx(float.fromhex(gradient), rel=1e-12)


@ALL
def test_equal_weights_equal_no_weights(setting: str) -> None:
    z, v, target = logits(16, 10)
    plain = metrics_of(setting, (z, v, target), None)
    for weight in (torch.ones(16), torch.full((16,), 7), torch.ones(16, dtype=torch.bool)):
        ours, expected = (terms_of(setting, (z, v, target), each).total for each in (weight, None))
        assert_same(ours, expected, z)
        assert metrics_of(setting, (z, v, target), weight) == pytest.approx(plain, rel=1e-10, nan_ok=True)


@ALL
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_loss_does_not_depend_on_the_scale_of_the_weights(setting: str, factor: float) -> None:
    z, v, target = logits(16, 10)
    weight = random_weights(16)
    one = terms_of(setting, (z, v, target), weight)
    assert_same(terms_of(setting, (z, v, target), factor * weight).total, one.total, z)
    metrics = metrics_of(setting, (z, v, target), factor * weight)
    assert metrics == pytest.approx(metrics_of(setting, (z, v, target), weight), rel=1e-10, nan_ok=True)


@ALL
@pytest.mark.parametrize("content", [1e4, 1e300, math.nan])
def test_rows_of_weight_zero_are_ignored(setting: str, content: float) -> None:
    z, v, target = logits(9, 5)
    weight = random_weights(9)
    used = weight > 0
    kept = z.detach()[used].requires_grad_()
    expected = terms_of(setting, (kept, v[used], target[used]), weight[used])
    filled = z.detach().clone()
    filled[~used] = content * torch.sign(filled[~used])
    v[~used], target[~used] = filled[~used].flip(1), -1  # −1 marks a region without a class
    filled.requires_grad_()
    ours = terms_of(setting, (filled, v, target), weight)
    assert torch.allclose(ours.total, expected.total, rtol=1e-12)
    for name, value in expected.values.items():
        assert torch.allclose(ours.values[name], value, rtol=1e-10), name
    gradient = gradient_of(ours.total, filled)
    assert torch.allclose(gradient[used], gradient_of(expected.total, kept), rtol=1e-10, atol=1e-16)
    assert (gradient[~used] == 0).all()
    metrics = metrics_of(setting, (filled, v, target), weight)
    plain = metrics_of(setting, (kept, v[used], target[used]), weight[used])
    assert metrics == pytest.approx(plain, rel=1e-10, nan_ok=True)


@ALL
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("scale", [3.0, 1e4])
def test_loss_and_gradient_are_zero_if_all_weights_are(setting: str, dtype: torch.dtype, scale: float) -> None:
    z, v, target = logits(6, 5, scale)
    z = z.detach().clamp(-1e4, 1e4).to(dtype).requires_grad_()
    terms = terms_of(setting, (z, v.clamp(-1e4, 1e4).to(dtype), target), torch.zeros(6))
    assert terms.total.item() == 0
    assert all(value.item() == 0 for name, value in terms.values.items() if name != "epsilon")
    assert all((gradient == 0).all() for gradient in terms.gradients.values())
    assert (gradient_of(terms.total, z) == 0).all()
    metrics = metrics_of(setting, (z, v.to(dtype), target), torch.zeros(6))
    assert all(math.isnan(value) for value in metrics.values())  # nothing was measured


def repeated(batch: Batch, times: Tensor) -> Batch:
    z, v, target = (rows.detach().repeat_interleave(times, 0) for rows in batch)
    return z.requires_grad_(), v, target


# ``batch`` and ``epsilon_share`` square the share of a row, and a row of weight 2 is not two rows there.
ADDITIVE = [setting for setting in SETTINGS if setting not in ("dkd_align batch", "dkd_align share")]


@pytest.mark.parametrize("setting", ADDITIVE)
def test_integer_weight_equals_repeated_rows(setting: str) -> None:
    batch, times = logits(6, 5), torch.tensor([1, 3, 0, 2, 1, 5])
    ours = terms_of(setting, batch, times)
    copies = repeated(batch, times)
    expected = terms_of(setting, copies, None)
    assert torch.allclose(ours.total, expected.total, rtol=1e-12)
    owner = torch.arange(6).repeat_interleave(times)
    summed = torch.zeros_like(batch[0]).index_add_(0, owner, gradient_of(expected.total, copies[0]))
    assert torch.allclose(gradient_of(ours.total, batch[0]), summed, rtol=1e-10, atol=1e-15)
    # The share and the cosine of the term are those of the gradients that reach the network, which differ.
    metrics, copied = metrics_of(setting, batch, times), metrics_of(setting, copies, None)
    for name in copied.keys() - {"grad/align_share", "grad/align_cosine"}:
        assert metrics[name] == pytest.approx(copied[name], rel=1e-10, nan_ok=True), name


@pytest.mark.parametrize("setting", ["dkd_align batch", "dkd_align share"])
def test_integer_weight_differs_from_repeated_rows_for_terms_that_are_not_additive(setting: str) -> None:
    batch, times = logits(6, 5), torch.tensor([1, 3, 0, 2, 1, 5])
    ours = terms_of(setting, batch, times).total
    copied = terms_of(setting, repeated(batch, times), None).total
    assert abs(ours - copied) > 1e-6 * abs(copied)


def test_literal_term_of_rows_repeated_k_times_is_k_squared_times_smaller() -> None:
    z, v, target = logits(6, 5)
    copies = repeated((z, v, target), torch.full((6,), 3))
    one = methods.alignment(z, v, target, 4.0, "batch")
    assert torch.allclose(methods.alignment(z, v, target, 4.0, "batch", weight=torch.full((6,), 3)), one, rtol=1e-12)
    assert torch.allclose(9 * methods.alignment(*copies, 4.0, "batch"), one, rtol=1e-12)


def test_epsilon_share_is_the_share_of_the_weighted_gradients_norms() -> None:
    batch = logits(16, 10)
    terms = terms_of("dkd_align share", batch, random_weights(16))
    norms = {name: gradient.norm().item() for name, gradient in terms.gradients.items()}
    assert norms["align"] / sum(norms.values()) == pytest.approx(0.2, rel=1e-9)
    assert metrics_of("dkd_align share", batch, random_weights(16))["grad/align_share"] == pytest.approx(20, rel=1e-9)


def test_norms_and_similarity_are_weighted_means_over_rows() -> None:
    z, v, target = logits(12, 6)
    weight = random_weights(12)
    first, second = (gradient_of(part.sum(), z) for part in reference_parts(z, v, target, 4.0))
    metrics = metrics_of("dkd", (z, v, target), weight)
    norms = [mean(gradient.square().sum(1), weight).sqrt().item() for gradient in (first, 8 * second)]
    assert [metrics["grad/tckd_norm"], metrics["grad/nckd_norm"]] == pytest.approx(norms, rel=1e-9)
    cosine = mean(F.cosine_similarity(first, second, dim=1), weight).item()
    assert metrics["grad/similarity"] == pytest.approx(cosine, rel=1e-9)
    sums = [(weight.unsqueeze(1) * gradient).sum(0) for gradient in (first, second)]
    assert metrics["grad/covariance"] == pytest.approx(F.cosine_similarity(sums[0], sums[1], dim=0).item(), rel=1e-9)
    assert metrics["logits/student_target"] == pytest.approx(
        mean(z.gather(1, target[:, None]).abs().squeeze(1), weight).item(), rel=1e-12
    )


def test_skipped_rows_are_counted_by_their_weight() -> None:
    z, v, target = logits(4, 6)
    v[:2] = z.detach()[:2]  # nothing to learn
    for weight, skipped in (([1.0, 1.0, 1.0, 1.0], 50.0), ([0.0, 1.0, 3.0, 6.0], 10.0), ([0.0, 0.0, 0.1, 0.3], 0.0)):
        metrics = metrics_of("dkd", (z, v, target), torch.tensor(weight))
        assert metrics["grad/skipped"] == pytest.approx(skipped, rel=1e-6, abs=0)
    assert math.isnan(metrics_of("dkd", (z, v, target), torch.tensor([1.0, 1.0, 0.0, 0.0]))["grad/similarity"])


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.float16])
def test_low_precision_is_computed_in_float32(setting: str, dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    z, v, target = logits(16, 10)
    student, teacher, weight = z.detach().to(dtype).requires_grad_(), v.to(dtype), random_weights(16).to(weight_dtype)
    exact = student.detach().double().requires_grad_()
    ours = terms_of(setting, (student, teacher, target), weight)
    expected = terms_of(setting, (exact, teacher.double(), target), weight)
    assert ours.total.dtype == torch.float32
    assert ours.total.item() == pytest.approx(expected.total.item(), rel=1e-5)
    gradient, reference = gradient_of(ours.total, student), gradient_of(expected.total, exact)
    assert gradient.dtype == dtype
    assert (gradient - reference).norm() <= 2 * torch.finfo(dtype).eps * reference.norm() + 1e-5 * reference.norm()


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_is_finite_for_extreme_logits(setting: str, dtype: torch.dtype) -> None:
    z, v, target = logits(8, 10, scale=1e4)
    student = z.detach().clamp(-1e4, 1e4).to(dtype).requires_grad_()
    total = terms_of(setting, (student, v.clamp(-1e4, 1e4).to(dtype), target), random_weights(8)).total
    assert total.isfinite()
    assert gradient_of(total, student).isfinite().all()


@ALL
def test_weighted_loss_reads_no_value_from_the_device(setting: str) -> None:
    """On the device ``meta`` tensors have no values, so every step of a loss that waits for one fails there."""
    z, v = torch.randn(2, 8, 10, device="meta")
    target = torch.zeros(8, dtype=torch.long, device="meta")
    batch = Rows(z.requires_grad_(), v, target, torch.ones(8, device="meta"))
    method = MethodRef(name=setting.split()[0], params=SETTINGS[setting])
    # Not by build_loss, which asks for the autocast of a device, and ``meta`` has none.
    terms = METHODS[method.name].load()(batch, method.parsed_params, None)
    measure_gradients(terms, batch)
    terms.total.backward()
    assert z.grad is not None


@pytest.mark.parametrize("weight", [torch.ones(3), torch.ones(4, 1), torch.ones(())])
def test_weights_of_another_shape_are_refused(weight: Tensor) -> None:
    with pytest.raises(ValueError, match="one weight for each row"):
        Rows(*logits(4, 5), weight)


@pytest.mark.parametrize("bad", [-1e-9, math.inf, math.nan])
def test_weights_that_are_negative_or_not_finite_are_refused(bad: float) -> None:
    z, v, target = logits(4, 5)
    weight = torch.tensor([1.0, 0.0, bad, 2.0])
    for loss in (methods.tckd, methods.nckd):
        with pytest.raises(ValueError, match="finite and not negative"):
            loss(z, v, target, 4.0, weight=weight)
    with pytest.raises(ValueError, match="finite and not negative"):
        methods.kd(z, v, target, weight=weight)


@pytest.mark.parametrize("reduction", ["sample", "batch"])
def test_stability_bound_with_weights(reduction: Reduction) -> None:
    """Matching the teacher is a minimum up to ε = C·min(α, β), for ``batch`` times (Σ w / max w)²."""
    classes, alpha, beta = 4, 1.0, 8.0
    weight = torch.tensor([1.0, 4.0, 0.0, 2.0], dtype=torch.float64)
    bound = classes * min(alpha, beta) * ((weight.sum() / weight.max()).item() ** 2 if reduction == "batch" else 1)
    # The hardest teacher of the bound: torn between target and one other class, sure of it among the non-targets.
    v = torch.full((4, classes), -60.0, dtype=torch.float64)
    v[:, :2] = 0.0
    target = torch.zeros(4, dtype=torch.long)

    def lowest(epsilon: float) -> float:
        """Return the lowest curvature at z = v, from differences of the closed-form gradient."""
        step, columns = 1e-4, []
        for index in range(v.numel()):
            sides = []
            for sign in (1, -1):
                z = v.clone()
                z.view(-1)[index] += sign * step
                parts = Decoupled(Rows(z, v, target, weight), 4.0)
                pull = alpha * parts.tckd().gradient + beta * parts.nckd().gradient
                sides.append((pull - epsilon * parts.alignment(reduction).gradient).view(-1))
            columns.append((sides[0] - sides[1]) / (2 * step))
        hessian = torch.stack(columns)
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[0])

    assert lowest(0.99 * bound) > -1e-7
    assert lowest(1.2 * bound) < -1e-4
