"""Running means that stay on the device until they are read."""

from __future__ import annotations

import torch
from torch import Tensor


class Means:
    """Weighted means by name. ``add`` never waits for the device; ``read`` does, once for all of them."""

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        self._restored = dict(state or {})
        # Names that come together are summed as one tensor (names, 2): a few kernels a step, not a few a name.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: dict[str, Tensor], weight: float, *, skip_nan: bool = False) -> None:
        """Add scalars with a weight. With ``skip_nan`` a NaN counts as not measured; else it makes the mean NaN."""
        if not values:
            return
        column = torch.stack([value.detach().double() for value in values.values()])
        rows = torch.stack((column * weight, torch.full_like(column, weight)), dim=1)
        if skip_nan:
            rows = torch.where(column.isnan().unsqueeze(1), torch.zeros_like(rows), rows)
        names = tuple(values)
        if names in self._sums:
            rows = self._sums[names] + rows
        elif self._restored:
            rows = rows + torch.stack([self._restored.pop(name, torch.zeros_like(rows[0])) for name in names])
        self._sums[names] = rows

    def read(self) -> dict[str, float]:
        """The means; one that was never measured is left out."""
        state = self.state()
        if not state:
            return {}
        rows = torch.stack(list(state.values())).tolist()
        return {name: total / weight for name, (total, weight) in zip(state, rows, strict=True) if weight != 0}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on in the middle of an epoch: (2,) each, the weighted sum and the weights'."""
        found = dict(self._restored)
        for names, rows in self._sums.items():
            for name, row in zip(names, rows, strict=True):
                found[name] = found[name] + row if name in found else row
        return found
