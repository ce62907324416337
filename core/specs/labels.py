"""Labels of methods: automatic ones, and misleading ones that name another method than their own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from core.catalog import METHODS, UnknownNameError
from core.specs.regions import words_of

LABEL_LENGTH = 60
"""Characters of a method's label."""

_REDUCTION = "reduction"
_ALIGN, _OFF = "align", "off"
_SIGN, _ADDED = "sign", "added"
_NEGATIONS = frozenset({"no", "not", "without"})

Words = tuple[str, ...]


Member = tuple[str, Mapping[str, Any]]
"""A method's name and its parameters."""


def automatic_label(name: str, params: Mapping[str, Any], added: Sequence[Member] = (), regions: object = None) -> str:
    """Return the label of a method without one: its name, with the reduction and the alignment term if it has them.

    Args:
        name: The method.
        params: Its parameters.
        added: Methods that are added to it. The label then has the titles: "CRD + KD".
        regions: How it is applied to regions, as plain data; what differs from the default follows: "dkd fixed".
    """
    words = words_of(regions)
    separator = ", " if added else " "
    return separator.join(filter(None, (_of_members(name, params, added), words)))[:LABEL_LENGTH]


def _of_members(name: str, params: Mapping[str, Any], added: Sequence[Member]) -> str:
    if not added:
        return _with_reduction(name, params)
    members = [(name, params), *added]
    titles = [METHODS[other].title if other in METHODS else other for other, _ in members]
    return " + ".join(_with_reduction(title, given) for title, (_, given) in zip(titles, members, strict=True))


def _with_reduction(name: str, params: Mapping[str, Any]) -> str:
    if (align := params.get(_ALIGN)) and align != _OFF:
        return f"{name} + align ({align})"
    reduction = params.get(_REDUCTION)
    words = ", ".join(filter(None, (reduction, _ADDED if params.get(_SIGN) == _ADDED else None)))
    return f"{name} ({words})" if words else name


def is_automatic_label(choice: Mapping[str, Any]) -> bool:
    """Return whether a method, as plain data, has its automatic label.

    Specs are stored with all labels filled in, so an automatic label can only be recognised by its text.
    """
    members = _members(choice)
    if not members:
        return False
    (name, params), *added = members
    label, regions = choice.get("label"), choice.get("regions")
    if label == automatic_label(name, params, added, regions):
        return True
    try:
        # A reduction that is left out may have a default.
        complete: list[Member] = [
            (other, METHODS[other].params.model_validate(given).model_dump()) for other, given in members
        ]
    except (ValidationError, UnknownNameError):
        return False
    (name, params), *added = complete
    return bool(label == automatic_label(name, params, added, regions))


def _complete(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return METHODS[name].params.model_validate(params).model_dump()


def misleading_label_of(choice: Mapping[str, Any]) -> str | None:
    """Return a sentence if the label of a method, as plain data, names another method or reduction; else None."""
    (name, params), *added = _members(choice)
    return misleading_label(name, params, choice["label"], added, choice.get("regions"))


def combined_name(choice: Mapping[str, Any]) -> str:
    """Return the names of a method, as plain data, and of those that are added to it: ``crd+kd``."""
    return "+".join(name for name, _ in _members(choice))


def _members(choice: Mapping[str, Any]) -> list[Member]:
    """Return a method and those that are added to it, from plain data; empty if the data are not valid."""
    found: list[Member] = []
    given = choice.get("with") or ()
    for item in (choice, *given) if isinstance(given, list | tuple) else ():
        fields = {"name": item} if isinstance(item, str) else item
        name = fields.get("name") if isinstance(fields, Mapping) else None
        params = fields.get("params") or {} if isinstance(fields, Mapping) else None
        if not isinstance(name, str) or not isinstance(params, Mapping):
            return []
        found.append((name, params))
    return found


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


def misleading_label(
    name: str, params: Mapping[str, Any], label: str, added: Sequence[Member] = (), regions: object = None
) -> str | None:
    """Return a sentence if a label names another method or reduction than its own; else None.

    Args:
        name: The method.
        params: Its parameters.
        label: The label.
        added: Methods that are added to it.
        regions: How it is applied to regions, as plain data.
    """
    members = [(name, params), *added]
    automatic = automatic_label(name, params, added, regions)
    if label in (automatic, automatic_label(name, params, added)):  # the boxes need not be named
        return None
    if label in _automatic_labels():
        return f"the label {label!r} is the automatic name of another method or reduction; this one is {automatic}"
    words = _words(label)
    own = [name for name, _ in members]
    named = _methods_in(words, {field for name in own for field in _fields_of(name)})
    mine = {words for name in own for words in _names_of(name)}
    others = [other for other, part in named.items() if other not in own and not _is_part(part, mine)]
    # "DKD + A" is a fair label of dkd_align, whose name begins with dkd; "DKD-Align and KD" is one if kd is added.
    if others and not (len(own) == 1 and name in named):
        return f"the label {label!r} names {' and '.join(named)}, and the method is {automatic}"
    return next(filter(None, (_other_reduction(*member, label, words) for member in members)), None)


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
