"""Labels of methods: automatic ones, and misleading ones that name another method than their own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from core.catalog import METHODS

_REDUCTION = "reduction"
_ALIGN, _OFF = "align", "off"
_NEGATIONS = frozenset({"no", "not", "without"})

Words = tuple[str, ...]


def automatic_label(name: str, params: Mapping[str, Any]) -> str:
    """Return the label of a method without one: its name, with the reduction and the alignment term if it has them."""
    if (align := params.get(_ALIGN)) and align != _OFF:
        return f"{name} + align ({align})"
    reduction = params.get(_REDUCTION)
    return f"{name} ({reduction})" if reduction else name


def is_automatic_label(choice: Mapping[str, Any]) -> bool:
    """Return whether a method, as plain data, has its automatic label.

    Specs are stored with all labels filled in, so an automatic label can only be recognised by its text.
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
    """Return a copy of a spec's plain data without automatic labels, so that these follow when a method changes.

    Data that is not a spec is returned unchanged; it is not validated here.
    """
    if not isinstance(data, Mapping) or not isinstance(methods := data.get("methods"), list | tuple):
        return data
    return {**data, "methods": [_without_automatic_label(choice) for choice in methods]}


def _without_automatic_label(choice: Any) -> Any:
    if not isinstance(choice, Mapping) or not is_automatic_label(choice):
        return choice
    return {key: value for key, value in choice.items() if key != "label"}


def misleading_label(name: str, params: Mapping[str, Any], label: str) -> str | None:
    """Return a sentence if a label names another method or reduction than its own; else None."""
    automatic = automatic_label(name, params)
    if label == automatic:
        return None
    if label in _automatic_labels():
        return f"the label {label!r} is the automatic name of another method or reduction; this one is {automatic}"
    words = _words(label)
    named = _methods_in(words, _fields_of(name))
    mine = _names_of(name)
    # "DKD + A" is a fair label of dkd_align, whose name begins with dkd.
    if named and name not in named and not all(_is_part(part, mine) for part in named.values()):
        others = " and ".join(named)
        return f"the label {label!r} names {others}, and the method is {automatic}"
    return _other_reduction(name, params, label, words)


def _other_reduction(name: str, params: Mapping[str, Any], label: str, words: Words) -> str | None:
    mine = params.get(_REDUCTION, params.get(_ALIGN, _OFF))
    if mine in (None, _OFF) or str(mine) in words:
        return None
    for choice in (*_choices(name, _REDUCTION), *_choices(name, _ALIGN)):
        if any(word == choice and not _is_a_size(words, at) for at, word in enumerate(words)):
            return f"the label {label!r} says {choice}, and the reduction is {mine}"
    return None


def _is_a_size(words: Words, at: int) -> bool:
    """Return whether "batch" means a number of images, as in "batch 128" and "batch size"."""
    after = words[at + 1] if at + 1 < len(words) else ""
    return words[at] == "batch" and (after.isdecimal() or after == "size")


def _methods_in(words: Words, fields: set[Words]) -> dict[str, Words]:
    """Return the methods that a text names, each with the words that name it. Longer names are matched first."""
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
    """Return a method's name and title as words."""
    title = METHODS[name].title if name in METHODS else ""
    return {words for words in (_words(name), _words(title)) if words}


def _fields_of(name: str) -> set[Words]:
    """Return the names of the method's parameters that have several words: "CE weight" does not name a method."""
    fields = METHODS[name].params.model_fields if name in METHODS else {}
    return {words for words in map(_words, fields) if len(words) > 1}


def _is_part(words: Words, names: set[Words]) -> bool:
    return any(words == other[at : at + len(words)] for other in names for at in range(len(other)))


def _words(text: str) -> Words:
    return tuple(re.findall(r"[^\W_]+", text.lower()))


def _automatic_labels() -> set[str]:
    labels = set()
    for entry in METHODS:
        reductions = _choices(entry.name, _REDUCTION)
        labels |= {automatic_label(entry.name, {_REDUCTION: choice}) for choice in reductions or ("",)}
        labels |= {automatic_label(entry.name, {_ALIGN: choice}) for choice in _choices(entry.name, _ALIGN)}
    return labels


def _choices(name: str, param: str) -> tuple[str, ...]:
    """Return the values that a parameter may have; empty if there is no such parameter, or it accepts any text."""
    field = METHODS[name].params.model_fields.get(param) if name in METHODS else None
    if field is None or get_origin(field.annotation) is not Literal:
        return ()
    return tuple(str(choice) for choice in get_args(field.annotation) if choice != _OFF)
