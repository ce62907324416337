"""Neural collapse of the penultimate features (Papyan, Han and Donoho 2020, PNAS 117(40), arXiv 2008.08186).

Notation: h_ic is the feature of image i of class c, µ_c the mean of its class, µ_G the mean of the class means, and w_c
the row of the last layer for class c. Every measure goes to 0 as the features collapse. As in the paper,
``core.tasks.classification.diagnostics.report`` measures on the training images, in eval mode, without augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Features:
    """Features and predictions of a network for N images.

    Attributes:
        values: (N, D), penultimate features.
        classes: (N,), predicted classes.
        labels: (N,), true classes, in [0, C).
    """

    values: Tensor
    classes: Tensor
    labels: Tensor


def neural_collapse(features: Features, weight: Tensor) -> dict[str, Tensor]:
    """Return detached float64 scalars by metric name. Classes without an image are ignored.

    - ``collapse/nc1``, variability collapse: Tr(Σ_W Σ_B†)/C, where Σ_W is the mean over images of
      (h − µ_c)(h − µ_c)ᵀ, Σ_B the mean over classes of (µ_c − µ_G)(µ_c − µ_G)ᵀ, and † the pseudo-inverse (figure 6).
    - ``collapse/nc2_norms``, equal norms: sd over mean of ‖µ_c − µ_G‖ (figure 2).
    - ``collapse/nc2_angles``, maximal equal angles: mean over pairs of |cos(µ_c − µ_G, µ_c' − µ_G) + 1/(C−1)|
      (figure 4).
    - ``collapse/nc2_weight_norms``, ``collapse/nc2_weight_angles``: the same for the rows w_c.
    - ``collapse/nc3``, self-duality: ‖W/‖W‖_F − M/‖M‖_F‖²_F, where the rows of M are µ_c − µ_G (figure 5); from 0 to 4,
      2 if the two are uncorrelated.
    - ``collapse/nc4``, nearest class mean: images whose predicted class is not that of the nearest µ_c, in %
      (figure 7).

    The values are NaN if all class means coincide, and if there are fewer than two classes.

    Args:
        features: features of the training images.
        weight: (C, D), of the last layer.
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
    # ‖h − µ_c‖² minus the part that is equal for every c, relative to µ_G, so that no large numbers are subtracted.
    distances = centred.square().sum(1) - 2 * (values - means.mean(0)) @ centred.T
    nearest = torch.nonzero(present).squeeze(1)[distances.argmin(1)]
    values_by_name = {
        "nc1": _variability(values - means[row_of[labels]], centred),
        "nc2_norms": _norm_spread(centred),
        "nc2_angles": _angle_excess(centred),
        "nc2_weight_norms": _norm_spread(rows),
        "nc2_weight_angles": _angle_excess(rows),
        "nc3": (rows / rows.norm() - centred / centred.norm()).square().sum(),
        "nc4": 100 * (nearest != features.classes).double().mean(),
    }
    if len(means) < 2:
        return {f"collapse/{name}": torch.full_like(value, torch.nan) for name, value in values_by_name.items()}
    return {f"collapse/{name}": value for name, value in values_by_name.items()}


def _variability(within: Tensor, centred: Tensor) -> Tensor:
    """Return Tr(Σ_W Σ_B†)/C from the deviations within the classes (N, D) and the centred class means (C, D).

    With M = U·S·Vᵀ, Σ_B = V·S²·Vᵀ/C. The trace is therefore a sum over the directions V between the class means, of
    C/s² times the variance within the classes along each, and no D×D matrix is needed.
    """
    if not centred.isfinite().all():  # the decomposition would fail
        return torch.full((), torch.nan, dtype=centred.dtype, device=centred.device)
    _, scales, directions = torch.linalg.svd(centred, full_matrices=False)
    # C centred means span at most C−1 directions; smaller singular values are rounding errors.
    tolerance = max(centred.shape) * torch.finfo(centred.dtype).eps * scales[0]
    spread = (within @ directions.T).square().mean(0)
    significant = scales > tolerance
    ratios = torch.where(significant, spread / scales.square(), torch.zeros_like(spread))
    return torch.where(significant.any(), ratios.sum(), torch.nan)


def _norm_spread(rows: Tensor) -> Tensor:
    """Return the standard deviation of the norms of the rows, divided by their mean."""
    norms = rows.norm(dim=1)
    spread: Tensor = norms.std(correction=0) / norms.mean()
    return spread


def _angle_excess(rows: Tensor) -> Tensor:
    """Return the mean over pairs of rows (C, D) of |cos + 1/(C−1)|: 0 at the largest possible equal angles."""
    count = len(rows)
    units = rows / rows.norm(dim=1, keepdim=True)
    excess = (units @ units.T + 1 / max(count - 1, 1)).abs()
    mean: Tensor = (excess.sum() - excess.diagonal().sum()) / max(count * (count - 1), 1)
    return mean
