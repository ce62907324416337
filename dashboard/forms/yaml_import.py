"""Import of edited YAML into the form, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from client import SpecError, load_text
from dashboard.forms import schema_fields, spec_draft

CatalogEntries = Mapping[str, Sequence[Mapping[str, Any]]]
"""Entries of the catalog by kind: methods, models and datasets."""


def parse(text: str) -> dict[str, Any]:
    """Return the fields of a spec in YAML.

    Raises:
        ValueError: The text is not a YAML mapping; the message is a sentence for people.
    """
    try:
        fields = load_text(text)
    except SpecError as error:
        raise ValueError(f"this is {error}") from None
    if not isinstance(fields, dict) or not all(isinstance(name, str) for name in fields):
        raise ValueError("a spec must be a mapping of fields, such as name: …")
    return fields


def parse_mapping(text: str) -> dict[str, Any]:
    """Return the fields of a mapping on one line, such as ``width: 8, depth: 2``, with or without braces.

    Raises:
        ValueError: The text is not a mapping; the message is a sentence for people.
    """
    line = text.strip()
    return parse(line if line.startswith("{") else f"{{{line}}}")


def form_can_show(data: Mapping[str, Any], catalog: CatalogEntries, schema: Mapping[str, Any]) -> bool:
    """Return whether the form can show a spec that the backend has refused, with each error at its field.

    The form cannot show it if a name is unknown, a value does not have its field's type, or a preset gives some fields.
    """
    if data.get("preset") or not isinstance(data.get("name", ""), str):
        return False
    teacher = data.get("teacher")
    student = data.get("student")
    methods = data.get("methods")
    training = schema["$defs"]["Training"]
    return (
        _is_catalog_entry(data.get("dataset"), catalog["datasets"])
        and isinstance(student, Mapping)
        and _is_catalog_entry(student.get("model"), catalog["models"])
        and isinstance(methods, list)
        and len(methods) > 0
        and all(_is_catalog_entry(item, catalog["methods"]) for item in methods)
        and all(_has_regions(item, schema) for item in methods)
        and (_is_seed_list(spec_draft.listed_seeds(data.get("seeds", []))) or _is_until_decided(data["seeds"], schema))
        and (data.get("tune") is None or _fits_schema(data["tune"], schema["$defs"]["Tune"], schema))
        and _fits_schema(data.get("training", {}), training, schema)
        and _fits_schema(data.get("resources", {}), schema["$defs"]["Resources"], schema)
        and (teacher is None or _is_teacher(teacher, catalog, schema))
        and isinstance(data.get("teachers", []), list)
        and all(_is_teacher(item, catalog, schema) for item in data.get("teachers", []))
        and _is_ensemble(data.get("ensemble"), schema)
        and all(isinstance(tag, str) for tag in _list(data.get("tags")))
        and isinstance(data.get("notes", ""), str)
        and _is_integer(data.get("priority", 0))
    )


def _list(value: Any) -> list[Any]:
    """Return a list as it is, no items for None, and for anything else one item that is no valid tag."""
    return value if isinstance(value, list) else [] if value is None else [None]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_seed_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_integer(item) and item >= 0 for item in value)


def _is_until_decided(value: Any, schema: Mapping[str, Any]) -> bool:
    fits = _fits_schema(value, schema["$defs"].get("UntilDecided", {}), schema)
    return fits and value.get("until") == "decided"


_TYPE_CHECKS: Mapping[schema_fields.FieldKind, Callable[[Any], bool]] = {
    "integer": _is_integer,
    "number": _is_number,
    "boolean": lambda value: isinstance(value, bool),
    "text": lambda value: isinstance(value, str),
    "mapping": lambda value: isinstance(value, Mapping),
    "tap": lambda value: isinstance(value, str),
    "integers": _is_seed_list,
    "numbers": lambda value: isinstance(value, list) and all(_is_number(item) for item in value),
    "texts": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
    "taps": lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
}


def _is_teacher(teacher: Any, catalog: CatalogEntries, schema: Mapping[str, Any]) -> bool:
    """Return whether a spec's teacher has a known model and, in every other field, a value of the field's type."""
    if not isinstance(teacher, Mapping) or not _is_catalog_entry(teacher.get("model"), catalog["models"]):
        return False
    weights, training = teacher.get("weights"), teacher.get("training")
    method, own = teacher.get("method"), teacher.get("teacher")
    return (
        (weights is None or isinstance(weights, str) or _fits_schema(weights, schema["$defs"]["Weights"], schema))
        and (training is None or _fits_schema(training, schema["$defs"]["Training"], schema))
        and _is_integer(teacher.get("seed", 0))
        and (method is None or (_is_catalog_entry(method, catalog["methods"]) and _has_regions(method, schema)))
        and (own is None or _is_teacher(own, catalog, schema))
    )


def _is_ensemble(ensemble: Any, schema: Mapping[str, Any]) -> bool:
    named = {"by": ensemble} if isinstance(ensemble, str) else ensemble
    return named is None or _fits_schema(named, schema["$defs"]["Ensemble"], schema)


def _is_catalog_entry(choice: Any, entries: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a choice, a name or a mapping with ``name`` and ``params``, is one of the entries and fits it."""
    name = choice.get("name") if isinstance(choice, Mapping) else choice
    entry = next((item for item in entries if item["name"] == name), None)
    if entry is None:
        return False
    if not isinstance(choice, Mapping):
        return True
    shares, added = choice.get("shares", {}), choice.get(spec_draft.ADDED, [])
    return (
        isinstance(choice.get("label", ""), str)
        and _fits_schema(choice.get("params", {}), entry["params"])
        and isinstance(shares, Mapping)
        and all(term in entry.get("terms", ()) and _is_number(share) for term, share in shares.items())
        and isinstance(added, list)
        and all(_is_catalog_entry(item, entries) for item in added)
    )


def _has_regions(method: Any, schema: Mapping[str, Any]) -> bool:
    """Return whether the options of regions of a method, if it has any, have the types of their fields."""
    given = method.get(spec_draft.REGIONS) if isinstance(method, Mapping) else None
    if given is None:
        return True
    if not isinstance(given, str | Mapping):
        return False
    return _fits_schema(spec_draft.long_regions(given), schema["$defs"]["RegionOptions"], schema)


def _fits_schema(values: Any, schema: Mapping[str, Any], root: Mapping[str, Any] | None = None) -> bool:
    """Return whether every value belongs to a field of the schema and has the type of that field."""
    if not isinstance(values, Mapping):
        return False
    fields = {item.path: item for item in schema_fields.schema_to_fields(schema, root)}
    whole = {path for path, item in fields.items() if item.kind == "mapping"}
    return all(
        path in fields and ((value is None and fields[path].nullable) or _has_field_type(fields[path], value))
        for path, value in _leaves(values, "", whole)
    )


def _leaves(values: Mapping[Any, Any], prefix: str, whole: Collection[str]) -> list[tuple[str, Any]]:
    """Return the values of nested mappings with their paths, such as ``optimizer.lr``.

    Args:
        values: The mappings.
        prefix: Prefix of the paths.
        whole: Paths of mappings that are one value.
    """
    leaves: list[tuple[str, Any]] = []
    for name, value in values.items():
        path = f"{prefix}{name}"
        nested = isinstance(value, Mapping) and path not in whole
        leaves += _leaves(value, f"{path}.", whole) if nested else [(path, value)]
    return leaves


def _has_field_type(item: schema_fields.FormField, value: Any) -> bool:
    if item.kind == "entries":
        names = {entry["name"] for entry in item.entries}
        choices = spec_draft.named_choices(value)
        return all(choice["name"] in names and isinstance(choice["params"], Mapping) for choice in choices)
    return value in item.choices if item.kind == "choice" else _TYPE_CHECKS[item.kind](value)
