"""The change of a draft to the data set of another task, as pure functions.

A choice that both tasks can have stays; if it is a default of the old task, it becomes the default of the new task. A
choice that only the old task can have is left out. A choice that only the new task can have comes from the *saved*
draft: the last draft of that task, as it was when the task was changed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from core.protocol.public import Catalog
from dashboard.forms import schema_fields, spec_draft, task_catalog

Draft = dict[str, Any]
Entry = Mapping[str, Any]


@dataclass(frozen=True)
class TaskForm:
    """What a form offers for a task.

    Attributes:
        task: The task, as the catalog describes it.
        catalog: The catalog of the task.
    """

    task: Entry
    catalog: Catalog

    @classmethod
    def of(cls, catalog: Catalog, task: Entry) -> TaskForm:
        """Return the form of a task, from the whole catalog."""
        return cls(task, task_catalog.for_task(catalog, task))

    @property
    def methods(self) -> Mapping[str, Entry]:
        return {entry["name"]: entry for entry in self.catalog.methods}

    def fits(self, method: Mapping[str, Any]) -> bool:
        """Return whether the task has a method of a draft with all that are added to it."""
        return all(name in self.methods for name in _names(method))

    @property
    def models(self) -> Mapping[str, Entry]:
        return {entry["name"]: entry for entry in self.catalog.models}

    @property
    def training(self) -> Mapping[str, Any]:
        """The schemas of the settings of a training, by name."""
        return task_catalog.properties_of(self.catalog, "Training")

    @property
    def usual(self) -> Mapping[str, Any]:
        """The settings of a training that are usual for the task, by path."""
        return dict(_leaves(self.task.get("usual_training") or {}))


def change_task(draft: Draft, before: TaskForm, after: TaskForm, saved: Mapping[str, Any] | None = None) -> Draft:
    """Return the draft changed to another task: with choices that this task can use.

    Args:
        draft: The draft with the new data set, and otherwise the choices of the old task.
        before: The form of the old task.
        after: The form of the new task.
        saved: The last draft of the new task; None if there was none.
    """
    saved = saved or {}
    changed = deepcopy(draft)
    saved_student = (saved.get("student") or {}).get("model")
    changed["student"] = {**changed["student"], "model": _model(changed["student"]["model"], after, saved_student)}
    saved_teachers = spec_draft.own_teachers(saved)
    changed |= spec_draft.with_teachers(
        [
            _teacher(teacher, before, after, saved_teachers[number] if number < len(saved_teachers) else None)
            for number, teacher in enumerate(spec_draft.own_teachers(changed))
        ]
    )
    given, saved_methods = changed["methods"], saved.get("methods") or ()
    if saved_methods and not any(before.fits(item) for item in saved_methods) and given == [_first_method(before)]:
        given = []  # a substitute: none of the saved methods fitted, and a draft has at least one method
    changed["methods"] = _methods(given, before, after, saved_methods) or [_first_method(after)]
    changed["training"] = _training(changed["training"], before, after, saved.get("training"))
    return changed


def networks_of_example(catalog: Catalog, dataset: str) -> Draft | None:
    """Return student and teacher of the first complete example on a data set; None if there is none.

    The defaults of a network may be far too large for the images of a data set.
    """
    for example in catalog.examples:
        draft = spec_draft.to_draft(example.spec)
        if draft["dataset"]["name"] == dataset and draft["student"]["model"]["name"]:
            return {name: draft[name] for name in ("student", "teacher", "teachers")}
    return None


def _model(model: Draft, after: TaskForm, saved: Draft | None) -> Draft:
    if model["name"] in after.models:
        return model
    if saved:
        return deepcopy(saved)
    first = after.catalog.models[0]
    return {"name": first["name"], "params": schema_fields.schema_defaults(first["params"])}


def _teacher(teacher: Draft, before: TaskForm, after: TaskForm, saved: Draft | None) -> Draft:
    saved = saved or {}
    model, own = _model(teacher["model"], after, saved.get("model")), teacher.get("teacher")
    kept = model is teacher["model"]
    given, saved_method = ([item["method"]] if item.get("method") else [] for item in (teacher, saved))
    methods = _methods(given, before, after, saved_method)[:1]
    if not own and methods != given:
        own = saved.get("teacher")
    needs_own = any(after.methods[name].get("needs_teacher") for method in methods for name in _names(method))
    return {
        **teacher,
        "model": model,
        "weights": teacher.get("weights") if kept else deepcopy(saved.get("weights")),
        "training": teacher.get("training") and _training(teacher["training"], before, after, saved.get("training")),
        "method": methods[0] if methods else None,
        "teacher": _teacher(own, before, after, saved.get("teacher")) if own and needs_own else None,
    }


def _names(method: Mapping[str, Any]) -> list[str]:
    return [method["name"], *(item["name"] for item in method.get(spec_draft.ADDED) or ())]


def _methods(
    methods: Sequence[Draft], before: TaskForm, after: TaskForm, saved: Sequence[Mapping[str, Any]]
) -> list[Draft]:
    """Return the methods that the task can use, and those of the saved draft that only this task can use.

    A combination is left out if one of its members is: without that member, it would be another method.
    """
    kept = [
        _method(method, before, after, _twin(methods, index, saved))
        for index, method in enumerate(methods)
        if after.fits(method)
    ]
    for index, method in enumerate(saved):
        if after.fits(method) and not before.fits(method):
            kept.insert(min(index, len(kept)), deepcopy(dict(method)))
    return kept


def _twin(methods: Sequence[Draft], index: int, saved: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the method of the saved draft with the names and the label of a method; None if there is none."""
    own = (_names(methods[index]), methods[index].get("label"))
    count = sum((_names(method), method.get("label")) == own for method in methods[:index])
    twins = [method for method in saved if (_names(method), method.get("label")) == own]
    return twins[count] if count < len(twins) else None


def _method(method: Draft, before: TaskForm, after: TaskForm, twin: Mapping[str, Any] | None) -> Draft:
    twin = twin or {}
    saved = {item["name"]: item for item in twin.get(spec_draft.ADDED) or ()}
    added = [
        _with_defaults_of(item, before, after, saved.get(item["name"])) for item in method.get(spec_draft.ADDED) or ()
    ]
    result = {**_with_defaults_of(method, before, after, twin), spec_draft.ADDED: added}
    result.pop(spec_draft.REGIONS, None)
    if twin.get(spec_draft.REGIONS) and task_catalog.has_regions(after.catalog, [result, *added]):
        result[spec_draft.REGIONS] = deepcopy(twin[spec_draft.REGIONS])
    return result


def _with_defaults_of(
    method: Mapping[str, Any], before: TaskForm, after: TaskForm, twin: Mapping[str, Any] | None
) -> Draft:
    """Return a method in which parameters with the default of the old task get the default of the new task."""
    name, saved = method["name"], (twin or {}).get("params") or {}
    old = _defaults(before.methods.get(name))
    params = deepcopy(dict(method["params"]))
    # A term with a share has no weight: the parameter keeps the value that says so.
    weights = after.methods[name].get("weight_params", {})
    unused = {weights.get(term) for term in method.get("shares") or {}}
    for field, default in _defaults(after.methods[name]).items():
        if field in params and field not in unused and params[field] == old.get(field):
            params[field] = deepcopy(saved.get(field, default))
    shares = dict(method.get("shares") or {})
    if shares == dict(before.methods.get(name, {}).get(task_catalog.USUAL_SHARES, {})):
        usual = after.methods[name].get(task_catalog.USUAL_SHARES, {})
        shares = dict((twin.get("shares") or {}) if twin else usual)
    return {**deepcopy(dict(method)), "params": params, "shares": shares}


def _defaults(entry: Entry | None) -> Mapping[str, Any]:
    return schema_fields.schema_defaults(entry["params"]) if entry else {}


def _first_method(after: TaskForm) -> Draft:
    entries = after.catalog.methods
    entry = next((item for item in entries if item.get("needs_teacher")), entries[0])
    return {**task_catalog.first_draft(entry), "label": "", spec_draft.ADDED: []}


def _training(training: Mapping[str, Any], before: TaskForm, after: TaskForm, saved: Mapping[str, Any] | None) -> Draft:
    """Return the settings that the task has; the usual values of the old task become those of this task."""
    saved = saved or {}
    kept = {name: deepcopy(value) for name, value in training.items() if name in after.training}
    kept |= {name: deepcopy(saved[name]) for name in after.training if name not in before.training and name in saved}
    root = after.catalog.experiment_schema
    defaults = schema_fields.schema_defaults({"properties": after.training}, root)
    for path in dict.fromkeys((*before.usual, *after.usual)):
        default = schema_fields.get_path(defaults, path)
        # A field that the default is left out of has no value in a draft.
        if schema_fields.get_path(kept, path) == before.usual.get(path, default):
            usual = after.usual.get(path, default)
            schema_fields.set_path(kept, path, schema_fields.get_path(saved, path) if saved else usual)
    for name in ("augment", "strong_augment"):
        if name in kept:
            kept[name] = _augmentations(name, kept[name], before, after, saved)
    return {name: value for name, value in kept.items() if value is not None}


def _augmentations(name: str, given: Any, before: TaskForm, after: TaskForm, saved: Mapping[str, Any]) -> Any:
    """Return the augmentations that the task has, with those of the saved draft that only this task has."""
    known, other = _entries(after.training[name]), _entries(before.training.get(name, {}))
    if not known:
        return given
    chosen = [item for item in spec_draft.named_choices(given) if item["name"] in known]
    saved_choices = spec_draft.named_choices(saved.get(name))
    chosen += [item for item in saved_choices if item["name"] in known and item["name"] not in other]
    return spec_draft.short_choices(chosen) or after.training[name].get("default")


def _entries(field: Mapping[str, Any]) -> set[str]:
    return {entry["name"] for entry in field.get("x-entries", ())}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
