"""Teacher logits as they are kept, rounded: no loss is to feel it."""

from __future__ import annotations

import pytest
import torch

from core.distill.loss import build_loss
from core.distill.rows import Rows
from core.specs import MethodRef
from core.train.quantization import dequantize, quantize

METHODS = [
    ("kd", {}),
    ("kd", {"standardise": True}),
    ("dkd", {}),
    ("dkd", {"standardise": True}),
    ("dkd_align", {"reduction": "batch", "epsilon": 6.0}),
    ("dkd_align", {"reduction": "log", "epsilon_share": 0.1}),
    ("dkd_divergence", {}),
    ("nkd", {}),
    ("rld", {}),
    ("dist", {}),
]


def test_rows_come_back_bit_for_bit() -> None:
    logits = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)) * 7 + 30
    found = quantize(logits)
    assert torch.equal(dequantize(found.stored), found.values)
    # With the mean taken out the rounding is of the differences, not of the offset.
    assert (found.values - logits).abs().max() < (logits.half().float() - logits).abs().max()


@pytest.mark.parametrize(("name", "params"), METHODS, ids=str)
def test_no_loss_feels_it(name: str, params: dict[str, object]) -> None:
    random = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 32, 20, generator=random) * 4
    target = torch.randint(20, (32,), generator=random)
    loss = build_loss(MethodRef(name=name, params=params))
    exact, kept = (loss(Rows(student, v, target), 30) for v in (teacher, quantize(teacher).values))
    shifted = loss(Rows(student, teacher + 10 * torch.randn(32, 1, generator=random), target), 30)
    for other, tolerance in ((kept, 2e-3), (shifted, 2e-5)):
        assert other.total.item() == pytest.approx(exact.total.item(), rel=tolerance, abs=1e-4)
        for term, gradient in exact.gradients.items():
            apart = (gradient - other.gradients[term]).norm()
            assert apart <= tolerance * 10 * gradient.norm() + 1e-6, term
