"""Registries of named entries, whose errors suggest similar names."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from common.input_bounds import SUBMITTED, field_problem
from core.catalog.suggestions import (
    MAX_COMPARED,
    iter_field_paths,
    suggest_field,
    suggest_mapping,
    suggest_name,
    suggest_value,
)

_MAX_SUGGESTIONS = 20
"""In one error: each takes time, and a text may have any number of unknown fields."""


class StrictModel(BaseModel):
    """Base of specs and of parameters, stricter than pydantic and with suggestions in its errors.

    It refuses true and false for a number, which pydantic takes for 1 and 0, and submitted values that are out of
    bounds. The error about an unknown field, a value that is not allowed, or a text in place of a mapping says what was
    probably meant.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _with_suggestions(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(data)
        except ValidationError as error:
            items = error.errors(include_url=False)
            if not any(len(item["loc"]) == 1 and item["type"] in _WITH_SUGGESTION for item in items):
                raise
            raise ValidationError.from_exception_data(error.title, cls._explained(items, data)) from None

    @classmethod
    def _explained(cls, items: Sequence[ErrorDetails], data: Any) -> list[InitErrorDetails]:
        """Return the problems of this model, with suggestions in those about its own fields."""
        fields = list(cls.known_fields(data))
        lines = []
        suggestions = 0
        for item in items:
            kind, message = item["type"], item["msg"]
            if len(item["loc"]) == 1 and kind in _WITH_SUGGESTION:
                suggestions += 1
                kind, message = cls._with_suggestion(item, fields if suggestions <= _MAX_SUGGESTIONS else None)
            # Braces in a message would be read as template fields, so the message travels as a context value.
            line = PydanticCustomError(kind, "{message}", {"message": message})
            lines.append(InitErrorDetails(type=line, loc=item["loc"], input=item["input"]))
        return lines

    @classmethod
    def _with_suggestion(cls, item: ErrorDetails, fields: Sequence[str] | None) -> tuple[str, str]:
        """Return type and message of a problem, with a suggestion unless ``fields`` is None."""
        kind, message, name, value = item["type"], item["msg"], str(item["loc"][0]), item["input"]
        if kind == "extra_forbidden":
            text = "unknown field"
            return "unknown_field", text if fields is None else f"{text}; {suggest_field(name, fields)}"
        if fields is None or not isinstance(value, str) or name not in cls.model_fields:
            return kind, message
        if kind == "literal_error":
            allowed = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
            match = suggest_value(value, allowed)
            return kind, f"{message}; did you mean {match!r}?" if match else message
        match = suggest_mapping(cls.model_fields[name].annotation, value)
        return (
            ("text_for_mapping", f"should be a mapping of fields; did you mean {match}?") if match else (kind, message)
        )

    @classmethod
    def known_fields(cls, data: Any) -> Iterator[str]:
        """Yield the paths of the fields that data may have, and of the fields in them."""
        return iter_field_paths(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        items = value if isinstance(value, list | tuple) else (value,)
        boolean = any(isinstance(item, bool) for item in items)
        if boolean and info.field_name and not _takes_boolean(cls.model_fields[info.field_name].annotation):
            raise ValueError("takes neither true nor false")
        return value

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context is SUBMITTED and (problem := field_problem(value)):
            raise ValueError(problem)
        return value


_WITH_SUGGESTION = frozenset({"extra_forbidden", "literal_error", "model_type", "model_attributes_type"})
"""Pydantic's error types for which something can be suggested."""


def _takes_boolean(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_boolean(part) for part in get_args(annotation))


class Params(StrictModel):
    """Base of every entry's parameters. Unknown names are refused, and values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


class NoParams(Params):
    """Parameters of an entry that takes none."""


class UnknownNameError(ValueError):
    """A name that is not in the catalog; the message suggests similar ones."""

    def __init__(self, kind: str, name: str, known: Mapping[str, Sequence[str]]) -> None:
        """Make the error with its message.

        Args:
            kind: What is named: "method", "model" …
            name: The unknown name.
            known: The known names, each with other spellings and synonyms.
        """
        shown = name if len(name) <= MAX_COMPARED else f"{name[:MAX_COMPARED]}…"
        super().__init__(f"unknown {kind} {shown!r}; {suggest_name(name, known)}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Something that a spec can name.

    Attributes:
        name: The name in a spec.
        title: The name in tables and forms.
        summary: One sentence.
        params: Model of its parameters, frozen, which refuses unknown names.
        target: The code, as ``"package.module:attribute"``. It is imported only for a training.
        source: The paper or page that it is taken from.
        aliases: Other names in use. They are not accepted; the error about them suggests ``name``.
    """

    name: str
    title: str
    summary: str
    target: str
    params: type[Params] = NoParams
    source: str = ""
    aliases: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import the object that ``target`` names.

        Raises:
            ImportError: The module cannot be imported.
            AttributeError: The module does not have the attribute.
        """
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def describe(self) -> dict[str, Any]:
        """Return the entry as JSON, with its parameters as a JSON schema. The form and the docs are made from it."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "source": self.source,
            "params": self.params.model_json_schema(),
        }


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Entries by name, in the order in which they are added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}
        self._families: dict[str, Callable[[str], E]] = {}

    def add(self, entry: E) -> E:
        """Add an entry.

        Raises:
            ValueError: The name is taken.
        """
        if entry.name in self._entries:
            raise ValueError(f"{self.kind} {entry.name!r} is already in the catalog")
        self._entries[entry.name] = entry
        return entry

    def add_family(self, prefix: str, make: Callable[[str], E]) -> None:
        """Accept every name that begins with a prefix.

        For names that another library defines: the catalog cannot list them without importing it.

        Args:
            prefix: The prefix, as ``timm:``.
            make: Returns the entry of a name, or raises UnknownNameError.
        """
        self._families[prefix] = make

    def __getitem__(self, name: str) -> E:
        """Return the entry of a name.

        Raises:
            UnknownNameError: No entry has the name; the error suggests similar names.
        """
        if name in self._entries:
            return self._entries[name]
        for prefix, make in self._families.items():
            if name.startswith(prefix):
                return make(name)
        raise UnknownNameError(self.kind, name, self.spellings())

    def spellings(self, prefix: str = "") -> dict[str, tuple[str, ...]]:
        """Return the names that begin with a prefix, each with its other spellings and synonyms."""
        entries = (entry for entry in self if entry.name.startswith(prefix))
        return {entry.name: (entry.title, *entry.aliases) for entry in entries}

    def __contains__(self, name: str) -> bool:
        try:
            self[name]
        except UnknownNameError:
            return False
        return True

    def __iter__(self) -> Iterator[E]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)
