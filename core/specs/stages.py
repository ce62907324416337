"""Checks of methods with two stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from core.specs.components import WeightedMethod
from core.specs.problems import ProblemParts


def stage_problems(method: WeightedMethod, shares: Mapping[str, float], epochs: int) -> Iterator[ProblemParts]:
    """Yield why a training has no room for both stages of a method, or cannot weight a term by share.

    Args:
        method: The method.
        shares: The shares of its terms.
        epochs: Epochs of the training.
    """
    stage = method.entry.first_stage
    first = getattr(method.parsed_params, stage.epochs) if stage else 0
    if not stage or not first:
        return
    if first >= epochs:
        text = f"the first stage of {first} epochs leaves none of the training's {epochs} for the second"
        yield ("params", stage.epochs), text, first
    if stage.term in shares:
        text = f"{stage.term} is the whole loss of the first stage, so it cannot have a share of it"
        yield ("shares", stage.term), text, shares[stage.term]
