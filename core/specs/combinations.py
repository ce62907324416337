"""Checks of methods whose terms are added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.catalog import MethodEntry
from core.specs.problems import ProblemParts

MAX_ADDED = 8
"""Methods that can be added to one."""
MAX_FULL_NAME = 100
"""Characters of the names of all methods of a combination, joined by ``+``."""


def added_problems(entry: MethodEntry, params: Mapping[str, Any]) -> Iterator[ProblemParts]:
    """Yield why a method cannot be added to another with these parameters.

    Args:
        entry: The method to add.
        params: Its parameters as they are given, without defaults.
    """
    weight = entry.label_weight
    if weight is not None and weight in params:
        text = "cross-entropy is counted once, with the weight that the first method gives it; remove this weight"
        yield (weight,), text, params[weight]


def combination_problems(entries: Sequence[MethodEntry], params: Sequence[Mapping[str, Any]]) -> Iterator[ProblemParts]:
    """Yield the problems of a combination of methods.

    Args:
        entries: The methods in their order.
        params: The parameters of each method.
    """
    if len(entries) == 1:
        return
    length = len("+".join(entry.name for entry in entries))
    if length > MAX_FULL_NAME:
        yield ("with",), f"the names have {length} characters together; at most {MAX_FULL_NAME} are allowed", length
    owners: dict[str, MethodEntry] = {}
    for number, (entry, given) in enumerate(zip(entries, params, strict=True)):
        names = entry.reported_by(given)
        if number and not names:
            text = f"{entry.name} has no term besides cross-entropy, which is counted once"
            yield ("with", number - 1), text, entry.name
        if twice := next((name for name in names if name in owners), None):
            text = f"{owners[twice].name} and {entry.name} both report {twice}, which could not be told apart"
            yield ("with", number - 1), f"{text}; remove one of the two", entry.name
        owners |= dict.fromkeys(names, entry)
    pairs = zip(entries, params, strict=True)
    staged = [number for number, (entry, given) in enumerate(pairs) if entry.has_first_stage(given)]
    for number in staged[1:]:
        text = f"{entries[staged[0]].name} has a first stage too, and only one of them can be the whole loss at a time"
        yield ("with", number - 1), text, entries[number].name
    changing = [number for number, entry in enumerate(entries) if entry.changes_classifier]
    for number in changing[1:]:
        text = f"{entries[changing[0]].name} changes what the student's classifier reads, and only one method can"
        yield ("with", number - 1), f"{text}; remove one of the two", entries[number].name
    for number, (entry, given) in enumerate(zip(entries, params, strict=True)):
        for term, name in entry.share_params.items():
            if given.get(name) is not None:
                place: tuple[int | str, ...] = ("with", number - 1) if number else ()
                text = f"is a share of the terms of {entry.name} alone; in a combination write shares: {{{term}: …}}"
                yield (*place, "params", name), f"{name} {text}", given[name]
