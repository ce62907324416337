"""Methods compared over the test images, by a paired bootstrap: beside the test over seeds, and not instead of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from sqlalchemy.orm import Session

from backend import comparisons
from backend.comparisons.comparison import baseline_of, caveats
from backend.comparisons.groups import ComparisonSpec
from backend.comparisons.run_data import Sample, StudentRun
from backend.comparisons.tasks import title_of
from backend.db import models
from backend.errors import ApiError, invalid
from backend.predictions.image_scores import Bootstrap, ImageScores, ScoreCache, bootstrap_of
from backend.predictions.seeds import attempts_of
from common.formatting import count_text, difference_text, difference_unit
from core.catalog import METRICS
from core.items.table import ItemsError
from core.protocol.base import ProblemField
from core.protocol.over_images import ComparedOverImages, DifferenceOverImages, MethodOverImages, SeedOverImages

SECONDS = 3.0
"""Time after which a request evaluates no further run; what is not evaluated yet is evaluated by the next request."""
MOST_RUNS = 500
_FEW_IMAGES = 50

Pair = tuple[StudentRun, ImageScores, StudentRun, ImageScores]


@dataclass
class _Found:
    """The scores of an experiment's runs.

    Attributes:
        scores: Scores by run id.
        pending: Ids of runs that no request has evaluated yet.
        left_out: Why runs are left out, with their names.
    """

    scores: dict[str, ImageScores] = field(default_factory=dict)
    pending: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def compare(
    session: Session,
    cache: ScoreCache,
    experiments: Sequence[models.Experiment],
    baseline: str | None,
    *,
    seconds: float = SECONDS,
) -> ComparedOverImages:
    """Compare every method with the baseline, pair by pair and over all pairs.

    Args:
        session: Session for reading.
        cache: The scores of runs.
        experiments: Experiments that differ only in their seeds.
        baseline: Label of the method that the others are compared with; None for the first.
        seconds: Time for which the evaluation of runs is waited for.

    Raises:
        ApiError: 422 if the experiments cannot be compared, 404 if no run kept results of its test images.
    """
    sample = comparisons.sample_of(session, experiments)
    bootstrap = bootstrap_of(sample.task)
    if bootstrap is None:
        text = f"runs of {title_of(sample.task)} keep no results by test image that could be resampled"
        raise invalid(text, ProblemField(path="experiment", message=text))
    base = baseline_of(sample, baseline)
    ended = {run.run_id: None for run in sample.students if run.state == "succeeded" and not run.set_aside}
    if len(ended) > MOST_RUNS:
        text = f"at most {MOST_RUNS} runs are compared over images, and these are {len(ended):,}"
        raise invalid(text, ProblemField(path="experiment", message=text))
    by_label = {
        label: {key: run for key, run in runs.items() if run.run_id in ended}
        for label, runs in sample.by_label(ended).items()
    }
    pairs = {
        label: [(runs[key], by_label[base][key]) for key in sample.keys if key in runs and key in by_label[base]]
        for label, runs in by_label.items()
        if label != base
    }
    wanted = {run.run_id: run for of_method in pairs.values() for pair in of_method for run in reversed(pair)}
    found = _evaluate(session, cache, bootstrap, wanted, seconds)
    if wanted and not found.scores and not found.pending:
        raise ApiError(404, "; ".join(found.left_out))
    metric = METRICS[sample.headline]
    unit = difference_unit(metric.unit)
    images = next((scores.images for scores in found.scores.values()), 0)
    return ComparedOverImages(
        baseline=base,
        metric=sample.headline,
        title=metric.title,
        unit=metric.unit,
        images=images,
        resamples=bootstrap.resamples,
        evaluated=len(found.scores),
        pending=len(found.pending),
        methods=[
            _method(label, sample.labels[label], base, _usable(of_method, found), bootstrap, unit)
            for label, of_method in pairs.items()
        ],
        notes=_notes(sample, found, bootstrap, images),
    )


def _evaluate(
    session: Session, cache: ScoreCache, bootstrap: Bootstrap, wanted: dict[str, StudentRun], seconds: float
) -> _Found:
    """Evaluate runs until the time is over, those of the first pair first."""
    attempts = attempts_of(session, wanted)
    found = _Found()
    until, data = monotonic() + seconds, ""
    evaluated = False
    for run_id, run in wanted.items():
        attempt = attempts[run_id]
        scores = cache.known(run_id, attempt)
        if scores is None and evaluated and monotonic() > until:
            found.pending.append(run_id)
            continue
        try:
            if scores is None:
                evaluated = True
                scores = cache.evaluate(bootstrap, run_id, attempt, until)
            if scores is None:
                found.pending.append(run_id)
                continue
            data = data or scores.data
            if scores.data != data:
                raise ItemsError("their test images, the labels of these or their classes differ from the first run's")
        except ItemsError as error:
            found.left_out.setdefault(str(error), []).append(f"{run.label} seed {run.seed}")
            continue
        found.scores[run_id] = scores
    return found


def _usable(pairs: Sequence[tuple[StudentRun, StudentRun]], found: _Found) -> list[Pair]:
    scores = found.scores
    return [
        (run, scores[run.run_id], base, scores[base.run_id])
        for run, base in pairs
        if run.run_id in scores and base.run_id in scores
    ]


def _method(
    label: str, method: str, baseline: str, pairs: Sequence[Pair], bootstrap: Bootstrap, unit: str
) -> MethodOverImages:
    alone = [
        SeedOverImages(
            **bootstrap.compare([own], [theirs]).model_dump(),
            seed=run.seed,
            teacher_seed=run.teacher_seed,
            run_id=run.run_id,
            baseline_run_id=base.run_id,
        )
        for run, own, base, theirs in pairs
    ]
    pooled = None
    if pairs:
        pooled = bootstrap.compare([own for _, own, _, _ in pairs], [theirs for _, _, _, theirs in pairs])
    images = pairs[0][1].images if pairs else 0
    return MethodOverImages(
        label=label,
        method=method,
        pooled=pooled,
        pairs=alone,
        sentence=_sentence(baseline, pooled, alone, images, unit),
    )


def _sentence(
    baseline: str, pooled: DifferenceOverImages | None, pairs: Sequence[SeedOverImages], images: int, unit: str
) -> str:
    if pooled is None:
        return f"No seed has a finished run of both this method and {baseline} with results of its test images."
    networks = "these two networks" if len(pairs) == 1 else f"these {count_text(2 * len(pairs), 'network')}"
    words = f" {unit}" if unit else ""
    text = difference_text(pooled.difference, pooled.interval)
    if pooled.interval is None:
        return f"The difference is {text}{words}, and no resample of the {count_text(images, 'image')} changes it."
    found = f"Over {count_text(images, 'test image')} the difference is {text}{words}"
    if pooled.interval.excludes_zero:
        sense = f"with other test images like these, {networks} would most likely differ in the same direction"
    else:
        sense = f"with other test images like these, {networks} could come out the other way round"
    alone = ""
    if len(pairs) > 1:
        excluding = sum(pair.interval is not None and pair.interval.excludes_zero for pair in pairs)
        alone = f" In {excluding} of {len(pairs)} seeds, the interval of the seed alone excludes zero."
    contains = "excludes" if pooled.interval.excludes_zero else "contains"
    return f"{found}; the interval {contains} zero: {sense}.{alone}"


def _notes(sample: Sample, found: _Found, bootstrap: Bootstrap, images: int) -> list[str]:
    notes = [
        f"Interval over images: the 95 % percentile bootstrap of {bootstrap.resamples:,} resamples, each of which "
        "draws the test images with replacement, the same for all runs.",
        "It says how much the difference would vary with other test images, for the networks as they were trained. It "
        "contains nothing of other seeds or teachers, so it cannot show that a method is better; the test over seeds "
        "asks that.",
        "Each interval is of one comparison alone: no verdict, and no correction for several.",
    ]
    if 0 < images < _FEW_IMAGES:
        notes.append(f"A bootstrap of {count_text(images, 'image')} is too narrow.")
    if bootstrap.note:
        notes.append(bootstrap.note)
    for reason, names in found.left_out.items():
        several = f" and {len(names) - 6} more" if len(names) > 6 else ""
        notes.append(f"Left out: {', '.join(names[:6])}{several}, because {reason}.")
    return [*notes, *caveats(sample, ComparisonSpec(sample.headline))]
