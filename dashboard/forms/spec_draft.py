"""Conversion of a spec to the form's draft and of the draft to a spec, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from dashboard.forms.schema_fields import humanise, parse_integers, schema_defaults

DEFAULT_SEEDS = (0, 1, 2)
ADDED = "with"
"""Field of a method with the methods that are added to it."""
REGIONS = "regions"
"""Field of a method with the boxes that it compares, in tasks whose rows are regions of images."""
_USUAL_REGIONS = {"boxes": "student", "background": "all"}


def _named_choice(value: Any) -> dict[str, Any]:
    """Return a reference to a catalog entry in its long form; the short form is a name without parameters."""
    if isinstance(value, str):
        return {"name": value, "params": {}}
    return {"params": {}, **deepcopy(dict(value))} if isinstance(value, Mapping) else {"name": "", "params": {}}


def named_choices(value: Any) -> list[dict[str, Any]]:
    """Return the long form of one catalog entry or a list of them."""
    items = value if isinstance(value, list | tuple) else [value] if value else []
    return [_named_choice(item) for item in items]


def short_choices(choices: Sequence[Mapping[str, Any]]) -> Any:
    """Return the inverse of ``named_choices`` as a spec has it: a bare name for one entry without parameters."""
    short = [_compact(choice) if choice.get("params") else choice["name"] for choice in choices]
    return short[0] if len(short) == 1 and isinstance(short[0], str) else short or None


def to_draft(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a spec in the form's representation: short forms expanded and every section present."""
    draft: dict[str, Any] = {
        "name": "",
        "notes": "",
        "tags": [],
        "priority": 0,
        "seeds": list(DEFAULT_SEEDS),
        "training": {},
        "resources": {},
        **deepcopy(dict(spec)),
    }
    draft["dataset"] = _named_choice(draft.get("dataset"))
    draft["seeds"] = listed_seeds(draft["seeds"])
    student = draft.get("student")
    draft["student"] = {"model": _named_choice(student.get("model") if isinstance(student, Mapping) else student)}
    draft["methods"] = [
        {"label": "", **_named_choice(method), ADDED: added_methods(method)} for method in draft.get("methods") or ()
    ]
    draft["teacher"] = _teacher_draft(draft.get("teacher"))
    several = draft.get("teachers") or ()
    draft["teachers"] = [item for item in map(_teacher_draft, several) if item]
    if len(draft["teachers"]) == 1 and draft["teacher"] is None:
        draft["teacher"], draft["teachers"] = draft["teachers"][0], []
    ensemble = draft.get("ensemble")
    draft["ensemble"] = dict(ensemble) if isinstance(ensemble, Mapping) else {"by": ensemble or "mean"}
    return draft


def listed_seeds(seeds: Any) -> Any:
    """Return a range of seeds, ``0..4`` or ``{from: 0, to: 4}``, as the list that the form shows, others unchanged."""
    if isinstance(seeds, Mapping) and seeds.keys() == {"from", "to"}:
        seeds = f"{seeds['from']}..{seeds['to']}"
    if not isinstance(seeds, str):
        return seeds
    try:
        return parse_integers(seeds)
    except ValueError:
        return seeds


def _teacher_draft(teacher: Any) -> dict[str, Any] | None:
    """Return a teacher, and those that it is distilled from, in the form's representation; None if there is none."""
    if not isinstance(teacher, Mapping):
        return None
    draft: dict[str, Any] = {"seed": 0, "training": None, "weights": None, **teacher}
    draft["model"] = _named_choice(teacher.get("model"))
    if isinstance(draft["weights"], str):
        draft["weights"] = {"source": draft["weights"]}
    method = teacher.get("method")
    draft["method"] = {"label": "", **_named_choice(method), ADDED: added_methods(method)} if method else None
    draft["teacher"] = _teacher_draft(teacher.get("teacher"))
    return draft


def own_teachers(draft: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the students' teachers of a draft, which has a field for one and a field for several."""
    teacher = draft.get("teacher")
    return list(draft.get("teachers") or ([teacher] if teacher else ()))


def trainings(draft: Mapping[str, Any]) -> list[Mapping[str, Any] | None]:
    """Return the settings of the students' training, and those of the teachers that have their own."""
    return [draft["training"], *(teacher["training"] for teacher in all_teachers(draft))]


def all_teachers(draft: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the students' teachers of a draft, each followed by the teachers that it is distilled from."""
    for teacher in own_teachers(draft):
        own: dict[str, Any] | None = teacher
        while own:
            yield own
            own = own.get("teacher")


def with_teachers(teachers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the fields of a draft that has these teachers."""
    return {"teacher": teachers[0] if len(teachers) == 1 else None, "teachers": [*teachers] if teachers[1:] else []}


def added_methods(method: Any) -> list[dict[str, Any]]:
    """Return the long form of the methods whose terms are added to those of a method."""
    added = method.get(ADDED) if isinstance(method, Mapping) else None
    return named_choices(added)


_FORM_FIELDS = frozenset(
    (
        *("name", "notes", "tags", "priority", "dataset", "teacher", "teachers", "ensemble"),
        *("student", "methods", "seeds", "training", "resources"),
    )
)
_ANY_WORKER = {"device": "any", "gpus": 1}


def to_spec(draft: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spec of a draft, without empty values."""
    spec: dict[str, Any] = {"name": str(draft["name"]).strip()}
    for name in ("notes", "tags", "priority"):
        if draft.get(name):
            spec[name] = deepcopy(draft[name])
    spec["dataset"] = _compact(draft["dataset"])
    # Fields that the form does not show are passed through unchanged.
    spec |= {name: deepcopy(value) for name, value in draft.items() if name not in _FORM_FIELDS and value}
    teachers = [_teacher_spec(teacher, preset=bool(spec.get("preset"))) for teacher in own_teachers(draft)]
    if len(teachers) == 1:
        spec["teacher"] = teachers[0]
    elif spec.get("preset"):
        spec["teacher"] = None
    if len(teachers) > 1:
        spec["teachers"] = teachers
        if ensemble := _ensemble_spec(draft.get("ensemble") or {}):
            spec["ensemble"] = ensemble
    spec["student"] = {"model": _compact(draft["student"]["model"])}
    spec["methods"] = [_compact(method) for method in draft["methods"]]
    spec["seeds"] = deepcopy(draft["seeds"])
    spec["training"] = deepcopy(draft["training"])
    resources = {
        name: value for name, value in draft.get("resources", {}).items() if value and value != _ANY_WORKER.get(name)
    }
    if resources:
        spec["resources"] = deepcopy(resources)
    return spec


def _teacher_spec(teacher: Mapping[str, Any], *, preset: bool) -> dict[str, Any]:
    """Return a teacher as a spec has it.

    Args:
        teacher: The teacher in the draft.
        preset: Whether a preset gives the fields that the spec leaves out; null then overrides its training.
    """
    shown = ("model", "weights", "training", "seed", "method", "teacher")
    spec: dict[str, Any] = {"model": _compact(teacher["model"])}
    spec |= {name: deepcopy(value) for name, value in teacher.items() if name not in shown and value}
    if teacher.get("weights") is not None:
        spec["weights"] = {name: value for name, value in teacher["weights"].items() if value}
    if teacher.get("training") or preset:
        spec["training"] = deepcopy(teacher.get("training"))
    if teacher.get("seed"):
        spec["seed"] = teacher["seed"]
    if teacher.get("method"):
        spec["method"] = _compact(teacher["method"])
    if teacher.get("teacher"):
        spec["teacher"] = _teacher_spec(teacher["teacher"], preset=False)
    return spec


def _ensemble_spec(ensemble: Mapping[str, Any]) -> Any:
    """Return how several teachers are combined, as a spec has it; None for their mean."""
    by, weights = ensemble.get("by", "mean"), ensemble.get("weights")
    if weights:
        return {"by": by, "weights": list(weights)}
    return None if by == "mean" else by


def _compact(choice: Mapping[str, Any]) -> dict[str, Any]:
    compact: dict[str, Any] = {"name": choice["name"]}
    if str(choice.get("label") or "").strip():
        compact["label"] = str(choice["label"]).strip()
    if choice.get("params"):
        compact["params"] = deepcopy(choice["params"])
    if choice.get("shares"):
        compact["shares"] = dict(choice["shares"])
    if regions := _short_regions(choice.get(REGIONS)):
        compact[REGIONS] = regions
    if choice.get(ADDED):
        compact[ADDED] = [_compact(added) for added in choice[ADDED]]
    return compact


def long_regions(regions: Any) -> dict[str, Any]:
    """Return the options of regions in their long form; the short form is the name of the boxes."""
    return {"boxes": regions} if isinstance(regions, str) else dict(regions or {})


def _short_regions(regions: Any) -> Any:
    """Return the options of regions as a spec has them: without what is usual, and as a name if only boxes are left."""
    given = {name: value for name, value in long_regions(regions).items() if value not in (None, {})}
    own = {name: value for name, value in given.items() if value != _USUAL_REGIONS.get(name)}
    return own["boxes"] if own.keys() == {"boxes"} else deepcopy(own)


def blank_draft(catalog: Mapping[str, Sequence[Mapping[str, Any]]], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the draft of a new form: the catalog's first data set and model, and its first method with a teacher.

    Args:
        catalog: Entries by kind: methods, models and datasets.
        schema: JSON schema of an experiment spec, whose ``Training`` defines the training settings.
    """
    training = schema.get("$defs", {}).get("Training", {})
    model = {"name": catalog["models"][0]["name"], "params": schema_defaults(catalog["models"][0]["params"])}
    dataset = catalog["datasets"][0]
    method = next((item for item in catalog["methods"] if item.get("needs_teacher")), catalog["methods"][0])
    return to_draft(
        {
            "dataset": {"name": dataset["name"], "params": schema_defaults(dataset["params"])},
            "teacher": {"model": deepcopy(model)},
            "student": {"model": model},
            "methods": [{"name": method["name"], "params": schema_defaults(method["params"])}],
            "training": schema_defaults(training, schema),
        }
    )


def nearest_field(path: str, places: Iterable[str]) -> str | None:
    """Return the path at which the form shows an error: its own path or the nearest enclosing one; None if none exists.

    Args:
        path: Path of the error from the backend, such as ``methods.1.params.alpha``.
        places: Paths at which the form can show errors.
    """
    known = set(places)
    while path:
        if path in known:
            return path
        path = path.rpartition(".")[0]
    return None


def describe_path(path: str, draft: Mapping[str, Any]) -> str:
    """Return a path as text for people: ``Method 2 (dkd): Alpha`` for ``methods.1.params.alpha``."""
    parts = path.split(".")
    if parts[0] == "methods" and len(parts) > 1 and parts[1].isdigit():
        index = int(parts[1])
        methods = draft.get("methods") or []
        method = methods[index] if index < len(methods) else {}
        names = [method["name"]] if method else []
        rest = parts[2:]
        if rest[:1] == [ADDED] and len(rest) > 1 and rest[1].isdigit():
            added = method.get(ADDED) or []
            names += [added[int(rest[1])]["name"]] if int(rest[1]) < len(added) else []
            rest = rest[2:]
        title = f"Method {index + 1}" + (f" ({' + '.join(names)})" if names else "")
        if rest[:1] == ["shares"] and len(rest) > 1:
            return f"{title}: Share of {rest[1]}"
        field_parts = [part for part in rest if part != "params"]
        return title + (f": {humanise(field_parts[-1])}" if field_parts else "")
    if parts[0] == "teachers" and len(parts) > 1 and parts[1].isdigit():
        parts = [f"teacher {int(parts[1]) + 1}", *parts[2:]]
    words = [humanise(part) for part in parts if part and part != "params" and not part.isdigit()]
    return ": ".join(words)
