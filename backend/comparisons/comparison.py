"""The comparison of the methods of one experiment, or of several experiments that differ only in their seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from sqlalchemy import and_, exists, select
from sqlalchemy.orm import Session

from backend.comparisons import (
    costs,
    experiment_keys,
    metric_selection,
    same_data,
    sequential,
    setting_differences,
    settings_apart,
    timing,
)
from backend.comparisons.convergence import ConvergenceTarget
from backend.comparisons.groups import ComparisonSpec, Method, decide_all, methods_of, paired, summarize_method
from backend.comparisons.metric_selection import SelectedValue
from backend.comparisons.run_data import ImageData, Sample, curves, load, merge
from backend.comparisons.tasks import refuse_several_tasks
from backend.db import models
from backend.errors import invalid
from core.catalog import METRICS, UnknownNameError
from core.catalog.metrics import metric_spellings
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.comparisons import EPOCH_CHOICES, Comparison, TeacherUsed
from core.protocol.public import ProblemField
from core.tuning.choice import Choice


def convergence_target(options: ComparisonOptions) -> ConvergenceTarget:
    """Return the target of convergence."""
    return ConvergenceTarget(options.target_share, options.target)


def sample_of(session: Session, experiments: Sequence[models.Experiment], *, settings: bool = False) -> Sample:
    """Read the runs of the experiments as one sample of one data set; runs that used other images are set aside.

    Args:
        session: Session for reading.
        experiments: The experiments.
        settings: Whether each is a setting of its own; then they may differ in everything but their data.

    Raises:
        ApiError: 422 if the experiments differ in more than seeds and labels; the answer names the difference, or
            the tasks if these differ.
    """
    refuse_several_tasks(experiments)
    if settings:
        settings_apart.refuse_other_data(experiments)
        by_id = load(session, list(dict.fromkeys(experiments)))
        return same_data.set_others_aside(settings_apart.apart(merge(list(by_id.values()))))
    first, *others = experiments
    for other in others:
        difference = experiment_keys.difference(first.spec, other.spec)
        if difference:
            text = f"{other.name} and {first.name} are not one experiment over more seeds: they differ in {difference}"
            raise invalid(text, ProblemField(path="experiment", message=text))
    by_id = load(session, list(dict.fromkeys(experiments)))
    return same_data.set_others_aside(merge(list(by_id.values())))


def compare(
    session: Session, experiments: Sequence[models.Experiment], options: ComparisonOptions | None = None
) -> Comparison:
    """Compare the methods of the experiments pair by pair.

    Args:
        session: Session for reading.
        experiments: Experiments that differ only in their seeds; they are evaluated as one.
        options: Baseline, metric, epoch and target.

    Raises:
        ApiError: 422 if the experiments lack the baseline or the metric, or differ in more than their seeds.
    """
    options = options or ComparisonOptions()
    target_rule = convergence_target(options)
    sample = sample_of(session, experiments, settings=options.settings)
    metric = options.metric or sample.headline
    spec = ComparisonSpec(
        metric, options.which, options.difference, by_looks=sample.grows and metric == sample.headline
    )
    baseline = baseline_of(sample, options.baseline)
    selected = metric_selection.select_values(session, sample, spec.metric, spec.which)
    refuse_unknown(session, sample, spec, selected)
    ended = [student.run_id for student in sample.students if student.state in ("succeeded", "failed")]
    counted = [student for student in sample.students if not student.set_aside]
    targets = [target for student in counted if (target := target_rule.of(student)) is not None]
    # These are read even without a target, because the rule for comparing times also applies to the curves over time.
    series = curves(session, ended, [sample.headline, timing.REUSED, timing.TEACHER_SECONDS])
    methods = methods_of(sample, selected, series, target_rule)
    first = sample.experiments[0]
    others = [method for method in methods.values() if method.label != baseline]
    looks = sequential.report(session, first) if sample.grows and len(sample.experiments) == 1 else None
    decides = spec.by_looks and spec.which == "last" and looks is not None and baseline == looks.baseline
    pairs = decide_all(
        [paired(method, methods[baseline], sample, spec) for method in others], spec, looks if decides else None
    )
    test_size = max((student.test_size for student in sample.students if not student.set_aside), default=0)
    scores = [teacher.top1 for teacher in sample.teachers if teacher.top1 is not None]
    return Comparison(
        experiment_id=first.id,
        experiment=first.name,
        experiments=[item.name for item in sample.experiments],
        metric=spec.metric,
        title=metric_selection.title_of(session, sample, [spec.metric])[spec.metric],
        unit=spec.unit,
        better=spec.better,
        epoch=options.which,
        test_size=test_size,
        resolution=100 / test_size if test_size and sample.task.headline_counts_images else None,
        teacher_top1=math.fsum(scores) / len(scores) if scores else None,
        headline_unit=METRICS[sample.headline].unit,
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
        groups=[summarize_method(method, sample, target_rule) for method in methods.values()],
        paired=pairs,
        tests=len(pairs) if decides else sum(pair.sign_flip_p is not None for pair in pairs),
        complete=sample.complete,
        condition=teacher_summary(sample),
        notes=[*notes(sample, methods, spec), *([looks.note] if looks and looks.note else [])],
        timing=methods[baseline].timing,
        costs=costs.method_costs(session, sample),
        data=same_data.describe(sample.data) if sample.data != ImageData() else "",
        set_aside=[student.run_id for student in sample.students if student.set_aside],
        sequential=looks,
        by_looks=decides,
        set_aside_data={student.run_id: student.other_data for student in sample.students if student.set_aside},
    )


def baseline_of(sample: Sample, label: str | None) -> str:
    """Return the label of the baseline; by default the first method.

    Raises:
        ApiError: 422 if there is no such method.
    """
    labels = list(sample.labels)
    if label is None:
        return labels[0]
    label = sample.label_of(label)
    if label not in labels:
        names = ", ".join(item.name for item in sample.experiments)
        text = f"there is no method {label!r} in {names}; it has {', '.join(labels)}"
        raise invalid(text, ProblemField(path="baseline", message=text))
    return label


def refuse_unknown(
    session: Session, sample: Sample, spec: ComparisonSpec, selected: Mapping[str, SelectedValue]
) -> None:
    """Refuse an unknown metric, and an epoch chosen by validation if no run has a validation split.

    Raises:
        ApiError: 422.
    """
    if spec.metric not in METRICS and not any(item.value is not None for item in selected.values()):
        table, name, link = models.MetricLatest, models.MetricName, models.ExperimentRun
        linked = select(link.run_id).where(link.experiment_id.in_([item.id for item in sample.experiments]))
        measured = and_(table.name_id == name.id, name.name == spec.metric, table.run_id.in_(linked))
        query = select(exists().where(measured))
        if not session.scalar(query):
            text = str(UnknownNameError("metric", spec.metric, metric_spellings()))
            raise invalid(text, ProblemField(path="metric", message=text))
    succeeded = [student for student in sample.students if student.state == "succeeded"]
    if spec.which == "best_val" and succeeded and not any(item.value is not None for item in selected.values()):
        reasons = {selected[student.run_id].reason for student in succeeded}
        if all(sample.task.validation in reason and "never" in reason for reason in reasons):
            text = (
                "no run has a validation split that an epoch could be chosen by; set dataset: {params: "
                "{val_fraction: 0.1}}, or compare the last epoch"
            )
            raise invalid(text, ProblemField(path="which", message=text))


def teacher_summary(sample: Sample) -> str:
    """Return a short description of the teachers on which the result is conditional."""
    seeds = [str(teacher.seed) for teacher in sample.teachers]
    if not seeds:
        return "training without a teacher"
    return f"{len(seeds)} teachers (seeds {', '.join(seeds)})" if len(seeds) > 1 else f"one teacher (seed {seeds[0]})"


def chosen_settings(sample: Sample) -> list[str]:
    """Return how settings were chosen, of experiments that chose them on held-out images."""
    return [
        f"{item.name}: {sentence}" if len(sample.experiments) > 1 else sentence
        for item in sample.experiments
        if item.choice and "error" not in item.choice
        for sentence in Choice.from_json(item.choice).sentences()
    ]


def caveats(sample: Sample, spec: ComparisonSpec) -> list[str]:
    """Return the conditions under which every number of the sample holds, one sentence each."""
    sentences = [
        *sample.notes,
        *chosen_settings(sample),
        *sample.misnamed,
        *same_data.notes(sample),
        *setting_differences.pooled(sample),
    ]
    if sample.teachers_vary:
        sentences.append(
            "Teachers vary, so a teacher is the unit: the pairs of each teacher are averaged before any statistic is "
            "computed."
        )
    elif sample.teachers:
        sentences.append(
            "The result is conditional on this teacher: the result with another teacher, or with another seed of this "
            "one, is unknown."
        )
    if spec.which != "last" or spec.is_oracle:
        sentences.append(f"Values are {EPOCH_CHOICES['oracle' if spec.is_oracle else spec.which]}.")
    sentences += sequential.notes(sample)
    return sentences


def notes(sample: Sample, methods: Mapping[str, Method], spec: ComparisonSpec) -> list[str]:
    """Return the notes below the numbers: caveats, missing values, times and repeated seeds, one sentence each."""
    sentences = caveats(sample, spec)
    succeeded = any(student.state == "succeeded" for student in sample.students)
    if succeeded and not any(method.values for method in methods.values()):
        reasons = {item.reason for method in methods.values() for item in method.selected.values() if item.reason}
        sentences.append(f"No run that succeeded has a value of {spec.metric}: {'; '.join(sorted(reasons))}.")
    if any(run.seconds is not None for method in methods.values() for run in method.reached.values()):
        basis = next(iter(methods.values())).timing
        sentences += timing.notes(basis, [run for method in methods.values() for run in method.reached.values()])
    counted = sum(len(method.runs) for method in methods.values())
    if counted < len(sample.students):
        extra = len(sample.students) - counted
        sentences.append(
            f"{extra} run(s) repeat a seed of the same method and teacher; the first that succeeded counts."
        )
    return sentences
