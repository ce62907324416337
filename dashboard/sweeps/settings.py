"""The settings of a sweep: their results for one method, their filter, and rows of their table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from common.formatting import NOTHING
from core.protocol.sweeps import SettingResult, Sweep, SweepField, SweepSetting

_LOG_RATIO = 20
"""From this ratio of the largest value to the smallest on, the axis of a field is logarithmic."""


@dataclass(frozen=True)
class Point:
    """One setting with the result of one method.

    Attributes:
        setting: The setting.
        result: The method's result.
    """

    setting: SweepSetting
    result: SettingResult

    @property
    def mean(self) -> float | None:
        return self.result.mean

    def text(self, path: str) -> str:
        """Return the value of a field as text."""
        return value_text(self.setting.values[path]) if path in self.setting.values else NOTHING


@dataclass(frozen=True)
class Scale:
    """How the values of a field are drawn.

    Attributes:
        field: The field.
        numeric: Whether all values are numbers.
        log: Whether the axis is logarithmic.
    """

    field: SweepField
    numeric: bool
    log: bool

    @classmethod
    def of(cls, field: SweepField) -> Scale:
        numbers = [value for value in field.values if is_number(value)]
        numeric = len(numbers) == len(field.values)
        log = numeric and min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG_RATIO
        return cls(field, numeric, log)

    @cached_property
    def texts(self) -> list[str]:
        """Return the values as texts: numbers in ascending order, others in the order of the experiments."""
        values = sorted(self.field.values) if self.numeric else self.field.values
        return list(dict.fromkeys(map(value_text, values)))

    def position(self, point: Point) -> float | None:
        """Return the number at which a setting is drawn; None if its spec lacks the field."""
        if self.field.path not in point.setting.values:
            return None
        value = point.setting.values[self.field.path]
        return float(value) if self.numeric else float(self.texts.index(value_text(value)))


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number; a switch is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def value_text(value: Any) -> str:
    """Return a value of a field as text."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}"
    return json.dumps(value, ensure_ascii=False)


def method_titles(sweep: Sweep) -> list[str]:
    """Return a title of each method by its position in the spec; the label of a varied method differs."""
    by_position: dict[int, dict[str, None]] = {}
    for setting in sweep.settings:
        for position, result in enumerate(setting.results):
            by_position.setdefault(position, {})[result.label] = None
    return [
        next(iter(found)) if len(found) == 1 else f"method {position + 1} (varies)"
        for position, found in sorted(by_position.items())
    ]


def varied_method(sweep: Sweep) -> int:
    """Return the position of the first method that varies; 0 if none does."""
    parts = (field.path.split(".") for field in sweep.fields)
    return next((int(part[1]) for part in parts if part[0] == "methods" and part[1].isdecimal()), 0)


def points(sweep: Sweep, method: int, chosen: Sequence[str] = ()) -> list[Point]:
    """Return the settings that a filter leaves, with the result of one method.

    Args:
        sweep: The sweep.
        method: Position of the method in the spec.
        chosen: Texts of ``filter_options``: one of the chosen values of every field that has any.
    """
    wanted: dict[str, set[str]] = {}
    for option in chosen:
        path, _, value = option.partition(" = ")
        wanted.setdefault(path, set()).add(value)
    return [
        Point(setting, setting.results[method])
        for setting in sweep.settings
        if method < len(setting.results) and _matches(setting, wanted)
    ]


def _matches(setting: SweepSetting, wanted: Mapping[str, set[str]]) -> bool:
    return all(
        path in setting.values and value_text(setting.values[path]) in allowed for path, allowed in wanted.items()
    )


def filter_options(sweep: Sweep) -> list[str]:
    """Return a text for each value of each field."""
    return [f"{field.path} = {text}" for field in sweep.fields for text in Scale.of(field).texts]


def with_results(given: Iterable[Point]) -> list[Point]:
    """Return the points that have a result."""
    return [point for point in given if point.mean is not None]


def best(given: Iterable[Point], better: str | None) -> Point | None:
    """Return the setting with the best mean; the highest unless lower is better. None without results."""
    sign = -1.0 if better == "lower" else 1.0
    return max(with_results(given), key=lambda point: sign * (point.mean or 0.0), default=None)


def rows(given: Sequence[Point], fields: Sequence[SweepField], axis: str) -> list[dict[str, Any]]:
    """Return the table of settings, one row each: links, values of the fields, mean and sd.

    Args:
        given: The settings.
        fields: The fields that vary.
        axis: Title of the mean, with its unit.
    """
    numeric = {field.path: Scale.of(field).numeric for field in fields}
    return [
        {
            "Experiment": f"experiment?{urlencode({'id': point.setting.experiment_id})}",
            **{path: _cell(point.setting.values, path, number=number) for path, number in numeric.items()},
            axis: point.result.mean,
            "± sd": point.result.sd,
            "n": point.result.n,
            "Runs": point.result.planned,
            "State": point.setting.state,
            "Name": point.setting.name,
        }
        for point in given
    ]


def _cell(values: Mapping[str, Any], path: str, *, number: bool) -> Any:
    if path not in values:
        return None
    return values[path] if number else value_text(values[path])


def short_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return a short title of each path: its last part, or the whole path if another has the same last part."""
    last = {path: path.rpartition(".")[2] for path in paths}
    ends = list(last.values())
    return {path: end if ends.count(end) == 1 and not end.isdecimal() else path for path, end in last.items()}
