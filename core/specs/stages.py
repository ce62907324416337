"""Checks of methods with two stages."""

from __future__ import annotations

from collections.abc import Iterator

from core.catalog import METHODS
from core.specs.components import MethodRef
from core.specs.problems import ProblemParts


def stage_problems(index: int, method: MethodRef, epochs: int) -> Iterator[ProblemParts]:
    """Yield why a training has no room for both stages of a method, or cannot weight a term by share.

    Args:
        index: Number of the method in the spec, from 0.
        method: The method.
        epochs: Epochs of the training.
    """
    stage, shares = METHODS[method.name].first_stage, method.shares
    first = getattr(method.parsed_params, stage.epochs) if stage else 0
    if not stage or not first:
        return
    if first >= epochs:
        text = f"the first stage of {first} epochs leaves none of the training's {epochs} for the second"
        yield ("methods", index, "params", stage.epochs), text, first
    if stage.term in shares:
        text = f"{stage.term} is the whole loss of the first stage, where no other term has a share"
        yield ("methods", index, "shares", stage.term), text, shares[stage.term]
