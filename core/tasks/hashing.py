"""Stateless random numbers: integer hashes of (seed, epoch, purpose, sample), equal on every machine."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray


def permutation(size: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return the order of an epoch's samples (size,), by increasing hash."""
    return np.argsort(hashed_bits(size, seed, epoch, "order"), kind="stable").astype(np.int64)


def hashed_randint(bound: int, size: int, seed: int, epoch: int, purpose: str) -> NDArray[np.int64]:
    """Return an integer in [0, bound) for each sample (size,); bound ≤ 2^32, bias below bound/2^32."""
    high = hashed_bits(size, seed, epoch, purpose) >> np.uint64(32)
    return ((high * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def hashed_bits(size: int, seed: int, epoch: int, purpose: str) -> NDArray[np.uint64]:
    """Return 64 hashed bits for each sample (size,)."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is intended
        key = np.uint64(zlib.crc32(purpose.encode()))
        for part in (seed, epoch):
            key = _mix(np.asarray([key ^ np.uint64(part)]))[0]
        return _mix(key ^ _mix(np.arange(size, dtype=np.uint64)))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply SplitMix64's step and finaliser (Steele, Lea and Flood, OOPSLA 2014), which mixes all bits."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = values ^ (values >> np.uint64(31))
    return mixed
