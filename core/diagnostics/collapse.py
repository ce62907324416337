"""Neural collapse of the penultimate features (Papyan, Han and Donoho 2020, PNAS 117(40), arXiv 2008.08186).

Notation: h_ic the feature of image i of class c; µ_c its class's mean; µ_G the mean of the class means; w_c the last
layer's row for class c. Every measure goes to 0 as the features collapse. The paper measures on the training images, in
eval mode, without augmentation; so does ``core.diagnostics.report``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """What a network made of some images.

    Attributes:
        values: (N, D), penultimate features.
        classes: (N,), the class that the network puts each image in.
        labels: (N,), the true classes, in [0, C).
    """

    values: Tensor
    classes: Tensor
    labels: Tensor


def neural_collapse(features: Features, weight: Tensor) -> dict[str, Tensor]:
    """Detached float64 scalars by metric name; classes without an image are left out of all of them.

    - ``collapse/nc1``, variability collapse: Tr(Σ_W Σ_B†)/C, with Σ_W the mean over images of
      (h − µ_c)(h − µ_c)ᵀ, Σ_B the mean over classes of (µ_c − µ_G)(µ_c − µ_G)ᵀ, † the pseudo-inverse (figure 6).
    - ``collapse/nc2_norms``, equal norms: sd over mean of ‖µ_c − µ_G‖ (figure 2).
    - ``collapse/nc2_angles``, maximal equal angles: mean over pairs of |cos(µ_c − µ_G, µ_c' − µ_G) + 1/(C−1)|
      (figure 4).
    - ``collapse/nc2_weight_norms``, ``collapse/nc2_weight_angles``: the same of the rows w_c.
    - ``collapse/nc3``, self-duality: ‖W/‖W‖_F − M/‖M‖_F‖²_F, M's rows being µ_c − µ_G (figure 5); from 0 to 4,
      2 where the two have nothing to do with each other.
    - ``collapse/nc4``, nearest class mean: images whose class by the network is not that of the nearest µ_c, %
      (figure 7).

    NaN where the class means all coincide, and throughout with fewer than two classes.

    Args:
        weight: (C, D), the last layer's.
    """
    values, labels = features.values.double(), features.labels
    counts = torch.bincount(labels, minlength=len(weight))
    sums = torch.zeros(len(weight), values.shape[1], dtype=values.dtype, device=values.device)
    sums.index_add_(0, labels, values)
    present = counts > 0
    means = sums[present] / counts[present].unsqueeze(1)
    rows = weight.detach().double()[present]
    centred = means - means.mean(0)
    row_of = present.cumsum(0) - 1  # from a class to its row in ``means``
    # ‖h − µ_c‖² less what is the same for every c, measured from µ_G, so that no large numbers are subtracted.
    distances = centred.square().sum(1) - 2 * (values - means.mean(0)) @ centred.T
    nearest = torch.nonzero(present).squeeze(1)[distances.argmin(1)]
    found = {
        "nc1": _variability(values - means[row_of[labels]], centred),
        "nc2_norms": _norm_spread(centred),
        "nc2_angles": _angle_excess(centred),
        "nc2_weight_norms": _norm_spread(rows),
        "nc2_weight_angles": _angle_excess(rows),
        "nc3": (rows / rows.norm() - centred / centred.norm()).square().sum(),
        "nc4": 100 * (nearest != features.classes).double().mean(),
    }
    if len(means) < 2:
        return {f"collapse/{name}": torch.full_like(value, torch.nan) for name, value in found.items()}
    return {f"collapse/{name}": value for name, value in found.items()}


def _variability(within: Tensor, centred: Tensor) -> Tensor:
    """Tr(Σ_W Σ_B†)/C of what is left within the classes (N, D) and the centred class means (C, D).

    With M = U·S·Vᵀ, Σ_B = V·S²·Vᵀ/C, so the trace is a sum over the directions V between the class means, C/s² times
    the variance within along each: neither D×D matrix is ever made.
    """
    if not centred.isfinite().all():  # of which there is no decomposition
        return torch.full((), torch.nan, dtype=centred.dtype, device=centred.device)
    _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    # C centred means span at most C−1 directions; what lies below is rounding.
    tolerance = max(centred.shape) * torch.finfo(centred.dtype).eps * scales[0]
    spread = (within @ directions.T).square().mean(0)
    kept = scales > tolerance
    ratios = torch.where(kept, spread / scales.square(), torch.zeros_like(spread))
    return torch.where(kept.any(), ratios.sum(), torch.nan)


def _norm_spread(rows: Tensor) -> Tensor:
    """Standard deviation over mean of the rows' norms."""
    norms = rows.norm(dim=1)
    spread: Tensor = norms.std(correction=0) / norms.mean()
    return spread


def _angle_excess(rows: Tensor) -> Tensor:
    """Mean over pairs of rows (C, D) of |cos + 1/(C−1)|: 0 where all are as far apart as C directions can be."""
    count = len(rows)
    units = rows / rows.norm(dim=1, keepdim=True)
    excess = (units @ units.T + 1 / max(count - 1, 1)).abs()
    mean: Tensor = (excess.sum() - excess.diagonal().sum()) / max(count * (count - 1), 1)
    return mean
