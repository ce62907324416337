"""The predictions of the runs of an experiment, by method and seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend import comparisons
from backend.artifacts.run_results import RunResults
from backend.comparisons.run_data import Key, Sample, StudentRun
from backend.db import chunked, models
from backend.errors import ApiError, invalid
from backend.predictions.networks import NONE_KEPT, class_names, items_of
from core.catalog.tasks import CLASSIFICATION
from core.items.statistics import check_same_data
from core.items.table import Items, ItemsError
from core.protocol.base import ProblemField

_MOST_RUNS = 500


@dataclass
class Seeds:
    """The runs of an experiment that succeeded and kept their predictions on the same test images.

    Attributes:
        sample: All runs of the experiment.
        runs: The runs by label and pair.
        attempts: Their attempts, and those of the teachers' runs, by run id.
        left_out: Why runs are left out, with their names.
    """

    sample: Sample
    results: RunResults
    runs: dict[str, dict[Key, StudentRun]]
    attempts: Mapping[str, int]
    first: Items
    left_out: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def read(cls, session: Session, results: RunResults, experiments: Sequence[models.Experiment]) -> Seeds:
        """Read the runs, and which of them have usable files.

        Raises:
            ApiError: 422 if the experiments are not comparable, not of classification or too large; 404 if no run kept
                predictions.
        """
        sample = comparisons.sample_of(session, experiments)
        if sample.task.name != CLASSIFICATION.name:
            text = "predictions of one class for each image are compared for experiments of classification only"
            raise invalid(text, ProblemField(path="experiment", message=text))
        ended = {run.run_id: None for run in sample.students if run.state == "succeeded" and not run.set_aside}
        if len(ended) > _MOST_RUNS:
            text = f"predictions of at most {_MOST_RUNS} runs are compared, and these are {len(ended):,}"
            raise invalid(text, ProblemField(path="experiment", message=text))
        teachers = [teacher.run_id for teacher in sample.teachers if teacher.state == "succeeded"]
        attempts = attempts_of(session, [*ended, *teachers])
        kept: dict[str, dict[Key, StudentRun]] = {label: {} for label in sample.labels}
        left_out: dict[str, list[str]] = {}
        first: Items | None = None
        for label, runs in sample.by_label(ended).items():
            for key in (key for key in sample.keys if key in runs and runs[key].run_id in ended):
                run = runs[key]
                try:
                    items = items_of(results, run.run_id, attempts[run.run_id])
                    first = first or items
                    check_same_data(first, items)
                    if class_names(first) != class_names(items):
                        raise ItemsError("their classes differ")
                except ItemsError as error:
                    left_out.setdefault(str(error), []).append(f"{label} seed {run.seed}")
                    continue
                kept[label][key] = run
        if first is None:
            raise ApiError(404, _none(sample, left_out))
        return cls(sample, results, kept, attempts, first, left_out)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes."""
        return class_names(self.first)

    def items(self, run_id: str) -> Items:
        """Return the per-item results of a run.

        Raises:
            ItemsError: There are none, or they cannot be read.
        """
        return items_of(self.results, run_id, self.attempts[run_id])

    def of(self, label: str) -> dict[Key, StudentRun]:
        """Return the runs of a method by pair.

        Raises:
            ApiError: 422 if there is no such method.
        """
        if label not in self.runs:
            text = f"there is no method {label!r}; there are {', '.join(self.runs)}"
            raise invalid(text, ProblemField(path="label", message=text))
        return self.runs[label]

    def notes(self) -> list[str]:
        """Return which runs are left out, one sentence for each reason."""
        return [
            f"Left out: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}, because "
            + ("they kept no predictions (an older version trained them)" if reason == NONE_KEPT else reason)
            + "."
            for reason, names in self.left_out.items()
        ]


def _none(sample: Sample, left_out: Mapping[str, Sequence[str]]) -> str:
    """Return why there are no predictions at all."""
    if not left_out:
        return "no run of a method has succeeded yet, and predictions are written when a run succeeds"
    if list(left_out) == [NONE_KEPT]:
        return "the runs of this experiment kept no predictions of their test images: an older version trained them"
    return "; ".join(left_out)


def attempts_of(session: Session, run_ids: Iterable[str]) -> dict[str, int]:
    """Return the attempts of runs by run id."""
    found: dict[str, int] = {}
    for part in chunked(dict.fromkeys(run_ids)):
        query = select(models.Run.id, models.Run.attempt).where(models.Run.id.in_(part))
        found |= {row.id: row.attempt for row in session.execute(query)}
    return found
