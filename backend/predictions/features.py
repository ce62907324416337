"""Replies about the penultimate features that a run kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from backend.artifacts.finished_runs import unreadable
from backend.artifacts.run_results import RunResults
from backend.errors import ApiError, invalid
from backend.predictions.projections import Projector, explained, unavailable
from core.items.features import MEASURES, NetworkFeatures, RunFeatures
from core.items.table import ItemsError
from core.protocol import features as replies
from core.protocol.base import ProblemField
from core.protocol.features import FeatureNetwork, Projection

NONE_KEPT = (
    "this run kept no features of its test images: it is not of classification, its spec has features_every: 0, its "
    "training is too short for them to cost less than 2 % of it, or an older version trained it"
)
_STORED: Mapping[FeatureNetwork, str] = {"run": "student", "teacher": "teacher"}
_DIGITS = 4


def read(results: RunResults, run: tuple[str, int]) -> RunFeatures:
    """Return the features of a run.

    Args:
        results: The files of runs.
        run: Id and attempt of the run.

    Raises:
        ApiError: 404 if it kept none, 409 if its file is damaged.
    """
    try:
        found = results.features(*run)
    except ItemsError as error:
        raise unreadable(error) from error
    if found is None:
        raise ApiError(404, NONE_KEPT)
    return found


def summary(run_id: str, found: RunFeatures) -> replies.RunFeatures:
    """Return what a run kept."""
    own = found.networks["student"]
    return replies.RunFeatures(
        run_id=run_id,
        classes=_class_names(found, own),
        all_classes=max(len(found.classes), own.images.measured_classes),
        networks={
            name: _over_time(found.networks[stored]) for name, stored in _STORED.items() if stored in found.networks
        },
        unavailable=unavailable(),
    )


def feature_map(
    projector: Projector,
    run: tuple[str, int],
    found: RunFeatures,
    name: FeatureNetwork,
    projection: Projection,
    epoch: int | None,
) -> replies.FeatureMap:
    """Return the features of one network after one epoch.

    Args:
        projector: Makes the projections.
        run: Id and attempt of the run.
        found: Its features.
        name: Which of its networks.
        projection: How the features become points.
        epoch: The epoch; None for the last one.

    Raises:
        ApiError: 422 if there is no such network or epoch, or the projection is not available; 409 if a feature is not
            finite.
    """
    network = found.networks.get(_STORED[name])
    if network is None:
        text = "this run kept no features of a teacher"
        raise invalid(text, ProblemField(path="network", message=text))
    chosen = max(network.snapshots) if epoch is None else epoch
    if chosen not in network.snapshots:
        text = f"no features were kept after epoch {chosen}; they were after {_listed(sorted(network.snapshots))}"
        raise invalid(text, ProblemField(path="epoch", message=text))
    points = projector.points(run, name, network, projection, chosen)
    axes = projector.axes(run, name, network) if projection == "pca" else None
    return replies.FeatureMap(
        run_id=run[0],
        network=name,
        projection=projection,
        epoch=chosen,
        classes=_class_names(found, network),
        item=network.images.items.tolist(),
        label=np.searchsorted(network.images.classes, network.images.labels).tolist(),
        x=_rounded(points[:, 0]),
        y=_rounded(points[:, 1]),
        extent=None if axes is None else axes.extent,
        explained=None if axes is None else explained(network, chosen, axes),
        angles=angles(network.snapshots[chosen].cosines, len(network.images.classes)),
    )


def angles(cosines: NDArray[np.float16], size: int) -> list[list[float | None]]:
    """Return the angles between class means in degrees, (size, size); None where one is not defined.

    Args:
        cosines: (size·(size−1)/2,), the part above the diagonal.
        size: Number of classes.
    """
    matrix = np.eye(size)
    rows, columns = np.triu_indices(size, 1)
    matrix[rows, columns] = matrix[columns, rows] = cosines
    degrees = np.degrees(np.arccos(np.clip(matrix, -1, 1)))
    return [[round(value, 1) if np.isfinite(value) else None for value in row] for row in degrees.tolist()]


def _over_time(network: NetworkFeatures) -> replies.FeaturesOverTime:
    epochs = sorted(network.snapshots)
    kept = [network.snapshots[epoch] for epoch in epochs]
    return replies.FeaturesOverTime(
        length=kept[0].values.shape[1],
        images=len(network.images.items),
        measured=network.images.measured,
        measured_classes=network.images.measured_classes,
        epochs=epochs,
        measures={name: [_finite(one.measures.get(name, np.nan)) for one in kept] for name in MEASURES},
    )


def _class_names(found: RunFeatures, network: NetworkFeatures) -> list[str]:
    names = found.classes
    return [names[at] if 0 <= at < len(names) else str(at) for at in network.images.classes.tolist()]


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(value, _DIGITS) for value in values.tolist()]


def _listed(epochs: list[int]) -> str:
    shown = ", ".join(map(str, epochs[:30]))
    return shown if len(epochs) <= 30 else f"{shown} …"
