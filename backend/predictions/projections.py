"""Features as points in a plane: PCA by NumPy, t-SNE by scikit-learn, and UMAP if umap-learn is installed.

Every projection has a fixed seed. The axes of PCA are fitted to the last epoch of a network and used at all of its
epochs, so that a point moves only where its features do. t-SNE and UMAP are computed for each epoch alone, and begin
with the points of PCA, so that the parts of neighbouring epochs lie in similar places.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.errors import ApiError, conflict, invalid
from core.items.features import NetworkFeatures
from core.protocol.base import ProblemField
from core.protocol.features import FeatureNetwork, Projection

Points = NDArray[np.float64]
Key = tuple[str, int, FeatureNetwork, Projection, int]

_PACKAGES: Mapping[Projection, tuple[str, str]] = {
    "tsne": ("sklearn", "scikit-learn"),
    "umap": ("umap", "umap-learn"),
}
_NAMES: Mapping[Projection, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}
_SEED = 0
_PERPLEXITY, _NEIGHBOURS = 30.0, 15
_ITERATIONS = 500
_LEAST_IMAGES = 5
_MOST_KEPT = 1_000
"""Projections that are kept in memory; one of 500 images has 8 kB."""
_MOST_AXES = 200
"""Networks whose axes are kept; those of 4,096 features have 64 kB."""


@dataclass(frozen=True)
class Axes:
    """The axes of a network's PCA.

    Attributes:
        directions: (D, 2), the two directions of largest variance of the last epoch.
        extent: Largest absolute coordinate of any epoch.
    """

    directions: Points
    extent: float


def unavailable() -> dict[Projection, str]:
    """Return the projections that cannot be made here, and which package is missing."""
    return {
        projection: f"{_NAMES[projection]} needs the Python package {package} on the machine of the backend: "
        f"pip install {package}"
        for projection, (module, package) in _PACKAGES.items()
        if importlib.util.find_spec(module) is None
    }


def fit_axes(network: NetworkFeatures) -> Axes:
    """Return the axes of PCA, fitted to the last epoch.

    Raises:
        ValueError: A feature is not finite.
    """
    centred = _centred(network, max(network.snapshots))
    _, _, found = np.linalg.svd(centred, full_matrices=False)
    directions = np.zeros((centred.shape[1], 2))
    directions[:, : min(2, len(found))] = found[:2].T
    # The sign of a direction has no meaning; its largest component is made positive, so that it is always the same.
    largest = directions[np.abs(directions).argmax(0), [0, 1]]
    directions *= np.where(largest < 0, -1.0, 1.0)
    extents = [np.abs(_centred(network, epoch) @ directions).max(initial=0.0) for epoch in network.snapshots]
    return Axes(directions, float(max(extents)))


def explained(network: NetworkFeatures, epoch: int, axes: Axes) -> float | None:
    """Return the share of an epoch's variance along the axes; None if there is no variance."""
    centred = _centred(network, epoch)
    total = float(np.square(centred).sum())
    return float(np.square(centred @ axes.directions).sum()) / total if total else None


def _centred(network: NetworkFeatures, epoch: int) -> Points:
    """Return the features of an epoch around their mean (n, D).

    Raises:
        ValueError: A feature is not finite.
    """
    values = network.snapshots[epoch].values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"some features after epoch {epoch} are not finite")
    centred: Points = values - values.mean(0)
    return centred


class Projector:
    """Makes projections, and keeps the last ones in memory. Slow ones are made one at a time."""

    def __init__(self) -> None:
        self._lock, self._slow = threading.Lock(), threading.Lock()
        self._axes: OrderedDict[tuple[str, int, FeatureNetwork], Axes] = OrderedDict()
        self._points: OrderedDict[Key, Points] = OrderedDict()

    def axes(self, run: tuple[str, int], name: FeatureNetwork, network: NetworkFeatures) -> Axes:
        """Return the axes of a network's PCA.

        Args:
            run: Id and attempt of the run.
            name: Which of its networks.
            network: Its features.

        Raises:
            ApiError: 409 if a feature is not finite.
        """
        key = (*run, name)
        with self._lock:
            if key not in self._axes:
                try:
                    self._axes[key] = fit_axes(network)
                except ValueError as error:
                    raise conflict(f"the features of this run cannot be shown: {error}") from error
                while len(self._axes) > _MOST_AXES:
                    self._axes.popitem(last=False)
            return self._axes[key]

    def points(
        self, run: tuple[str, int], name: FeatureNetwork, network: NetworkFeatures, projection: Projection, epoch: int
    ) -> Points:
        """Return the points of an epoch (n, 2). The other arguments are those of ``axes``.

        Raises:
            ApiError: 422 if the projection is not available or there are too few images, 409 if a feature is not
                finite.
        """
        key: Key = (*run, name, projection, epoch)
        axes = self.axes(run, name, network)
        with contextlib.nullcontext() if projection == "pca" else self._slow:
            with self._lock:
                found = self._points.get(key)
            if found is None:
                found = _project(_centred(network, epoch), axes.directions, projection)
            with self._lock:
                self._points[key] = found
                self._points.move_to_end(key)
                while len(self._points) > _MOST_KEPT:
                    self._points.popitem(last=False)
        return found


def _project(centred: Points, directions: Points, projection: Projection) -> Points:
    points: Points = centred @ directions
    if projection == "pca":
        return points
    if missing := unavailable().get(projection):
        raise _refused(missing)
    if len(points) < _LEAST_IMAGES:
        raise _refused(f"{_NAMES[projection]} needs at least {_LEAST_IMAGES} images, and this run kept {len(points)}")
    scale = points[:, 0].std()
    if not scale:
        return np.zeros_like(points)  # all features are equal
    start = points / scale
    return _tsne(centred, start) if projection == "tsne" else _umap(centred, start)


def _tsne(centred: Points, start: Points) -> Points:
    # Imported here, because it takes a second, and a backend without it serves everything else.
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(centred) - 1) / 3)
    model = TSNE(
        perplexity=perplexity, init=1e-4 * start, random_state=_SEED, max_iter=_ITERATIONS, learning_rate="auto"
    )
    found: Points = model.fit_transform(centred.astype(np.float32)).astype(np.float64)
    return _around_zero(found)


def _around_zero(points: Points) -> Points:
    centred: Points = points - points.mean(0)
    return centred


def _umap(centred: Points, start: Points) -> Points:
    from umap import UMAP

    neighbours = min(_NEIGHBOURS, len(centred) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that a seed makes it use one thread
        model = UMAP(n_neighbors=neighbours, init=10 * start.astype(np.float32), random_state=_SEED, n_jobs=1)
        found: Points = np.asarray(model.fit_transform(centred.astype(np.float32)), np.float64)
    return _around_zero(found)


def _refused(text: str) -> ApiError:
    return invalid(text, ProblemField(path="projection", message=text))
