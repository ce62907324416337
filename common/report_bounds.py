"""How large what a worker says may be, and what becomes of what is larger.

A number that cannot be is refused. A text that is too long, or has characters that a terminal obeys, is cut and
spelled out instead: a run's end must not be lost because its reason is a long traceback. The same types are used where
a worker sends and where the backend takes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from common.input_bounds import EXACT_MAX, INT32_MAX, WORKER_ID_PATTERN
from common.terminal import printable

CUT = " … (cut)"

MOST_STEPS = 10**12
"""At a thousand a second, thirty years."""
MOST_EPOCHS = 10**9
MOST_SECONDS = 10**12
MOST_PARAMETERS = 10**15

MOST_PATH = 1000

MAX_MESSAGE = 20_000
MAX_REASON = 4_000
MAX_LINE = 2_000
_NAMES = 100
_NAME = 100
_VALUE = 250_000
_ENVIRONMENT = 400_000


def fit_text(text: str, limit: int, *, lines: bool = True) -> str:
    """The text made printable, and cut to ``limit`` characters, which it then says."""
    if len(text) > 4 * limit:  # nothing beyond is looked at
        text = text[: limit + 1]
    text = printable(text, lines=lines)
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def fitted_to(limit: int, *, lines: bool = True) -> BeforeValidator:
    """Of a text field: ``fit_text``. What is no text is left to the field's type."""
    return BeforeValidator(lambda value: fit_text(value, limit, lines=lines) if isinstance(value, str) else value)


def fit_environment(environment: Any) -> Any:
    """Names and values of a training's environment, cut to what can be kept of them: the first hundred names."""
    if not isinstance(environment, Mapping):
        return environment
    found: dict[Any, Any] = {}
    left = _ENVIRONMENT
    for key, text in environment.items():
        if len(found) == _NAMES or left <= len(CUT):
            break
        name = fit_text(key, _NAME, lines=False) if isinstance(key, str) else key
        found[name] = value = fit_text(text, min(_VALUE, left)) if isinstance(text, str) else text
        left -= len(name) + len(value) if isinstance(name, str) and isinstance(value, str) else 0
    return found


def keep_first(count: int) -> BeforeValidator:
    """Of a list field: only the first entries."""
    return BeforeValidator(lambda value: value[:count] if isinstance(value, list) else value)


def keep_last(count: int) -> BeforeValidator:
    """Of a list field: only the last entries."""
    return BeforeValidator(lambda value: value[-count:] if isinstance(value, list) else value)


def clamped(least: float, most: float) -> BeforeValidator:
    """Of a measured number that nothing depends on: the nearest in the range, NaN the least."""

    def nearest(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return least if isinstance(value, float) and math.isnan(value) else min(max(value, least), most)

    return BeforeValidator(nearest)


def _finite(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return 0.0
    return value


Finite = Annotated[float, BeforeValidator(_finite)]
"""Of an answer: databases of older versions may hold a number that is none, which is read as 0."""

MessageText = Annotated[str, fitted_to(MAX_MESSAGE)]
ReasonText = Annotated[str, fitted_to(MAX_REASON)]
LogText = Annotated[str, fitted_to(MAX_LINE)]
RelativePath = Annotated[str, Field(max_length=MOST_PATH)]
Steps = Annotated[int, Field(ge=0, le=MOST_STEPS)]
"""Optimiser steps done."""
Images = Annotated[int, Field(ge=1, le=INT32_MAX)]
Bytes = Annotated[int | None, clamped(0, EXACT_MAX)]
AttemptNumber = Annotated[int, Field(ge=1, le=INT32_MAX)]
RunName = Annotated[str, Field(pattern=WORKER_ID_PATTERN)]
"""A run's id as a worker repeats it: one that no run has is answered with an order, not refused."""
