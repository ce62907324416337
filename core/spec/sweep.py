"""Many experiments written as one: every combination of some fields' values, listed points, or seeded random draws."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from core.spec import ranges
from core.spec.experiment import NAME_LENGTH, ExperimentSpec, Name
from core.spec.parts import SpecModel
from core.spec.paths import with_field
from core.spec.problems import Problem, SpecError, problems_of, refuse
from core.spec.reading import parse_experiment
from core.spec.starting import released

MAX_SWEEP_RUNS = 10_000


class Draw(SpecModel):
    """Where a random value comes from: numbers between two ends, or one of some choices."""

    low: float | None = Field(None, description="The least value.")
    high: float | None = Field(None, description="The greatest value.")
    log: bool = Field(False, description="Evenly in the logarithm: as many draws from 0.001–0.01 as from 0.01–0.1.")
    integer: bool = Field(False, description="Whole numbers, both ends included.")
    choices: tuple[Any, ...] | None = Field(None, min_length=1, description="Instead of a range: one of these.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.choices is not None:
            if self.low is not None or self.high is not None or self.log or self.integer:
                raise ValueError("give choices, or low and high, not both")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give low and high, or choices")
        if self.low >= self.high:
            raise refuse("Draw", (("low",), f"must be below high, which is {self.high:g}", self.low))
        if self.log and self.low <= 0:
            raise refuse("Draw", (("low",), "must be above 0 for a logarithmic range", self.low))
        if self.integer and math.ceil(self.low) > math.floor(self.high):
            raise refuse("Draw", (("low",), "there is no whole number between low and high", self.low))
        return self

    def take(self, source: random.Random) -> Any:
        """One value."""
        if self.choices is not None:
            return self.choices[source.randrange(len(self.choices))]
        assert self.low is not None  # the validator has seen to it
        assert self.high is not None
        low, high = self.low, self.high
        if self.integer:
            low, high = math.ceil(low), math.floor(high)
            if not self.log:
                return source.randint(int(low), int(high))
        drawn = math.exp(source.uniform(math.log(low), math.log(high))) if self.log else source.uniform(low, high)
        drawn = min(max(drawn, low), high)
        # Six digits say all that a search needs, and keep names and tables readable.
        return round(drawn) if self.integer else float(f"{drawn:.6g}")


class SweepSpec(SpecModel):
    """A sweep: one experiment for each combination.

    A field is named by its path, as ``training.optimizer.lr``, ``teacher.seed`` or ``methods.1.params.beta``.
    """

    name: Name = Field(min_length=1, max_length=80, description="What the names begin with.")
    experiment: dict[str, Any] = Field(description="The spec that is varied, without a name.")
    grid: dict[str, Any] = Field(
        default_factory=dict,
        description="Every combination of these. By path: a list of values, or whole numbers as 0..4.",
        examples=[{"training.optimizer.lr": [0.01, 0.05], "teacher.seed": "0..2"}],
    )
    points: tuple[dict[str, Any], ...] = Field(
        (), max_length=MAX_SWEEP_RUNS, description="Fields that change together."
    )
    random: dict[str, Draw] = Field(default_factory=dict, description="By path: where its values are drawn from.")
    draws: int = Field(0, ge=0, le=MAX_SWEEP_RUNS, description="How many random points.")
    seed: int = Field(0, ge=0, lt=2**31, description="Of the draws. More draws keep the earlier ones.")
    max_runs: int = Field(
        1000, ge=1, le=MAX_SWEEP_RUNS, description="A sweep of more runs, teachers included, is refused."
    )

    @field_validator("grid")
    @classmethod
    def _lists(cls, grid: dict[str, Any]) -> dict[str, list[Any]]:
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        found: dict[str, list[Any]] = {}
        for path, given in grid.items():
            try:
                values = ranges.expand(given)
            except ValueError as error:
                problems.append(((path,), str(error), given))
                continue
            if not isinstance(values, list) or not values:
                problems.append(((path,), "give a list of values, or whole numbers as 0..4", given))
                continue
            texts = [json.dumps(_plain(value), sort_keys=True, default=str) for value in values]
            if len(set(texts)) < len(texts):
                problems.append(((path,), "a value is given twice", given))
                continue
            found[path] = values
        if problems:
            raise refuse("SweepSpec", *problems)
        return found

    @model_validator(mode="after")
    def _varies(self) -> Self:
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        if not (self.grid or self.points or self.random):
            problems.append(((), "nothing varies: give grid, points or random", None))
        if bool(self.random) != bool(self.draws):
            text = "say how many draws" if self.random else "there is nothing to draw: give random"
            problems.append((("draws",), text, self.draws))
        if "name" in self.experiment:
            problems.append((("experiment", "name"), "experiments of a sweep are named by it", self.experiment["name"]))
        shared = [*((path, "grid") for path in self.grid), *((path, "random") for path in self.random)]
        found = _misplaced(shared, [])
        for point in self.points:
            found += _misplaced([(path, "points") for path in point], shared)
        problems += dict.fromkeys(found)  # once, though every point says it
        count = self.count
        if count > self.max_runs:
            text = f"{count} experiments have more runs than max_runs = {self.max_runs}; vary less, or raise it"
            problems.append((("max_runs",), text, self.max_runs))
        if problems:
            raise refuse("SweepSpec", *problems)
        return self

    @property
    def axes(self) -> list[str]:
        """The paths of all fields that vary."""
        return list(dict.fromkeys([*self.grid, *(path for point in self.points for path in point), *self.random]))

    @property
    def count(self) -> int:
        """How many experiments it makes."""
        return math.prod(len(values) for values in self.grid.values()) * max(len(self.points), 1) * max(self.draws, 1)


def _misplaced(
    axes: Sequence[tuple[str, str]], before: Sequence[tuple[str, str]]
) -> list[tuple[tuple[str, str], str, str]]:
    """Problems of axes that overwrite one another, or one of those before. Each is given as its path and its place."""
    found: list[tuple[tuple[str, str], str, str]] = []
    known = dict(before)
    for path, where in axes:
        if path == "name":
            found.append(((where, path), "experiments of a sweep are named by it", path))
        if path in known:
            found.append(((where, path), f"{path} is varied by {known[path]} already", path))
        elif over := next((other for other in known if _overlap(path, other)), None):
            found.append(((where, path), f"it lies in {over}, or that in it; vary one of them", path))
        known[path] = where
    return found


def _overlap(path: str, other: str) -> bool:
    """Whether one of the fields is a part of the other, so that the later one would overwrite it."""
    return path.startswith(f"{other}.") or other.startswith(f"{path}.")


@dataclass(frozen=True)
class _Value:
    """A value and where it was written: ``grid.training.epochs.1``."""

    value: Any
    origin: str


def parse_sweep(data: Any) -> SweepSpec:
    """Validate a sweep given as plain data. Raises SpecError with every problem and its path."""
    if not isinstance(data, dict):
        raise SpecError([Problem("", "a sweep is a mapping of fields")])
    try:
        return SweepSpec.model_validate(data)
    except ValidationError as error:
        raise SpecError(problems_of(error)) from None


def expand(sweep: SweepSpec) -> list[ExperimentSpec]:
    """The experiments of a sweep, in the order of its axes, the last one varying fastest.

    Raises:
        SpecError: with the path of the axis and value (or of ``experiment``) that a problem comes from, or of
            ``max_runs`` where there would be more runs than that.
    """
    combinations = _combinations(sweep)
    names = _names(sweep, combinations)
    base = released(sweep.experiment, sweep.axes)
    specs: list[ExperimentSpec] = []
    problems: dict[tuple[str, str], Problem] = {}
    for name, combination in zip(names, combinations, strict=True):
        try:
            data: Any = {"name": name, **base}
            for path, item in combination.items():
                data = with_field(data, path, item.value)
            specs.append(parse_experiment(data))
        except SpecError as error:
            for problem in error.problems:
                found = Problem(_origin(problem.path, combination), problem.message)
                problems.setdefault((found.path, found.message), found)
    if problems:
        raise SpecError(list(problems.values()))
    runs = sum(len(spec.seeds) * len(spec.methods) + (spec.teacher_run() is not None) for spec in specs)
    if runs > sweep.max_runs:
        text = f"{len(specs)} experiments of {runs} runs in all are more than max_runs = {sweep.max_runs}"
        raise SpecError([Problem("max_runs", f"{text}; vary less, or raise it")])
    return specs


def changes_of(sweep: SweepSpec) -> list[dict[str, Any]]:
    """What varies, by path, for each of the experiments of ``expand``."""
    return [{path: item.value for path, item in found.items()} for found in _combinations(sweep)]


def _combinations(sweep: SweepSpec) -> list[dict[str, _Value]]:
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
            path: _Value(draw.take(_source(sweep.seed, index, path)), f"random.{path}")
            for path, draw in sweep.random.items()
        }
        for index in range(sweep.draws)
    ] or [{}]
    return [
        {**dict(chosen), **point, **drawn} for chosen in itertools.product(*axes) for point in points for drawn in draws
    ]


def _plain(value: Any) -> Any:
    """1.0 is 1, also within."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _source(seed: int, index: int, path: str) -> random.Random:
    # One source a value: neither more draws nor another axis changes what was drawn before.
    return random.Random(f"{seed}/{index}/{path}")


def _names(sweep: SweepSpec, combinations: list[dict[str, _Value]]) -> list[str]:
    """The sweep's name and what varies; a number instead where that is too long or not unique."""
    names = [
        f"{sweep.name} "
        + ", ".join(f"{_short(path, combination)}={_text(item.value)}" for path, item in combination.items())
        for combination in combinations
    ]
    if len(set(names)) == len(names) and all(len(name) <= NAME_LENGTH and name.isprintable() for name in names):
        return names
    width = len(str(len(names)))
    return [f"{sweep.name} #{index:0{width}d}" for index in range(1, len(names) + 1)]


def _short(path: str, combination: Mapping[str, _Value]) -> str:
    """The last part of a path; all of it where another one ends alike."""
    last = path.rpartition(".")[2]
    alike = [other for other in combination if other.rpartition(".")[2] == last]
    return last if len(alike) == 1 and not last.isdecimal() else path


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("label") or value.get("name") or json.dumps(value, sort_keys=True, default=str))
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item) for item in value)}]"
    return str(value)


def renamed(name: str, path: str, old: Any, new: Any) -> str:
    """A name that a sweep made, after the field at ``path`` was changed: what it says of the field follows.

    A name that says nothing of the field comes back as it is.
    """
    for short in (path, path.rpartition(".")[2]):
        stated = re.compile(rf"(?<=[ ]){re.escape(f'{short}={_text(old)}')}(?=,|$| \(\d+\)$)")
        if found := stated.search(name):
            start, end = found.span()
            return f"{name[:start]}{short}={_text(new)}{name[end:]}"
    return name


def _origin(path: str, combination: Mapping[str, _Value]) -> str:
    """Where a problem of an experiment comes from: the value of the axis that it is of, else the base spec."""
    # The longest path first: of training and training.epochs, both varied, the nearer one is meant.
    for axis in sorted(combination, key=len, reverse=True):
        if path == axis or path.startswith(f"{axis}."):
            return combination[axis].origin + path.removeprefix(axis)
    for axis in combination:
        if axis.startswith(f"{path}."):
            return combination[axis].origin
    return f"experiment.{path}" if path else "experiment"
