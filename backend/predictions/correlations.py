"""Maps of how much the correlations of logits differ, from the files of runs."""

from __future__ import annotations

from backend.artifacts.finished_runs import unreadable
from backend.artifacts.run_results import RunResults
from backend.errors import ApiError, invalid
from backend.predictions import measures
from backend.predictions.networks import TEACHER
from core.items.correlations import MOST_CLASSES, Correlations
from core.items.table import ItemsError
from core.protocol.base import ProblemField
from core.protocol.predictions import CorrelationDifference

NONE_KEPT = (
    "this run kept no correlations of its logits: an older version trained it, or it has more than "
    f"{MOST_CLASSES:,} classes"
)


def run_reply(results: RunResults, run: tuple[str, int], other: tuple[str, int] | None) -> CorrelationDifference:
    """Return the map of a run against its teacher, or against another run.

    Args:
        results: The files of runs.
        run: Id and attempt of the run.
        other: Id and attempt of the run that it is compared with; None for its teacher.

    Raises:
        ApiError: 404 if a run kept no correlations or has no teacher, 422 if two runs are not comparable, 409 if a
            file is damaged.
    """
    found = _read(results, *run)
    if other is None:
        if "teacher" not in found.networks:
            raise ApiError(404, "this run has no teacher to compare correlations with")
        difference = measures.correlation_difference(found)
        return measures.correlation_reply(run[0], TEACHER, found.classes, [difference])
    second = _read(results, *other)
    if found.images != second.images or found.size != second.size or found.classes != second.classes:
        text = "the runs cannot be compared: their test images or their classes differ"
        raise invalid(text, ProblemField(path="against", message=text))
    difference = measures.correlation_difference(found, second)
    return measures.correlation_reply(run[0], other[0], found.classes, [difference])


def _read(results: RunResults, run_id: str, attempt: int) -> Correlations:
    try:
        found = results.correlations(run_id, attempt)
    except ItemsError as error:
        raise unreadable(error) from error
    if found is None:
        raise ApiError(404, NONE_KEPT)
    return found
