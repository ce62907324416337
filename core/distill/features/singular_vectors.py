"""Leading singular vectors with a gradient that stays finite where singular values coincide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BROADENING = 1e-5
"""Part of the largest eigenvalue below which the difference of two eigenvalues no longer enlarges the gradient."""
_ROUNDING = 10
"""Multiple of the dtype's precision, as a part of the largest eigenvalue, below which an eigenvalue is 0."""


def right_singular_vectors(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading right singular vectors (B, N, k) of matrices (B, M, N), and the singular values (B, k).

    k is the smallest of ``count``, M and N. The sign of each vector is the one whose sum is not negative. A vector of
    the singular value 0 is 0. The values are constants.

    The vectors are eigenvectors of A = XᵀX: dv_j = Σ_{i≠j} v_i·(v_iᵀ·dA·v_j) / (λ_j − λ_i). The sum has no limit where
    λ_i → λ_j, because single vectors are not defined there, so 1/δ is δ/(δ² + (1e-5·λ_max)²): exact to 1e-6 where two
    eigenvalues differ by more than a hundredth of the largest, and 0 where they are equal.

    A, or XXᵀ if that is smaller, is decomposed in float64. Vectors of float32 matrices are ten times as exact as those
    of an SVD in float32.
    """
    vectors, values = _RightSingularVectors.apply(matrices, count)
    return vectors, values


class _RightSingularVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        wide = matrices.shape[1] < matrices.shape[2]
        products = (matrices @ matrices.mT if wide else matrices.mT @ matrices).double()
        # The decomposition does not return from numbers that are not finite.
        eigenvalues, basis = torch.linalg.eigh(products.nan_to_num(0.0, 0.0, 0.0))
        eigenvalues, basis = eigenvalues.flip(-1), basis.flip(-1)  # in descending order
        positive = eigenvalues > _ROUNDING * torch.finfo(matrices.dtype).eps * eigenvalues[:, :1]
        eigenvalues = torch.where(positive, eigenvalues, 0.0)
        if wide:
            basis = matrices.mT.double() @ basis * torch.where(positive, eigenvalues, 1.0).rsqrt().unsqueeze(1)
        basis = basis * torch.where(basis.sum(1, keepdim=True) < 0, -1.0, 1.0) * positive.unsqueeze(1)
        ctx.save_for_backward(matrices, basis, eigenvalues)
        ctx.count = count
        values = eigenvalues[:, :count].sqrt().to(matrices.dtype)
        ctx.mark_non_differentiable(values)
        return basis[:, :, :count].to(matrices.dtype), values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor, None]:
        matrices, basis, eigenvalues = ctx.saved_tensors
        outer = outer.double()
        leading, own = basis[:, :, : ctx.count], eigenvalues[:, : ctx.count].unsqueeze(1)
        broadening = (_BROADENING * eigenvalues[:, :1]).square().unsqueeze(1)

        def inverse(difference: Tensor) -> Tensor:
            squared = difference.square() + broadening
            return torch.where(squared > 0, difference / torch.where(squared > 0, squared, 1.0), 0.0)

        along = basis.mT @ outer  # (B, eigenvectors, k)
        beside = (outer - basis @ along) * inverse(own)  # what is in no eigenvector has the eigenvalue 0
        turned = basis @ (along * inverse(own - eigenvalues.unsqueeze(2))) + beside
        both = torch.cat((leading, turned), 2).to(matrices.dtype)
        crossed = torch.cat((turned, leading), 2).to(matrices.dtype)
        return matrices @ both @ crossed.mT, None
