"""Critical values of Student's t over several looks: the exact group-sequential t test.

Jennison and Turnbull, "Exact calculations for sequential t, χ² and F tests", Biometrika 78 (1991). For normal values
with mean zero and an unknown standard deviation, u = Σx/√(n Σx²) is independent of Σx², so that the u of growing n form
a Markov chain whose steps have no unknown: with w = x/√(Σx²), which is t with n degrees of freedom divided by √n,

    u' = (√n u + w) / √((n + 1)(1 + w²)),    t = u √(n − 1) / √(1 − u²).

The distribution of |u| is carried from look to look on a grid of angles φ = arcsin |u|, without what has crossed.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from common.sequential.spending import Schedule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CELLS = 256
_TABLE = 16_385
"""Points at which the distribution of a step is tabulated; between them it is interpolated."""
_NOTHING = 1e-12
"""A probability that counts as none: the grid cannot resolve it."""


@lru_cache(maxsize=1024)
def critical_values(schedule: Schedule) -> tuple[float, ...]:
    """Return the critical value of |t| at each look; infinity where nothing may be spent.

    The chance that |t| exceeds its critical value at any look is the probability spent up to the last one.

    Args:
        schedule: Numbers of values, increasing from at least 2, and the error probability spent up to each.
    """
    # Imported here because they are slow to import, and the backend has to start at once.
    import numpy as np
    from scipy.special import stdtr, stdtrit

    edges = np.linspace(0.0, math.pi / 2, _CELLS + 1)
    first = schedule[0][0]
    at_edges = 2.0 * stdtr(first - 1, math.sqrt(first - 1) * np.tan(edges)) - 1.0
    at_edges[-1] = 1.0
    mass = np.diff(at_edges)
    critical: list[float] = []
    count, spent = first, 0.0
    for values, allowed in schedule:
        while count < values:
            mass = mass @ _step(count)
            count += 1
        share, spent = allowed - spent, max(spent, allowed)
        if share <= _NOTHING:
            critical.append(math.inf)
            continue
        if not critical:
            angle = math.atan(float(stdtrit(first - 1, 1.0 - share / 2)) / math.sqrt(first - 1))
        else:
            above = np.concatenate((np.cumsum(mass[::-1])[::-1], [0.0]))
            angle = float(np.interp(share, above[::-1], edges[::-1]))
        # Part of a cell may be left below the boundary.
        mass = mass * np.clip((angle - edges[:-1]) / (edges[1] - edges[0]), 0.0, 1.0)
        critical.append(math.sqrt(values - 1) * math.tan(angle))
    return tuple(critical)


@lru_cache(maxsize=64)
def _step(n: int) -> NDArray[np.float64]:
    """Return the probability of each cell of |u| at n + 1 values (column), given its cell at n values (row)."""
    import numpy as np
    from scipy.special import stdtr

    half = math.pi / 2
    edges = np.linspace(0.0, half, _CELLS + 1)
    # With w = tan ψ, a = √n·u, r = √(1 + a²) and tan δ = 1/a: u'·√(n + 1) = a·cos ψ + sin ψ = r·cos(ψ − δ). So u' > v
    # is |ψ − δ| < β with cos β = v·√(n + 1)/r. u is taken at the middle of its cell; its sign does not matter.
    a = math.sqrt(n) * np.sin((edges[:-1] + edges[1:]) / 2)[:, None]
    delta = np.arctan2(1.0, a)
    beta = np.arccos(np.clip(np.sin(edges) * math.sqrt(n + 1) / np.hypot(a, 1.0), -1.0, 1.0))
    angles = np.linspace(-half, half, _TABLE)
    table = stdtr(n, math.sqrt(n) * np.tan(angles))
    table[0], table[-1] = 0.0, 1.0

    def distribution(psi: NDArray[np.float64]) -> NDArray[np.float64]:
        probability: NDArray[np.float64] = np.interp(psi, angles, table)
        return probability

    above = distribution(delta + beta) - distribution(delta - beta)
    above_negative = distribution(delta + math.pi - beta) - distribution(delta - math.pi + beta)
    below = above_negative - above  # P(u' > −v) − P(u' > v) = P(|u'| < v)
    below[:, 0] = 0.0
    step: NDArray[np.float64] = np.diff(below, axis=1)
    return step
