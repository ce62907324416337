"""Which images a network was trained on, kept inside its weights' file.

A spec names a folder of images by its path, so its fingerprint cannot tell what lies in it. A teacher and its student
may be trained weeks or machines apart; what the teacher saw travels with its weights, and the student looks.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import safetensors

from core.data import Dataset
from core.data.identity import digest
from core.data.packing import decoded_by
from core.events import DECODING_KEY, IMAGES_KEY
from core.training.errors import TrainingError
from core.undecodable import openable

_CLASSES, _CONTENT = "dkd_classes", "dkd_content"


def origin_of(dataset: Dataset) -> dict[str, str]:
    """What a weights file should say of the images; nothing where their content is laid down by the data set's name."""
    if not dataset.content:
        return {}
    return {_CLASSES: json.dumps(dataset.classes), _CONTENT: dataset.content}


def images_of(dataset: Dataset) -> dict[str, str]:
    """For ``Started.environment``: what tells the images from others, and what decoded them where these are files.

    Images without a pack count by their bytes, which takes a second for a gigabyte.
    """
    if dataset.content:
        return {IMAGES_KEY: dataset.content[:16], DECODING_KEY: decoded_by()}
    parts = [digest(part) for split in (dataset.train, dataset.test) for part in (split.images, split.labels)]
    return {IMAGES_KEY: hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]}


def compare_origin(weights: Path, dataset: Dataset) -> str | None:
    """A warning where a teacher was trained on other images than these; None where it was not, or where nobody knows.

    Raises TrainingError where its classes are others, since its logits then are of something else.
    """
    try:
        with openable(weights) as name, safetensors.safe_open(name, framework="pt") as file:
            told = file.metadata() or {}
    except (OSError, safetensors.SafetensorError):
        return None  # whoever reads the weights themselves says so
    if not dataset.content or _CONTENT not in told or told[_CONTENT] == dataset.content:
        return None
    classes = tuple(json.loads(told[_CLASSES]))
    if classes != dataset.classes:
        missing, new = sorted(set(classes) - set(dataset.classes)), sorted(set(dataset.classes) - set(classes))
        changes = [f"{word} {', '.join(names[:10])}" for word, names in (("without", missing), ("with", new)) if names]
        raise TrainingError(
            "spec",
            f"the teacher was trained on other classes; these are {' and '.join(changes) or 'in another order'}. Give "
            "the data set a folder of another name, so that it gets a teacher of its own",
        )
    return (
        "the teacher was trained on other images than this run: the files of the data set have changed since, or are "
        "not the same on its worker; what is compared here was not taught alike"
    )
