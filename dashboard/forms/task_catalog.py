"""The part of the catalog that a task can use, as pure functions.

This module names no task, model or method: each entry of the catalog states the tasks that it is for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from core.protocol.public import Catalog
from dashboard.forms import schema_fields, spec_draft

Entry = Mapping[str, Any]
USUAL_SHARES = "usual_shares"
"""Field of a method in the catalog of a task: the shares of terms that a form starts with."""


def for_task(catalog: Catalog, task: Entry, trainings: Sequence[Mapping[str, Any] | None] = ()) -> Catalog:
    """Return the catalog with the networks, methods, augmentations and settings of a task.

    Args:
        catalog: The catalog.
        task: The task, as the catalog describes it.
        trainings: Settings of trainings in the draft. A setting that the task does not have stays if one of them sets
            it, so that its error has a field.
    """
    name = task.get("name", "")
    return catalog.model_copy(
        update={
            "models": _for_task(catalog.models, name),
            "methods": [_with_task_params(entry, name) for entry in catalog.methods if _applies(entry, task)],
            "experiment_schema": _schema(catalog.experiment_schema, task, trainings),
        }
    )


def first_draft(entry: Entry) -> dict[str, Any]:
    """Return the draft of a method that has just been chosen, from the catalog of the task."""
    params = schema_fields.schema_defaults(entry["params"])
    return {"name": entry["name"], "params": params, "shares": dict(entry.get(USUAL_SHARES, {}))}


def properties_of(catalog: Catalog, definition: str) -> Mapping[str, Any]:
    """Return the fields of a part of a spec, such as ``Training``, by name."""
    properties: Mapping[str, Any] = _properties(catalog.experiment_schema, definition)
    return properties


def has_regions(catalog: Catalog, methods: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether one of the methods compares regions, so that the options of regions have an effect.

    Args:
        catalog: The catalog of the task.
        methods: The methods of a combination in the draft.
    """
    entries = {entry["name"]: entry for entry in catalog.methods}
    known = [entries[item["name"]] for item in methods if item["name"] in entries]
    return spec_draft.REGIONS in properties_of(catalog, "MethodRef") and any(
        entry.get("own_terms") and not entry.get("reads_maps_alone") for entry in known
    )


def _for_task(entries: Sequence[dict[str, Any]], task: str) -> list[dict[str, Any]]:
    """Return the entries for a task; all entries if none is for it, as for the task of a plug-in."""
    return [entry for entry in entries if task in entry.get("tasks", ())] or list(entries)


def _applies(entry: Entry, task: Entry) -> bool:
    if entry.get("tasks"):
        return task.get("name") in entry["tasks"]
    return not task.get("rows_are_regions") or bool(entry.get("for_regions"))


def _with_task_params(entry: dict[str, Any], task: str) -> dict[str, Any]:
    """Return a method whose defaults, and first shares of terms, are those that are usual for a task."""
    own, shares = (entry.get(field, {}).get(task, {}) for field in ("task_params", "task_shares"))
    if not (own or shares):
        return entry
    schema = deepcopy(entry["params"])
    for name, value in own.items():
        schema["properties"][name]["default"] = value
    return {**entry, "params": schema, USUAL_SHARES: dict(shares)}


def _properties(schema: Mapping[str, Any], definition: str) -> Any:
    return schema.get("$defs", {}).get(definition, {}).get("properties", {})


def _schema(schema: dict[str, Any], task: Entry, trainings: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """Return the schema of a spec for a task.

    In a task of regions it has no settings that are for images alone, unless a training sets one; in other tasks it has
    no options of regions. Choices from the catalog are those of the task.
    """
    changed = deepcopy(schema)
    properties = _properties(changed, "Training")
    for name, field in list(properties.items()):
        if task.get("rows_are_regions") and not field.get("x-for-regions", True):
            values = [training.get(name) for training in trainings if training]
            if all(value is None or value == field.get("default") for value in values):
                del properties[name]
        elif "x-entries" in field:
            field["x-entries"] = _for_task(field["x-entries"], task.get("name", ""))
    if not task.get("rows_are_regions"):
        _properties(changed, "MethodRef").pop(spec_draft.REGIONS, None)
    return changed
