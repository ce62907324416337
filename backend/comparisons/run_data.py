"""The runs, values and curves of a comparison. The number of queries does not depend on the number of runs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import chunked, models
from backend.metrics.point_store import decode, replace_nonfinite
from core.catalog import TaskEntry
from core.catalog.datasets import task_of
from core.events import IMAGES_KEY, rank_count
from core.protocol.base import TERMINAL, RunState
from core.specs.labels import combined_name, misleading_label_of

Key = tuple[str, int]
"""The key of a pair: the fingerprint of the experiment's teacher ("" without one), and the seed."""


@dataclass(frozen=True)
class ImageData:
    """The images that a run was trained and tested on, as far as the run recorded them.

    Attributes:
        images: Beginning of the SHA-256 of all images with their labels; "" if it was not recorded.
        train: Number of training images; 0 until the run has started.
        test: Number of test images; 0 until the run has started.
    """

    images: str = ""
    train: int = 0
    test: int = 0

    @classmethod
    def of(cls, row: Any) -> ImageData:
        """Return the data of a run's row."""
        return cls((row.environment or {}).get(IMAGES_KEY, ""), row.train_size or 0, row.test_size or 0)


@dataclass(frozen=True)
class TeacherRun:
    """The teacher of an experiment.

    Attributes:
        top1: Headline metric after the last epoch; None until the run has succeeded.
        other_data: Whether the teacher was tested on other images than the compared students; ``top1`` is then None.
    """

    run_id: str
    fingerprint: str
    seed: int
    state: RunState
    top1: float | None
    data: ImageData = ImageData()
    other_data: bool = False


@dataclass(frozen=True)
class StudentRun:
    """A run that is compared.

    Attributes:
        teacher: Teacher of the experiment, even if the run's method uses none: runs of one experiment form pairs.
        devices: Devices of the attempts, such as "cpu" or "cuda NVIDIA H200".
        set_aside: Reason why the run is not compared although it succeeded; empty if it is compared.
        other_data: Description of the run's data, if they are the reason; else empty.
    """

    run_id: str
    experiment: str
    label: str
    method: str
    seed: int
    teacher: TeacherRun | None
    state: RunState
    reason: str
    epochs: int
    test_size: int
    environment: Mapping[str, str]
    devices: tuple[str, ...]
    data: ImageData = ImageData()
    set_aside: str = ""
    other_data: str = ""

    @property
    def key(self) -> Key:
        return (self.teacher.fingerprint if self.teacher else "", self.seed)

    @property
    def teacher_seed(self) -> int | None:
        return self.teacher.seed if self.teacher else None

    @property
    def gpus(self) -> int | None:
        """Return the number of GPUs that the run was trained on; None if an attempt was not on GPUs."""
        if not self.devices or any(not device.startswith("cuda") for device in self.devices):
            return None
        return rank_count(self.environment)


@dataclass
class MetricCurve:
    """One metric of one run, one point per measurement, ordered by step."""

    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)

    def best(self) -> int | None:
        """Return the index of the greatest finite value, the earliest of equal ones; None if there is none."""
        indices = [index for index, value in enumerate(self.value) if math.isfinite(value)]
        return max(indices, key=self.value.__getitem__) if indices else None

    def at_step(self, step: int) -> float | None:
        return self.value[self.step.index(step)] if step in self.step else None


@dataclass(frozen=True)
class LatestPoint:
    """The newest point of a metric of a run."""

    epoch: float
    value: float


Curves = dict[str, dict[str, MetricCurve]]
"""Curves by run id and metric."""


@dataclass(frozen=True)
class Sample:
    """The runs of one experiment, or of several that are evaluated as one.

    Attributes:
        data: Data that are compared, if runs of other data were set aside or split off.
    """

    experiments: tuple[models.Experiment, ...]
    students: tuple[StudentRun, ...]
    teachers: tuple[TeacherRun, ...]
    data: ImageData = ImageData()

    @property
    def spec(self) -> dict[str, Any]:
        """Return the spec of the first experiment."""
        return self.experiments[0].spec

    @property
    def task(self) -> TaskEntry:
        """Return the task of the data set."""
        return task_of(self.spec["dataset"]["name"] if self.experiments else "")

    @property
    def headline(self) -> str:
        """Return the name of the metric that results are judged by."""
        return self.experiments[0].headline if self.experiments else self.task.headline

    @property
    def labels(self) -> dict[str, str]:
        """Return the names of the methods by label, in the order of the specs; of a combination all its names."""
        return {choice["label"]: combined_name(choice) for item in self.experiments for choice in item.spec["methods"]}

    def label_of(self, name: str) -> str:
        """Return the label that a person means by a name, which may be of no method."""
        return name

    @property
    def notes(self) -> list[str]:
        """Return what holds for a sample of this kind, one sentence each."""
        return []

    @property
    def misnamed(self) -> list[str]:
        """Return a sentence for each label that names another method or reduction than its run has."""
        return [
            f"In {item.name} {text}."
            for item in self.experiments
            for choice in item.spec["methods"]
            if (text := misleading_label_of(choice))
        ]

    @property
    def grows(self) -> bool:
        """Return whether seeds are, or were, added until comparisons are decided."""
        return any(item.decides for item in self.experiments)

    @property
    def complete(self) -> bool:
        if any(item.seeds_open for item in self.experiments):
            return False
        states = [student.state for student in self.students] + [teacher.state for teacher in self.teachers]
        return bool(states) and all(state in TERMINAL for state in states)

    @property
    def teachers_vary(self) -> bool:
        return len({student.key[0] for student in self.students if not student.set_aside}) > 1

    @property
    def keys(self) -> list[Key]:
        """Return the key of every pair, in the order of the specs."""
        return list(dict.fromkeys(student.key for student in self.students))

    def by_label(self, values: Mapping[str, Any]) -> dict[str, dict[Key, StudentRun]]:
        """Return one run per method and pair: the first that has a value, else the first that succeeded."""
        by_label: dict[str, dict[Key, StudentRun]] = {label: {} for label in self.labels}
        for student in self.students:
            runs = by_label[student.label]
            other = runs.get(student.key)
            if other is None or _rank(student, values) < _rank(other, values):
                runs[student.key] = student
        return by_label


def _rank(student: StudentRun, values: Mapping[str, Any]) -> int:
    if student.run_id in values:
        return 0
    return 1 if student.state == "succeeded" else 2 if student.state not in TERMINAL else 3


def load(session: Session, experiments: Sequence[models.Experiment]) -> dict[str, Sample]:
    """Read the runs of each experiment, by the experiment's id."""
    run, link = models.Run, models.ExperimentRun
    names = {item.id: item.name for item in experiments}
    rows: list[Any] = []
    devices: dict[str, list[str]] = {}
    for part in chunked(names):
        linked = link.experiment_id.in_(part) & link.trial.is_(False)
        rows += session.execute(
            select(
                link.experiment_id,
                link.label,
                run.id,
                run.role,
                run.state,
                run.reason,
                run.seed,
                run.method,
                run.fingerprint,
                run.total_epochs,
                run.train_size,
                run.test_size,
                run.environment,
            )
            .join(run, run.id == link.run_id)
            .where(linked)
            .order_by(link.experiment_id, link.position)
        )
        attempts = select(models.Attempt.run_id, models.Attempt.device).join(link, link.run_id == models.Attempt.run_id)
        for run_id, device in session.execute(attempts.where(linked).distinct()):
            if device:
                devices.setdefault(run_id, []).append(plain_device(device))
    succeeded = [row.id for row in rows if row.role == "teacher" and row.state == "succeeded"]
    headlines = {item.id: item.headline for item in experiments}
    latest_points = latest(session, succeeded, sorted({*headlines.values()}))
    teacher_rows: dict[str, list[Any]] = {}
    for row in rows:
        if row.role == "teacher":
            teacher_rows.setdefault(row.experiment_id, []).append(row)
    several = {item.id for item in experiments if item.spec.get("teachers")}
    teachers = {
        key: _teacher_run(found, latest_points, headlines[key], is_ensemble=key in several)
        for key, found in teacher_rows.items()
    }
    students: dict[str, list[StudentRun]] = {key: [] for key in names}
    for row in rows:
        if row.role == "student":
            student = StudentRun(
                run_id=row.id,
                experiment=names[row.experiment_id],
                label=row.label,
                method=row.method,
                seed=row.seed,
                teacher=teachers.get(row.experiment_id),
                state=row.state,
                reason=row.reason,
                epochs=row.total_epochs,
                test_size=row.test_size,
                environment=row.environment,
                devices=tuple(sorted(set(devices.get(row.id, ())))),
                data=ImageData.of(row),
            )
            students[row.experiment_id].append(student)
    return {
        item.id: Sample((item,), tuple(students[item.id]), (teachers[item.id],) if item.id in teachers else ())
        for item in experiments
    }


def _teacher_run(
    rows: Sequence[Any], latest_points: Mapping[str, Mapping[str, LatestPoint]], headline: str, *, is_ensemble: bool
) -> TeacherRun:
    """Return the teacher of an experiment's students.

    Args:
        rows: The runs of all its teachers; the last is the students' own, of several their first.
        latest_points: The newest points of their metrics.
        headline: Name of the headline metric.
        is_ensemble: Whether the students have several teachers. No run measures the accuracy of these together.
    """
    own = rows[-1]
    top1 = _finite(latest_points.get(own.id, {}).get(headline))
    if not is_ensemble:
        return TeacherRun(own.id, own.fingerprint, own.seed, own.state, top1, ImageData.of(own))
    unfinished = next((row for row in rows if row.state != "succeeded"), own)
    fingerprint = "+".join(sorted(row.fingerprint for row in rows))
    return TeacherRun(own.id, fingerprint, own.seed, unfinished.state, None, ImageData.of(own))


def merge(samples: Sequence[Sample]) -> Sample:
    """Return several samples as one. They must differ only in their seeds (see ``experiment_keys.difference``)."""
    teachers = tuple({teacher.fingerprint: teacher for sample in samples for teacher in sample.teachers}.values())
    students = [student for sample in samples for student in sample.students]
    if len(teachers) == 1:
        # An experiment with cross-entropy alone trains no teacher; its runs form pairs with those of the only teacher.
        students = [student if student.teacher else replace(student, teacher=teachers[0]) for student in students]
    return Sample(tuple(item for sample in samples for item in sample.experiments), tuple(students), teachers)


def latest(session: Session, run_ids: Iterable[str], names: Sequence[str] | None) -> dict[str, dict[str, LatestPoint]]:
    """Read the newest point of each metric, by run id and then by metric; ``names=None`` selects all metrics."""
    newest, metric_name = models.MetricLatest, models.MetricName
    points: dict[str, dict[str, LatestPoint]] = {}
    for part in chunked(run_ids):
        query = (
            select(newest.run_id, metric_name.name, newest.epoch, newest.value, newest.kind)
            .join(metric_name, metric_name.id == newest.name_id)
            .where(newest.run_id.in_(part))
        )
        if names is not None:
            query = query.where(metric_name.name.in_(names))
        for run_id, metric, epoch, value, kind in session.execute(query):
            (finite_epoch,) = replace_nonfinite([epoch])
            points.setdefault(run_id, {})[metric] = LatestPoint(finite_epoch, decode(value, kind))
    return points


def curves(session: Session, run_ids: Iterable[str], names: Sequence[str]) -> Curves:
    """Read all points of metrics that are measured once per epoch, by run id and then by metric."""
    point, metric_name = models.MetricPoint, models.MetricName
    known = session.execute(select(metric_name.id, metric_name.name).where(metric_name.name.in_(names)))
    metric_by_id = {row.id: row.name for row in known}
    series: Curves = {}
    for part in chunked(run_ids) if metric_by_id else ():
        query = (
            select(point.run_id, point.name_id, point.step, point.epoch, point.elapsed, point.value, point.kind)
            .where(point.run_id.in_(part), point.name_id.in_(metric_by_id))
            .order_by(point.run_id, point.name_id, point.step)
        )
        for run_id, name_id, step, epoch, elapsed, value, kind in session.execute(query):
            if not (math.isfinite(epoch) and math.isfinite(elapsed)):  # stored by an older version
                continue
            curve = series.setdefault(run_id, {}).setdefault(metric_by_id[name_id], MetricCurve())
            curve.step.append(step)
            curve.epoch.append(epoch)
            curve.elapsed.append(elapsed)
            curve.value.append(decode(value, kind))
    return series


def _finite(point: LatestPoint | None) -> float | None:
    return point.value if point and math.isfinite(point.value) else None


def plain_device(device: str) -> str:
    """Return a device without the number of its card: two cards of one machine count as the same device."""
    return re.sub(r"^cuda:\d+", "cuda", device)
