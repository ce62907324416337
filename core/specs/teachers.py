"""The teachers of an experiment: one or several, each of which may be distilled from a teacher of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from core.catalog import DatasetFacts
from core.catalog.models import network_title
from core.specs.components import DatasetRef, MethodRef, ModelRef, Seed, SpecModel
from core.specs.method_checks import method_problems
from core.specs.method_taps import tap_problems
from core.specs.momenta import optimizer_problems
from core.specs.problems import ProblemParts
from core.specs.region_checks import region_problems, training_problems
from core.specs.training import Training
from core.specs.weights import Weights, network_problem, weights_problems

MAX_TEACHERS = 8
"""Teachers side by side."""
MAX_CHAIN = 10
"""Teachers one after another."""

Path = tuple[int | str, ...]


class TeacherSpec(SpecModel):
    """A teacher. It is trained once, by cross-entropy or by a method of its own, and shared by equal specs."""

    model: ModelRef
    weights: Weights | None = Field(None, description="Existing weights, which are used as they are or fine-tuned.")
    training: Training | None = Field(None, description="How the teacher is trained; if left out, like the students.")
    seed: Seed = Field(0, description="Seed of its initialisation and its data order.")
    method: MethodRef | None = Field(
        None, description="The method that the teacher is trained with; if left out, cross-entropy."
    )
    teacher: TeacherSpec | None = Field(
        None, description="The teacher's own teacher, if its method reads one: it is then a teacher assistant."
    )

    @model_serializer(mode="wrap")
    def _without_unset_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name not in ("method", "teacher") or value is not None}

    def training_like(self, students: Training) -> Training:
        """Return how the teacher is trained in an experiment whose students are trained like this."""
        if self.weights and not self.weights.fine_tune:
            return Training(epochs=1)  # always the same, because nothing is trained
        # Without the measurements of the students, which would make it another teacher.
        return self.training or students.for_teacher()


class Ensemble(SpecModel):
    """How the logits of several teachers become those of one. A bare name is short for one without weights."""

    by: Literal["mean", "weighted", "confidence"] = Field(
        "mean",
        description="mean: the mean of the logits. weighted: a mean with the given weights. confidence: a mean for "
        "each image, in which a teacher has more weight if its cross-entropy with the label is lower (arXiv "
        "2201.00007).",
    )
    weights: tuple[Annotated[float, Field(gt=0, le=1e6)], ...] = Field(
        (), max_length=MAX_TEACHERS, description="With weighted: the weight of each teacher; their sum may be anything."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _weights_where_they_count(self) -> Self:
        if (self.by == "weighted") != bool(self.weights):
            raise ValueError("weights belong to by: weighted, and only there")
        return self

    @model_serializer(mode="wrap")
    def _without_unset_fields(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        return {name: value for name, value in values.items() if name != "weights" or value}


def walk(teachers: Sequence[tuple[Path, TeacherSpec]]) -> Iterator[tuple[Path, TeacherSpec]]:
    """Yield teachers with their paths in the spec, each before its own teacher.

    Args:
        teachers: The students' own teachers with their paths.
    """
    for path, teacher in teachers:
        yield path, teacher
        if teacher.teacher:
            yield from walk([((*path, "teacher"), teacher.teacher)])


def changed(teacher: TeacherSpec, path: Path, change: Callable[[Path, TeacherSpec], TeacherSpec]) -> TeacherSpec:
    """Return a teacher with a change of it, of its teacher, and so on."""
    teacher = change(path, teacher)
    if teacher.teacher is None:
        return teacher
    return teacher.model_copy(update={"teacher": changed(teacher.teacher, (*path, "teacher"), change)})


def teacher_problems(
    teachers: Sequence[tuple[Path, TeacherSpec]],
    dataset: DatasetRef,
    facts: DatasetFacts | None,
    students: Training,
) -> Iterator[ProblemParts]:
    """Yield why teachers cannot be trained or used on a data set.

    Args:
        teachers: The students' own teachers with their paths.
        dataset: The data set.
        facts: What is known of it; None if only the worker can know it.
        students: How the students are trained.
    """
    for path, teacher in walk(teachers):
        if path.count("teacher") > MAX_CHAIN:
            yield path, f"more than {MAX_CHAIN} teachers one after another", teacher.model.name
            return
        if teacher.weights:
            yield from weights_problems(teacher.model, teacher.weights, facts, path)
        if text := network_problem(teacher.model, dataset.name, facts):
            yield (*path, "model"), text, teacher.model.name
        yield from _method_problems(path, teacher)
        if teacher.training:
            in_training = training_problems(teacher.training, dataset)
            yield from (((*path, "training", *field), problem, value) for field, problem, value in in_training)
        if teacher.method:
            own = [teacher.teacher.model] if teacher.teacher else []
            training = teacher.training_like(students)
            place: Path = (*path, "training") if teacher.training else ("training",)
            of_optimizer = optimizer_problems([teacher.method], training)
            yield from (((*place, *field), problem, value) for field, problem, value in of_optimizer)
            in_method = [
                *tap_problems(teacher.method, teacher.model, teacher.teacher.model if teacher.teacher else None),
                *method_problems(teacher.method, dataset, facts, training, has_teacher=True),
                *region_problems(teacher.method, dataset, teacher.model, own),
            ]
            yield from (((*path, "method", *field), problem, value) for field, problem, value in in_method)


def _method_problems(path: Path, teacher: TeacherSpec) -> Iterator[ProblemParts]:
    """Yield why a teacher's weights, its method and its own teacher do not go together."""
    needs_teacher = teacher.method is not None and teacher.method.needs_teacher
    name = teacher.method.full_name if teacher.method else ""
    if teacher.weights and not teacher.weights.fine_tune and (teacher.method or teacher.teacher):
        field = "method" if teacher.method else "teacher"
        yield (*path, field), "the weights are used as they are, so nothing is trained; set weights.fine_tune", name
    elif needs_teacher and teacher.teacher is None:
        yield (*path, "method"), f"{name} needs a teacher, and this teacher has none of its own", name
    elif teacher.teacher and not needs_teacher:
        trained = f"{name} reads no teacher" if name else "without a method, it is trained by cross-entropy"
        yield (*path, "teacher"), f"{trained}; give this teacher a method that reads its own teacher", name


def teacher_model(spec: Mapping[str, Any]) -> str | None:
    """Return the model of a stored spec's teacher, with ``+`` between several; None without a teacher."""
    teachers = [spec["teacher"]] if spec.get("teacher") else spec.get("teachers") or ()
    return " + ".join(teacher["model"]["name"] for teacher in teachers) or None


def teacher_title(spec: Mapping[str, Any]) -> str | None:
    """Return the title of the network of a stored spec's teacher, as ``teacher_model`` its name."""
    teachers = [spec["teacher"]] if spec.get("teacher") else spec.get("teachers") or ()
    return " + ".join(_title(teacher["model"]) for teacher in teachers) or None


def student_title(spec: Mapping[str, Any]) -> str:
    """Return the title of the network of a stored spec's students, such as "faster_rcnn resnet18"."""
    return _title(spec["student"]["model"])


def _title(model: Mapping[str, Any]) -> str:
    return network_title(model["name"], model.get("params") or {})
