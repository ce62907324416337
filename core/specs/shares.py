"""Checks of the terms that a spec weights by share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from core.catalog import MethodEntry
from core.catalog.suggestions import suggest_name
from core.specs.problems import ProblemParts


def share_problems(
    entry: MethodEntry, params: Mapping[str, Any], shares: Mapping[str, float]
) -> Iterator[ProblemParts]:
    """Yield what is wrong with the shares of a method.

    Args:
        entry: The method.
        params: Its parameters.
        shares: By the name of a term, its share of the summed gradient norms.
    """
    if not shares:
        return
    for name, share in shares.items():
        if name not in entry.terms:
            hint = suggest_name(name, dict.fromkeys(entry.terms, ()))
            yield ("shares", name), f"{entry.name} has no term {name!r}; {hint}", share
        elif entry.is_switched_off(name, params):
            text = f"{entry.switches[name]} is off, so that the loss does not have this term"
            yield ("shares", name), text, share
        elif not 0 < share < 1:
            yield ("shares", name), "a share is greater than 0 and less than 1", share
        elif (param := entry.share_params.get(name)) and params.get(param) is not None:
            yield ("shares", name), f"{param} gives this term its share already; remove one of the two", share
        elif (param := entry.weight_params.get(name)) and params.get(param) == 0:
            text = f"{param} is 0, which switches this term off, so that it has no gradient"
            yield ("shares", name), text, share
    if sum(shares.values()) >= 1:
        text = f"the shares add up to {sum(shares.values()):g}, which leaves no part of the gradient for other terms"
        yield ("shares",), text, dict(shares)
    if set(entry.terms_of(params)) <= set(shares):
        yield ("shares",), "at least one term needs a weight of its own, which the shares refer to", dict(shares)


def divided_batch_problems(shares: Mapping[str, float], *, accumulate: int, gpus: int) -> Iterator[ProblemParts]:
    """Yield why the terms of a method with taps cannot be weighted by share in this training.

    Their gradients are measured at a tap, in the network of one process and in one backward pass of the whole batch.

    Args:
        shares: The shares of the method.
        accumulate: The number of micro-batches.
        gpus: The number of GPUs that share each batch.
    """
    if shares and accumulate > 1:
        text = "shares of a method that reads inner layers need the whole batch at once: set training.accumulate to 1"
        yield ("shares",), text, dict(shares)
    if shares and gpus > 1:
        text = "shares of a method that reads inner layers need the whole batch on one GPU: set resources.gpus to 1"
        yield ("shares",), text, dict(shares)
