"""Leading singular vectors with a gradient that stays finite where singular values coincide."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_BROADENING = 1e-5
"""Part of the largest eigenvalue below which the difference of two eigenvalues no longer enlarges the gradient."""
_RANK = 1e-12
"""Part of the largest eigenvalue below which an eigenvalue is 0."""


def right_singular_vectors(matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the leading right singular vectors (B, N, k) of matrices (B, M, N), and the singular values (B, k).

    k is the smallest of ``count``, M and N. The sign of each vector is the one whose sum is not negative. A vector of
    the singular value 0 is 0. The values are constants.

    The vectors are eigenvectors of A = XᵀX: dv_j = Σ_{i≠j} v_i·(v_iᵀ·dA·v_j) / (λ_j − λ_i). The sum has no limit where
    λ_i → λ_j, because single vectors are not defined there, so 1/δ is δ/(δ² + (1e-5·λ_max)²): exact to 1e-6 where two
    eigenvalues differ by more than a hundredth of the largest, and 0 where they are equal. Everything is computed in
    float64, because A has the squares of the singular values.
    """
    vectors, values = _RightSingularVectors.apply(matrices, count)
    return vectors, values


class _RightSingularVectors(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrices: Tensor, count: int) -> tuple[Tensor, Tensor]:
        x = matrices.double().nan_to_num(0.0, 0.0, 0.0)  # which the decomposition does not return from
        wide = x.shape[1] < x.shape[2]
        eigenvalues, basis = torch.linalg.eigh(x @ x.mT if wide else x.mT @ x)
        eigenvalues, basis = eigenvalues.flip(-1), basis.flip(-1)  # in descending order
        positive = eigenvalues > _RANK * eigenvalues[:, :1]
        eigenvalues = torch.where(positive, eigenvalues, 0.0)
        if wide:
            basis = x.mT @ basis * torch.where(positive, eigenvalues, 1.0).rsqrt().unsqueeze(1)
        basis = basis * torch.where(basis.sum(1, keepdim=True) < 0, -1.0, 1.0) * positive.unsqueeze(1)
        ctx.save_for_backward(x, basis, eigenvalues)
        ctx.count, ctx.dtype = count, matrices.dtype
        values = eigenvalues[:, :count].sqrt().to(matrices.dtype)
        ctx.mark_non_differentiable(values)
        return basis[:, :, :count].to(matrices.dtype), values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor, None]:
        x, basis, eigenvalues = ctx.saved_tensors
        outer = outer.double()
        leading, own = basis[:, :, : ctx.count], eigenvalues[:, : ctx.count].unsqueeze(1)
        broadening = (_BROADENING * eigenvalues[:, :1]).square().unsqueeze(1)

        def inverse(difference: Tensor) -> Tensor:
            squared = difference.square() + broadening
            return torch.where(squared > 0, difference / torch.where(squared > 0, squared, 1.0), 0.0)

        along = basis.mT @ outer  # (B, eigenvectors, k)
        beside = (outer - basis @ along) * inverse(own)  # what is in no eigenvector has the eigenvalue 0
        turned = basis @ (along * inverse(own - eigenvalues.unsqueeze(2))) + beside
        gradient = (x @ turned) @ leading.mT + (x @ leading) @ turned.mT
        return gradient.to(ctx.dtype), None
