"""Every method of the catalog against float64 references of the papers, and common requirements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core.catalog import METHODS, METRICS
from core.catalog.methods.alignment import AlignmentParams
from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.specs import MethodRef
from tests.core.test_losses import assert_same, logits, reference_alignment, reference_parts

Batch = tuple[Tensor, Tensor, Tensor]

# The shortest complete parameters of each method, without ramps, so that every term acts.
SETTINGS: dict[str, dict[str, Any]] = {
    "ce": {},
    "kd": {},
    "kd standardised": {"standardise": True, "temperature": 2.0, "kd_weight": 9.0},
    "dkd": {"ramp_epochs": 0},
    "dkd standardised": {"ramp_epochs": 0, "standardise": True},
    "dkd_align batch": {"ramp_epochs": 0, "reduction": "batch", "epsilon": 6.0},
    "dkd_align sample": {"ramp_epochs": 0, "reduction": "sample", "epsilon": 6.0},
    "dkd_align log": {"ramp_epochs": 0, "reduction": "log", "epsilon": 6.0},
    "dkd_align share": {"ramp_epochs": 0, "reduction": "log", "epsilon_share": 0.2},
    "dkd_align standardised": {"ramp_epochs": 0, "reduction": "sample", "epsilon": 6.0, "standardise": True},
    "dkd_divergence": {"ramp_epochs": 0},
    "dist": {},
    "nkd": {},
    "rld": {"ramp_epochs": 0},
    "rld standardised": {"ramp_epochs": 0, "standardise": True},
}
ALL = pytest.mark.parametrize("setting", SETTINGS)


def loss(setting: str, batch: Batch, epoch: int | None = None) -> LossTerms:
    method = MethodRef(name=setting.split()[0], params=SETTINGS[setting])
    return build_loss(method)(Rows(*batch), epoch)


def standardised(values: Tensor) -> Tensor:
    return (values - values.mean(1, keepdim=True)) / (values.std(1, keepdim=True) + 1e-7)


def kl_term(z: Tensor, v: Tensor, temperature: float) -> Tensor:
    p, q = F.softmax(z / temperature, 1), F.softmax(v / temperature, 1)
    return temperature**2 * (q * (q / p).log()).sum(1).mean()


def dkd_reference(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    first, second = reference_parts(z, v, target, 4.0)
    return first.mean() + 8 * second.mean()


def divergence_reference(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(z / 4, 1), F.softmax(v / 4, 1)
    p_t, q_t = p.gather(1, target[:, None]), q.gather(1, target[:, None])
    squares = 8 * ((p_t - q_t) ** 2).mean() + 6 * (((p - p_t) - (q - q_t)) ** 2).mean()
    return F.cross_entropy(z, target) + dkd_reference(z, v, target) + squares


def dist_reference(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(z / 4, 1), F.softmax(v / 4, 1)

    def correlation(a: Tensor, b: Tensor) -> Tensor:
        return torch.corrcoef(torch.stack((a, b)))[0, 1]

    inter = torch.stack([correlation(a, b) for a, b in zip(p, q, strict=True)]).mean()
    intra = torch.stack([correlation(a, b) for a, b in zip(p.T, q.T, strict=True)]).mean()
    return F.cross_entropy(z, target) + 2 * 16 * (1 - inter) + 2 * 16 * (1 - intra)


def nkd_reference(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    hit = F.one_hot(target, z.shape[1]).bool()
    p, q = F.softmax(z, 1), F.softmax(v, 1)
    others_p = F.softmax(z[~hit].view(len(z), -1), 1)
    others_q = F.softmax(v[~hit].view(len(z), -1), 1)
    target_part = -(q[hit] * p[hit].log()).mean()
    return F.cross_entropy(z, target) + target_part - 1.5 * (others_q * others_p.log()).sum(1).mean()


def rld_parts(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    p, q = F.softmax(z / 4, 1), F.softmax(v / 4, 1)
    confidence, correlation = [], []
    for row in range(len(z)):
        t = int(target[row])
        best, mine = q[row].max(), p[row, t]
        confidence.append(best * (best / mine).log() + (1 - best) * ((1 - best) / (1 - mine)).log())
        below = v[row] < v[row, t]
        if below.any():
            a, b = F.softmax(z[row, below] / 4, 0), F.softmax(v[row, below] / 4, 0)
            correlation.append((b * (b / a).log()).sum())
        else:
            correlation.append(torch.zeros((), dtype=z.dtype))
    return 16 * torch.stack(confidence).mean() + 8 * 16 * torch.stack(correlation).mean()


def align_standardised(z: Tensor, v: Tensor, target: Tensor) -> Tensor:
    z_s, v_s = standardised(z), standardised(v)
    term = reference_alignment(z_s, v_s, target, 4.0, "sample")
    return F.cross_entropy(z, target) + dkd_reference(z_s, v_s, target) - 6 * term


REFERENCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kd standardised": lambda z, v, t: 0.1 * F.cross_entropy(z, t) + 9 * kl_term(standardised(z), standardised(v), 2.0),
    "dkd standardised": lambda z, v, t: F.cross_entropy(z, t) + dkd_reference(standardised(z), standardised(v), t),
    "dkd_align standardised": align_standardised,
    "dkd_divergence": divergence_reference,
    "dist": dist_reference,
    "nkd": nkd_reference,
    "rld": lambda z, v, t: F.cross_entropy(z, t) + rld_parts(z, v, t),
    "rld standardised": lambda z, v, t: F.cross_entropy(z, t) + rld_parts(standardised(z), standardised(v), t),
}


IN_THE_TREE = [entry for entry in METHODS if entry.name in {setting.split()[0] for setting in SETTINGS}]
"""The methods that are tested together. Each of the others has a file of its own in tests/core/methods."""


def test_every_catalog_method_is_tested() -> None:
    elsewhere = "".join(path.read_text() for path in Path(__file__).parent.glob("methods/test_*.py"))
    # Without the methods of plug-ins, which other tests may have loaded into this process.
    for entry in METHODS:
        if entry.target.startswith("core.") and entry not in IN_THE_TREE:
            assert f'"{entry.name}"' in elsewhere, entry.name


@pytest.mark.parametrize("setting", REFERENCES)
@pytest.mark.parametrize(("size", "classes"), [(6, 3), (16, 10)])
def test_value_equals_the_reference_of_the_paper(setting: str, size: int, classes: int) -> None:
    z, v, target = logits(size, classes)
    assert_same(loss(setting, (z, v, target)).total, REFERENCES[setting](z, v, target), z)


def test_rld_equals_dkd_if_the_teacher_is_right() -> None:
    z, v, _ = logits(16, 10)
    target = v.argmax(1)
    assert_same(loss("rld", (z, v, target)).total, loss("dkd", (z, v, target)).total, z)


# With epsilon_share ε is taken from detached norms, so there the value's derivative is another one, on purpose.
@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if "share" not in setting])
def test_gradient_is_the_derivative_of_the_value(setting: str) -> None:
    z, v, target = logits(4, 5)
    assert torch.autograd.gradcheck(lambda student: loss(setting, (student, v, target)).total, (z,), atol=1e-6)


@ALL
def test_every_logged_term_has_a_title(setting: str) -> None:
    values = loss(setting, logits(8, 10)).values
    assert {f"train/{name}" for name in values} <= set(METRICS)


@ALL
def test_gradients_of_terms_add_up_to_the_total(setting: str) -> None:
    z, v, target = logits(8, 10)
    terms = loss(setting, (z, v, target), epoch=3)
    (total_gradient,) = torch.autograd.grad(terms.total, z)
    assert torch.allclose(sum(terms.gradients.values()), total_gradient, rtol=1e-12, atol=1e-14)  # type: ignore[arg-type]


class _Counted(TorchDispatchMode):  # type: ignore[no-untyped-call]  # its __init_subclass__ is untyped
    """Counter of the operations that compute something; views and empty copies cost almost nothing."""

    free = ("view", "_unsafe_view", "unsqueeze", "squeeze", "detach", "split", "unbind", "select", "alias", "t")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in self.free
        return func(*args, **(kwargs or {}))


def test_alignment_needs_few_operations_more_than_dkd() -> None:
    """At a batch of 64 their number determines the cost; times are in benchmarks/results/losses.md."""
    z, v, target = logits(8, 10)
    counts = {}
    for setting in ("dkd", "dkd_align log"):
        with _Counted() as operations:
            loss(setting, (z, v, target)).total.backward()  # type: ignore[no-untyped-call]
        counts[setting] = operations.count
    assert counts["dkd"] <= 45
    assert counts["dkd_align log"] <= 70


def test_gradient_of_a_term_is_computed_when_it_is_read() -> None:
    z, v, target = logits(8, 10)
    terms = loss("dkd_align log", (z, v, target))
    with _Counted() as operations:
        assert list(terms.gradients) == ["ce", "tckd", "nckd", "align"]
    assert operations.count == 0
    assert terms.gradients["tckd"] is terms.gradients["tckd"]


@ALL
def test_loss_is_invariant_under_permutations(setting: str) -> None:
    z, v, target = logits(8, 10)
    samples, classes = torch.randperm(8), torch.randperm(10)
    moved = z[samples][:, classes], v[samples][:, classes], classes.argsort()[target[samples]]
    assert torch.allclose(loss(setting, (z, v, target)).total, loss(setting, moved).total, rtol=1e-10)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["huge", "equal", "zero", "opposite", "flat teacher"])
def test_loss_is_finite_for_extreme_logits(setting: str, dtype: torch.dtype, kind: str) -> None:
    z, v, target = logits(8, 10, scale=1e4)
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
    total = loss(setting, (student, v.to(dtype), target)).total
    (gradient,) = torch.autograd.grad(total, student)
    assert total.isfinite()
    assert gradient.isfinite().all()


@ALL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_change_the_loss(setting: str, dtype: torch.dtype) -> None:
    z, v, target = logits(16, 10)
    batch = z.detach().float().requires_grad_(), v.float(), target
    outside = loss(setting, batch)
    with torch.autocast("cpu", dtype):
        inside = loss(setting, batch)
    assert torch.equal(inside.total, outside.total)
    assert all(torch.equal(inside.gradients[name], gradient) for name, gradient in outside.gradients.items())


@pytest.mark.parametrize("name", [entry.name for entry in IN_THE_TREE if entry.min_classes > 2])
def test_too_few_classes_are_refused(name: str) -> None:
    setting = next(key for key in SETTINGS if key.split()[0] == name)
    with pytest.raises(ValueError, match="at least 3 classes"):
        loss(setting, logits(4, 2))


# One other value of each parameter; what it is changed from is in SETTINGS or the default.
CHANGES: dict[str, dict[str, Any]] = {
    "kd": {"temperature": 2.0, "ce_weight": 0.5, "kd_weight": 2.0, "standardise": True},
    "dkd": {
        "alpha": 2.0,
        "beta": 2.0,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "ramp_start": 0,
        "standardise": True,
    },
    "dkd_align sample": {
        "alpha": 2.0,
        "beta": 2.0,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "ramp_start": 0,
        "standardise": True,
        "reduction": "log",
        "epsilon": 1.0,
        "decay": 0.5,
    },
    "dkd_align log": {"log_floor": 1.0, "sign": "added"},
    "dkd_align share": {"epsilon_share": 0.4},
    "dkd_divergence": {
        "alpha": 2.0,
        "beta": 2.0,
        "temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "ramp_start": 0,
        "mu": 1.0,
        "epsilon": 1.0,
    },
    "dist": {"temperature": 2.0, "ce_weight": 0.5, "beta": 1.0, "gamma": 1.0},
    "nkd": {"temperature": 2.0, "ce_weight": 0.5, "gamma": 1.0},
    "rld": {
        "alpha": 2.0,
        "beta": 2.0,
        "temperature": 2.0,
        "confidence_temperature": 2.0,
        "ce_weight": 0.5,
        "ramp_epochs": 30,
        "standardise": True,
    },
}


def test_every_parameter_is_tested() -> None:
    shared = set(AlignmentParams.model_fields)  # see tests/core/methods/test_alignment.py
    for entry in IN_THE_TREE:
        tried = {name for setting, changed in CHANGES.items() if setting.split()[0] == entry.name for name in changed}
        assert tried == set(entry.params.model_fields) - shared, entry.name


@pytest.mark.parametrize(("setting", "name"), [(key, name) for key, changed in CHANGES.items() for name in changed])
def test_every_parameter_changes_the_loss(setting: str, name: str) -> None:
    z, v, target = logits(16, 10)
    method, base = setting.split()[0], SETTINGS[setting] | ({"ramp_epochs": 20} if "ramp" in name else {})
    results = []
    for params in (base, base | {name: CHANGES[setting][name]}):
        terms = build_loss(MethodRef(name=method, params=params))(Rows(z, v, target), 3)
        results.append(torch.autograd.grad(terms.total, z)[0])
    assert (results[0] - results[1]).norm() > 1e-6 * results[0].norm()
