"""Conversion of the catalog's JSON schemas to form fields and of the form to a spec, as pure functions.

This module names no method, model or data set: every entry of the catalog appears with its parameters, their defaults
and descriptions. Only the backend validates a spec; its errors name the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal

FieldKind = Literal["integer", "number", "boolean", "choice", "text", "integers", "entries"]
MAX_SEEDS = 1000
ADDED = "with"
"""Field of a method with the methods that are added to it."""

_WORDS = {
    "ce": "CE",
    "cuda": "CUDA",
    "gpus": "GPUs",
    "kd": "KD",
    "lr": "learning rate",
    "val": "validation",
    "sha256": "SHA-256",
}


@dataclass(frozen=True)
class FormField:
    """One parameter in a form.

    Attributes:
        path: Dotted path relative to the object of the schema, such as ``optimizer.lr``.
        label: Label of the field.
        kind: Kind of value, which selects the widget.
        default: Initial value.
        group: Title of the nested object that contains the field; empty at the top level.
        nullable: Whether the field may be left empty.
        choices: Options of a choice.
        help: Description of the parameter.
        step: Increment of the arrows of a number field.
        entries: For ``entries``, the catalog entries to choose from, each with name, title, summary and params.
        left_out: Whether a spec leaves the default out.
        only_for: Path of another field and its values for which this field exists; None for a field that always does.
    """

    path: str
    label: str
    kind: FieldKind
    default: Any
    group: str = ""
    nullable: bool = False
    choices: tuple[Any, ...] = ()
    help: str = ""
    step: float = 1.0
    entries: tuple[Mapping[str, Any], ...] = ()
    left_out: bool = False
    only_for: tuple[str, tuple[Any, ...]] | None = None

    def exists(self, values: Mapping[str, Any]) -> bool:
        """Return whether the field exists beside the other values of the object."""
        return self.only_for is None or get_path(values, self.only_for[0]) in self.only_for[1]


def schema_to_fields(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> list[FormField]:
    """Return the fields of the JSON schema of an object, including nested objects, in the schema's order.

    Args:
        schema: The JSON schema of the object.
        root: The schema in which ``$ref`` is resolved; by default ``schema`` itself.
    """
    return _fields(schema, root or schema, "", "")


def _fields(schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str, group: str) -> list[FormField]:
    fields: list[FormField] = []
    required = set(schema.get("required", ()))
    for name, property_schema in schema.get("properties", {}).items():
        item, nullable = _resolve(property_schema, root)
        path = f"{prefix}{name}"
        if item.get("type") == "object" and item.get("properties"):
            fields.extend(_fields(item, root, f"{path}.", humanise(name)))
            continue
        if "x-params-of" in item:
            fields.extend(_params_by_name(item["x-params-of"], path, prefix, group))
            continue
        kind = _kind(item)
        if kind is None:
            continue
        examples = item.get("examples") or [None]
        default = item.get("default")
        if default is None and name in required:
            default = examples[0] if examples[0] is not None else (item.get("enum") or [None])[0]
        fields.append(
            FormField(
                path=path,
                label=humanise(name),
                kind=kind,
                default=default,
                group=group,
                nullable=nullable or (default is None and kind in ("integer", "number")),
                choices=tuple(item.get("enum", ())),
                help=item.get("description", ""),
                step=_step(kind, default if default is not None else examples[0]),
                entries=tuple(item.get("x-entries", ())),
                left_out=bool(item.get("x-left-out")),
                only_for=_condition(item.get("x-only-for"), prefix),
            )
        )
    return fields


def _params_by_name(choice: Mapping[str, Any], path: str, prefix: str, group: str) -> list[FormField]:
    """Return the parameters of every entry that another field may name, each only for its entry."""
    return [
        replace(item, left_out=True, only_for=(f"{prefix}{choice['field']}", (name,)))
        for name, schema in choice["entries"].items()
        for item in _fields(schema, schema, f"{path}.", group)
    ]


def _condition(given: Mapping[str, Any] | None, prefix: str) -> tuple[str, tuple[Any, ...]] | None:
    return (f"{prefix}{given['field']}", tuple(given["values"])) if given else None


def _resolve(item: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """Resolve ``$ref`` and ``anyOf [X, null]``; return the schema and whether null is allowed."""
    nullable = False
    merged = dict(item)
    options = [option for option in merged.get("anyOf", ()) if option.get("type") != "null"]
    if len(options) == 1:
        nullable = len(merged.pop("anyOf")) > 1
        merged = {**options[0], **merged}
    if "$ref" in merged:
        target = root.get("$defs", {}).get(merged.pop("$ref").rpartition("/")[2], {})
        merged = {**target, **merged}
    return merged, nullable


def _kind(item: Mapping[str, Any]) -> FieldKind | None:
    """Return the kind of widget; None if there is no widget, as for free mappings and lists of other than integers."""
    if item.get("enum"):
        return "choice"
    if item.get("x-entries"):
        return "entries"
    match item.get("type"):
        case "integer":
            return "integer"
        case "number":
            return "number"
        case "boolean":
            return "boolean"
        case "string":
            return "text"
        case "array" if item.get("items", {}).get("type") == "integer":
            return "integers"
    return None


def _step(kind: FieldKind, value: Any) -> float:
    """Return one unit of the value's first digit: 0.01 for 0.05, 1 for 4."""
    if kind != "number":
        return 1.0
    if not isinstance(value, int | float) or value == 0:
        return 0.1
    return min(float(10.0 ** math.floor(math.log10(abs(value)))), 1.0)


def humanise(name: str) -> str:
    """Return a field name as a label: ``CE weight`` for ``ce_weight``."""
    text = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def schema_defaults(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the object with the default of every field that has one."""
    defaults: dict[str, Any] = {}
    for item in schema_to_fields(schema, root):
        if item.default is not None and not item.left_out and item.exists(defaults):
            set_path(defaults, item.path, item.default)
    return defaults


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values, with missing values taken from the defaults, also in nested objects."""
    merged = deepcopy(dict(defaults))
    for name, value in values.items():
        default = merged.get(name)
        nested = isinstance(value, Mapping) and isinstance(default, Mapping)
        merged[name] = with_defaults(value, default or {}) if nested else deepcopy(value)
    return merged


def set_path(target: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path and create the objects on the way; None removes the value."""
    *parents, last = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    if value is None:
        target.pop(last, None)
    else:
        target[last] = value


def get_path(source: Any, path: str, default: Any = None) -> Any:
    """Return the value at a dotted path, or the default."""
    for part in path.split("."):
        if not isinstance(source, Mapping) or part not in source:
            return default
        source = source[part]
    return source


_PART = re.compile(r"(\d+)(?:-(\d+))?$")
_DASH = re.compile(r"\s*(?:-|–|\.\.)\s*")


def parse_integers(text: str) -> list[int]:
    """Parse integers and ranges: ``0-2, 7`` is [0, 1, 2, 7].

    Raises:
        ValueError: The text cannot be parsed; the message is a sentence for people.
    """
    integers: list[int] = []
    for part in re.split(r"[,;\s]+", _DASH.sub("-", text.strip())):
        if not part:
            continue
        match = _PART.match(part)
        if not match:
            raise ValueError(f"{part!r} is neither a whole number nor a range such as 0-4")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise ValueError(f"the range {part!r} is backwards")
        if len(integers) + last - first >= MAX_SEEDS:
            raise ValueError(f"more than {MAX_SEEDS} numbers")
        integers.extend(range(first, last + 1))
    return integers


def join_integers(values: Iterable[int]) -> str:
    """Format integers for ``parse_integers``: [0, 1, 2, 7] is ``0-2, 7``."""
    parts: list[tuple[int, int]] = []
    for value in values:
        if parts and value == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], value)
        else:
            parts.append((value, value))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _named_choice(value: Any) -> dict[str, Any]:
    """Return a reference to a catalog entry in its long form; the short form is a name without parameters."""
    if isinstance(value, str):
        return {"name": value, "params": {}}
    return {"params": {}, **deepcopy(dict(value))} if isinstance(value, Mapping) else {"name": "", "params": {}}


def _method_draft(value: Any) -> dict[str, Any]:
    """Return a method in its long form, with the methods that are added to it."""
    method = {"label": "", **_named_choice(value)}
    return method | {ADDED: [_named_choice(item) for item in method.get(ADDED) or ()]}


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
        "seeds": [0, 1, 2],
        "training": {},
        "resources": {},
        **deepcopy(dict(spec)),
    }
    draft["dataset"] = _named_choice(draft.get("dataset"))
    student = draft.get("student")
    draft["student"] = {"model": _named_choice(student.get("model") if isinstance(student, Mapping) else student)}
    draft["methods"] = [_method_draft(method) for method in draft.get("methods") or ()]
    teacher = draft.get("teacher")
    if isinstance(teacher, Mapping):
        draft["teacher"] = {"seed": 0, "training": None, "weights": None, **teacher}
        draft["teacher"]["model"] = _named_choice(teacher.get("model"))
        weights = draft["teacher"]["weights"]
        if isinstance(weights, str):
            draft["teacher"]["weights"] = {"source": weights}
    else:
        draft["teacher"] = None
    return draft


_FORM_FIELDS = frozenset(
    ("name", "notes", "tags", "priority", "dataset", "teacher", "student", "methods", "seeds", "training", "resources")
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
    if draft.get("teacher"):
        teacher = draft["teacher"]
        shown = ("model", "weights", "training", "seed")
        other_fields = {name: value for name, value in teacher.items() if name not in shown and value}
        spec["teacher"] = {"model": _compact(teacher["model"]), **deepcopy(other_fields)}
        if teacher.get("weights") is not None:
            spec["teacher"]["weights"] = {name: value for name, value in teacher["weights"].items() if value}
        if teacher.get("training") or spec.get("preset"):  # null overrides the preset's training
            spec["teacher"]["training"] = deepcopy(teacher.get("training"))
        if teacher.get("seed"):
            spec["teacher"]["seed"] = teacher["seed"]
    elif spec.get("preset"):
        spec["teacher"] = None
    spec["student"] = {"model": _compact(draft["student"]["model"])}
    spec["methods"] = [_compact(method) for method in draft["methods"]]
    spec["seeds"] = list(draft["seeds"])
    spec["training"] = deepcopy(draft["training"])
    resources = {
        name: value for name, value in draft.get("resources", {}).items() if value and value != _ANY_WORKER.get(name)
    }
    if resources:
        spec["resources"] = deepcopy(resources)
    return spec


def _compact(choice: Mapping[str, Any]) -> dict[str, Any]:
    compact: dict[str, Any] = {"name": choice["name"]}
    if str(choice.get("label") or "").strip():
        compact["label"] = str(choice["label"]).strip()
    if choice.get("params"):
        compact["params"] = deepcopy(choice["params"])
    if choice.get("shares"):
        compact["shares"] = deepcopy(choice["shares"])
    if choice.get(ADDED):
        compact[ADDED] = [_compact(item) for item in choice[ADDED]]
    return compact


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


def nearest_field(path: str, slots: Iterable[str]) -> str | None:
    """Return the path at which the form shows an error: its own path or the nearest enclosing one; None if none exists.

    Args:
        path: Path of the error from the backend, such as ``methods.1.params.alpha``.
        slots: Paths at which the form can show errors.
    """
    slot_paths = set(slots)
    while path:
        if path in slot_paths:
            return path
        path = path.rpartition(".")[0]
    return None


def describe_path(path: str, draft: Mapping[str, Any]) -> str:
    """Return a path as text for people: ``Method 2 (dkd): Alpha`` for ``methods.1.params.alpha``."""
    parts = path.split(".")
    if parts[0] == "methods" and len(parts) > 1 and parts[1].isdigit():
        index = int(parts[1])
        methods = draft.get("methods") or []
        name = f" ({methods[index]['name']})" if index < len(methods) else ""
        field_parts = [part for part in parts[2:] if part != "params"]
        if len(field_parts) > 1 and field_parts[0] == ADDED and field_parts[1].isdigit():
            added = methods[index].get(ADDED) or [] if index < len(methods) else []
            number, field_parts = int(field_parts[1]), field_parts[2:]
            name = f"{name[:-1]} + {added[number]['name']})" if number < len(added) else name
        return f"Method {index + 1}{name}" + (f": {humanise(field_parts[-1])}" if field_parts else "")
    words = [humanise(part) for part in parts if part and part != "params" and not part.isdigit()]
    return ": ".join(words)
