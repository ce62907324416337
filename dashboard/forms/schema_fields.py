"""From the catalog's JSON schemas to form fields, and from the form to a spec: pure functions.

The form knows no method, model or data set by name. Whatever the catalog lists appears with its parameters, their
defaults and their descriptions; what is allowed is decided by the backend alone, whose answers name the field.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from client import YamlDumper

FieldKind = Literal["integer", "number", "boolean", "choice", "text", "integers"]
MAX_SEEDS = 1000

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
    """One parameter as a form shows it.

    Attributes:
        path: below the object whose schema it is from, as ``optimizer.lr``.
        group: title of the nested object it is in; empty at the top.
        nullable: may be left empty.
        step: of the arrows at a number.
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


def schema_to_fields(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> list[FormField]:
    """The fields of a JSON schema of an object, nested objects included, in the schema's order.

    Args:
        root: where ``$ref`` is looked up; left out, the schema itself.
    """
    return _fields(schema, root or schema, "", "")


def _fields(schema: Mapping[str, Any], root: Mapping[str, Any], prefix: str, group: str) -> list[FormField]:
    found: list[FormField] = []
    required = set(schema.get("required", ()))
    for name, given in schema.get("properties", {}).items():
        item, nullable = _resolve(given, root)
        path = f"{prefix}{name}"
        if item.get("type") == "object" and item.get("properties"):
            found.extend(_fields(item, root, f"{path}.", humanise(name)))
            continue
        kind = _kind(item)
        if kind is None:
            continue
        examples = item.get("examples") or [None]
        default = item.get("default")
        if default is None and name in required:
            default = examples[0] if examples[0] is not None else (item.get("enum") or [None])[0]
        found.append(
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
            )
        )
    return found


def _resolve(item: Mapping[str, Any], root: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """The schema itself, behind ``$ref`` and ``anyOf [X, null]``; and whether null is allowed."""
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
    """Which widget; None for what a form cannot hold (free mappings, lists of anything but integers)."""
    if item.get("enum"):
        return "choice"
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
    """One unit of the value's first digit, so that 0.05 moves by 0.01 and 4 by 1."""
    if kind != "number":
        return 1.0
    if not isinstance(value, int | float) or value == 0:
        return 0.1
    return min(float(10.0 ** math.floor(math.log10(abs(value)))), 1.0)


def humanise(name: str) -> str:
    """``ce_weight`` as ``CE weight``."""
    text = " ".join(_WORDS.get(word, word) for word in name.split("_"))
    return text[:1].upper() + text[1:]


def schema_defaults(schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The object that the form shows when nothing has been entered yet."""
    found: dict[str, Any] = {}
    for item in schema_to_fields(schema, root):
        if item.default is not None:
            set_path(found, item.path, item.default)
    return found


def with_defaults(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with the defaults of what they leave out, nested objects included."""
    found = deepcopy(dict(defaults))
    for name, value in values.items():
        inner = found.get(name)
        both = isinstance(value, Mapping) and isinstance(inner, Mapping)
        found[name] = with_defaults(value, inner or {}) if both else deepcopy(value)
    return found


def set_path(target: dict[str, Any], path: str, value: Any) -> None:
    """Set a value at a dotted path, making the objects on the way. None removes it."""
    *parents, last = path.split(".")
    for parent in parents:
        target = target.setdefault(parent, {})
    if value is None:
        target.pop(last, None)
    else:
        target[last] = value


def get_path(source: Any, path: str, default: Any = None) -> Any:
    """The value at a dotted path, or the default."""
    for part in path.split("."):
        if not isinstance(source, Mapping) or part not in source:
            return default
        source = source[part]
    return source


_PART = re.compile(r"(\d+)(?:-(\d+))?$")
_DASH = re.compile(r"\s*(?:-|–|\.\.)\s*")


def parse_integers(text: str) -> list[int]:
    """``0-2, 7`` as [0, 1, 2, 7]. Raises ValueError with a sentence for a person."""
    found: list[int] = []
    for part in re.split(r"[,;\s]+", _DASH.sub("-", text.strip())):
        if not part:
            continue
        match = _PART.match(part)
        if not match:
            raise ValueError(f"{part!r} is neither a whole number nor a range such as 0-4")
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        if last < first:
            raise ValueError(f"the range {part!r} runs backwards")
        if len(found) + last - first >= MAX_SEEDS:
            raise ValueError(f"more than {MAX_SEEDS} numbers")
        found.extend(range(first, last + 1))
    return found


def join_integers(values: Iterable[int]) -> str:
    """[0, 1, 2, 7] as ``0-2, 7``: what ``parse_integers`` reads back."""
    parts: list[tuple[int, int]] = []
    for value in values:
        if parts and value == parts[-1][1] + 1:
            parts[-1] = (parts[-1][0], value)
        else:
            parts.append((value, value))
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _named_choice(value: Any) -> dict[str, Any]:
    """A named choice written out: a bare string is short for a name without parameters."""
    if isinstance(value, str):
        return {"name": value, "params": {}}
    return {"params": {}, **deepcopy(dict(value))} if isinstance(value, Mapping) else {"name": "", "params": {}}


def to_draft(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec as a person writes it, as the form holds it: short forms written out, every part there."""
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
    draft["methods"] = [{"label": "", **_named_choice(method)} for method in draft.get("methods") or ()]
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


_DRAWN = frozenset(
    ("name", "notes", "tags", "priority", "dataset", "teacher", "student", "methods", "seeds", "training", "resources")
)
_ANY_WORKER = {"device": "any", "gpus": 1}


def to_spec(draft: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent: the draft without what was left empty."""
    spec: dict[str, Any] = {"name": str(draft["name"]).strip()}
    for name in ("notes", "tags", "priority"):
        if draft.get(name):
            spec[name] = deepcopy(draft[name])
    spec["dataset"] = _compact(draft["dataset"])
    # What the form has no field for goes through as it was written.
    spec |= {name: deepcopy(value) for name, value in draft.items() if name not in _DRAWN and value}
    if draft.get("teacher"):
        teacher = draft["teacher"]
        drawn = ("model", "weights", "training", "seed")
        more = {name: value for name, value in teacher.items() if name not in drawn and value}
        spec["teacher"] = {"model": _compact(teacher["model"]), **deepcopy(more)}
        if teacher.get("weights") is not None:
            spec["teacher"]["weights"] = {name: value for name, value in teacher["weights"].items() if value}
        if teacher.get("training") or spec.get("preset"):  # null: not the preset's
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
    found: dict[str, Any] = {"name": choice["name"]}
    if str(choice.get("label") or "").strip():
        found["label"] = str(choice["label"]).strip()
    if choice.get("params"):
        found["params"] = deepcopy(choice["params"])
    return found


def blank_draft(catalog: Mapping[str, Sequence[Mapping[str, Any]]], schema: Mapping[str, Any]) -> dict[str, Any]:
    """What a new form begins with: the catalog's first data set and model, and its first method with a teacher.

    Args:
        schema: of a whole spec; its ``Training`` gives the training settings.
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


def yaml_of(spec: Mapping[str, Any]) -> str:
    """A spec as YAML in the order of its fields; lists of numbers on one line, as a person writes."""
    return yaml.dump(
        _inline_lists(deepcopy(dict(spec))), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )


class _InlineList(list[Any]):
    """A list that YAML writes on one line."""


class _Dumper(YamlDumper):
    pass


_Dumper.add_representer(
    _InlineList, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _inline_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inline_lists(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        plain = all(not isinstance(item, dict | list | tuple) for item in value)
        return _InlineList(value) if plain else [_inline_lists(item) for item in value]
    return value


def nearest_field(path: str, slots: Iterable[str]) -> str | None:
    """The form's field that an error belongs to: the one of that path, else the nearest around it; None: none is.

    Args:
        path: as the backend gives it, ``methods.1.params.alpha``.
        slots: the paths at which the form can show an error.
    """
    known = set(slots)
    while path:
        if path in known:
            return path
        path = path.rpartition(".")[0]
    return None


def describe_path(path: str, draft: Mapping[str, Any]) -> str:
    """A path as a person reads it: ``methods.1.params.alpha`` as ``Method 2 (dkd): Alpha``."""
    parts = path.split(".")
    if parts[0] == "methods" and len(parts) > 1 and parts[1].isdigit():
        index = int(parts[1])
        methods = draft.get("methods") or []
        name = f" ({methods[index]['name']})" if index < len(methods) else ""
        rest = [part for part in parts[2:] if part != "params"]
        return f"Method {index + 1}{name}" + (f": {humanise(rest[-1])}" if rest else "")
    words = [humanise(part) for part in parts if part and part != "params" and not part.isdigit()]
    return ": ".join(words)
