"""Random objects and detections of them, with the cases that evaluations treat differently."""

from __future__ import annotations

import numpy as np

from core.items.boxes import Detections, GroundTruth

CLASSES = ("cell", "disc", "speck", "never there", "only ignored")


def random_truth(seed: int, images: int = 30, *, crowds: bool = True) -> GroundTruth:
    """Objects of all sizes; some images are empty, one class has no object and one has only ignored ones."""
    generator = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), generator.integers(0, 9, images) * (generator.random(images) < 0.8))
    count = len(image)
    labels = generator.choice([1, 2, 3, 5], count, p=[0.5, 0.3, 0.1, 0.1])
    boxes = _boxes(generator, count)
    ignored = (generator.random(count) < 0.15) | (labels == 5)
    crowd = ignored & (generator.random(count) < 0.5)
    sides = boxes[:, 2:] - boxes[:, :2]
    # The mask of an object takes a part of its box.
    area = (sides[:, 0] * sides[:, 1] * generator.uniform(0.5, 1, count)).astype(np.float32)
    return GroundTruth(
        image.astype(np.int64),
        boxes,
        labels.astype(np.int64),
        ignored,
        area,
        images,
        CLASSES,
        np.arange(images, dtype=np.int64) * 7 + 3,
        crowd if crowds else None,
    )


def random_detections(truth: GroundTruth, seed: int, *, noise: float = 0.15, per_image: int = 40) -> Detections:
    """Objects moved by noise, some of them twice or in another class, and boxes where there is nothing.

    Scores have two digits, so that many are equal.
    """
    generator = np.random.default_rng(seed)
    copies = np.repeat(np.arange(len(truth)), generator.integers(0, 4, len(truth)))
    near = truth.boxes[copies]
    sides = np.tile(near[:, 2:] - near[:, :2], (1, 2))
    near = near + (noise * sides * generator.standard_normal(near.shape)).astype(np.float32)
    near = np.concatenate([np.minimum(near[:, :2], near[:, 2:]), np.maximum(near[:, :2], near[:, 2:]) + 1], 1)
    labels = np.where(generator.random(len(copies)) < 0.8, truth.labels[copies], generator.integers(1, 6, len(copies)))
    anywhere = generator.integers(0, truth.images, truth.images * per_image // 4)
    image = np.concatenate([truth.image[copies], anywhere])
    boxes = np.concatenate([near, _boxes(generator, len(anywhere))]).astype(np.float32)
    labels = np.concatenate([labels, generator.integers(1, 6, len(anywhere))])
    scores = generator.random(len(image)).round(2).astype(np.float32)
    order = np.lexsort((-scores, image))
    found = Detections(image[order].astype(np.int64), boxes[order], labels[order].astype(np.int64), scores[order])
    return found.best(per_image)


def _boxes(generator: np.random.Generator, count: int) -> np.ndarray:
    corner = generator.uniform(0, 300, (count, 2))
    size = np.exp(generator.uniform(np.log(8), np.log(250), (count, 2)))
    return np.concatenate([corner, corner + size], 1).astype(np.float32)
