"""Problems of a spec, each with the path of its field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from common.input_bounds import MAX_PROBLEMS


@dataclass(frozen=True)
class Problem:
    """A problem of a spec.

    Attributes:
        path: Path of the field, such as ``methods.1.params.alpha``; empty for a problem of the whole spec.
        message: What is wrong.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class SpecError(ValueError):
    """A spec that is not valid, with all its problems."""

    def __init__(self, problems: list[Problem]) -> None:
        shown = [str(problem) for problem in problems[:MAX_PROBLEMS]]
        more = [f"and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        super().__init__("; ".join(shown + more))
        self.problems = problems


def problems_of(error: ValidationError) -> list[Problem]:
    """Return pydantic's errors as problems with plain messages."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    # Pydantic drops refused items and then also reports the list as too short; the items' errors are enough.
    above = {item["loc"][:length] for item in items for length in range(len(item["loc"]))}
    return [
        Problem(path=".".join(str(part) for part in item["loc"]), message=_plain(item["type"], item["msg"]))
        for item in items
        if not (item["type"] == "too_short" and item["loc"] in above)
    ]


_PLAIN_MESSAGES = {
    "missing": "missing",
    "too_short": "needs at least 1 entry",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
    "dict_type": "should be a mapping of fields",
    "model_type": "should be a mapping of fields",
    "model_attributes_type": "should be a mapping of fields",
    "string_type": "should be text",
}


def _plain(kind: str, message: str) -> str:
    if kind == "extra_forbidden":
        return "unknown field"
    plain = _PLAIN_MESSAGES.get(kind)
    if plain:
        return plain
    for prefix in ("Value error, ", "Input "):
        message = message.removeprefix(prefix)
    return message


ProblemParts = tuple[tuple[int | str, ...], str, Any]
"""Location of a field within a model, what is wrong with it, and its value."""


def validation_error(title: str, *problems: ProblemParts) -> ValidationError:
    """Return a ValidationError with several problems, for a validator to raise.

    Args:
        title: Name of the model.
        problems: Location, message and refused value of each problem. Pydantic puts the validator's own location
            before each.
    """
    return ValidationError.from_exception_data(
        title,
        [
            InitErrorDetails(
                # Braces in a message would be read as template fields, so the message travels as a context value.
                type=PydanticCustomError("refused", "{message}", {"message": message}),
                loc=location,
                input=value,
            )
            for location, message, value in problems
        ],
    )
