"""The fake backend's predictions of runs: those of ``tests.backend.predicted``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backend.predictions import measures
from backend.predictions.images import ImageFilter, image_page
from backend.predictions.networks import NONE_KEPT, TEACHER, Compared, class_names, of_teacher, own
from core.items.table import Items
from core.protocol.comparisons import Interval
from core.protocol.predictions import (
    ClassOverSeeds,
    ComparedPredictions,
    MethodPredictions,
    SeedsSummary,
    TeacherPredictions,
)
from core.protocol.public import Experiment
from tests.dashboard.fake_server import Refused

DIFFERENCE = np.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.3, 0.0]])


def reply(
    run_id: str,
    predictions: Mapping[str, Items],
    pictures: Mapping[int, bytes],
    parts: Sequence[str],
    one: Mapping[str, str],
) -> Any:
    """Return the reply to a request below ``/runs/{id}/predictions``.

    Args:
        run_id: The run.
        predictions: Per-item results by run.
        pictures: Pictures of every run.
        parts: The rest of the path.
        one: The query.
    """
    found = _compared(run_id, predictions, one.get("against"))
    match parts:
        case []:
            return measures.run_reply(run_id, found, len(pictures))
        case ["confusion"]:
            return measures.confusion_reply(run_id, found.reference, found.classes, [found], int(one["limit"]))
        case ["correlations"]:
            return measures.correlation_reply(run_id, found.reference, found.classes, [DIFFERENCE])
        case ["images"]:
            kind, label, predicted = one.get("kind"), one.get("label"), one.get("predicted")
            wanted = ImageFilter(kind, label, predicted, float(one["margin"]), one["pictured"] == "true")  # type: ignore[arg-type]
            after, limit = int(one.get("cursor", -1)), int(one["limit"])
            page, last = image_page(run_id, found, wanted, {run_id: set(pictures)}, after, limit)
            return page.model_copy(update={"next_cursor": None if last is None else str(last)})
    raise Refused(404, "nothing there")


def compared(
    experiment: Experiment, predictions: Mapping[str, Items], parts: Sequence[str], one: Mapping[str, str]
) -> Any:
    """Return the reply to a request below ``/comparisons/predictions``, with invented intervals."""
    runs = {run.id: run for run in experiment.runs if run.id in predictions}
    if not runs:
        raise Refused(404, "the runs of this experiment kept no predictions of their test images")
    items = next(iter(predictions.values()))
    names = class_names(items)
    match parts:
        case []:
            summary = SeedsSummary(n=2, mean=-10.0, interval=Interval(low=-15.0, high=-5.0))
            baseline = one.get("baseline", experiment.methods[0])
            return ComparedPredictions(
                baseline=baseline,
                classes=list(names),
                images=len(items),
                images_by_class=measures.by_class(own(items), len(names))[:, 0].tolist(),
                methods=[
                    MethodPredictions(
                        label=label,
                        method=label,
                        runs={run.seed: run.id for run in runs.values() if run.label == label},
                        by_class=[
                            ClassOverSeeds(
                                accuracy=SeedsSummary(n=2, mean=50.0 + at, interval=None),
                                to_baseline=None if label == baseline else summary,
                                to_teacher=SeedsSummary(n=2, mean=1.0, interval=None),
                            )
                            for at in range(len(names))
                        ],
                        calibration=measures.network_reply(own(items), len(names)).calibration or [],
                        ece=SeedsSummary(n=2, mean=4.0, interval=None),
                        correlation=SeedsSummary(n=2, mean=0.2, interval=None),
                        correlation_to_baseline=None if label == baseline else summary,
                    )
                    for label in experiment.methods
                ],
                teacher=TeacherPredictions(by_class=[75.0] * len(names), calibration=[]),
                notes=["A note of the test."],
            )
        case ["confusion"]:
            run_id = next(run.id for run in runs.values() if run.label == one["label"])
            found = _compared(run_id, predictions, None)
            return measures.confusion_reply(one["label"], one.get("against", TEACHER), names, [found, found], 100)
        case ["correlations"]:
            return measures.correlation_reply(one["label"], TEACHER, names, [DIFFERENCE, DIFFERENCE])
    raise Refused(404, "nothing there")


def _compared(run_id: str, predictions: Mapping[str, Items], against: str | None) -> Compared:
    if run_id not in predictions:
        raise Refused(404, NONE_KEPT)
    items = predictions[run_id]
    names = class_names(items)
    if against in (None, TEACHER):
        teacher = of_teacher(items)
        return Compared(own(items), teacher, TEACHER if teacher else "", names)
    if against not in predictions:
        raise Refused(404, NONE_KEPT)
    return Compared(own(items), own(predictions[against]), str(against), names)
