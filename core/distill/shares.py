"""Terms that are weighted by their share of the gradient, and not by a number.

A share x of a term means x = ‖g‖ / Σ‖g‖, where the g are the gradients of all weighted terms at the last tensor of the
student that all terms share. For methods that read logits alone these are the logits; the norm is Frobenius over (R,
C). For a method with taps it is the student's first tap. If the terms j have the shares x_j, and the others keep their
weights, Σ‖g‖ = Σ_others ‖g‖ / (1 − Σ x_j), and the weight of a term is x_j·Σ‖g‖ / ‖g_j‖, where g_j is its gradient
without a weight. The weight is a constant of the step: no gradient passes through it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from core.distill.rows import Rows
from core.distill.terms import LossTerms, compose


def with_shares(terms: LossTerms, batch: Rows, shares: Mapping[str, float]) -> LossTerms:
    """Return a loss whose terms have closed-form gradients, with some terms weighted by share.

    A term whose weight or gradient is zero in this step (an epoch before the ramp, equal networks) stays at zero. The
    sign of its weight is kept. The weights are reported as ``weight_TERM``.

    Args:
        terms: the loss with the weights of its parameters.
        batch: the rows that it was computed from.
        shares: by the name of a term, its share, in (0, 1); at least one term has none.
    """
    norms = {
        name: (term.direction.norm() * (weight * term.scale)).abs() for name, (weight, term) in terms.weighted.items()
    }
    factors = share_factors(norms, shares)
    weighted = {
        name: (factors[name] * weight, term) if name in factors else (weight, term)
        for name, (weight, term) in terms.weighted.items()
    }
    reported = {f"weight_{name}": torch.as_tensor(weighted[name][0]).abs() for name in shares}
    own = {name: value for name, value in terms.values.items() if name not in weighted}
    return compose(batch, own | reported, weighted, terms.diagnostics)


def share_factors(norms: Mapping[str, Tensor], shares: Mapping[str, float]) -> dict[str, Tensor]:
    """Return by what the present weights are multiplied so that each term has its share.

    Args:
        norms: by name, the norm of the gradient of every term with its present weight.
        shares: the shares.
    """
    others = torch.stack([norm for name, norm in norms.items() if name not in shares]).sum()
    total = others / (1 - sum(shares.values()))
    return {
        name: torch.where(norms[name] > 0, share * total / norms[name], torch.zeros_like(total))
        for name, share in shares.items()
    }
