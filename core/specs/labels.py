"""Labels of methods: which follow from the method by themselves, and which name another method than they stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from core.catalog import METHODS

_REDUCTION = "reduction"
_NEGATIONS = frozenset({"no", "not", "without"})

Words = tuple[str, ...]


def automatic_label(name: str, params: Mapping[str, Any]) -> str:
    """The label of a method that was given none: its name, with the reduction where it has one."""
    reduction = params.get(_REDUCTION)
    return f"{name} ({reduction})" if reduction else name


def is_automatic_label(choice: Mapping[str, Any]) -> bool:
    """Whether the label of a method, as plain data, is the one that it would have without one.

    Specs are stored with every label filled in, so an automatic label is told from a typed one by its text.
    """
    name, label, params = choice.get("name"), choice.get("label"), choice.get("params") or {}
    if not isinstance(name, str) or not isinstance(params, Mapping):
        return False
    if label == automatic_label(name, params):
        return True
    if name not in METHODS:
        return False
    try:
        # A reduction that is left out may have a default.
        return bool(label == automatic_label(name, METHODS[name].params.model_validate(params).model_dump()))
    except ValidationError:
        return False


def without_automatic_labels(data: Any) -> Any:
    """A copy of a spec's plain data in which only typed labels stand, so that a changed method is named by its own.

    Data that is no spec comes back as it is: finding out is not this function's business.
    """
    if not isinstance(data, Mapping) or not isinstance(methods := data.get("methods"), list | tuple):
        return data
    return {**data, "methods": [_without_automatic_label(choice) for choice in methods]}


def _without_automatic_label(choice: Any) -> Any:
    if not isinstance(choice, Mapping) or not is_automatic_label(choice):
        return choice
    return {key: value for key, value in choice.items() if key != "label"}


def misleading_label(name: str, params: Mapping[str, Any], label: str) -> str | None:
    """How a label names another method or reduction than it stands for, as a sentence; None where it does not."""
    own = automatic_label(name, params)
    if label == own:
        return None
    if label in _automatic_labels():
        return f"the label {label!r} is the automatic name of another method or reduction; this one is {own}"
    words = _words(label)
    named = _methods_in(words, _fields_of(name))
    mine = _names_of(name)
    # "DKD + A" may well be said of dkd_align, whose own name begins with it.
    if named and name not in named and not all(_is_part(part, mine) for part in named.values()):
        others = " and ".join(named)
        return f"the label {label!r} names {others}, and the method is {own}"
    return _other_reduction(name, params, label, words)


def _other_reduction(name: str, params: Mapping[str, Any], label: str, words: Words) -> str | None:
    mine = params.get(_REDUCTION)
    if mine is None or str(mine) in words:
        return None
    for choice in _reductions(name):
        if any(word == choice and not _is_a_size(words, at) for at, word in enumerate(words)):
            return f"the label {label!r} says {choice}, and the reduction is {mine}"
    return None


def _is_a_size(words: Words, at: int) -> bool:
    """Whether "batch" stands for a number of images, as in "batch 128" and "batch size"."""
    after = words[at + 1] if at + 1 < len(words) else ""
    return words[at] == "batch" and (after.isdecimal() or after == "size")


def _methods_in(words: Words, fields: set[Words]) -> dict[str, Words]:
    """Methods that are named in a text, each with the words that name it. Longer names are found first."""
    names = sorted(((part, entry.name) for entry in METHODS for part in _names_of(entry.name)), key=_longest_first)
    free = list(words)
    found: dict[str, Words] = {}
    for part, name in [*((field, "") for field in sorted(fields)), *names]:
        for at in range(len(free) - len(part) + 1):
            if tuple(free[at : at + len(part)]) == part:
                negated = at > 0 and free[at - 1] in _NEGATIONS
                free[at : at + len(part)] = [""] * len(part)
                if name and not negated:
                    found[name] = part
    return found


def _longest_first(item: tuple[Words, str]) -> tuple[int, Words]:
    return -len(item[0]), item[0]


def _names_of(name: str) -> set[Words]:
    """A method's name and title as words."""
    title = METHODS[name].title if name in METHODS else ""
    return {words for words in (_words(name), _words(title)) if words}


def _fields_of(name: str) -> set[Words]:
    """Names of the method's parameters that have several words: "CE weight" names no method."""
    fields = METHODS[name].params.model_fields if name in METHODS else {}
    return {words for words in map(_words, fields) if len(words) > 1}


def _is_part(words: Words, names: set[Words]) -> bool:
    return any(words == other[at : at + len(words)] for other in names for at in range(len(other)))


def _words(text: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _automatic_labels() -> set[str]:
    return {
        automatic_label(entry.name, {_REDUCTION: reduction})
        for entry in METHODS
        for reduction in _reductions(entry.name) or ("",)
    }


def _reductions(name: str) -> tuple[str, ...]:
    """The reductions that a method may have; none where it has no such parameter or any text will do."""
    field = METHODS[name].params.model_fields.get(_REDUCTION) if name in METHODS else None
    if field is None or get_origin(field.annotation) is not Literal:
        return ()
    return tuple(str(choice) for choice in get_args(field.annotation))
