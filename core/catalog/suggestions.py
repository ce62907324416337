"""Suggests what was probably meant by an unknown name, field or value: "did you mean …?"."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

MAX_COMPARED = 100
"""Characters of a name that are compared: the time that it takes grows with the square."""
_MAX_SUGGESTED = 3
_MAX_LISTED = 20
_MIN_SIMILARITY = 0.6
_MAX_DEPTH = 4

_FIELD_SYNONYMS: Mapping[str, str] = {
    "acc": "top1",
    "amp": "precision",
    "arch": "model",
    "architecture": "model",
    "batch": "batch_size",
    "bs": "batch_size",
    "data": "dataset",
    "epoch": "epochs",
    "eps": "epsilon",
    "gpu": "gpus",
    "learningrate": "lr",
    "lrdecayepochs": "milestones",
    "lrschedule": "schedule",
    "lrscheduler": "schedule",
    "maxepochs": "epochs",
    "net": "model",
    "network": "model",
    "nepochs": "epochs",
    "numepochs": "epochs",
    "optim": "optimizer",
    "scheduler": "schedule",
    "t": "temperature",
    "tau": "temperature",
    "temp": "temperature",
    "warmup": "warmup_epochs",
    "wd": "weight_decay",
}
"""Names that other code bases give to a field of a spec, normalised."""

_VALUE_SYNONYMS: Mapping[str, str] = {
    "bf16": "bfloat16",
    "cosineannealing": "cosine",
    "cuda": "gpu",
    "false": "off",
    "fp16": "float16",
    "fp32": "float32",
    "half": "float16",
    "multistep": "step",
    "no": "off",
    "true": "on",
    "yes": "on",
}
"""Names that other code bases give to a value of a field, normalised."""


@lru_cache(maxsize=4096)
def normalize_name(text: str) -> str:
    """Return a name without differences of case, hyphens, underscores and spaces."""
    plain = unicodedata.normalize("NFKC", text[:MAX_COMPARED].replace("×", "x")).casefold()
    return re.sub(r"[\W_]+", "", plain)


def closest_names(name: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the known names that are most similar to a name, the most similar first.

    If some differ only in case, hyphens, underscores or spaces, only these are returned.

    Args:
        name: The name that was given.
        known: The known names, each with other spellings and synonyms.
    """
    normalized = normalize_name(name)
    spellings = [(normalize_name(text), entry) for entry, others in known.items() for text in (entry, *others)]
    matches = [entry for text, entry in spellings if text and text == normalized]
    if not matches and normalized:
        close = difflib.get_close_matches(
            normalized, {text for text, _ in spellings}, n=2 * _MAX_SUGGESTED, cutoff=_MIN_SIMILARITY
        )
        matches = [entry for spelling in close for text, entry in spellings if text == spelling]
    return list(dict.fromkeys(matches))[:_MAX_SUGGESTED]


def suggest_name(name: str, known: Mapping[str, Sequence[str]]) -> str:
    """Return "did you mean dkd?", or a list of the known names if none is similar."""
    matches = closest_names(name, known)
    return f"did you mean {', '.join(matches)}?" if matches else f"known: {_listed(known)}"


def suggest_field(name: str, fields: Iterable[str]) -> str:
    """Return the suggestion for an unknown field of a mapping.

    A field of the mapping itself, in the singular or the plural, goes before a field of a mapping inside it.

    Args:
        name: The unknown field.
        fields: Paths of the existing fields, relative to the mapping: ``lr``, ``optimizer.lr``.
    """
    by_depth: dict[int, list[str]] = {}
    for path in fields:
        by_depth.setdefault(path.count("."), []).append(path)
    wanted = normalize_name(_FIELD_SYNONYMS.get(normalize_name(name), name))
    for depth in sorted(by_depth):
        last_parts = {path: normalize_name(path.rpartition(".")[2]) for path in by_depth[depth]}
        matches = [path for path, part in last_parts.items() if part == wanted] or [
            path for path, part in last_parts.items() if part.removesuffix("s") == wanted.removesuffix("s")
        ]
        if matches:
            return f"did you mean {', '.join(matches[:_MAX_SUGGESTED])}?"
    own_fields = by_depth.get(0, [])
    return suggest_name(name, dict.fromkeys(own_fields, ())) if own_fields else "it takes none"


def suggest_value(value: str, allowed: Sequence[str]) -> str | None:
    """Return the allowed value that is most similar to a value, or None."""
    synonym = _VALUE_SYNONYMS.get(normalize_name(value))
    if synonym in allowed:
        return synonym
    matches = closest_names(value, dict.fromkeys(allowed, ()))
    return matches[0] if matches else None


def suggest_mapping(annotation: Any, text: str) -> str | None:
    """Return the mapping that was probably meant by a text: ``{name: adamw}`` for ``optimizer: Adam``.

    Args:
        annotation: Type of the field, with a model in it that has a ``name`` or a required field of a few values.
        text: The text that was given in place of the mapping.
    """
    for kind in (annotation, *get_args(annotation)):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            continue
        for name, field in kind.model_fields.items():
            if name == "name" or field.is_required():
                match = suggest_value(text, _values_of(field.annotation))
                return f"{{{name}: {match}}}" if match else None
    return None


def _values_of(annotation: Any) -> tuple[str, ...]:
    """Return the values that a field may have: those of a Literal, or the names in a catalog reference's registry."""
    if get_origin(annotation) is Literal:
        return tuple(str(value) for value in get_args(annotation))
    return tuple(entry.name for entry in getattr(annotation, "registry", ()))


def iter_field_paths(model: type[BaseModel], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the path of every field of a model and of the models in it. Lists are not entered."""
    for attribute, field in model.model_fields.items():
        name = field.alias or attribute
        yield prefix + name
        if depth < _MAX_DEPTH:
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from iter_field_paths(kind, f"{prefix}{name}.", depth + 1)


def _listed(known: Iterable[Any]) -> str:
    names = list(known)
    return ", ".join(names[:_MAX_LISTED]) + (" …" if len(names) > _MAX_LISTED else "")
