"""The search space of a method: which of its parameters a trial changes, and within which bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from core.catalog.methods.entry import LABEL_TERM
from core.catalog.methods.search import Range
from core.specs import MethodRef, WeightedMethod

_WEIGHT_FACTOR, _TEMPERATURE_FACTOR = 4.0, 2.0
_TEMPERATURE = "temperature"
_GREATEST_SHARE = 0.9


def search_space(method: MethodRef) -> dict[str, Range]:
    """Return what a trial of a method changes, by the path within it: ``params.beta``, ``with.0.params.weight``.

    An entry of the catalog may declare its space. The space of any other entry has the weights of its terms, from a
    quarter to four times what the spec says, and its temperature, from half to twice that; all are drawn uniformly in
    their logarithm. The weight of the cross-entropy with the labels stays, because only the ratio of the weights
    matters besides the learning rate. A term that is switched off stays off. A share of the gradient is searched as a
    weight is, up to 0.9.
    """
    return {
        f"with.{number - 1}.{path}" if number else path: found
        for number, member in enumerate(method.members)
        for path, found in _of_member(member)
    }


def _of_member(member: WeightedMethod) -> Iterator[tuple[str, Range]]:
    entry, params = member.entry, member.params
    for term, share in member.shares.items():
        yield f"shares.{term}", _around(share, most=_GREATEST_SHARE)
    if entry.search:
        yield from ((f"params.{name}", found) for name, found in entry.search.items())
        return
    for name in dict.fromkeys(_weights(member)):
        if isinstance(value := params.get(name), int | float) and value > 0:
            yield f"params.{name}", _around(value)
    for name in dict.fromkeys(entry.share_params.values()):
        if isinstance(value := params.get(name), int | float) and value > 0:
            yield f"params.{name}", _around(value, most=_GREATEST_SHARE)
    if isinstance(temperature := params.get(_TEMPERATURE), int | float):
        yield f"params.{_TEMPERATURE}", _around(temperature, _TEMPERATURE_FACTOR)


def _around(value: float, factor: float = _WEIGHT_FACTOR, most: float = math.inf) -> Range:
    return Range(value / factor, min(value * factor, max(value, most)), log=True)


def _weights(member: WeightedMethod) -> Iterator[str]:
    """Yield the parameters that weight the method's own terms, of which those with a share have no weight."""
    for term, name in member.entry.weight_params.items():
        switched_off = member.entry.is_switched_off(term, member.params)
        if term != LABEL_TERM and term not in member.shares and not switched_off:
            yield name


def in_words(space: Mapping[str, Range]) -> str:
    """Return a search space as text, such as ``beta 2–32 (log)``; what it is without one."""
    if not space:
        return "nothing to search"
    return ", ".join(f"{path.rpartition('.')[2]} {found.in_words()}" for path, found in space.items())


def rounded(value: Any) -> Any:
    """Return a drawn number with four significant digits, which are enough for a search and keep tables readable."""
    return float(f"{value:.4g}") if isinstance(value, float) and math.isfinite(value) else value
