"""Detection data sets: images with boxes, packed once, and the batches drawn from them.

What is done with unusual images and boxes, the same in every format:

- An object that is a crowd or difficult is kept as ignored: it is neither trained on nor counted as missed.
- An image without objects is kept, and trains as background.
- A box that reaches out of its image is cut off at the border, and counted in a message.
- A box without area, before or after that, is dropped, and counted in a message.
- Boxes are of the pixels as the file stores them. An EXIF orientation is not applied, unless the annotations give the
  image the size that it has after its rotation.
- An image whose size in the annotations is neither of the two is an error, and so is one that is missing or damaged.

Messages go to this module's logger.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from core.catalog import DATASETS
from core.catalog.datasets import SplitParams
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.holdout import held_out_indices
from core.tasks.detection.data.dataset import DetectionData, DetectionSplit
from core.tasks.detection.data.draws import HashedDraws
from core.undecodable import visible

__all__ = ["DatasetError", "DetectionData", "DetectionSplit", "HashedDraws", "load"]

_log = logging.getLogger(__name__)


def load(choice: DatasetRef, settings: TrainingSettings) -> DetectionData:
    """Read the detection set that a spec names, and hold out a validation split if the spec requests one.

    Args:
        choice: Name and parameters of the data set.
        settings: The folders of this machine.

    Raises:
        DatasetError: The data set is missing, incomplete, damaged, or differs from its catalog entry.
    """
    entry, params = DATASETS[choice.name], choice.parsed_params
    try:
        loader = entry.load()
        data: DetectionData = loader(params, settings) if entry.reads_files else loader(params)
    except OSError as error:
        raise DatasetError(f"{choice.name} cannot be read: {visible(str(error))}") from error
    if isinstance(params, SplitParams) and params.val_fraction:
        data = hold_out(data, params.val_fraction, params.val_seed)
        if params.evaluate == "validation" and data.val is not None:
            data = replace(data, test=data.val, val=None)
    for name, split in (("training", data.train), ("test", data.test), ("validation", data.val)):
        if split is not None and not split.objects.usable:
            count = len(split.objects.labels)
            boxes = f"{count} boxes, all of them crowds or difficult" if count else "no boxes with an area within them"
            raise DatasetError(
                f"{choice.name}'s {name} split has no box that can be learnt or found: its {len(split)} images have "
                f"{boxes}"
            )
    facts = entry.facts(params)
    if facts:
        if data.num_classes != facts.num_classes:
            text = f"{choice.name} has {data.num_classes} classes with background"
            raise DatasetError(
                f"{text}, but the catalog says {facts.num_classes}; if it is another data set, name its folder as path"
            )
        if (len(data.train), len(data.test)) != (facts.train_size, facts.test_size):
            _log.warning(
                "%s is not complete here: %d training and %d test images instead of %d and %d",
                *(choice.name, len(data.train), len(data.test), facts.train_size, facts.test_size),
            )
    return data


def hold_out(data: DetectionData, fraction: float, seed: int) -> DetectionData:
    """Return the data set with ``round(fraction · N)`` of its training images as ``val``.

    The images with the smallest hashes of the seed are held out, the same in every run of an experiment. An image has
    objects of several classes, so the classes are not balanced.

    Raises:
        DatasetError: One of the splits would be empty.
    """
    train = data.train
    held_out = held_out_indices(np.zeros(len(train), np.int64), fraction, seed)
    if not 0 < len(held_out) < len(train):
        raise DatasetError(f"val_fraction {fraction} of {len(train)} training images leaves a split empty")
    remaining = np.setdiff1d(np.arange(len(train)), held_out)
    return replace(data, train=train.subset(remaining), val=train.subset(held_out))
