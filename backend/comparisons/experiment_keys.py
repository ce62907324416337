"""Finds experiments that repeat each other: data set, teacher, student and training are equal; seeds may differ."""

from __future__ import annotations

import json
from typing import Any

from pydantic import ValidationError

from backend.comparisons.run_data import Sample
from core.specs import parse_stored_experiment


def setting(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a spec that determines its row of the table.

    Defaults are filled in, so that a spec stored before a field existed equals one stored after. The seeds of teachers
    are left out: they are repetitions, like the students' seeds.
    """
    complete = with_defaults(spec)
    own = {
        "dataset": complete["dataset"],
        "training": _numbers_of(complete["training"]),  # before the teacher, whose training may follow it
        "teacher": _without_seeds(complete.get("teacher")),
        "student": complete["student"],
    }
    teachers = [_without_seeds(teacher) for teacher in complete.get("teachers") or ()]
    return own | ({"teachers": teachers, "ensemble": complete.get("ensemble")} if teachers else {})


def _numbers_of(training: dict[str, Any]) -> dict[str, Any]:
    """Return a training without what changes no number of it: how often it keeps features."""
    return {key: value for key, value in training.items() if key != "features_every"}


def _without_seeds(teacher: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a teacher without its seed and those of its own teachers."""
    if teacher is None:
        return None
    kept = {key: value for key, value in teacher.items() if key != "seed"}
    return kept | ({"teacher": _without_seeds(kept["teacher"])} if "teacher" in kept else {})


def with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the spec with defaults; unchanged if this backend cannot read it (a missing plugin, a newer version).

    The teachers' trainings are written out: a teacher trained like the students equals one whose spec repeats their
    training.
    """
    try:
        experiment = parse_stored_experiment(spec)
    except ValidationError:
        return spec
    complete: dict[str, Any] = experiment.with_teachers(
        lambda _, teacher: teacher.model_copy(update={"training": teacher.training_like(experiment.training)})
    ).model_dump(mode="json")
    return complete


def methods(spec: dict[str, Any]) -> dict[str, Any]:
    """Return each method by its label: its name, its parameters, and everything else that determines it."""
    return {item["label"]: {key: value for key, value in item.items() if key != "label"} for item in spec["methods"]}


def difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """Return the part in which two specs differ, such as "training"; None if only seeds and labels differ."""
    one, other = setting(first), setting(second)
    part = next((name for name in one | other if one.get(name) != other.get(name)), None)
    return part or _method_difference(methods(first), methods(second))


def group_rows(samples: list[Sample]) -> list[list[Sample]]:
    """Group samples that form one row of the table, in the order in which the rows appear."""
    rows: list[list[Sample]] = []
    # Keyed by setting, so that each spec is read once: comparing each with each took a minute for a few hundred.
    by_setting: dict[str, list[list[Sample]]] = {}
    for sample in samples:
        same_setting = by_setting.setdefault(json.dumps(setting(sample.spec), sort_keys=True), [])
        own_methods = methods(sample.spec)
        for row in same_setting:
            if all(_method_difference(methods(other.spec), own_methods) is None for other in row):
                row.append(sample)
                break
        else:
            same_setting.append([sample])
            rows.append(same_setting[-1])
    return rows


def _method_difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """Return the first label that has different methods or parameters in the two specs."""
    labels = (label for label in first if label in second and first[label] != second[label])
    return next((f"the parameters of {label}" for label in labels), None)
