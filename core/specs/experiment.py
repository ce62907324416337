"""Experiment specs: a data set, a teacher, a student, the methods to compare and the seeds to repeat them with."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from core.catalog import DATASETS, DatasetFacts, UnknownNameError
from core.catalog.augmentations import Stage
from core.catalog.methods import TEACHER_METHOD, MethodContext
from core.specs import int_ranges
from core.specs.augment import augmentations_of
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
from core.specs.presets import apply_preset
from core.specs.problems import validation_error
from core.specs.run import RunSpec
from core.specs.text_rules import require_visible
from core.specs.training import Training
from core.specs.weights import Weights, size_problem, weights_problems

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
Tag = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\s,]+$"), AfterValidator(_visible)]


def _labelled_twice(first: MethodRef, second: MethodRef) -> str:
    text = f"two methods are labelled {second.label!r}"
    if first.full_name != second.full_name or first.added != second.added:
        return f"{text}; give one of them another label"
    keys = dict.fromkeys((*second.params, *first.params))  # a parameter may be left out where it is off
    different = {key: second.params.get(key) for key in keys if second.params.get(key) != first.params.get(key)}
    if not different:
        return f"{text} and have the same parameters; remove one, or give it another label"
    key, value = next(iter(different.items()))
    example = f"{second.label} {key}={value}"[:LABEL_LENGTH]
    return f"{text}; they differ in {', '.join(different)}: give one of them another label, such as {example!r}"


def method_context(training: Training, facts: DatasetFacts | None) -> MethodContext:
    """Return what a method's warnings and problems may depend on.

    Args:
        training: How the students are trained.
        facts: What is known of the data set; None if only the worker can know it.
    """
    mixes = next((ref.name for ref in augmentations_of(training.augment) if ref.entry.stage is Stage.MIX), "")
    return MethodContext(
        training.epochs,
        training.batch_size,
        facts.num_classes if facts else None,
        facts,
        mixes,
    )


class TeacherSpec(SpecModel):
    """The teacher of the distilled students. It is trained once by cross-entropy and shared by equal specs."""

    model: ModelRef
    weights: Weights | None = Field(None, description="Existing weights, which are used as they are or fine-tuned.")
    training: Training | None = Field(None, description="How the teacher is trained; if left out, like the students.")
    seed: Seed = Field(0, description="Seed of its initialisation and its data order.")


class StudentSpec(SpecModel):
    """The student: the network that every method trains."""

    model: ModelRef


@dataclass(frozen=True)
class PlannedRun:
    """A run in an experiment's plan.

    Attributes:
        label: The method's label, or "teacher".
        spec: The run's spec.
    """

    label: str
    spec: RunSpec


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
    student: StudentSpec
    methods: tuple[MethodRef, ...] = Field(min_length=1, description="Methods to compare; the first is the baseline.")
    seeds: tuple[Seed, ...] = Field(
        min_length=1,
        max_length=MAX_SEEDS,
        description="A list of seeds, or a range that includes both ends: 0..4, {from: 0, to: 4}.",
    )
    training: Training = Field(description="How the students are trained.")
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            return apply_preset(data)
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
        return limit_length(int_ranges.expand(seeds), info, MAX_SEEDS)

    @field_validator("seeds")
    @classmethod
    def _unique_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        repeated = [seed for seed, count in Counter(seeds).items() if count > 1]
        if repeated:
            raise ValueError(f"seed {repeated[0]} is given twice; equal seeds are one run, not two")
        return seeds

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> Self:
        problems: list[tuple[tuple[int | str, ...], str, Any]] = []
        facts = DATASETS[self.dataset.name].facts(self.dataset.parsed_params)
        models: list[tuple[tuple[int | str, ...], ModelRef]] = [(("student", "model"), self.student.model)]
        if self.teacher:
            models.append((("teacher", "model"), self.teacher.model))
            if self.teacher.weights:
                problems += weights_problems(self.teacher.model, self.teacher.weights, facts)
        if facts:
            for path, model in models:
                if text := size_problem(model, self.dataset.name, facts):
                    problems.append((path, text, model.name))
        context = method_context(self.training, facts)
        labels: Counter[str] = Counter()
        for index, method in enumerate(self.methods):
            # Not in MethodRef: a run that was queued with such a label must still be read.
            if info.context is not STORED:
                try:
                    object.__setattr__(method, "label", require_visible(method.label))
                except ValueError as error:
                    problems.append((("methods", index, "label"), str(error), method.label))
            labels[method.label] += 1
            if method.label == TEACHER:
                text = f"{TEACHER!r} is the label of the teacher's run; give the method another label"
                problems.append((("methods", index, "label"), text, method.label))
            if labels[method.label] == 2:
                first = next(other for other in self.methods if other.label == method.label)
                problems.append((("methods", index, "label"), _labelled_twice(first, method), method.label))
            problems += tap_problems(index, method, self.student.model, self.teacher.model if self.teacher else None)
            of_method = method_problems(
                method, self.dataset, facts, self.training, context, has_teacher=self.teacher is not None
            )
            problems += [(("methods", index, *path), text, value) for path, text, value in of_method]
        problems += optimizer_problems(self.methods, self.training)
        count = len(self.methods) * len(self.seeds)
        if count > MAX_RUNS:
            problems.append((("seeds",), f"{count} runs are more than the {MAX_RUNS} allowed in one experiment", count))
        if problems:
            raise validation_error("ExperimentSpec", *problems)
        return self

    def teacher_training(self) -> Training | None:
        """Return how the teacher is trained; None without a teacher."""
        if self.teacher is None:
            return None
        if self.teacher.weights and not self.teacher.weights.fine_tune:
            return Training(epochs=1)  # always the same, because nothing is trained
        # Without the measurements of the students, which would make it another teacher.
        return self.teacher.training or self.training.for_teacher()

    def teacher_run(self) -> RunSpec | None:
        """Return the teacher's run; None if no method needs a teacher."""
        training = self.teacher_training()
        if self.teacher is None or training is None:
            return None
        if not any(method.needs_teacher for method in self.methods):
            return None
        return RunSpec(
            role="teacher",
            dataset=self.dataset,
            model=self.teacher.model,
            method=MethodRef(name=TEACHER_METHOD, label=TEACHER),
            training=training,
            seed=self.teacher.seed,
            data_seed=self.teacher.seed,
            weights=self.teacher.weights,
        )

    def plan(self) -> list[PlannedRun]:
        """Return every run of the experiment: the teacher first, then seed by seed, so that pairs finish together."""
        teacher = self.teacher_run()
        runs = [PlannedRun(TEACHER, teacher)] if teacher else []
        fingerprint = teacher.fingerprint() if teacher else None
        for seed in self.seeds:
            for method in self.methods:
                spec = RunSpec(
                    role="student",
                    dataset=self.dataset,
                    model=self.student.model,
                    method=method,
                    training=self.training if reads_strong_view(method) else self.training.without_strong_view(),
                    seed=seed,
                    data_seed=seed,
                    teacher=fingerprint if method.needs_teacher else None,
                )
                runs.append(PlannedRun(method.label, spec))
        return runs
