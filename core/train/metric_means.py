"""Running means that stay on the device until they are read."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class RunningMeans:
    """Weighted means by name. ``add`` never waits for the device; ``read`` and ``nonfinite`` wait for it once.

    Args:
        state: What ``state`` of an earlier object returned, to continue from it.
    """

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        self._restored = dict(state or {})
        # Names that are added together share one tensor: a few kernels per step, not per name. It has a row for each
        # name, with the three columns that ``state`` describes.
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, values: dict[str, Tensor], weight: float, *, skip_nan: bool = False) -> None:
        """Add scalars with a weight.

        Args:
            values: The scalars by name.
            weight: The weight of all of them.
            skip_nan: Whether a NaN counts as not measured; if not, it makes the mean NaN.
        """
        if not values:
            return
        column = torch.stack([value.detach().double() for value in values.values()])
        rows = torch.stack((column * weight, torch.full_like(column, weight), torch.zeros_like(column)), dim=1)
        if skip_nan:
            rows = torch.where(column.isnan().unsqueeze(1), torch.zeros_like(rows), rows)
        names = tuple(values)
        if names in self._sums:
            rows += self._sums[names]
        elif self._restored:
            rows = rows + torch.stack([self._restored.pop(name, torch.zeros_like(rows[0])) for name in names])
        # A sum that is not finite stays so, whatever is added, so this count stops at the first such value.
        rows[:, 2] += rows[:, 0].isfinite()
        if names in self._sums:
            self._sums[names].copy_(rows)  # in place, because a captured step writes to the same tensor each time
        else:
            self._sums[names] = rows

    def read(self) -> dict[str, float]:
        """Return the means by name; a name that was never measured is left out."""
        return {name: total / weight for name, (total, weight, _) in self._numbers().items() if weight != 0}

    def nonfinite(self) -> dict[str, int]:
        """Return, for each name whose sum is not finite, the number of values before the first that was not."""
        numbers = self._numbers()
        return {name: int(before) for name, (total, _, before) in numbers.items() if not math.isfinite(total)}

    def state(self) -> dict[str, Tensor]:
        """Return the tensors that a checkpoint needs to continue in the middle of an epoch.

        Returns:
            A tensor (3,) for each name: the weighted sum, the sum of the weights, and the number of values before the
            first that is not finite.
        """
        state = dict(self._restored)
        for names, rows in self._sums.items():
            for name, row in zip(names, rows, strict=True):
                state[name] = state[name] + row if name in state else row
        return state

    def _numbers(self) -> dict[str, list[float]]:
        state = self.state()
        return dict(zip(state, torch.stack(list(state.values())).tolist(), strict=True)) if state else {}
