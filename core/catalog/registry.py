"""A registry of named entries, with an error that offers the nearest names."""

from __future__ import annotations

import importlib
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
from core.catalog.suggestions import LONGEST_NAME, closest_names, iter_field_paths, suggest_field, suggest_name

_MOST_HINTS = 20


class StrictModel(BaseModel):
    """Refuses true and false where a number is meant, which pydantic takes for 1 and 0, and what is out of bounds.

    An unknown field is refused with the fields that may have been meant.
    """

    @model_validator(mode="wrap")
    @classmethod
    def _with_hints(cls, data: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(data)
        except ValidationError as error:
            items = error.errors(include_url=False)
            if not any(_is_unknown(item) for item in items):
                raise
            fields = list(cls.known_fields(data))
            lines = []
            hints = 0
            for item in items:
                kind, said = item["type"], item["msg"]
                if _is_unknown(item):
                    # Each takes time, and there may be as many as somebody has written.
                    hints += 1
                    kind, said = "unknown_field", "unknown field"
                    if hints <= _MOST_HINTS:
                        said += f"; {suggest_field(str(item['loc'][0]), fields)}"
                # Braces in a message would be read as template fields, so the message travels as a context value.
                line = PydanticCustomError(kind, "{message}", {"message": said})
                lines.append(InitErrorDetails(type=line, loc=item["loc"], input=item["input"]))
            raise ValidationError.from_exception_data(error.title, lines) from None

    @classmethod
    def known_fields(cls, data: Any) -> Iterator[str]:
        """Paths of the fields that data may have, and of those in them."""
        return iter_field_paths(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        several = isinstance(value, list | tuple)
        truth = any(isinstance(item, bool) for item in value) if several else isinstance(value, bool)
        if truth and info.field_name and not _takes_truth(cls.model_fields[info.field_name].annotation):
            raise ValueError("takes neither true nor false")
        return value

    @field_validator("*")
    @classmethod
    def _within_bounds(cls, value: Any, info: ValidationInfo) -> Any:
        if info.context is SUBMITTED and (problem := field_problem(value)):
            raise ValueError(problem)
        return value


def _is_unknown(item: ErrorDetails) -> bool:
    return item["type"] == "extra_forbidden" and len(item["loc"]) == 1


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))


class Params(StrictModel):
    """Base of every entry's parameters: unknown names are refused, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class NoParams(Params):
    """An entry that takes no parameters."""


class UnknownNameError(ValueError):
    """A name that the catalog does not hold; the message offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Mapping[str, Sequence[str]]) -> None:
        """Args: known: by name, other ways to write or to call it."""
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
        super().__init__(f"unknown {kind} {shown!r}; {suggest_name(name, known)}")
        self.nearest = closest_names(name, known)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What a person may name in a spec.

    Attributes:
        name: how a spec names it.
        title: how a table or a form shows it.
        summary: one sentence.
        params: its typed parameters, a frozen model that refuses unknown names.
        target: where the code is, as ``"package.module:attribute"``; imported only where it trains.
        source: the paper or page it is taken from.
        aliases: what others call it; not accepted, but answered with the name.
    """

    name: str
    title: str
    summary: str
    target: str
    params: type[Params] = NoParams
    source: str = ""
    aliases: tuple[str, ...] = ()

    def load(self) -> Any:
        """Import what ``target`` names. Raises ImportError or AttributeError if it is not there."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def describe(self) -> dict[str, Any]:
        """The entry as JSON, its parameters as a JSON schema: what the form and the docs are made from."""
        return {
            "name": self.name,
            "title": self.title,
            "summary": self.summary,
            "source": self.source,
            "params": self.params.model_json_schema(),
        }


E = TypeVar("E", bound=Entry)


class Registry(Generic[E]):
    """Entries by name, in the order in which they were added."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, E] = {}
        self._families: dict[str, Callable[[str], E]] = {}

    def add(self, entry: E) -> E:
        """Add an entry. Raises ValueError if the name is taken."""
        if entry.name in self._entries:
            raise ValueError(f"{self.kind} {entry.name!r} is already in the catalog")
        self._entries[entry.name] = entry
        return entry

    def add_family(self, prefix: str, make: Callable[[str], E]) -> None:
        """Accept every name that begins with ``prefix``; ``make`` gives its entry or raises UnknownNameError.

        For names that another library decides: the catalog cannot list them without importing it.
        """
        self._families[prefix] = make

    def __getitem__(self, name: str) -> E:
        """The entry of that name. Raises UnknownNameError, with the nearest names."""
        if name in self._entries:
            return self._entries[name]
        for prefix, make in self._families.items():
            if name.startswith(prefix):
                return make(name)
        raise UnknownNameError(self.kind, name, self.spellings())

    def spellings(self, prefix: str = "") -> dict[str, tuple[str, ...]]:
        """By name, for those that begin with a prefix: what else an entry may be called."""
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
