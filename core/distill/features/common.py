"""What the methods that read taps have in common: weighted means, cosines, maps of one size, and the sum of the terms.

A row of weight 0 is absent: ``present`` replaces what it holds by zeros, and every mean here gives it no part. The
formulas are those of docs/method.md, "Weights of rows": 1/B of a mean over rows is ω_i = w_i / Σ w, and 1/B² of a mean
over pairs is ω_i·ω_j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.catalog.taps import pair_stages
from core.distill.logits.kd import softened_divergence
from core.distill.objective import ObjectiveError, Setting, Step
from core.distill.rows import Rows, to_loss_dtype
from core.distill.terms import LossTerms, label_term, with_gradient


def sum_of_parts(rows: Rows, ce_weight: float, terms: Mapping[str, tuple[float, Tensor]]) -> LossTerms:
    """Return the loss that is the weighted sum of the cross-entropy and of terms with graphs of their own.

    Args:
        rows: The rows of the batch.
        ce_weight: The weight of the cross-entropy with the labels.
        terms: By name, a weight and the term without its weight, a scalar with its graph.
    """
    ce = label_term(rows)
    parts = {"ce": with_gradient(rows.student, ce.value * ce_weight, ce.gradient * ce_weight)}
    parts |= {name: weight * term for name, (weight, term) in terms.items()}
    values = {"ce": ce.value} | {name: term.detach() for name, (_, term) in terms.items()}
    return LossTerms(torch.stack(list(parts.values())).sum(), values, parts=parts)


def only_part(name: str, weight: float, term: Tensor) -> LossTerms:
    """Return the loss of a stage that has one term.

    Args:
        name: Its name.
        weight: Its weight.
        term: The term without its weight, a scalar with its graph.
    """
    part = weight * term
    return LossTerms(part, {name: term.detach()}, parts={name: part})


def kd_part(rows: Rows, weight: float, temperature: float) -> dict[str, tuple[float, Tensor]]:
    """Return KD's T²·KL(teacher ‖ student) as a term of ``sum_of_parts``; nothing if its weight is 0."""
    if not weight:
        return {}
    term = softened_divergence(rows, temperature)
    return {"kd": (weight, with_gradient(rows.student, term.value, term.gradient))}


def present(rows: Rows, values: Tensor) -> Tensor:
    """Return values (B, …) in the dtype of a loss, with zeros and no gradient in rows of weight 0.

    Such a row may hold anything, NaN included.
    """
    values = to_loss_dtype(values)
    if rows.weight is None:
        return values
    used = (rows.weight > 0).view(-1, *[1] * (values.ndim - 1))
    return torch.where(used, values, torch.zeros_like(values))


def shares(rows: Rows) -> Tensor:
    """Return ω (B,), the part of each row in a mean: 1/B without weights, all 0 where Σ w = 0."""
    if rows.share is not None:
        return rows.share
    count = len(rows.target)
    return torch.full((count,), 1 / max(count, 1), dtype=rows.student32.dtype, device=rows.target.device)


def concentration(rows: Rows) -> Tensor:
    """Return Σ ω_i², which is 1/B if all weights are equal.

    It is the 1/B of a formula that is no mean over rows, such as a sum over all pairs divided by B: the number does not
    change if all weights are multiplied by the same factor, and a row that is absent does not count.
    """
    return shares(rows).square().sum()


def mean_over_rows(rows: Rows, values: Tensor) -> Tensor:
    """Return Σ ω_i·x_i of one number for each row (B,), which is 0 where Σ w = 0."""
    return rows.weigh(values).mean()


def mean_over_pairs(rows: Rows, values: Tensor) -> Tensor:
    """Return ΣΣ ω_i·ω_j·x_ij of one number for each pair of rows (B, B), a row with itself included."""
    if rows.share is None:
        return values.mean()
    return rows.share @ values @ rows.share


def unit(values: Tensor) -> Tensor:
    """Return values (…, D), each vector divided by its norm; a vector of zeros stays, with the gradient 0."""
    return values * inverse_root(squared_norms(values, -1)).unsqueeze(-1)


def squared_norms(values: Tensor, dim: int) -> Tensor:
    """Return Σ x² over a dimension.

    Its gradient takes a tenth of the time of that of ``values.square().sum(dim)``, measured on a CPU.
    """
    squares: Tensor = torch.linalg.vecdot(values, values, dim=dim)
    return squares


def inverse_root(squares: Tensor) -> Tensor:
    """Return 1/√x of numbers that are not negative, and 0 with the gradient 0 where x is 0."""
    positive = squares > torch.finfo(squares.dtype).tiny
    return torch.where(positive, torch.where(positive, squares, 1.0).rsqrt(), 0.0)


def cosines(values: Tensor) -> Tensor:
    """Return the cosines (B, B) of the angles between all pairs of vectors (B, D); 0 with a vector of zeros."""
    return inner_products(unit(values))


def inner_products(vectors: Tensor) -> Tensor:
    """Return the inner products (…, N, N) of all pairs of vectors (…, N, D)."""
    products: Tensor = _InnerProducts.apply(vectors)
    return products


class _InnerProducts(torch.autograd.Function):
    """XXᵀ, whose gradient is one product, and not one for each of the two factors."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.save_for_backward(vectors)
        products: Tensor = vectors @ vectors.mT
        return products

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> Tensor:
        (vectors,) = ctx.saved_tensors
        gradient: Tensor = (outer + outer.mT) @ vectors
        return gradient


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, C, H, W) averaged to (B, C, H', W'), as ``adaptive_avg_pool2d`` does.

    Its own gradient has no CUDA kernel that repeats bit for bit.

    Args:
        maps: The maps.
        size: H' and W', of which neither is greater than H or W.
    """
    height, width = maps.shape[-2:]
    if (height, width) == size:
        return maps
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(maps, (height // size[0], width // size[1]))
    return _averages(height, size[0], maps) @ maps @ _averages(width, size[1], maps).T


def _averages(length: int, count: int, like: Tensor) -> Tensor:
    """Return the matrix (count, length) that averages ``length`` values to ``count``; neighbours may overlap."""
    number = torch.arange(count, device=like.device).unsqueeze(1)
    place = torch.arange(length, device=like.device)
    start, end = number * length // count, ((number + 1) * length + count - 1) // count
    return ((place >= start) & (place < end)).to(like.dtype) / (end - start)


def matched(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return two stacks of maps (B, C, H, W) with one height and width: the larger is averaged to the smaller."""
    (h1, w1), (h2, w2) = first.shape[-2:], second.shape[-2:]
    size = min(h1, h2), min(w1, w2)
    return pooled(first, size), pooled(second, size)


def map_pairs(setting: Setting, named: str = "taps") -> list[tuple[str, str]]:
    """Return the pairs of maps that a method compares, from shallow to deep: the deepest with the deepest.

    Args:
        setting: What the method is built for.
        named: The ending of the parameters that name its taps: ``taps`` or ``tap``.

    Raises:
        ObjectiveError: A tap gives no maps, or a network has no stages.
    """
    assert setting.teacher is not None
    for parameter, shapes in ((f"student_{named}", setting.student.taps), (f"teacher_{named}", setting.teacher.taps)):
        require_maps(shapes, parameter)
        if not shapes:
            raise ObjectiveError(f"{parameter}: the network has no such stages")
    return pair_stages(setting.student.taps, setting.teacher.taps)


def tap_pair(setting: Setting) -> tuple[str, str]:
    """Return the one tap of the student and the one of the teacher that a method compares.

    Raises:
        ObjectiveError: A network has no such layer.
    """
    assert setting.teacher is not None
    for parameter, shapes in (("student_tap", setting.student.taps), ("teacher_tap", setting.teacher.taps)):
        if len(shapes) != 1:
            raise ObjectiveError(f"{parameter}: this method reads one layer, and here are {len(shapes)}: {[*shapes]}")
    return next(iter(setting.student.taps)), next(iter(setting.teacher.taps))


def present_pairs(step: Step, pairs: Sequence[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of pairs of taps, with zeros in rows of weight 0; the teacher's are constants."""
    assert step.teacher is not None
    rows, student, teacher = step.rows, step.student.taps, step.teacher.taps
    return [(present(rows, student[s]), present(rows, teacher[t].detach())) for s, t in pairs]


def present_vectors(step: Step, pair: tuple[str, str]) -> tuple[Tensor, Tensor]:
    """Return a pair of taps as vectors (B, D), with zeros in rows of weight 0; the teacher's is a constant."""
    ((student, teacher),) = present_pairs(step, [pair])
    return student.flatten(1), teacher.flatten(1)


def require_maps(shapes: Mapping[str, torch.Size], parameter: str) -> None:
    """Refuse taps that are no maps.

    Args:
        shapes: By the name of a tap, its shape without the dimension of the batch.
        parameter: The parameter that names the taps.

    Raises:
        ObjectiveError: A tap is not of three dimensions.
    """
    for name, shape in shapes.items():
        if len(shape) != 3:
            raise ObjectiveError(
                f"{parameter}: {name!r} gives outputs of the shape {tuple(shape)}, not maps (channels, height, width)"
            )


def require_equal_sizes(setting: Setting, pairs: Sequence[tuple[str, str]], method: str, named: str = "taps") -> None:
    """Refuse pairs of maps of different heights or widths.

    Args:
        setting: The networks and data for which the method is built.
        pairs: Taps of the student and of the teacher.
        method: The title of the method.
        named: The ending of the parameters that name its taps: ``taps`` or ``tap``.

    Raises:
        ObjectiveError: The maps of a pair have different sizes.
    """
    assert setting.teacher is not None
    for student, teacher in pairs:
        own, other = setting.student.taps[student], setting.teacher.taps[teacher]
        if own[1:] != other[1:]:
            raise ObjectiveError(
                f"student_{named}: {student!r} gives {tuple(own)}, and teacher_{named}: {teacher!r} {tuple(other)}; "
                f"{method} needs maps of one size"
            )


def require_equal_channels(setting: Setting, pairs: Sequence[tuple[str, str]]) -> None:
    """Refuse pairs of maps with different numbers of channels.

    Raises:
        ObjectiveError: The maps of a pair have different numbers of channels.
    """
    assert setting.teacher is not None
    for student, teacher in pairs:
        own, other = setting.student.taps[student], setting.teacher.taps[teacher]
        if own[0] != other[0]:
            raise ObjectiveError(
                f"student_taps: {student!r} of the student has {own[0]} channels {tuple(own)}, and teacher_taps: "
                f"{teacher!r} of the teacher has {other[0]} channels {tuple(other)}; this method needs equal numbers"
            )
