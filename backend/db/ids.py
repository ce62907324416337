"""Ids: 16 characters, sortable by the time they were made, safe in a URL and in a file name."""

from __future__ import annotations

import secrets
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]
_TIME_BITS = 48
_RANDOM_BITS = 32


def new_ids(count: int) -> list[str]:
    """Ids that sort in the order of the list. Milliseconds since 1970 (48 bits), then 32 random bits."""
    start = secrets.randbits(_RANDOM_BITS - 1)  # the top bit is left free, so that counting up never carries
    moment = (time.time_ns() // 1_000_000) & ((1 << _TIME_BITS) - 1)
    return [_encode((moment << _RANDOM_BITS) + start + index) for index in range(count)]


def new_id() -> str:
    return new_ids(1)[0]


def _encode(number: int) -> str:
    pairs = [_PAIRS[number >> shift & 1023] for shift in range(_TIME_BITS + _RANDOM_BITS - 10, -1, -10)]
    return "".join(pairs)
