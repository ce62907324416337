"""Rows and columns of a leaderboard: which methods and settings are the same, and names that tell the others apart."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.comparisons import experiment_keys
from backend.db import models
from core.specs.labels import combined_name
from core.tuning.choice import Choice

_TUNED = "chosen by trials"
_MAX_PARTS = 4
_MAX_TEXT = 80
"""Characters of what distinguishes a name from others; a longer text is numbered."""

RowKey = tuple[str, str]
"""Id of an experiment, and label of one of its methods."""


@dataclass(frozen=True)
class MethodRow:
    """A method with its parameters, wherever it was trained.

    Attributes:
        label: Unique label.
        name: Name in the catalog; of a combination all names, joined by +.
        tuned: Whether its settings were chosen by trials. A method that was tuned on each data set is one method.
    """

    label: str
    name: str
    tuned: bool


def choice_of(experiment: models.Experiment) -> Choice | None:
    """Return the settings that were chosen by an experiment's trials; None if none were, or not yet."""
    if not experiment.choice or "error" in experiment.choice:
        return None
    return Choice.from_json(experiment.choice)


def method_rows(experiments: Sequence[models.Experiment]) -> dict[RowKey, MethodRow]:
    """Return the row of each method of each experiment; equal methods share a row, whatever their labels are."""
    contents: dict[str, dict[str, Any]] = {}
    labels: dict[str, Counter[str]] = {}
    identities: dict[RowKey, str] = {}
    for experiment in experiments:
        chosen = choice_of(experiment)
        searched = chosen.settings if chosen else {}
        for choice in experiment_keys.with_defaults(experiment.spec)["methods"]:
            label = choice["label"]
            content = _without_chosen(choice, list(searched.get(label, ())))
            identity = json.dumps(content, sort_keys=True)
            contents[identity] = content
            labels.setdefault(identity, Counter())[label] += 1
            identities[experiment.id, label] = identity
    # In an order that does not depend on that of the experiments.
    ordered = sorted(contents)
    usual = [min(labels[identity], key=lambda label: (-labels[identity][label], label)) for identity in ordered]
    unique = distinct(usual, [contents[identity] for identity in ordered])
    rows = {
        identity: MethodRow(label, combined_name(contents[identity]), contents[identity].get("tuned", False))
        for identity, label in zip(ordered, unique, strict=True)
    }
    return {key: rows[identity] for key, identity in identities.items()}


def _without_chosen(choice: Mapping[str, Any], searched: Sequence[str]) -> dict[str, Any]:
    """Return a method without its label, and without the values that its trials chose, of which these are the paths."""
    content = {key: value for key, value in copy.deepcopy(dict(choice)).items() if key != "label"}
    for path in searched:
        *parents, last = path.split(".")
        part: Any = content
        for name in parents:
            part = part[int(name)] if isinstance(part, list) else part[name]
        part[last] = _TUNED
    return content | {"tuned": True} if searched else content


def distinct(names: Sequence[str], contents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names, each of which is followed by what its content differs in if others have the same name.

    Args:
        names: The names.
        contents: The content that each name stands for, as plain data.
    """
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    result = list(names)
    for name, members in groups.items():
        if len(members) < 2:
            continue
        flat = [_flattened(contents[index]) for index in members]
        paths = list(dict.fromkeys(path for leaves in flat for path in leaves))
        differing = [path for path in paths if len({json.dumps(leaves.get(path)) for leaves in flat}) > 1]
        texts = [_differences(leaves, differing) for leaves in flat]
        for position, index in enumerate(members):
            text = texts[position]
            clear = text and texts.count(text) == 1 and len(text) <= _MAX_TEXT
            result[index] = f"{name} ({text})" if clear else f"{name} ({position + 1})"
    return result


def _differences(leaves: Mapping[str, Any], paths: Sequence[str]) -> str:
    parts = []
    for path in paths:
        value = leaves.get(path)
        if path == "tuned":
            parts += ["tuned"] if value else ["not tuned"]
        elif path in leaves and value != _TUNED:
            title = path.rpartition(".")[2]
            parts.append(str(value) if title == "name" else f"{title} {_value_text(value)}")
    return ", ".join(list(dict.fromkeys(parts))[:_MAX_PARTS])


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _flattened(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of plain data by their paths."""
    if isinstance(value, Mapping) and value:
        parts = [_flattened(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        parts = [_flattened(item, f"{path}.{index}") for index, item in enumerate(value)]
    else:
        return {path: value}
    return {key: item for part in parts for key, item in part.items()}
