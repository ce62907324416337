"""The comparison of one experiment, or of several that differ in their seeds alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from backend.comparisons import experiment_keys, metric_selection, same_data, setting_differences, timing
from backend.comparisons.convergence import Goal
from backend.comparisons.groups import Method, Question, group, judged, methods_of, paired
from backend.comparisons.metric_selection import Picked
from backend.comparisons.run_data import ACCURACY, VALIDATION, Data, Sample, curves, load, merged
from backend.db import models
from backend.errors import invalid
from core.catalog import METRICS, UnknownNameError
from core.catalog.metrics import metric_spellings
from core.protocol.comparisons import EPOCH_CHOICES, Comparison, EpochChoice, TeacherUsed
from core.protocol.public import ProblemField


@dataclass(frozen=True)
class Options:
    """What is asked.

    Attributes:
        baseline: a method's label; None for the first experiment's first method.
        metric: whose value is compared.
        which: at which epoch.
        target_share: of the teacher's last test accuracy, to which convergence is measured.
        target: an accuracy in %, instead.
        difference: that one wants to be able to see, in the metric's unit.
    """

    baseline: str | None = None
    metric: str = ACCURACY
    which: EpochChoice = "last"
    target_share: float = 0.95
    target: float | None = None
    difference: float | None = None

    @property
    def goal(self) -> Goal:
        return Goal(self.target_share, self.target)

    @property
    def question(self) -> Question:
        return Question(self.metric, self.which, self.difference)


def sample_of(session: Session, experiments: Sequence[models.Experiment]) -> Sample:
    """The experiments' runs as one sample, of one data set: runs of other images are set aside.

    Raises ApiError 422 where they differ in more than seeds and labels, naming what.
    """
    first, *others = experiments
    for other in others:
        found = experiment_keys.difference(first.spec, other.spec)
        if found:
            text = f"{other.name} and {first.name} are not one experiment over more seeds: they differ in {found}"
            raise invalid(text, ProblemField(path="experiment", message=text))
    by_id = load(session, list(dict.fromkeys(experiments)))
    return same_data.of_one(merged(list(by_id.values())))


def build(session: Session, experiments: Sequence[models.Experiment], options: Options | None = None) -> Comparison:
    """Compare the methods pair by pair.

    Raises:
        ApiError: 422, for a baseline or a metric that the experiments do not have, or where they are not one.
    """
    options = options or Options()
    sample = sample_of(session, experiments)
    baseline = baseline_of(sample, options.baseline)
    picked = metric_selection.pick(session, sample, options.metric, options.which)
    refuse_unknown(session, sample, options, picked)
    ended = [student.run_id for student in sample.students if student.state in ("succeeded", "failed")]
    counted = [student for student in sample.students if not student.set_aside]
    targets = [goal for student in counted if (goal := options.goal.of(student)) is not None]
    # Also without a target, since curves over time are read by the same rule.
    series = curves(session, ended, [ACCURACY, timing.REUSED, timing.TEACHER_SECONDS])
    methods = methods_of(sample, picked, series, options.goal)
    question, first = options.question, sample.experiments[0]
    others = [method for method in methods.values() if method.label != baseline]
    pairs = judged([paired(method, methods[baseline], sample, question) for method in others], question)
    test_size = max((student.test_size for student in sample.students if not student.set_aside), default=0)
    tops = [teacher.top1 for teacher in sample.teachers if teacher.top1 is not None]
    return Comparison(
        experiment_id=first.id,
        experiment=first.name,
        experiments=[item.name for item in sample.experiments],
        metric=options.metric,
        title=metric_selection.title_of(session, sample, [options.metric])[options.metric],
        unit=question.unit,
        better=question.better,
        epoch=options.which,
        test_size=test_size,
        resolution=100 / test_size if test_size else None,
        teacher_top1=math.fsum(tops) / len(tops) if tops else None,
        teachers=[
            TeacherUsed(
                run_id=teacher.run_id,
                fingerprint=teacher.fingerprint,
                seed=teacher.seed,
                state=teacher.state,
                top1=teacher.top1,
            )
            for teacher in sample.teachers
        ],
        target_share=options.target_share,
        target=math.fsum(targets) / len(targets) if targets else None,
        absolute_target=options.target is not None,
        baseline=baseline,
        groups=[group(method, sample, options.goal) for method in methods.values()],
        paired=pairs,
        tests=sum(pair.sign_flip_p is not None for pair in pairs),
        complete=sample.complete,
        condition=teacher_summary(sample),
        notes=notes(sample, methods, question),
        timing=methods[baseline].timing,
        data=same_data.words(sample.data) if sample.data != Data() else "",
        set_aside=[student.run_id for student in sample.students if student.set_aside],
        set_aside_data={student.run_id: student.other_data for student in sample.students if student.set_aside},
    )


def baseline_of(sample: Sample, wanted: str | None) -> str:
    """The label of the method that others are compared with. Raises ApiError 422 where there is none such."""
    labels = list(sample.labels)
    if wanted is None:
        return labels[0]
    if wanted not in labels:
        names = ", ".join(item.name for item in sample.experiments)
        text = f"there is no method {wanted!r} in {names}; it has {', '.join(labels)}"
        raise invalid(text, ProblemField(path="baseline", message=text))
    return wanted


def refuse_unknown(session: Session, sample: Sample, options: Options, picked: Mapping[str, Picked]) -> None:
    """Raises ApiError 422 for a metric of no name, and for a choice by validation where nothing was held out."""
    if options.metric not in METRICS and not any(item.value is not None for item in picked.values()):
        table, name, used = models.MetricLatest, models.MetricName, models.ExperimentRun
        linked = select(used.run_id).where(used.experiment_id.in_([item.id for item in sample.experiments]))
        measured = and_(table.name_id == name.id, name.name == options.metric, table.run_id.in_(linked))
        query = select(exists().where(measured))
        if not session.scalar(query):
            text = str(UnknownNameError("metric", options.metric, metric_spellings()))
            raise invalid(text, ProblemField(path="metric", message=text))
    done = [student for student in sample.students if student.state == "succeeded"]
    if options.which == "best_val" and done and not any(item.value is not None for item in picked.values()):
        reasons = {picked[student.run_id].reason for student in done}
        if all(VALIDATION in reason and "never" in reason for reason in reasons):
            text = (
                "no run has a validation split to choose an epoch by; hold one out with dataset: {params: "
                "{val_fraction: 0.1}}, or compare the last epoch"
            )
            raise invalid(text, ProblemField(path="which", message=text))


def teacher_summary(sample: Sample) -> str:
    """What the result holds for, in a few words."""
    seeds = [str(teacher.seed) for teacher in sample.teachers]
    if not seeds:
        return "training without a teacher"
    return f"{len(seeds)} teachers (seeds {', '.join(seeds)})" if len(seeds) > 1 else f"one teacher (seed {seeds[0]})"


def caveats(sample: Sample, question: Question) -> list[str]:
    """What any number of the sample holds for."""
    found = [*sample.misnamed, *same_data.notes(sample), *setting_differences.pooled(sample)]
    if sample.teachers_vary:
        found.append(
            "Teachers vary, so a teacher is the unit: the pairs of each are averaged before anything is computed."
        )
    elif sample.teachers:
        found.append("Conditional on this teacher: what another one, or another seed of it, would give is not known.")
    if question.which != "last" or not question.tested:
        found.append(f"Values are {EPOCH_CHOICES['oracle' if not question.tested else question.which]}.")
    return found


def notes(sample: Sample, methods: Mapping[str, Method], question: Question) -> list[str]:
    """What a reader must know besides the numbers."""
    found = caveats(sample, question)
    succeeded = any(student.state == "succeeded" for student in sample.students)
    if succeeded and not any(method.values for method in methods.values()):
        reasons = {item.reason for method in methods.values() for item in method.picked.values() if item.reason}
        found.append(f"No run that succeeded has a value of {question.metric}: {'; '.join(sorted(reasons))}.")
    if any(run.seconds is not None for method in methods.values() for run in method.reached.values()):
        basis = next(iter(methods.values())).timing
        found += timing.notes(basis, [run for method in methods.values() for run in method.reached.values()])
    counted = sum(len(method.runs) for method in methods.values())
    if counted < len(sample.students):
        extra = len(sample.students) - counted
        found.append(f"{extra} run(s) repeat a seed of the same method and teacher; the first that succeeded counts.")
    return found
