"""Methods for the tests of groups: one draws random numbers in each step, the other fails at a step."""

from __future__ import annotations

import threading
import time
from typing import Literal

from pydantic import Field

from core.catalog import METHODS, MethodEntry, Params
from core.catalog.methods import KDParams
from core.catalog.methods.shared import CE_TERM

_counts = threading.local()
_most_steps = 0


class FaultParams(Params):
    """What goes wrong, and when."""

    kind: Literal["nan", "raise", "exit", "hang"] = Field("raise", description="What happens.")
    step: int = Field(1, ge=1, description="In which step of the training's thread.")
    mark: str = Field("", description="A file that a step makes before it hangs.")


def count_step() -> int:
    """Return the number of the step of the calling thread, counted from 1."""
    global _most_steps
    _counts.steps = getattr(_counts, "steps", 0) + 1
    _most_steps = max(_most_steps, _counts.steps)
    return int(_counts.steps)


def wait_for_step(step: int, seconds: float) -> None:
    """Wait until a training with a fault is in a step."""
    deadline = time.monotonic() + seconds
    while _most_steps < step:
        assert time.monotonic() < deadline
        time.sleep(0.001)


if "group_noise" not in METHODS:
    METHODS.add(
        MethodEntry(
            name="group_noise",
            title="Noise",
            summary="KD with a random weight in each step.",
            target="tests.core.group_losses:noise_loss",
            params=KDParams,
            metrics=(CE_TERM,),
        )
    )
    METHODS.add(
        MethodEntry(
            name="group_fault",
            title="Fault",
            summary="Cross-entropy, until it fails.",
            target="tests.core.group_losses:fault_loss",
            params=FaultParams,
            metrics=(CE_TERM,),
        )
    )
