"""Identifiers of 16 characters that sort by the time of their creation and are safe in URLs and file names."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]
_TIME_BITS = 48
_RANDOM_BITS = 32


def new_ids(count: int) -> list[str]:
    """Return ids that sort in the order of the list: milliseconds since 1970 (48 bits), then 32 random bits."""
    start = secrets.randbits(_RANDOM_BITS - 1)  # the top bit is zero: adding the index cannot overflow
    milliseconds = (time.time_ns() // 1_000_000) & ((1 << _TIME_BITS) - 1)
    return [_encode((milliseconds << _RANDOM_BITS) + start + index) for index in range(count)]


def new_id() -> str:
    """Return one id; see ``new_ids``."""
    return new_ids(1)[0]


def _encode(number: int) -> str:
    pairs = [_PAIRS[number >> shift & 1023] for shift in range(_TIME_BITS + _RANDOM_BITS - 10, -1, -10)]
    return "".join(pairs)
