"""Which experiments are one: the same data set, teacher, student and training, whatever their seeds."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from backend.comparisons.run_data import Sample
from core.specs import parse_stored_experiment


def setting(spec: dict[str, Any]) -> dict[str, Any]:
    """What decides a row of the table. Filled in, so that a spec stored before a field existed is equal to one after.

    The teacher's seed is not in it: that is repeated over, as the students' are.
    """
    whole = _filled_in(spec)
    teacher = whole.get("teacher")
    return {
        "dataset": whole["dataset"],
        "training": whole["training"],  # before the teacher, which may only follow it
        "teacher": teacher and {key: value for key, value in teacher.items() if key != "seed"},
        "student": whole["student"],
    }


def _filled_in(spec: dict[str, Any]) -> dict[str, Any]:
    """As it was stored where this backend cannot read it: a plugin is away, or it is of a newer version.

    The teacher's training is written out: a teacher trained "as the students are" is the same as one of which a clone
    says so in so many words.
    """
    try:
        found = parse_stored_experiment(spec)
    except ValidationError:
        return spec
    whole, training = found.model_dump(mode="json"), found.teacher_training()
    if training:
        whole["teacher"]["training"] = training.model_dump(mode="json")
    return whole


def methods(spec: dict[str, Any]) -> dict[str, Any]:
    """Name and parameters by label."""
    return {item["label"]: {"name": item["name"], "params": item["params"]} for item in spec["methods"]}


def difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """What keeps two specs from being read as one, as "training"; None where only seeds and labels differ."""
    one, other = setting(first), setting(second)
    apart = next((name for name, value in one.items() if value != other[name]), None)
    return apart or _other_method(methods(first), methods(second))


def grouped(samples: list[Sample]) -> list[list[Sample]]:
    """The samples that are one row, in the order in which the rows appear."""
    found: list[list[Sample]] = []
    # By setting, so that each spec is read once: comparing each with each took a minute for some hundred.
    by_setting: dict[str, list[list[Sample]]] = {}
    for sample in samples:
        alike = by_setting.setdefault(json.dumps(setting(sample.spec), sort_keys=True), [])
        mine = methods(sample.spec)
        for row in alike:
            if all(_other_method(methods(other.spec), mine) is None for other in row):
                row.append(sample)
                break
        else:
            alike.append([sample])
            found.append(alike[-1])
    return found


def _other_method(mine: dict[str, Any], theirs: dict[str, Any]) -> str | None:
    """A label that means one thing here and another there."""
    labels = (label for label in mine if label in theirs and mine[label] != theirs[label])
    return next((f"the parameters of {label}" for label in labels), None)
