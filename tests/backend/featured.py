"""Files of penultimate features, as a run of classification leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.items.feature_file import encode_features
from core.items.features import (
    FEATURES_NAME,
    FINAL,
    MEASURES,
    FeatureImages,
    NetworkFeatures,
    RunFeatures,
    Snapshot,
)

CLASSES = ("cat", "dog", "owl")
LABELS = np.tile(np.arange(3), 4)
CORNERS = np.array([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]])


def snapshot(spread: float, seed: int, *, length: int = 4, scale: float = 3.0) -> Snapshot:
    """Return twelve features around a corner for each class; NC1 is the spread."""
    corners = np.zeros((3, length))
    corners[:, :4] = CORNERS
    noise = np.random.default_rng(seed).normal(size=(len(LABELS), length))
    values = scale * corners[LABELS] + spread * noise
    measures = dict.fromkeys(MEASURES, 0.5) | {"nc1": spread, "angle_mean": 118.25, "angle_least": 90.0}
    return Snapshot(values.astype(np.float16), np.array([-0.5, 0.0, np.nan], np.float16), measures)


def images(offset: int = 0) -> FeatureImages:
    """Return twelve images of three classes."""
    return FeatureImages(np.arange(len(LABELS)) + offset, LABELS, np.arange(3), measured=40, measured_classes=3)


def features(
    epochs: Sequence[int] = (1, 5, 10), *, teacher: bool = True, classes: tuple[str, ...] = CLASSES
) -> RunFeatures:
    """Return the features of a run, which come nearer to their corners with every epoch."""
    own = {epoch: snapshot(1 / (1 + at), seed=epoch) for at, epoch in enumerate(epochs)}
    networks = {"student": NetworkFeatures(images(), own)}
    if teacher:
        networks["teacher"] = NetworkFeatures(images(), {FINAL: snapshot(0.1, seed=0, length=6)})
    return RunFeatures(networks, "0123456789abcdef", "of a run", classes)


def write_features(folder: Path, found: RunFeatures) -> None:
    """Write the file into the folder of an attempt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FEATURES_NAME).write_bytes(encode_features(found))
