"""Weighted means, cosines and pooling that methods with taps share."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core.distill.features import common
from core.distill.objective import ObjectiveError
from core.distill.rows import Rows


def _rows(weight: list[float] | None, count: int = 4) -> Rows:
    logits = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.arange(count) % 3
    return Rows(logits.requires_grad_(), None, target, None if weight is None else torch.tensor(weight))


def _random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_means_are_weighted_and_leave_out_rows_of_weight_zero() -> None:
    rows = _rows([1.0, 0.0, 3.0, 0.0])
    x = torch.tensor([2.0, 50.0, 6.0, 70.0], dtype=torch.float64)
    assert float(common.mean_over_rows(rows, x)) == pytest.approx(5.0)
    pairs = x.unsqueeze(1) * x
    assert float(common.mean_over_pairs(rows, pairs)) == pytest.approx((2 * 2 + 2 * 3 * 12 + 9 * 36) / 16)
    assert float(common.concentration(rows)) == pytest.approx(10 / 16)


def test_means_without_weights_are_plain() -> None:
    rows, x, pairs = _rows(None), _random(4), _random(4, 4)
    assert float(common.mean_over_rows(rows, x)) == float(x.mean())
    assert float(common.mean_over_pairs(rows, pairs)) == float(pairs.mean())
    assert float(common.concentration(rows)) == pytest.approx(1 / 4)


def test_means_without_any_weight_are_zero() -> None:
    rows = _rows([0.0, 0.0, 0.0, 0.0])
    assert float(common.mean_over_rows(rows, _random(4))) == 0
    assert float(common.mean_over_pairs(rows, _random(4, 4))) == 0


def test_absent_row_that_holds_nan_gives_no_value_and_no_gradient() -> None:
    rows = _rows([1.0, 0.0, 3.0, 1.0])
    taps = torch.full((4, 2), torch.nan, dtype=torch.float64)
    taps[[0, 2, 3]] = 2.0
    taps.requires_grad_()
    held = common.present(rows, taps)
    assert held[1].tolist() == [0.0, 0.0]
    common.mean_over_rows(rows, held.square().sum(1)).backward()  # type: ignore[no-untyped-call]
    assert taps.grad is not None
    assert taps.grad[1].tolist() == [0.0, 0.0]
    assert taps.grad[0].tolist() == pytest.approx([0.8, 0.8])


def test_taps_in_sixteen_bits_are_computed_in_float32() -> None:
    rows = _rows(None)
    assert common.present(rows, torch.ones(4, 2, dtype=torch.bfloat16)).dtype == torch.float32
    assert common.present(rows, torch.ones(4, 2, dtype=torch.float64)).dtype == torch.float64


def test_unit_of_zero_is_zero_with_gradient_zero() -> None:
    values = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)
    result = common.unit(values)
    result.sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(result.detach(), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))
    assert values.grad is not None
    assert values.grad[1].tolist() == [0.0, 0.0]
    assert values.grad[0].tolist() == pytest.approx([(4 * 4 - 3 * 4) / 125, (3 * 3 - 3 * 4) / 125])


def test_cosines_are_those_of_each_pair() -> None:
    x = _random(4, 6)
    x[2] = 0
    expected = F.cosine_similarity(x.unsqueeze(1), x.unsqueeze(0), dim=2)
    torch.testing.assert_close(common.cosines(x), expected)


@pytest.mark.parametrize("size", [(8, 8), (4, 4), (4, 8), (3, 5), (1, 1), (7, 2)])
def test_pooling_is_adaptive_average_pooling(size: tuple[int, int]) -> None:
    maps = _random(2, 3, 8, 8)
    torch.testing.assert_close(common.pooled(maps, size), F.adaptive_avg_pool2d(maps, size))


def test_the_larger_maps_are_averaged_to_the_smaller() -> None:
    large, small = _random(2, 3, 8, 6), _random(2, 5, 4, 6, seed=2)
    for first, second in ((large, small), (small, large)):
        a, b = common.matched(first, second)
        assert a.shape[-2:] == b.shape[-2:] == (4, 6)
    assert common.matched(small, large)[0] is small


def test_vectors_are_refused_where_maps_are_needed() -> None:
    with pytest.raises(ObjectiveError, match=r"student_taps: 'features' gives outputs of the shape \(64,\)"):
        common.require_maps({"stage1": torch.Size((4, 8, 8)), "features": torch.Size((64,))}, "student_taps")


def test_parts_add_up_to_the_loss() -> None:
    rows, term = _rows([1.0, 2.0, 0.0, 1.0]), _random(1).squeeze().detach().requires_grad_()
    terms = common.sum_of_parts(rows, 0.5, {"near": (3.0, term)})
    assert terms.total.item() == pytest.approx(0.5 * float(terms.values["ce"]) + 3 * term.item())
    assert terms.parts["near"].item() == pytest.approx(3 * term.item())
    assert not terms.values["near"].requires_grad
    terms.total.backward()  # type: ignore[no-untyped-call]
    assert term.grad is not None
    assert float(term.grad) == 3.0
    assert rows.student.grad is not None
    expected = F.cross_entropy(rows.student.detach(), rows.target, reduction="none")
    assert float(terms.values["ce"]) == pytest.approx(float((expected * torch.tensor([1, 2, 0, 1])).sum() / 4))
