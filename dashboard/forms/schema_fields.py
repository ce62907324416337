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

FieldKind = Literal[
    "integer",
    "number",
    "boolean",
    "choice",
    "text",
    "integers",
    "numbers",
    "texts",
    "tap",
    "taps",
    "mapping",
    "entries",
]
MAX_SEEDS = 1000

_WORDS = {
    "amsgrad": "AMSGrad",
    "bg": "background",
    "ce": "CE",
    "cuda": "CUDA",
    "ema": "EMA",
    "fg": "foreground",
    "fpn": "FPN",
    "gpus": "GPUs",
    "grad": "gradient",
    "img": "image",
    "iou": "IoU",
    "kd": "KD",
    "lr": "learning rate",
    "nms": "NMS",
    "num": "number of",
    "ops": "operations",
    "roi": "RoI",
    "rpn": "RPN",
    "std": "standard deviation",
    "thresh": "threshold",
    "val": "validation",
    "sha256": "SHA-256",
}


@dataclass(frozen=True)
class TapChoice:
    """What a parameter that names taps may name, as the catalog's ``x-taps-of`` describes it.

    Attributes:
        network: ``student`` or ``teacher``.
        wildcards: Names that every network has.
        suffix: May follow the names of the network's taps.
        without_suffix: Taps that it may not follow.
    """

    network: str
    wildcards: tuple[str, ...]
    suffix: str
    without_suffix: tuple[str, ...]

    def options(self, known: Sequence[str]) -> list[str]:
        """Return the names to choose from; other names, such as paths of modules, may be typed.

        Args:
            known: Taps of the chosen network; empty if the catalog does not know them.
        """
        before = [f"{name}{self.suffix}" for name in known if name not in self.without_suffix]
        return list(dict.fromkeys((*self.wildcards, *known, *before)))


@dataclass(frozen=True)
class FormField:
    """One parameter in a form.

    Attributes:
        path: Dotted path relative to the object of the schema, such as ``optimizer.lr``.
        label: Label of the field.
        kind: Kind of value, which selects the widget.
        default: Initial value.
        group: Title of the nested object that contains the field, or of the group that its schema names as ``x-group``;
            empty at the top level.
        nullable: Whether the field may be left empty.
        choices: Options of a choice.
        help: Description of the parameter.
        step: Increment of the arrows of a number field.
        entries: For ``entries``, the catalog entries to choose from, each with name, title, summary and params.
        left_out: Whether a spec leaves the default out.
        only_for: Path of another field and its values for which this field exists; None for a field that always does.
        taps: For a parameter that names taps, which of the networks and what can be named in any network.
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
    taps: TapChoice | None = None

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
    """Return the form fields of an object's schema, those of nested objects included.

    Args:
        schema: The schema of the object.
        root: The whole schema, with the definitions to which references point.
        prefix: The path of the object, which ends with a dot; "" for the outermost object.
        group: The heading of the object's fields in the form.
    """
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
                group=item.get("x-group", group),
                nullable=nullable or (default is None and kind in ("integer", "number")),
                choices=tuple(item.get("enum", ())),
                help=item.get("description", ""),
                step=_step(kind, default if default is not None else examples[0]),
                entries=tuple(item.get("x-entries", ())),
                left_out=bool(item.get("x-left-out")),
                only_for=_condition(item.get("x-only-for"), prefix),
                taps=_tap_choice(item.get("x-taps-of")),
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


def _tap_choice(given: Mapping[str, Any] | None) -> TapChoice | None:
    if not given:
        return None
    wildcards, plain = tuple(given.get("wildcards", ())), tuple(given.get("without_suffix", ()))
    return TapChoice(given["network"], wildcards, given.get("suffix", ""), plain)


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
    """Return the kind of widget; None if there is no widget, as for lists of mappings."""
    if item.get("enum"):
        return "choice"
    if item.get("x-entries"):
        return "entries"
    if item.get("x-taps-of"):
        return "taps" if item.get("type") == "array" else "tap"
    match item.get("type"):
        case "integer":
            return "integer"
        case "number":
            return "number"
        case "boolean":
            return "boolean"
        case "string":
            return "text"
        case "array":
            kinds: Mapping[Any, FieldKind] = {"integer": "integers", "number": "numbers", "string": "texts"}
            types = {part.get("type") for part in (item.get("items") or {}, *item.get("prefixItems", ())) if part}
            return kinds.get(types.pop()) if len(types) == 1 else None
        case "object":
            return "mapping"
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


def parse_numbers(text: str) -> list[float]:
    """Parse numbers that are separated by commas or spaces: ``1, 0.5`` is [1.0, 0.5].

    Raises:
        ValueError: The text cannot be parsed; the message is a sentence for people.
    """
    numbers: list[float] = []
    for part in filter(None, re.split(r"[,;\s]+", text.strip())):
        try:
            numbers.append(float(part))
        except ValueError:
            raise ValueError(f"{part!r} is not a number") from None
    return numbers


def join_numbers(values: Iterable[float]) -> str:
    """Format numbers for ``parse_numbers``: [1.0, 0.5] is ``1, 0.5``."""
    return ", ".join(f"{value:g}" for value in values)


def uncovered(values: Mapping[str, Any], fields: Iterable[FormField]) -> dict[str, Any]:
    """Return the values that no field shows, which a form passes through unchanged."""
    shown = {item.path.partition(".")[0] for item in fields}
    return {name: deepcopy(value) for name, value in values.items() if name not in shown}
