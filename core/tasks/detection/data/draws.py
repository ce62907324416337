"""Random numbers for the samplers inside a detector, as pure functions of the view of an image."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

_WORD = 2**64
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_BITS = 24
"""Bits of a number: as many as a float32 holds, so that it is exact on every device."""


class HashedDraws:
    """Uniform numbers by a hash of an image's key, a purpose and a position.

    The hash is that of ``core.tasks.hashing``, computed in integers on the device itself: CPU and
    GPU give the same numbers, and nothing is copied or waited for.

    Args:
        keys: (B,) int64 on the CPU, the keys of a batch's images.
        device: Where the numbers are.
    """

    def __init__(self, keys: Tensor, device: torch.device) -> None:
        self._keys: list[int] = [key % _WORD for key in keys.tolist()]
        self._device = device

    def uniform(self, image: int, purpose: str, count: int) -> Tensor:
        """Return numbers (count,) float32 in [0, 1), multiples of 2^-24. See ``core.tasks.detection.types.Draws``."""
        start = _mix_int(self._keys[image] ^ zlib.crc32(purpose.encode()))
        position = torch.arange(count, dtype=torch.int64, device=self._device)
        bits = _mix(_mix(position) ^ _signed(start))
        return _shifted(bits, 64 - _BITS).float() * 2.0**-_BITS


def _signed(value: int) -> int:
    """Return the 64 bits of an unsigned integer as those of a signed one."""
    return value - _WORD if value >= _WORD // 2 else value


def _shifted(values: Tensor, bits: int) -> Tensor:
    """Shift to the right, and fill with zeros: torch repeats the sign."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _mix(values: Tensor) -> Tensor:
    """Apply SplitMix64's step and finaliser to int64, whose sums and products are modulo 2^64 as those of uint64."""
    values = values + _signed(_STEP)
    values = (values ^ _shifted(values, 30)) * _signed(_FIRST)
    values = (values ^ _shifted(values, 27)) * _signed(_SECOND)
    return values ^ _shifted(values, 31)


def _mix_int(value: int) -> int:
    """Apply the same to one unsigned integer."""
    value = (value + _STEP) % _WORD
    value = (value ^ (value >> 30)) * _FIRST % _WORD
    value = (value ^ (value >> 27)) * _SECOND % _WORD
    return value ^ (value >> 31)
