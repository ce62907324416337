"""The change of a draft to the data set of another task, as pure functions.

What both tasks can have stays, unless it is a default, which then becomes that of the new task. What only one of them
can have is left out, and comes back from the draft that was left when the task was last changed.
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


def change_task(draft: Draft, before: TaskForm, after: TaskForm, left: Mapping[str, Any] | None = None) -> Draft:
    """Return a draft whose data set is of another task than before, with what that task can use.

    Args:
        draft: The draft with the new data set.
        before: The form of the former task.
        after: The form of the new task.
        left: The draft of the new task when its data set was last changed to that of another; None if it never was.
    """
    left = left or {}
    changed = deepcopy(draft)
    former_student = (left.get("student") or {}).get("model")
    changed["student"] = {**changed["student"], "model": _model(changed["student"]["model"], after, former_student)}
    former = spec_draft.own_teachers(left)
    changed |= spec_draft.with_teachers(
        [
            _teacher(teacher, before, after, former[number] if number < len(former) else None)
            for number, teacher in enumerate(spec_draft.own_teachers(changed))
        ]
    )
    given, former_methods = changed["methods"], left.get("methods") or ()
    stands_in = former_methods and not any(before.fits(item) for item in former_methods)
    if stands_in and given == [_first_method(before)]:
        given = []  # it was there because a draft has at least one method
    changed["methods"] = _methods(given, before, after, former_methods) or [_first_method(after)]
    changed["training"] = _training(changed["training"], before, after, left.get("training"))
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


def _model(model: Draft, after: TaskForm, former: Draft | None) -> Draft:
    if model["name"] in after.models:
        return model
    if former:
        return deepcopy(former)
    first = after.catalog.models[0]
    return {"name": first["name"], "params": schema_fields.schema_defaults(first["params"])}


def _teacher(teacher: Draft, before: TaskForm, after: TaskForm, former: Draft | None) -> Draft:
    former = former or {}
    model, own = _model(teacher["model"], after, former.get("model")), teacher.get("teacher")
    kept = model is teacher["model"]
    given, earlier = ([item["method"]] if item.get("method") else [] for item in (teacher, former))
    methods = _methods(given, before, after, earlier)[:1]
    if not own and methods != given:
        own = former.get("teacher")
    needs_own = any(after.methods[name].get("needs_teacher") for method in methods for name in _names(method))
    return {
        **teacher,
        "model": model,
        "weights": teacher.get("weights") if kept else deepcopy(former.get("weights")),
        "training": teacher.get("training") and _training(teacher["training"], before, after, former.get("training")),
        "method": methods[0] if methods else None,
        "teacher": _teacher(own, before, after, former.get("teacher")) if own and needs_own else None,
    }


def _names(method: Mapping[str, Any]) -> list[str]:
    return [method["name"], *(item["name"] for item in method.get(spec_draft.ADDED) or ())]


def _methods(
    methods: Sequence[Draft], before: TaskForm, after: TaskForm, former: Sequence[Mapping[str, Any]]
) -> list[Draft]:
    """Return the methods that the task can use, and those of the former draft that only this task can use.

    A combination is left out with one of its members: without it, it would be another method.
    """
    kept = [
        _method(method, before, after, _twin(methods, index, former))
        for index, method in enumerate(methods)
        if after.fits(method)
    ]
    for index, method in enumerate(former):
        if after.fits(method) and not before.fits(method):
            kept.insert(min(index, len(kept)), deepcopy(dict(method)))
    return kept


def _twin(methods: Sequence[Draft], index: int, former: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Return the method of the former draft with the names and the label of a method; None if there is none."""
    own = (_names(methods[index]), methods[index].get("label"))
    count = sum((_names(method), method.get("label")) == own for method in methods[:index])
    twins = [method for method in former if (_names(method), method.get("label")) == own]
    return twins[count] if count < len(twins) else None


def _method(method: Draft, before: TaskForm, after: TaskForm, twin: Mapping[str, Any] | None) -> Draft:
    twin = twin or {}
    former = {item["name"]: item for item in twin.get(spec_draft.ADDED) or ()}
    added = [
        _with_defaults_of(item, before, after, former.get(item["name"])) for item in method.get(spec_draft.ADDED) or ()
    ]
    result = {**_with_defaults_of(method, before, after, twin), spec_draft.ADDED: added}
    result.pop(spec_draft.REGIONS, None)
    if twin.get(spec_draft.REGIONS) and task_catalog.has_regions(after.catalog, [result, *added]):
        result[spec_draft.REGIONS] = deepcopy(twin[spec_draft.REGIONS])
    return result


def _with_defaults_of(
    method: Mapping[str, Any], before: TaskForm, after: TaskForm, twin: Mapping[str, Any] | None
) -> Draft:
    """Return a method whose parameters that are defaults of one task are those of the other task."""
    name, former = method["name"], (twin or {}).get("params") or {}
    old = _defaults(before.methods.get(name))
    params = deepcopy(dict(method["params"]))
    # A term with a share has no weight: the parameter keeps the value that says so.
    weights = after.methods[name].get("weight_params", {})
    unused = {weights.get(term) for term in method.get("shares") or {}}
    for field, default in _defaults(after.methods[name]).items():
        if field in params and field not in unused and params[field] == old.get(field):
            params[field] = deepcopy(former.get(field, default))
    return {**deepcopy(dict(method)), "params": params}


def _defaults(entry: Entry | None) -> Mapping[str, Any]:
    return schema_fields.schema_defaults(entry["params"]) if entry else {}


def _first_method(after: TaskForm) -> Draft:
    entries = after.catalog.methods
    entry = next((item for item in entries if item.get("needs_teacher")), entries[0])
    return {
        "name": entry["name"],
        "params": schema_fields.schema_defaults(entry["params"]),
        "label": "",
        "shares": {},
        spec_draft.ADDED: [],
    }


def _training(
    training: Mapping[str, Any], before: TaskForm, after: TaskForm, former: Mapping[str, Any] | None
) -> Draft:
    """Return the settings that the task has; what is usual for the former task becomes what is usual for this one."""
    former = former or {}
    kept = {name: deepcopy(value) for name, value in training.items() if name in after.training}
    kept |= {name: deepcopy(former[name]) for name in after.training if name not in before.training and name in former}
    root = after.catalog.experiment_schema
    defaults = schema_fields.schema_defaults({"properties": after.training}, root)
    for path in dict.fromkeys((*before.usual, *after.usual)):
        default = schema_fields.get_path(defaults, path)
        # A field that the default is left out of has no value in a draft.
        if schema_fields.get_path(kept, path) == before.usual.get(path, default):
            usual = after.usual.get(path, default)
            schema_fields.set_path(kept, path, schema_fields.get_path(former, path) if former else usual)
    for name in ("augment", "strong_augment"):
        if name in kept:
            kept[name] = _augmentations(name, kept[name], before, after, former)
    return {name: value for name, value in kept.items() if value is not None}


def _augmentations(name: str, given: Any, before: TaskForm, after: TaskForm, former: Mapping[str, Any]) -> Any:
    """Return the augmentations that the task has, with those of the former draft that only this task has."""
    known, other = _entries(after.training[name]), _entries(before.training.get(name, {}))
    if not known:
        return given
    chosen = [item for item in spec_draft.named_choices(given) if item["name"] in known]
    earlier = spec_draft.named_choices(former.get(name))
    chosen += [item for item in earlier if item["name"] in known and item["name"] not in other]
    return spec_draft.short_choices(chosen) or after.training[name].get("default")


def _entries(field: Mapping[str, Any]) -> set[str]:
    return {entry["name"] for entry in field.get("x-entries", ())}


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
