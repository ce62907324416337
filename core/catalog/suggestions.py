"""What somebody may have meant by a name or a field that does not exist."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, get_args

from pydantic import BaseModel

_SHOWN = 3
_LISTED = 20
_NEAR = 0.6
LONGEST_NAME = 100
"""Characters of a name that are compared: the time that it takes grows with the square."""
_DEEPEST = 4

_FIELDS: Mapping[str, str] = {
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
"""What other code bases call a field of ours, folded."""


@lru_cache(maxsize=4096)
def normalize_name(text: str) -> str:
    """A name without what people write in different ways: case, hyphens, underscores, spaces."""
    plain = unicodedata.normalize("NFKC", text[:LONGEST_NAME].replace("×", "x")).casefold()
    return re.sub(r"[\W_]+", "", plain)


def closest_names(name: str, known: Mapping[str, Sequence[str]]) -> list[str]:
    """The known names that are nearest to the name, the nearest first; those alone that differ in writing, if any.

    Args:
        known: by name, other ways to write or to call it.
    """
    wanted = normalize_name(name)
    spellings = [(normalize_name(text), entry) for entry, others in known.items() for text in (entry, *others)]
    same = [entry for text, entry in spellings if text and text == wanted]
    if not same and wanted:
        close = difflib.get_close_matches(wanted, {text for text, _ in spellings}, n=2 * _SHOWN, cutoff=_NEAR)
        same = [entry for near in close for text, entry in spellings if text == near]
    return list(dict.fromkeys(same))[:_SHOWN]


def suggest_name(name: str, known: Mapping[str, Sequence[str]]) -> str:
    """As "did you mean dkd?"; all that is known where nothing is near."""
    found = closest_names(name, known)
    return f"did you mean {', '.join(found)}?" if found else f"known: {_listed(known)}"


def suggest_field(name: str, fields: Iterable[str]) -> str:
    """The same for a field of a mapping.

    Args:
        fields: paths of the fields that there are, from where the name was given: ``lr``, ``optimizer.lr``.
    """
    by_depth: dict[int, list[str]] = {}
    for path in fields:
        by_depth.setdefault(path.count("."), []).append(path)
    wanted = _FIELDS.get(normalize_name(name), name)
    for depth in sorted(by_depth):
        same = [path for path in by_depth[depth] if normalize_name(path.rpartition(".")[2]) == normalize_name(wanted)]
        if same:
            return f"did you mean {', '.join(same[:_SHOWN])}?"
    here = by_depth.get(0, [])
    return suggest_name(name, dict.fromkeys(here, ())) if here else "it takes none"


def iter_field_paths(model: type[BaseModel], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Every field of a model, and of the models in it, by its path. Lists are not entered."""
    for name, field in model.model_fields.items():
        yield prefix + name
        if depth < _DEEPEST:
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield from iter_field_paths(kind, f"{prefix}{name}.", depth + 1)


def _listed(known: Iterable[Any]) -> str:
    names = list(known)
    return ", ".join(names[:_LISTED]) + (" …" if len(names) > _LISTED else "")
