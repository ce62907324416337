"""Speed of convergence: epochs, seconds and GPU-seconds to a target of the headline metric, and the area below it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from backend.comparisons import statistics, timing
from backend.comparisons.run_data import Curves, Key, MetricCurve, StudentRun
from core.protocol.comparisons import Convergence, PairedConvergence, RunConvergence, UncountedRun


@dataclass(frozen=True)
class ConvergenceTarget:
    """The value of the headline metric that a run has to reach.

    Attributes:
        share: Share of the teacher's value after its last epoch; not used if ``absolute`` is given.
        absolute: The value.
    """

    share: float
    absolute: float | None = None

    def of(self, student: StudentRun) -> float | None:
        """Return the student's target; None until its teacher's value is known."""
        if self.absolute is not None:
            return self.absolute
        top1 = student.teacher.top1 if student.teacher else None
        return None if top1 is None else self.share * top1


def run_convergence(
    student: StudentRun, curve: MetricCurve, target: float, others: Mapping[str, MetricCurve] | None = None
) -> RunConvergence:
    """Return when a run's headline metric reached the target.

    Args:
        student: The run.
        curve: Headline metric of the run.
        target: Its value.
        others: Other curves of the run by metric, which give the time of the teacher's logits.
    """
    others = others or {}
    epochs = statistics.epochs_to_target(curve.epoch, curve.value, target)
    index = None if epochs is None else curve.epoch.index(epochs)
    seconds, step = (None, None) if index is None else (curve.elapsed[index], curve.step[index])
    gpus = student.gpus
    reached = RunConvergence(
        run_id=student.run_id,
        seed=student.seed,
        teacher_seed=student.teacher_seed,
        target=target,
        epochs=epochs,
        seconds=seconds,
        gpu_seconds=None if seconds is None or gpus is None else seconds * gpus,
        area=statistics.area_under(curve.epoch, curve.value) if student.state == "succeeded" else None,
    )
    return timing.with_teacher_time(reached, others.get(timing.TEACHER_SECONDS), others.get(timing.REUSED), step)


def convergence_by_pair(
    students: Iterable[StudentRun], series: Curves, headline: str, goal: ConvergenceTarget
) -> dict[Key, RunConvergence]:
    """Return the convergence of each run by pair, for runs that succeeded or that failed after a measurement.

    Args:
        students: Runs of one method.
        series: Curves by run and metric.
        headline: Name of the metric that has to reach the target.
        goal: The target.
    """
    reached: dict[Key, RunConvergence] = {}
    for student in students:
        measured = series.get(student.run_id, {})
        target = goal.of(student)
        ended = student.state in ("succeeded", "failed") and not student.set_aside
        if headline in measured and target is not None and ended:
            reached[student.key] = run_convergence(student, measured[headline], target, measured)
    return reached


def summarize(
    students: Sequence[StudentRun], reached: Mapping[Key, RunConvergence], goal: ConvergenceTarget
) -> Convergence | None:
    """Summarize one method's convergence; None until a target is known for one of its runs."""
    targets = [target for student in students if not student.set_aside and (target := goal.of(student)) is not None]
    if not targets:
        return None
    runs = list(reached.values())
    areas = statistics.summarize([run.area for run in runs if run.area is not None])
    on_gpus = all(run.gpu_seconds is not None for run in runs if run.seconds is not None)
    return Convergence(
        target=math.fsum(targets) / len(targets),
        reached=sum(run.epochs is not None for run in runs),
        of=len(runs),
        median_epochs=statistics.median_epochs([run.epochs for run in runs]),
        max_epochs=max(student.epochs for student in students),
        median_seconds=statistics.median_epochs([timing.seconds_of(run) for run in runs]),
        median_gpu_seconds=statistics.median_epochs([timing.gpu_seconds_of(run) for run in runs]) if on_gpus else None,
        area=areas.mean,
        area_sd=areas.sd,
        runs=runs,
        not_succeeded=[
            UncountedRun(
                run_id=student.run_id,
                seed=student.seed,
                teacher_seed=student.teacher_seed,
                state=student.state,
                reason=student.reason,
                counted=student.key in reached,
            )
            for student in students
            if student.state != "succeeded"
        ],
    )


def compare(
    method: Mapping[Key, RunConvergence], base: Mapping[Key, RunConvergence], *, timed: bool = True
) -> PairedConvergence | None:
    """Compare the convergence of two methods pair by pair.

    A run that never reached the target counts as later than any run that did, so the sign of every difference is known
    and the sign test is exact; the size of a difference is known only if both runs reached the target. If teachers
    vary, a teacher is the unit of the test: it counts as earlier if more of its pairs are earlier than later.

    Args:
        method: Convergence of the method's runs by pair.
        base: Convergence of the baseline's runs by pair.
        timed: Whether times may be compared; otherwise there is no ratio of times.

    Returns:
        None if no pair has ended.
    """
    keys = [key for key in method if key in base]
    if not keys:
        return None
    signs = {key: _sign(_epochs_or_inf(method[key]), _epochs_or_inf(base[key])) for key in keys}
    earlier, later = _counts(signs.values())
    units = statistics.by_block(signs)
    units_earlier, units_later = _counts(units)
    reached_keys = [key for key in keys if method[key].epochs is not None and base[key].epochs is not None]
    # The area is of whole curves; if teachers vary it is averaged by teacher, like every other mean.
    areas = {key: (method[key].area, base[key].area) for key in keys}
    differences = statistics.by_block(
        {key: one - other for key, (one, other) in areas.items() if one is not None and other is not None}
    )
    area = statistics.summarize(differences)
    return PairedConvergence(
        n=len(keys),
        earlier=earlier,
        later=later,
        equal=len(keys) - earlier - later,
        units=len(units),
        units_earlier=units_earlier,
        units_later=units_later,
        sign_p=statistics.sign_test_p(units_earlier, units_later),
        both_reached=len(reached_keys),
        speed_up=_ratio([base[key].epochs for key in reached_keys], [method[key].epochs for key in reached_keys]),
        speed_up_seconds=_ratio(
            [timing.seconds_of(base[key]) for key in reached_keys],
            [timing.seconds_of(method[key]) for key in reached_keys],
        )
        if timed
        else None,
        area_difference=area.mean,
        area_interval=area.interval,
        area_sign_flip_p=statistics.sign_flip_p(differences),
    )


def _sign(one: float, other: float) -> float:
    """Return -1 if ``one`` is earlier, 1 if it is later, 0 if both are equal."""
    return float((one > other) - (one < other))


def _counts(signs: Iterable[float]) -> tuple[int, int]:
    """Return the number of earlier and of later units."""
    values = list(signs)
    return sum(sign < 0 for sign in values), sum(sign > 0 for sign in values)


def _epochs_or_inf(run: RunConvergence) -> float:
    return math.inf if run.epochs is None else run.epochs


def _ratio(numerators: Sequence[float | None], denominators: Sequence[float | None]) -> float | None:
    """Return the ratio of the medians; None without values, or if the denominator's median is 0."""
    upper = [value for value in numerators if value is not None]
    lower = [value for value in denominators if value is not None]
    return median(upper) / median(lower) if upper and lower and median(lower) > 0 else None
