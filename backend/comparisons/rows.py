"""Which experiments are one: the same data set, teacher, student and training, whatever their seeds."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from backend.comparisons.data import Sample
from core.spec import ExperimentSpec


def setting(spec: dict[str, Any]) -> dict[str, Any]:
    """What decides a row of the table. Filled in, so that a spec stored before a field existed is equal to one after.

    The teacher's seed is not in it: that is repeated over, as the students' are.
    """
    whole = _filled_in(spec)
    teacher = whole.get("teacher")
    return {
        "dataset": whole["dataset"],
        "teacher": teacher and {key: value for key, value in teacher.items() if key != "seed"},
        "student": whole["student"],
        "training": whole["training"],
    }


def _filled_in(spec: dict[str, Any]) -> dict[str, Any]:
    """As it was stored where this backend cannot read it: a plugin is away, or it is of a newer version."""
    try:
        return ExperimentSpec.model_validate(spec).model_dump(mode="json")
    except ValidationError:
        return spec


def methods(spec: dict[str, Any]) -> dict[str, Any]:
    """Name and parameters by label."""
    return {item["label"]: {"name": item["name"], "params": item["params"]} for item in spec["methods"]}


def difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """What keeps two specs from being read as one, as "training"; None where only seeds and labels differ."""
    one, other = setting(first), setting(second)
    for name, value in one.items():
        if value != other[name]:
            return name
    mine, theirs = methods(first), methods(second)
    for label in mine.keys() & theirs.keys():
        if mine[label] != theirs[label]:
            return f"the parameters of {label}"
    return None


def grouped(samples: list[Sample]) -> list[list[Sample]]:
    """The samples that are one row, in the order in which the rows appear."""
    found: list[list[Sample]] = []
    for sample in samples:
        for row in found:
            if all(difference(other.spec, sample.spec) is None for other in row):
                row.append(sample)
                break
        else:
            found.append([sample])
    return found
