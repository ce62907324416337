"""Experiment specs: a data set, a teacher, a student, the methods to compare and the seeds to repeat them with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from core.catalog import DATASETS, UnknownNameError
from core.catalog.methods import TEACHER_METHOD
from core.catalog.taps import STRONG_LOGITS
from core.specs import int_ranges
from core.specs.components import (
    LABEL_LENGTH,
    DatasetRef,
    MethodRef,
    ModelRef,
    Resources,
    Seed,
    SpecModel,
    limit_length,
)
from core.specs.components import NAME_LENGTH as NAME_LENGTH
from core.specs.method_checks import method_problems
from core.specs.method_taps import reads_strong_view, tap_problems
from core.specs.momenta import optimizer_problems
from core.specs.presets import filled_in
from core.specs.problems import ProblemParts, validation_error
from core.specs.region_checks import region_problems, training_problems
from core.specs.run import RunSpec
from core.specs.seeds import UntilDecided, is_until_decided
from core.specs.teachers import MAX_TEACHERS, Ensemble, Path, TeacherSpec, changed, teacher_problems, walk
from core.specs.text_rules import require_visible
from core.specs.training import Training
from core.specs.tune import Tune, tune_problems
from core.specs.weights import network_problem

MAX_RUNS = 10_000
MAX_METHODS = 1000
MAX_SEEDS = 1000
MAX_TAGS = 20
TEACHER = "teacher"
STORED = {"stored": True}
"""Validation context of stored specs: texts that were accepted once stay valid, even if they would be refused now."""


def _visible(text: str, info: ValidationInfo) -> str:
    return text if info.context is STORED else require_visible(text)


def _visible_lines(text: str, info: ValidationInfo) -> str:
    return text if info.context is STORED else require_visible(text, lines=True)


def _addressable(name: str, info: ValidationInfo) -> str:
    dots = next((part for part in name.split("/") if part in (".", "..")), None)
    if dots is None or info.context is STORED:
        return name
    raise ValueError(f"{dots!r} means a folder in a URL, so an experiment of this name could not be requested")


Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$"), AfterValidator(_visible), AfterValidator(_addressable)]
SeedList = Annotated[tuple[Seed, ...], Field(min_length=1, max_length=MAX_SEEDS)]
_SEED_LIST: TypeAdapter[tuple[int, ...]] = TypeAdapter(SeedList)
Tag = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\s,]+$"), AfterValidator(_visible)]


def _labelled_twice(first: MethodRef, second: MethodRef) -> str:
    text = f"two methods are labelled {second.label!r}"
    if first.full_name != second.full_name or first.added != second.added:
        return f"{text}; give one of them another label"
    keys = dict.fromkeys((*second.params, *first.params))  # a parameter may be left out where it is off
    different = {key: second.params.get(key) for key in keys if second.params.get(key) != first.params.get(key)}
    if not different and first.regions != second.regions:
        return f"{text}; they differ in regions: give one of them another label"
    if not different:
        return f"{text} and have the same parameters; remove one, or give it another label"
    key, value = next(iter(different.items()))
    example = f"{second.label} {key}={value}"[:LABEL_LENGTH]
    return f"{text}; they differ in {', '.join(different)}: give one of them another label, such as {example!r}"


class StudentSpec(SpecModel):
    """The student: the network that every method trains."""

    model: ModelRef


@dataclass(frozen=True)
class PlannedRun:
    """A run in an experiment's plan.

    Attributes:
        label: The method's label, or "teacher", "teacher 2" …
        spec: The run's spec.
        path: The path of the teacher in the experiment's spec; empty for a student.
    """

    label: str
    spec: RunSpec
    path: Path = ()


class ExperimentSpec(SpecModel):
    """An experiment. Its methods share the seeds, so that the runs of two methods with one seed form a pair."""

    name: Name = Field(min_length=1, max_length=NAME_LENGTH, description="Unique name, which tables show.")
    preset: str = Field("", description="Protocol that supplies the fields that the spec leaves out.")
    notes: Annotated[str, AfterValidator(_visible_lines)] = Field("", max_length=10_000)
    tags: tuple[Tag, ...] = Field((), max_length=MAX_TAGS)
    priority: int = Field(0, ge=-100, le=100, description="Experiments of higher priority start first.")
    webhook: str | None = Field(
        None,
        max_length=1000,
        pattern=r"^https?://[^\s\x00]+$",
        description="URL that is notified when the experiment has finished, failed or stalled. The backend's settings "
        "must allow its host.",
    )
    dataset: DatasetRef
    teacher: TeacherSpec | None = None
    teachers: tuple[TeacherSpec, ...] = Field(
        (), max_length=MAX_TEACHERS, description="Several teachers in place of one."
    )
    ensemble: Ensemble | None = Field(None, description="How several teachers are combined; by default their mean.")
    student: StudentSpec
    methods: tuple[MethodRef, ...] = Field(min_length=1, description="Methods to compare; the first is the baseline.")
    seeds: SeedList | UntilDecided = Field(
        description="A list of seeds, a range that includes both ends (0..4, {from: 0, to: 4}), or as many seeds as "
        "are needed: {until: decided, first: 3, most: 20, difference: 0.5}.",
    )
    tune: Tune | None = Field(
        None,
        description="Choose the settings of every method on held-out images first, with the same number of trials for "
        "each: {trials: 8}.",
    )
    training: Training = Field(description="How the students are trained.")
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            return filled_in(data)
        except UnknownNameError as error:
            raise validation_error("ExperimentSpec", (("preset",), str(error), data.get("preset"))) from None

    @field_validator("methods", mode="before")
    @classmethod
    def _limit_methods(cls, methods: Any, info: ValidationInfo) -> Any:
        return limit_length(methods, info, MAX_METHODS)

    @field_validator("tags", mode="before")
    @classmethod
    def _limit_tags(cls, tags: Any, info: ValidationInfo) -> Any:
        return limit_length(tags, info, MAX_TAGS)

    @field_validator("seeds", mode="before")
    @classmethod
    def _expand_range(cls, seeds: Any, info: ValidationInfo) -> Any:
        # Validated here, because the paths of a union's problems would name its types.
        if is_until_decided(seeds):
            return UntilDecided.model_validate(seeds, context=info.context)
        expanded = limit_length(int_ranges.expand(seeds), info, MAX_SEEDS)
        if isinstance(expanded, list | tuple) and any(isinstance(seed, bool) for seed in expanded):
            return expanded  # StrictModel refuses it
        return _SEED_LIST.validate_python(expanded, context=info.context)

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, seeds: tuple[int, ...] | UntilDecided) -> tuple[int, ...] | UntilDecided:
        if isinstance(seeds, UntilDecided):
            return seeds
        repeated = [seed for seed, count in Counter(seeds).items() if count > 1]
        if repeated:
            raise ValueError(f"seed {repeated[0]} is given twice; equal seeds are one run, not two")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        """Refuse a spec whose parts do not fit together, with all problems at once."""
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        facts = DATASETS[self.dataset.name].facts(self.dataset.parsed_params)
        own = self.own_teachers
        if text := network_problem(self.student.model, self.dataset.name, facts):
            problems.append((("student", "model"), text, self.student.model.name))
        problems += self._ensemble_problems()
        problems += teacher_problems(own, self.dataset, facts, self.training)
        teacher_labels = [label for label, *_ in self._labelled_teachers()] or [TEACHER]
        labels: Counter[str] = Counter()
        for index, method in enumerate(self.methods):
            # Not in MethodRef: a run that was queued with such a label must still be read.
            if info.context is not STORED:
                try:
                    object.__setattr__(method, "label", require_visible(method.label))
                except ValueError as error:
                    problems.append((("methods", index, "label"), str(error), method.label))
            labels[method.label] += 1
            if method.label in teacher_labels:
                text = f"{method.label!r} is the label of the teacher's run; give the method another label"
                problems.append((("methods", index, "label"), text, method.label))
            if labels[method.label] == 2:
                first = next(other for other in self.methods if other.label == method.label)
                problems.append((("methods", index, "label"), _labelled_twice(first, method), method.label))
            in_method = [
                *tap_problems(method, self.student.model, own[0][1].model if len(own) == 1 else None),
                *method_problems(method, self.dataset, facts, self.training, has_teacher=bool(own)),
                *region_problems(method, self.dataset, self.student.model, [teacher.model for _, teacher in own]),
            ]
            problems += [(("methods", index, *path), text, value) for path, text, value in in_method]
        in_training = [
            *optimizer_problems(self.methods, self.training),
            *training_problems(self.training, self.dataset),
        ]
        problems += [(("training", *path), text, value) for path, text, value in in_training]
        if self.tune:
            until = self.until_decided
            problems += tune_problems(self.tune, self.dataset, until.seeds(until.most) if until else self.first_seeds)
        if self.until_decided and len(self.methods) == 1:
            text = "one method has no comparison to decide; list the seeds, or add a method to compare"
            problems.append((("seeds", "until"), text, "decided"))
        trials = self.tune.trials * len(self.tune.seeds) if self.tune else 0
        count = len(self.methods) * (self.most_seeds + trials)
        if count > MAX_RUNS:
            problems.append((("seeds",), f"{count} runs are more than the {MAX_RUNS} allowed in one experiment", count))
        if problems:
            raise validation_error("ExperimentSpec", *problems)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out ``teachers``, ``ensemble`` and ``tune`` where they are empty: most specs have no such fields."""
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name not in ("teachers", "ensemble", "tune") or value}

    def _ensemble_problems(self) -> Iterator[ProblemParts]:
        """Yield why the teachers cannot be combined."""
        if not self.teachers:
            if self.ensemble:
                text = "an ensemble is made of several teachers, which the field teachers lists"
                yield ("ensemble",), text, self.ensemble.by
            return
        if self.teacher:
            yield ("teachers",), "teacher and teachers exclude each other", len(self.teachers)
        if len(self.teachers) == 1:
            yield ("teachers",), "one teacher is no ensemble; name it as teacher", 1
        if self.ensemble and self.ensemble.weights and len(self.ensemble.weights) != len(self.teachers):
            text = f"{len(self.ensemble.weights)} weights for {len(self.teachers)} teachers"
            yield ("ensemble", "weights"), text, list(self.ensemble.weights)
        seen: dict[str, int] = {}
        for index, teacher in enumerate(self.teachers):
            if (first := seen.setdefault(teacher.model_dump_json(), index)) != index:
                text = f"this is the same teacher as teachers.{first}; a teacher counts once, give it a weight instead"
                yield ("teachers", index), text, teacher.model.name
        for index, method in enumerate(self.methods):
            read = {tap for member in method.members for tap in member.entry.taps_of(member.parsed_params).teacher}
            if read:
                what = "logits of a second view" if read == {STRONG_LOGITS} else "inner layers"
                text = f"{method.full_name} reads {what} of one teacher, and the spec has {len(self.teachers)}"
                yield ("methods", index), text, method.name

    @property
    def until_decided(self) -> UntilDecided | None:
        """When the experiment stops adding seeds; None if its seeds are fixed."""
        return self.seeds if isinstance(self.seeds, UntilDecided) else None

    @property
    def first_seeds(self) -> tuple[int, ...]:
        """The seeds that are trained in any case: all of a list, or those before the first look."""
        return self.seeds.seeds(self.seeds.first) if isinstance(self.seeds, UntilDecided) else self.seeds

    @property
    def most_seeds(self) -> int:
        """The greatest number of seeds that the experiment may come to."""
        return self.seeds.most if isinstance(self.seeds, UntilDecided) else len(self.seeds)

    @property
    def own_teachers(self) -> list[tuple[Path, TeacherSpec]]:
        """The teachers of the students with their paths."""
        if self.teacher:
            return [(("teacher",), self.teacher)]
        return [(("teachers", index), teacher) for index, teacher in enumerate(self.teachers)]

    def all_teachers(self) -> list[tuple[Path, TeacherSpec]]:
        """Return the teachers of the students, their teachers, and so on, with their paths."""
        return list(walk(self.own_teachers))

    def with_teachers(self, change: Callable[[Path, TeacherSpec], TeacherSpec]) -> Self:
        """Return the spec with a change of each teacher, which gets the teacher's path too."""
        teacher = changed(self.teacher, ("teacher",), change) if self.teacher else None
        teachers = tuple(changed(item, ("teachers", index), change) for index, item in enumerate(self.teachers))
        return self.model_copy(update={"teacher": teacher, "teachers": teachers})

    def _labelled_teachers(self) -> list[tuple[str, Path, TeacherSpec]]:
        """Return all teachers with their paths and the labels of their runs: "teacher", "teacher 2" …"""
        numbered = enumerate(self.all_teachers(), start=1)
        return [(f"{TEACHER} {n}" if n > 1 else TEACHER, path, teacher) for n, (path, teacher) in numbered]

    def teacher_runs(self) -> list[PlannedRun]:
        """Return the runs of all teachers, each once and after its own teacher; none if no method reads a teacher."""
        return self._plan_teachers()[0]

    def teacher_run(self) -> RunSpec | None:
        """Return the run of the students' teacher, of several the first; None if no method reads a teacher."""
        runs = self.teacher_runs()
        return runs[-1].spec if runs else None

    def _plan_teachers(self) -> tuple[list[PlannedRun], tuple[str, ...]]:
        """Return the runs of all teachers, and the fingerprints of the students' own teachers."""
        if not any(method.needs_teacher for method in self.methods):
            return [], ()
        planned: dict[str, PlannedRun] = {}
        fingerprints: dict[int, str] = {}
        for label, path, teacher in reversed(self._labelled_teachers()):
            method = teacher.method or MethodRef(name=TEACHER_METHOD)
            spec = RunSpec(
                role="teacher",
                dataset=self.dataset,
                model=teacher.model,
                method=method.model_copy(update={"label": label}),
                training=teacher.training_like(self.training),
                seed=teacher.seed,
                data_seed=teacher.seed,
                teacher=fingerprints[id(teacher.teacher)] if teacher.teacher else None,
                weights=teacher.weights,
            )
            fingerprints[id(teacher)] = fingerprint = spec.fingerprint()
            planned.setdefault(fingerprint, PlannedRun(label, spec, path))
        return list(planned.values()), tuple(fingerprints[id(teacher)] for _, teacher in self.own_teachers)

    def plan(self) -> list[PlannedRun]:
        """Return the runs of the teachers and then those of the first seeds, so that pairs finish together."""
        return [*self.teacher_runs(), *self.student_runs(self.first_seeds)]

    def student_runs(self, seeds: Iterable[int], labels: Collection[str] | None = None) -> list[PlannedRun]:
        """Return the students' runs, seed by seed.

        Args:
            seeds: The seeds.
            labels: Labels of the methods; None selects all.
        """
        _, teachers = self._plan_teachers()
        runs = []
        for seed in seeds:
            for method in self.methods:
                if labels is not None and method.label not in labels:
                    continue
                spec = RunSpec(
                    role="student",
                    dataset=self.dataset,
                    model=self.student.model,
                    method=method,
                    training=self.training if reads_strong_view(method) else self.training.without_strong_view(),
                    seed=seed,
                    data_seed=seed,
                    teacher=teachers[0] if method.needs_teacher else None,
                    further_teachers=teachers[1:] if method.needs_teacher else (),
                    ensemble=(self.ensemble or Ensemble()) if method.needs_teacher and len(teachers) > 1 else None,
                )
                runs.append(PlannedRun(method.label, spec))
        return runs
