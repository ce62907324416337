"""Random numbers as a pure function of integers: equal on every device, in every process, and after a resume."""

from __future__ import annotations

from torch import Tensor

_BITS = 0xFFFFFFFF
_STEP = 0x9E3779B9
_FACTORS = (0x7FEB352D, 0x45D9F3B)
"""Below 2³¹, so that their product with a number of 32 bits does not leave int64."""


def uniform(seed: Tensor, *keys: Tensor | int) -> Tensor:
    """Return a number in [0, 1), float32, for each combination of integer keys, broadcast against each other.

    Args:
        seed: int64, not negative and below 2³².
        keys: Tensors of int64 or numbers, not negative and below 2³².
    """
    state = _mixed(seed)
    for key in keys:
        state = _mixed(((state ^ key) + _STEP) & _BITS)
    return (state >> 8).float() / 2**24


def _mixed(state: Tensor) -> Tensor:
    """Mix the bits of numbers below 2³² by two rounds of shift and product (as C. Wellons's lowbias32)."""
    state = ((state ^ (state >> 16)) * _FACTORS[0]) & _BITS
    state = ((state ^ (state >> 15)) * _FACTORS[1]) & _BITS
    return state ^ (state >> 16)
