"""Sweeps: many experiments as one spec, by a grid of values, listed points or seeded random draws."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from common.input_bounds import MAX_PROBLEMS, SUBMITTED
from core.specs import int_ranges
from core.specs.components import SpecModel
from core.specs.derivation import detach_derived_fields
from core.specs.experiment import NAME_LENGTH, ExperimentSpec, Name
from core.specs.field_paths import MAX_PATH, with_field
from core.specs.loading import parse_experiment
from core.specs.problems import Problem, SpecError, problems_of, validation_error
from core.specs.seeds import race_problem
from core.specs.text_rules import invisible_character

MAX_SWEEP_RUNS = 10_000
MAX_AXES = 50
"""Fields that a grid, a point or the draws can vary."""
MAX_CELLS = 200_000
"""Experiments multiplied by the fields in which they differ."""


class Draw(SpecModel):
    """The distribution of a random value: a number between two ends, or one of several choices."""

    low: float | None = Field(None, description="The smallest value.")
    high: float | None = Field(None, description="The largest value.")
    log: bool = Field(
        False,
        description="Draw uniformly in the logarithm: as many draws from 0.001–0.01 as from 0.01–0.1.",
    )
    integer: bool = Field(False, description="Draw whole numbers, including both ends.")
    choices: tuple[Any, ...] | None = Field(
        None, min_length=1, description="Draw one of these values instead of a number from a range."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("give choices, or low and high, not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise validation_error("Draw", (("low",), f"must be below high, which is {self.high:g}", self.low))
        if self.log and self.low <= 0:
            raise validation_error("Draw", (("low",), "must be above 0 for a logarithmic range", self.low))
        if self.integer and math.ceil(self.low) > math.floor(self.high):
            raise validation_error("Draw", (("low",), "there is no whole number between low and high", self.low))
        return self

    def draw(self, source: random.Random) -> Any:
        """Draw one value."""
        if self.choices is not None:
            return self.choices[source.randrange(len(self.choices))]
        assert self.low is not None  # the validator has checked it
        assert self.high is not None
        low, high = self.low, self.high
        if self.integer:
            low, high = math.ceil(low), math.floor(high)
            if not self.log:
                return source.randint(int(low), int(high))
        drawn = math.exp(source.uniform(math.log(low), math.log(high))) if self.log else source.uniform(low, high)
        drawn = min(max(drawn, low), high)
        # Six digits are enough for a search, and keep names and tables readable.
        return round(drawn) if self.integer else float(f"{drawn:.6g}")


class SweepSpec(SpecModel):
    """A sweep: one experiment for each combination of values.

    Fields are named by their paths, such as ``training.optimizer.lr``, ``teacher.seed`` or ``methods.1.params.beta``.
    """

    name: Name = Field(min_length=1, max_length=80, description="Beginning of the experiments' names.")
    experiment: dict[str, Any] = Field(description="The spec to vary, without a name.")
    grid: dict[str, Any] = Field(
        default_factory=dict,
        description="Values of each field, by the field's path: a list, or a range of whole numbers such as 0..4. "
        "Each combination is one experiment.",
        examples=[{"training.optimizer.lr": [0.01, 0.05], "teacher.seed": "0..2"}],
    )
    points: tuple[dict[str, Any], ...] = Field(
        (), max_length=MAX_SWEEP_RUNS, description="Values of fields that change together, one mapping per point."
    )
    random: dict[str, Draw] = Field(
        default_factory=dict, description="Distribution of each field with random values, by the field's path."
    )
    draws: int = Field(0, ge=0, le=MAX_SWEEP_RUNS, description="Number of random points.")
    seed: int = Field(
        0, ge=0, lt=2**31, description="Seed of the draws. If draws is increased, the first ones stay the same."
    )
    max_runs: int = Field(
        1000, ge=1, le=MAX_SWEEP_RUNS, description="A sweep with more runs than this, including teachers, is refused."
    )

    @field_validator("grid")
    @classmethod
    def _expand_lists(cls, grid: dict[str, Any]) -> dict[str, list[Any]]:
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        found: dict[str, list[Any]] = {}
        for path, given in grid.items():
            try:
                values = int_ranges.expand(given)
            except ValueError as error:
                problems.append(((path,), str(error), given))
                continue
            if not isinstance(values, list) or not values:
                problems.append(((path,), "give a list of values, or a range of whole numbers such as 0..4", given))
                continue
            texts = [json.dumps(_plain(value), sort_keys=True, default=str) for value in values]
            if len(set(texts)) < len(texts):
                problems.append(((path,), "a value is given twice", given))
                continue
            found[path] = values
        if problems:
            raise validation_error("SweepSpec", *problems)
        return found

    @field_validator("grid", "random", mode="before")
    @classmethod
    def _limit_axes(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and len(given) > MAX_AXES:
            raise ValueError(f"varies {len(given)} fields; at most {MAX_AXES} are allowed")
        if isinstance(given, Mapping) and any(len(str(path)) > MAX_PATH for path in given):
            raise ValueError(f"a path of a field has at most {MAX_PATH} characters")
        return given

    @field_validator("points", mode="before")
    @classmethod
    def _limit_points(cls, given: Any) -> Any:
        if isinstance(given, Sequence):
            if len(given) > MAX_SWEEP_RUNS:
                raise ValueError(f"has {len(given)} entries; at most {MAX_SWEEP_RUNS} are allowed")
            if any(isinstance(point, Mapping) and len(point) > MAX_AXES for point in given):
                raise ValueError(f"a point varies more than {MAX_AXES} fields")
        return given

    @model_validator(mode="after")
    def _varies(self) -> Self:
        """Refuse a sweep in which nothing varies or a field varies twice, or which has too many experiments."""
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        if not (self.grid or self.points or self.random):
            problems.append(((), "nothing varies: give grid, points or random", None))
        if bool(self.random) != bool(self.draws):
            text = "give the number of draws" if self.random else "there is nothing to draw: give random"
            problems.append((("draws",), text, self.draws))
        if "name" in self.experiment:
            problems.append((("experiment", "name"), "the sweep names its experiments", self.experiment["name"]))
        axes = _Axes()
        shared = [*((path, "grid") for path in self.grid), *((path, "random") for path in self.random)]
        found = [problem for path, where in shared if (problem := axes.problem(path, where))]
        for paths in dict.fromkeys(tuple(point) for point in self.points):  # most points vary the same fields
            inner = _Axes(axes)
            found += [problem for path in paths if (problem := inner.problem(path, "points"))]
        problems += dict.fromkeys(found)  # once, although every point has the problem
        count = self.count
        fields = len(self.grid) + len(self.random) + max(map(len, self.points), default=0)
        if count * fields > MAX_CELLS and count <= self.max_runs:
            text = (
                f"{count} experiments that differ in {fields} fields are too many; vary fewer fields, or fewer values"
            )
            problems.append((("max_runs",), text, self.max_runs))
        if count > self.max_runs:
            text = (
                f"{count} experiments have more runs than max_runs = {self.max_runs}; use fewer values, "
                f"or raise max_runs"
            )
            problems.append((("max_runs",), text, self.max_runs))
        if problems:
            raise validation_error("SweepSpec", *problems)
        return self

    @property
    def axes(self) -> list[str]:
        """The paths of all fields that vary."""
        return list(dict.fromkeys([*self.grid, *(path for point in self.points for path in point), *self.random]))

    @property
    def count(self) -> int:
        """The number of experiments."""
        return math.prod(len(values) for values in self.grid.values()) * max(len(self.points), 1) * max(self.draws, 1)


class _Axes:
    """The fields that vary. None may contain another, because the later value would overwrite the earlier one.

    Args:
        outer: Fields that vary for all points.
    """

    def __init__(self, outer: _Axes | None = None) -> None:
        self._outer = outer
        self._known: dict[str, str] = {}
        self._above: dict[str, str] = {}

    def problem(self, path: str, where: str) -> tuple[tuple[str, str], str, str] | None:
        """Add a field, and return the problem with varying it too, or None."""
        above = [path[:end] for end, letter in enumerate(path[: MAX_PATH + 1]) if letter == "."]
        text = None
        if path == "name":
            text = "the sweep names its experiments"
        elif known := self._find(path, "_known"):
            text = f"{path} is already varied by {known}"
        elif over := next((other for other in above if self._find(other, "_known")), self._find(path, "_above")):
            text = f"it contains {over} or is contained in it; vary one of them"
        self._known[path] = where
        self._above |= dict.fromkeys(above, path)
        return ((where, path), text, path) if text else None

    def _find(self, path: str, among: str) -> str | None:
        found: str | None = getattr(self, among).get(path)
        return self._outer._find(path, among) if found is None and self._outer else found


@dataclass(frozen=True)
class _Value:  # without slots, for the cached text
    """A value and its path in the sweep: ``grid.training.epochs.1``."""

    value: Any
    origin: str

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        return _text(self.value)


def parse_sweep(data: Any) -> SweepSpec:
    """Validate a sweep that is given as plain data.

    Raises:
        SpecError: The sweep is not valid; the error lists every problem with its path.
    """
    if not isinstance(data, dict):
        raise SpecError([Problem("", "a sweep is a mapping of fields")])
    try:
        return SweepSpec.model_validate(data, context=SUBMITTED)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def expand(sweep: SweepSpec, check_cancelled: Callable[[], None] = lambda: None) -> list[ExperimentSpec]:
    """Return the experiments of a sweep, in the order of its axes; the last axis varies fastest.

    Args:
        sweep: The sweep.
        check_cancelled: Called before each experiment. An exception that it raises ends the expansion.

    Raises:
        SpecError: An experiment is not valid, or there are more runs than ``max_runs``. The path of each problem is
            that of the axis and value (or of ``experiment``) that it comes from.
    """
    combinations = _combinations(sweep)
    names = _names(sweep, combinations)
    base = detach_derived_fields(sweep.experiment, sweep.axes)
    specs: list[ExperimentSpec] = []
    problems: dict[tuple[str, str], Problem] = {}
    runs = refused = 0
    for name, combination in zip(names, combinations, strict=True):
        check_cancelled()
        try:
            data: Any = {"name": name, **base}
            for path, item in combination.items():
                data = with_field(data, path, item.value)
            spec = parse_experiment(data)
        except SpecError as error:
            for problem in error.problems:
                found = Problem(_origin(problem.path, combination), problem.message)
                problems.setdefault((found.path, found.message), found)
            refused += 1
            if refused == MAX_PROBLEMS or len(problems) > MAX_PROBLEMS:
                break
            continue
        if text := race_problem(spec.seeds, sweep.axes):
            raise SpecError([Problem("experiment.seeds.race", text)])
        specs.append(spec)
        runs += spec.most_seeds * len(spec.methods) + len(spec.teacher_runs())
        if runs > sweep.max_runs:
            break
    if problems:
        raise SpecError(list(problems.values()))
    if runs > sweep.max_runs:
        of = f"{runs} runs" if len(specs) == len(combinations) else f"more than {sweep.max_runs} runs"
        text = f"{len(combinations)} experiments of {of} in all are more than max_runs = {sweep.max_runs}"
        raise SpecError([Problem("max_runs", f"{text}; vary less, or raise it")])
    return specs


def varied_fields(sweep: SweepSpec) -> list[dict[str, Any]]:
    """Return the values that vary, by path, for each of the experiments of ``expand``."""
    return [{path: item.value for path, item in found.items()} for found in _combinations(sweep)]


def _combinations(sweep: SweepSpec) -> list[dict[str, _Value]]:
    """Return the values of each experiment by path: every combination of the grid, the points and the draws."""
    axes = [
        [(path, _Value(value, f"grid.{path}.{index}")) for index, value in enumerate(values)]
        for path, values in sweep.grid.items()
    ]
    points: list[dict[str, _Value]] = [
        {path: _Value(value, f"points.{index}.{path}") for path, value in point.items()}
        for index, point in enumerate(sweep.points)
    ] or [{}]
    draws: list[dict[str, _Value]] = [
        {
            path: _Value(draw.draw(_source(sweep.seed, index, path)), f"random.{path}")
            for path, draw in sweep.random.items()
        }
        for index in range(sweep.draws)
    ] or [{}]
    return [
        {**dict(chosen), **point, **drawn} for chosen in itertools.product(*axes) for point in points for drawn in draws
    ]


def _plain(value: Any) -> Any:
    """Return a value in which whole floats are integers, also inside lists and mappings: 1.0 equals 1."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _source(seed: int, index: int, path: str) -> random.Random:
    # One generator per value, so that neither more draws nor another axis changes the earlier values.
    return random.Random(f"{seed}/{index}/{path}")


def _names(sweep: SweepSpec, combinations: list[dict[str, _Value]]) -> list[str]:
    """Return names with the values that vary, or with a number if these would be too long or not unique."""
    names: list[str] = []
    for combination in combinations:
        name = f"{sweep.name} " + ", ".join(f"{_short(path, combination)}={item}" for path, item in combination.items())
        if len(name) > NAME_LENGTH or invisible_character(name):
            break
        names.append(name)
    if len(set(names)) == len(combinations):
        return names
    width = len(str(len(combinations)))
    return [f"{sweep.name} #{index:0{width}d}" for index in range(1, len(combinations) + 1)]


def _short(path: str, combination: Mapping[str, _Value]) -> str:
    """Return the last part of a path, or the whole path if another one has the same last part."""
    last = path.rpartition(".")[2]
    alike = [other for other in combination if other.rpartition(".")[2] == last]
    return last if len(alike) == 1 and not last.isdecimal() else path


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("label") or value.get("name") or json.dumps(value, sort_keys=True, default=str))
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item) for item in value)}]"
    return str(value)


def rename_swept(name: str, path: str, old: Any, new: Any) -> str:
    """Return a sweep's experiment name after a change of one field: the value in the name follows.

    A name that does not contain the field's value is returned unchanged.
    """
    for short in (path, path.rpartition(".")[2]):
        stated = re.compile(rf"(?<=[ ]){re.escape(f'{short}={_text(old)}')}(?=,|$| \(\d+\)$)")
        if found := stated.search(name):
            start, end = found.span()
            return f"{name[:start]}{short}={_text(new)}{name[end:]}"
    return name


def _origin(path: str, combination: Mapping[str, _Value]) -> str:
    """Return the path in the sweep that a problem of an experiment comes from: an axis's value, or the base spec."""
    # The longest path first: if training and training.epochs both vary, the more specific one is meant.
    for axis in sorted(combination, key=len, reverse=True):
        if path == axis or path.startswith(f"{axis}."):
            return combination[axis].origin + path.removeprefix(axis)
    for axis in combination:
        if axis.startswith(f"{path}."):
            return combination[axis].origin
    return f"experiment.{path}" if path else "experiment"
