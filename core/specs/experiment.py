"""What a person writes: a data set, a teacher, a student, the methods to compare, the seeds to repeat them on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from core.catalog import DATASETS, METHODS, UnknownNameError
from core.specs import int_ranges
from core.specs.components import (
    LABEL_LENGTH,
    DatasetRef,
    MethodRef,
    ModelRef,
    Resources,
    Seed,
    SpecModel,
    Training,
    limit_length,
)
from core.specs.components import NAME_LENGTH as NAME_LENGTH
from core.specs.presets import apply_preset
from core.specs.problems import validation_error
from core.specs.run import RunSpec
from core.specs.text_rules import require_visible
from core.specs.weights import Weights, size_problem, weights_problems

MAX_RUNS = 10_000
MAX_METHODS = 1000
MAX_SEEDS = 1000
MAX_TAGS = 20
TEACHER = "teacher"
STORED = {"stored": True}
"""The context in which a spec is validated that was taken once: its texts are read, though they be refused by now."""


def _seen(text: str, info: ValidationInfo) -> str:
    return text if info.context is STORED else require_visible(text)


def _seen_lines(text: str, info: ValidationInfo) -> str:
    return text if info.context is STORED else require_visible(text, lines=True)


def _addressable(name: str, info: ValidationInfo) -> str:
    dots = next((part for part in name.split("/") if part in (".", "..")), None)
    if dots is None or info.context is STORED:
        return name
    raise ValueError(f"{dots!r} means a folder in an address, so that nothing by this name could be asked for")


Name = Annotated[str, Field(pattern=r"^\S(.*\S)?$"), AfterValidator(_seen), AfterValidator(_addressable)]
Tag = Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[^\s,]+$"), AfterValidator(_seen)]


def _labelled_twice(first: MethodRef, second: MethodRef) -> str:
    text = f"two methods are labelled {second.label!r}"
    if first.name != second.name:
        return f"{text}; give one of them a label of its own"
    apart = {key: value for key, value in second.params.items() if value != first.params.get(key)}
    if not apart:
        return f"{text} and have the same parameters; leave one out, or give it a label of its own"
    key, value = next(iter(apart.items()))
    example = f"{second.label} {key}={value}"[:LABEL_LENGTH]
    return f"{text}; they differ in {', '.join(apart)}: give one of them a label of its own, as {example!r}"


class TeacherSpec(SpecModel):
    """The teacher of every distilled student: trained once by cross-entropy, shared wherever the same is asked for."""

    model: ModelRef
    weights: Weights | None = Field(None, description="Weights from elsewhere: used as they are, or trained on.")
    training: Training | None = Field(None, description="How it is trained; left out, as the students are.")
    seed: Seed = Field(0, description="Of its initialisation and its data.")


class StudentSpec(SpecModel):
    model: ModelRef


@dataclass(frozen=True)
class PlannedRun:
    """A run of an experiment's plan.

    Attributes:
        label: the method's label, or "teacher".
        spec: what is trained.
    """

    label: str
    spec: RunSpec


class ExperimentSpec(SpecModel):
    """An experiment. Methods share the seeds, so that run i of one method and run i of another form a pair."""

    name: Name = Field(min_length=1, max_length=NAME_LENGTH, description="Unique; how tables name it.")
    preset: str = Field("", description="The protocol whose fields were filled in where the spec had none of its own.")
    notes: Annotated[str, AfterValidator(_seen_lines)] = Field("", max_length=10_000)
    tags: tuple[Tag, ...] = Field((), max_length=MAX_TAGS)
    priority: int = Field(0, ge=-100, le=100, description="Higher runs first.")
    webhook: str | None = Field(
        None,
        max_length=1000,
        pattern=r"^https?://[^\s\x00]+$",
        description="Whom to tell when it has finished, failed or stalled; a host that the backend's settings allow.",
    )
    dataset: DatasetRef
    teacher: TeacherSpec | None = None
    student: StudentSpec
    methods: tuple[MethodRef, ...] = Field(min_length=1, description="The first one is the baseline.")
    seeds: tuple[Seed, ...] = Field(
        min_length=1,
        max_length=MAX_SEEDS,
        description="A list, or a range with both ends in it: 0..4, {from: 0, to: 4}.",
    )
    training: Training = Field(description="How the students are trained.")
    resources: Resources = Field(default_factory=Resources)

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        try:
            return apply_preset(data)
        except UnknownNameError as error:
            raise validation_error("ExperimentSpec", (("preset",), str(error), data.get("preset"))) from None

    @field_validator("methods", mode="before")
    @classmethod
    def _few_methods(cls, methods: Any, info: ValidationInfo) -> Any:
        return limit_length(methods, info, MAX_METHODS)

    @field_validator("tags", mode="before")
    @classmethod
    def _few_tags(cls, tags: Any, info: ValidationInfo) -> Any:
        return limit_length(tags, info, MAX_TAGS)

    @field_validator("seeds", mode="before")
    @classmethod
    def _range(cls, seeds: Any, info: ValidationInfo) -> Any:
        return limit_length(int_ranges.expand(seeds), info, MAX_SEEDS)

    @field_validator("seeds")
    @classmethod
    def _no_seed_twice(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        twice = [seed for seed, count in Counter(seeds).items() if count > 1]
        if twice:
            raise ValueError(f"seed {twice[0]} is given twice; equal seeds are one run, not two")
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
        labels: Counter[str] = Counter()
        for index, method in enumerate(self.methods):
            entry = METHODS[method.name]
            # Here and not where a method is validated: a run that was queued under such a label is still a run.
            if info.context is not STORED:
                try:
                    object.__setattr__(method, "label", require_visible(method.label))
                except ValueError as error:
                    problems.append((("methods", index, "label"), str(error), method.label))
            labels[method.label] += 1
            if method.label == TEACHER:
                text = f"{TEACHER!r} is what the teacher's own run is called; give the method another label"
                problems.append((("methods", index, "label"), text, method.label))
            if labels[method.label] == 2:
                first = next(other for other in self.methods if other.label == method.label)
                problems.append((("methods", index, "label"), _labelled_twice(first, method), method.label))
            if entry.needs_teacher and not self.teacher:
                text = f"{method.name} needs a teacher, and the spec has none"
                problems.append((("methods", index), text, method.name))
            if facts and facts.num_classes < entry.min_classes:
                text = (
                    f"{method.name} compares the non-target classes with each other and needs at least "
                    f"{entry.min_classes} classes; {self.dataset.name} has {facts.num_classes}"
                )
                problems.append((("methods", index), text, method.name))
        count = len(self.methods) * len(self.seeds)
        if count > MAX_RUNS:
            problems.append((("seeds",), f"{count} runs are more than the {MAX_RUNS} allowed in one experiment", count))
        if problems:
            raise validation_error("ExperimentSpec", *problems)
        return self

    def teacher_training(self) -> Training | None:
        """How the teacher is trained, written out; None without a teacher."""
        if self.teacher is None:
            return None
        if self.teacher.weights and not self.teacher.weights.fine_tune:
            return Training(epochs=1)  # one and the same for all, since nothing is trained
        # It is trained alike whatever its students are tested on, so it stays the same teacher.
        return self.teacher.training or self.training.for_teacher()

    def teacher_run(self) -> RunSpec | None:
        """The teacher's training, where a method needs one."""
        training = self.teacher_training()
        if self.teacher is None or training is None:
            return None
        if not any(METHODS[method.name].needs_teacher for method in self.methods):
            return None
        return RunSpec(
            role="teacher",
            dataset=self.dataset,
            model=self.teacher.model,
            method=MethodRef(name="ce", label=TEACHER),
            training=training,
            seed=self.teacher.seed,
            data_seed=self.teacher.seed,
            weights=self.teacher.weights,
        )

    def plan(self) -> list[PlannedRun]:
        """Every run of the experiment: the teacher first, then seed by seed, so that pairs finish together."""
        teacher = self.teacher_run()
        runs = [PlannedRun(TEACHER, teacher)] if teacher else []
        for seed in self.seeds:
            for method in self.methods:
                distilled = METHODS[method.name].needs_teacher
                spec = RunSpec(
                    role="student",
                    dataset=self.dataset,
                    model=self.student.model,
                    method=method,
                    training=self.training,
                    seed=seed,
                    data_seed=seed,
                    teacher=teacher.fingerprint() if teacher and distilled else None,
                )
                runs.append(PlannedRun(method.label, spec))
        return runs
