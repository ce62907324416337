"""Checks of the terms that a spec weights by share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from core.catalog import MethodEntry
from core.catalog.suggestions import suggest_name
from core.specs.problems import ProblemParts


def share_problems(
    entries: Sequence[MethodEntry],
    params: Sequence[Mapping[str, Any]],
    shares: Sequence[Mapping[str, float]],
    *,
    submitted: bool,
) -> Iterator[ProblemParts]:
    """Yield what is wrong with the shares of a method and of those that are added to it.

    Args:
        entries: The methods in their order.
        params: The parameters of each.
        shares: Of each, by the name of a term, its share of the summed gradient norms of all terms.
        submitted: Whether the spec is new. Stored ones may have a weight beside a share.
    """
    if not any(shares):
        return
    for number, (entry, given, chosen) in enumerate(zip(entries, params, shares, strict=True)):
        place: tuple[int | str, ...] = ("with", number - 1) if number else ()
        for name, share in chosen.items():
            terms = entry.own_terms if number else entry.terms
            if text := _problem(entry, terms, given, name, share, submitted=submitted):
                yield (*place, "shares", name), text, share
    every = [share for chosen in shares for share in chosen.values()]
    if sum(every) >= 1:
        text = f"the shares add up to {sum(every):g}, which leaves no part of the gradient for other terms"
        yield ("shares",), text, dict(shares[0])
    trained = {name for entry, given in zip(entries, params, strict=True) for name in entry.terms_of(given)}
    if submitted:  # an older check let terms pass whose weight is 0
        pairs = enumerate(zip(entries, params, strict=True))
        trained = {name for number, (entry, given) in pairs for name in _trained_terms(entry, given, added=number > 0)}
    if trained <= {name for chosen in shares for name in chosen}:
        yield ("shares",), "at least one term needs a weight of its own, which the shares refer to", dict(shares[0])


def _trained_terms(entry: MethodEntry, params: Mapping[str, Any], *, added: bool) -> Iterator[str]:
    """Yield the names of the terms that have a gradient. A method that is added to another has no cross-entropy."""
    for name in entry.own_terms if added else entry.terms:
        weight = entry.weight_params.get(name)
        if not entry.is_switched_off(name, params) and not (weight and params.get(weight) == 0):
            yield name


def _problem(
    entry: MethodEntry,
    terms: Sequence[str],
    params: Mapping[str, Any],
    name: str,
    share: float,
    *,
    submitted: bool,
) -> str | None:
    """Return what is wrong with the share of one term."""
    if name not in terms:
        hint = suggest_name(name, dict.fromkeys(terms, ()))
        return f"{entry.name} has no term {name!r}; {hint}"
    if entry.is_switched_off(name, params):
        return f"{entry.switches[name]} is off, so that the loss does not have this term"
    if not 0 < share < 1:
        return "a share is greater than 0 and less than 1"
    if (param := entry.share_params.get(name)) and params.get(param) is not None:
        return f"{param} gives this term its share already; remove one of the two"
    weight = entry.weight_params.get(name)
    if weight and params.get(weight) == 0:
        return f"{weight} is 0, which switches this term off, so that it has no gradient"
    if submitted and weight and _is_given(entry, params, weight):
        return f"{weight} gives this term a weight already, of {params[weight]:g}; remove one of the two"
    return None


def _is_given(entry: MethodEntry, params: Mapping[str, Any], weight: str) -> bool:
    """Return whether a weight is not the one that the method has without it.

    A complete spec has every parameter, so that a weight with its default may be one that nobody has given. A weight
    that the method cannot do without may stand beside a share.
    """
    others = {name: value for name, value in params.items() if name != weight}
    try:
        default = getattr(entry.params.model_validate(others), weight)
    except ValidationError:
        return False
    return default is not None and params.get(weight) != default
