"""Bounds of workers' reports, and types that fit reports into these bounds.

An impossible number is refused. A text that is too long is cut, and control characters in it are escaped, because the
end of a run must not be lost when its reason is a long traceback. The worker and the backend use the same types.
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
"""Thirty years at a thousand steps per second."""
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
    """Return a text with control characters escaped, and cut to ``limit`` characters with a mark at the cut."""
    if len(text) > 4 * limit:  # the cut part need not be processed
        text = text[: limit + 1]
    text = printable(text, lines=lines)
    return text if len(text) <= limit else text[: limit - len(CUT)] + CUT


def fitted_to(limit: int, *, lines: bool = True) -> BeforeValidator:
    """Return a validator that applies ``fit_text``. A value of another type is left to the field's type."""
    return BeforeValidator(lambda value: fit_text(value, limit, lines=lines) if isinstance(value, str) else value)


def fit_environment(environment: Any) -> Any:
    """Return the environment that a training reports, cut to the size that is stored: at most a hundred names."""
    if not isinstance(environment, Mapping):
        return environment
    shortened: dict[Any, Any] = {}
    remaining = _ENVIRONMENT
    for key, text in environment.items():
        if len(shortened) == _NAMES or remaining <= len(CUT):
            break
        name = fit_text(key, _NAME, lines=False) if isinstance(key, str) else key
        shortened[name] = value = fit_text(text, min(_VALUE, remaining)) if isinstance(text, str) else text
        remaining -= len(name) + len(value) if isinstance(name, str) and isinstance(value, str) else 0
    return shortened


def keep_first(count: int) -> BeforeValidator:
    """Return a validator that keeps the first entries of a list."""
    return BeforeValidator(lambda value: value[:count] if isinstance(value, list) else value)


def keep_last(count: int) -> BeforeValidator:
    """Return a validator that keeps the last entries of a list."""
    return BeforeValidator(lambda value: value[-count:] if isinstance(value, list) else value)


def clamped(low: float, high: float) -> BeforeValidator:
    """Return a validator that clamps a measured number to a range; NaN becomes ``low``."""

    def clamp(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return low if isinstance(value, float) and math.isnan(value) else min(max(value, low), high)

    return BeforeValidator(clamp)


def _finite(value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return 0.0
    return value


Finite = Annotated[float, BeforeValidator(_finite)]
"""A number in an answer. Databases of older versions may contain NaN or infinities, which are read as 0."""

MessageText = Annotated[str, fitted_to(MAX_MESSAGE)]
ReasonText = Annotated[str, fitted_to(MAX_REASON)]
LogText = Annotated[str, fitted_to(MAX_LINE)]
RelativePath = Annotated[str, Field(max_length=MOST_PATH)]
Steps = Annotated[int, Field(ge=0, le=MOST_STEPS)]
"""Number of optimiser steps."""
Images = Annotated[int, Field(ge=1, le=INT32_MAX)]
Bytes = Annotated[int | None, clamped(0, EXACT_MAX)]
AttemptNumber = Annotated[int, Field(ge=1, le=INT32_MAX)]
RunName = Annotated[str, Field(pattern=WORKER_ID_PATTERN)]
"""A run's id as a worker reports it. An unknown id is not refused; the answer tells the worker to stop the run."""
