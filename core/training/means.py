"""Running means that stay on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Means:
    """Weighted means by name. ``add`` never waits for the device; ``read`` does, once for all of them."""

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        self._sums = dict(state or {})

    def add(self, values: dict[str, Tensor], weight: float, *, skip_nan: bool = False) -> None:
        """Add scalars with a weight. With ``skip_nan`` a NaN counts as not measured; else it makes the mean NaN."""
        for name, raw in values.items():
            value = raw.detach().double()
            pair = torch.stack((value * weight, torch.full_like(value, weight)))
            if skip_nan:
                pair = torch.where(value.isnan(), torch.zeros_like(pair), pair)
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def read(self) -> dict[str, float]:
        """The means; one that was never measured is left out."""
        if not self._sums:
            return {}
        rows = torch.stack(list(self._sums.values())).tolist()
        return {name: total / weight for name, (total, weight) in zip(self._sums, rows, strict=True) if weight != 0}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on in the middle of an epoch."""
        return dict(self._sums)
