"""The computation of the stand-in training: a chain of digests.

Its end is different if any step is lost, done twice or out of order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

METRICS = ("train/loss", "test/top1")


def initial_state(seed: int, teacher: bytes = b"") -> str:
    """Return the state before the first step; a student's depends on the weights of its teacher."""
    return _digest(f"seed {seed}", hashlib.sha256(teacher).hexdigest())


def rank_share(seed: int, step: int, rank: int) -> str:
    """Return the contribution of another rank to a step."""
    return _digest(f"seed {seed}", f"step {step}", f"rank {rank}")


def advance(state: str, step: int, shares: Sequence[str]) -> str:
    """Return the state after a step."""
    return _digest(state, f"step {step}", *shares)


def metric_values(state: str) -> dict[str, float]:
    """Return the metrics of a state."""
    return {name: int(state[8 * index : 8 * index + 8], 16) / 2**32 for index, name in enumerate(METRICS)}


def states(seed: int, steps: int, ranks: int, teacher: bytes = b"") -> list[str]:
    """Return the state after each step of an undisturbed training."""
    states, state = [], initial_state(seed, teacher)
    for step in range(1, steps + 1):
        state = advance(state, step, [rank_share(seed, step, rank) for rank in range(1, ranks)])
        states.append(state)
    return states


def weights_content(state: str) -> bytes:
    """Return the content of the weights file of a training that ended in this state."""
    return f"stand-in weights {state}\n".encode()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
