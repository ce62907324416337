"""What the stand-in computes: a chain of digests, in which a step lost, doubled or out of order shows at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

METRICS = ("train/loss", "test/top1")


def beginning(seed: int, teacher: bytes = b"") -> str:
    """Before the first step; a student begins with its teacher's weights."""
    return _digest(f"seed {seed}", hashlib.sha256(teacher).hexdigest())


def share(seed: int, step: int, rank: int) -> str:
    """What a further rank adds to a step."""
    return _digest(f"seed {seed}", f"step {step}", f"rank {rank}")


def advance(state: str, step: int, shares: Sequence[str]) -> str:
    """One step."""
    return _digest(state, f"step {step}", *shares)


def values(state: str) -> dict[str, float]:
    """The metrics of a state."""
    return {name: int(state[8 * place : 8 * place + 8], 16) / 2**32 for place, name in enumerate(METRICS)}


def states(seed: int, steps: int, ranks: int, teacher: bytes = b"") -> list[str]:
    """Of an undisturbed training: the state after each step."""
    found, state = [], beginning(seed, teacher)
    for step in range(1, steps + 1):
        state = advance(state, step, [share(seed, step, rank) for rank in range(1, ranks)])
        found.append(state)
    return found


def weights(state: str) -> bytes:
    """Content of the weights file of a training that ended in this state."""
    return f"stand-in weights {state}\n".encode()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
