"""Bounds of external input: numbers, texts, lists and nesting. This module imports no other module of this project.

``read_json`` checks a body before it is interpreted; the annotated types bound the fields of a message. Every stored
integer fits a signed 64-bit column, and every counter can be read exactly by a JSON reader that has only doubles.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo

INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)
INT32_MAX = 2**31 - 1
EXACT_MAX = 2**53
"""The largest whole number up to which doubles, and so JavaScript, are exact."""

Int64 = Annotated[int, Field(ge=INT64_MIN, le=INT64_MAX)]
Count = Annotated[int, Field(ge=0, le=EXACT_MAX)]
"""A counter or a size, in a 64-bit column."""
PositiveCount = Annotated[int, Field(ge=1, le=EXACT_MAX)]
SmallCount = Annotated[int, Field(ge=0, le=INT32_MAX)]
"""A counter in a 32-bit column, such as epochs or images of a split."""
PositiveSmallCount = Annotated[int, Field(ge=1, le=INT32_MAX)]
Seconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""A duration."""
Timestamp = Annotated[float, Field(ge=0, le=253_402_300_799, allow_inf_nan=False)]
"""Seconds since 1970, up to the last second of the year 9999, which is the end of Python's datetime."""

ID_PATTERN = r"^[0-9a-hjkmnp-tv-z]{16}$"
"""Ids that the backend makes, in Crockford's base 32 (``backend.db.ids``)."""
WORKER_ID_PATTERN = r"^[A-Za-z0-9-]{1,64}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"

RunId = Annotated[str, Field(pattern=ID_PATTERN)]
Sha256 = Annotated[str, Field(pattern=SHA256_PATTERN)]

SUBMITTED = {"submitted": True}
"""Validation context of submitted specs, in which all bounds are checked. Stored specs are validated without it, so
that runs of older versions can still be shown, claimed and trained."""
LARGEST = 1e100
"""The largest number in a spec: sums and products of a few such numbers are finite."""
LONGEST_TEXT = 20_000
"""Characters of a text in a spec."""

MAX_PROBLEMS = 100
"""Number of problems that an answer lists."""

_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_INVALID_TEXT = re.compile("[\0\ud800-\udfff]")
_MAX_SHOWN = 80


class BoundsError(ValueError):
    """A value from outside is out of bounds.

    Attributes:
        path: Path of the value, such as ``methods.1.params.alpha``; empty for the whole document.
        message: The problem, as a predicate without a subject.
    """

    def __init__(self, path: str, message: str) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.message = message


@dataclass(frozen=True)
class JsonBounds:
    """Bounds of a JSON document.

    Attributes:
        depth: Maximum number of nested lists and objects.
        values: Maximum number of values: numbers, texts, lists, objects and field names together.
        items: Maximum number of entries of one list, or of fields of one object.
        any_text: Accept NUL and lone surrogates. For callers that clean texts, because a training may print anything.
    """

    depth: int = 32
    values: int = 100_000
    items: int = 10_000
    any_text: bool = False


DEFAULT_BOUNDS = JsonBounds()


def read_json(raw: bytes | str, bounds: JsonBounds = DEFAULT_BOUNDS) -> Any:
    """Parse JSON and check that every value is within bounds. The time is linear in the length.

    Args:
        raw: The document, in UTF-8 if it is bytes.
        bounds: The bounds.

    Raises:
        BoundsError: The document is not UTF-8 or not JSON, exceeds ``bounds``, or contains NaN or an infinity, a
            repeated field, a whole number beyond 64 bits, a number beyond a double, NUL or a lone surrogate.
    """
    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
    except UnicodeDecodeError as error:
        raise BoundsError("", f"the body is not JSON: it is not UTF-8, {error.reason} at byte {error.start}") from None
    if text.startswith("\ufeff"):
        raise BoundsError("", "the body is not JSON: it begins with a byte order mark")
    try:
        data = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_fields)
    except BoundsError:
        raise
    except RecursionError:
        raise BoundsError("", f"the body is nested more than {bounds.depth} levels deep") from None
    except json.JSONDecodeError as error:
        raise BoundsError("", f"the body is not JSON: {error}") from None
    except ValueError:  # int() refuses more than 4,300 digits
        raise BoundsError("", "the body has a number of more than 4300 digits") from None
    check_data(data, bounds)
    return data


def check_data(data: Any, bounds: JsonBounds = DEFAULT_BOUNDS) -> None:
    """Check plain data (dicts, lists, texts, numbers) against bounds.

    It is not recursive, so that deep data does not exhaust the interpreter's stack. A value that YAML aliases repeat is
    counted every time.

    Raises:
        BoundsError: A value is out of bounds; the error gives its path.
    """
    count = 0
    # One iterator per level; the path is only joined if there is a problem.
    path: list[str] = []
    levels: list[Iterator[tuple[Any, Any]]] = [iter((("", data),))]
    while levels:
        item = next(levels[-1], None)
        if item is None:
            levels.pop()
            if path:
                path.pop()
            continue
        key, value = item
        count += 1
        problem = _scalar_problem(value, bounds)
        if isinstance(key, str) and not bounds.any_text and _INVALID_TEXT.search(key):
            problem = "has a field whose name contains a character that is not text"
            raise BoundsError(_joined(path), problem)
        if problem is None and count > bounds.values:
            raise BoundsError("", f"the body has more than {bounds.values} values")
        if problem is None and isinstance(value, dict | list | tuple):
            if len(value) > bounds.items:
                problem = f"has {len(value)} entries; at most {bounds.items} are allowed"
            elif len(levels) > bounds.depth:
                raise BoundsError(_joined(path[:8]), f"is nested more than {bounds.depth} levels deep")
        if problem is not None:
            raise BoundsError(_joined([*path, str(key)]), problem)
        if isinstance(value, dict):
            path.append(str(key))
            count += len(value)
            levels.append(iter(value.items()))
        elif isinstance(value, list | tuple):
            path.append(str(key))
            levels.append(iter(enumerate(value)))


def number_problem(value: Any) -> str | None:
    """Return the problem of a number that is out of bounds; None if it is within bounds, or not a number."""
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        return "is a whole number beyond 64 bits"
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return "is a number beyond the range of a double"
    return None


def field_problem(value: Any) -> str | None:
    """Return the problem of a spec's field, or of a value in it, that is out of bounds; None if there is none."""
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT:
            return f"has {len(value)} characters; at most {LONGEST_TEXT} are allowed"
        control = _CONTROLS.search(value)
        return f"contains a character that is not shown, U+{ord(control[0]):04X}; remove it" if control else None
    if isinstance(value, float):
        return f"is a number beyond ±{LARGEST:g}" if abs(value) > LARGEST else None
    if isinstance(value, dict | list | tuple):
        try:
            check_data(value)
        except BoundsError as error:
            return str(error)
    return number_problem(value)


def max_if_submitted(limit: int) -> Any:
    """Return a validator with an upper bound that was added later: it applies to submitted specs, not to stored ones.

    It is used in ``Annotated``, after the field's other bounds.
    """

    def check(value: int, info: ValidationInfo) -> int:
        if info.context is SUBMITTED and value > limit:
            raise ValueError(f"should be less than or equal to {limit}")
        return value

    return AfterValidator(check)


def first_problems(error: ValidationError, limit: int = MAX_PROBLEMS) -> tuple[list[Any], int]:
    """Return pydantic's first problems without their inputs, and the number of the remaining problems."""
    items = error.errors(include_url=False, include_context=False, include_input=False)
    return list(items[:limit]), max(len(items) - limit, 0)


def _scalar_problem(value: Any, bounds: JsonBounds) -> str | None:
    if isinstance(value, str):
        invalid = not bounds.any_text and _INVALID_TEXT.search(value)
        return "contains a character that is not text" if invalid else None
    return number_problem(value)


def _joined(path: list[str]) -> str:
    """Join a path, without the root; each part is cut to a readable length."""
    return ".".join(part[:_MAX_SHOWN].encode("utf-8", "replace").decode() for part in path[1:]).replace("\0", "\ufffd")


def _unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated field; Python's JSON parser silently keeps the last one."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise BoundsError("", f"the body is not JSON: {name[:_MAX_SHOWN]!r} is given twice")
            seen.add(name)
    return fields


def _refuse_constant(name: str) -> Any:
    raise BoundsError("", f"the body is not JSON: {name} is not a JSON number")
