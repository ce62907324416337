"""Checks of a spec that need the data set, made before the first step and not after hours of training."""

from __future__ import annotations

import copy

import torch

from core.catalog import MODELS, DatasetFacts
from core.errors import TrainingError
from core.specs import RunSpec
from core.specs.method_checks import problems_of_data
from core.tasks.classification.data import Dataset
from core.tasks.classification.models import Network


def check_dataset_fits(spec: RunSpec, dataset: Dataset) -> None:
    """Check that the data set has enough classes and large enough images for the method and the model.

    Only the worker knows some data sets, for example a folder of images.

    Raises:
        TrainingError: The data set does not fit.
    """
    facts = DatasetFacts(
        dataset.num_classes, dataset.channels, dataset.image_size, len(dataset.train), len(dataset.test)
    )
    for path, text, _ in problems_of_data(spec.method, spec.dataset, spec.training, facts):
        raise TrainingError("spec", f"{'.'.join(map(str, ('method', *path)))}: {text}")
    min_size = MODELS[spec.model.name].min_image_size
    if dataset.image_size < min_size:
        text = f"{spec.model.name} needs images of at least {min_size} px; {spec.dataset.name} has {dataset.image_size}"
        raise TrainingError("spec", f"{text} px")


def check_last_batch(spec: RunSpec, dataset: Dataset, model: Network) -> None:
    """Check that batch norm can compute statistics of the last batch of an epoch, which may be a single image.

    The network and torch's random state stay as they are.

    Raises:
        TrainingError: A batch or a micro-batch is one image, and batch norm would see one value per channel.
    """
    size, channels = dataset.image_size, dataset.channels
    training = spec.training
    if training.smallest_micro_batch(len(dataset.train)) != 1:
        return
    trial = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial(torch.zeros(1, channels, size, size))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        divided = f", each divided into {training.accumulate} micro-batches," if training.accumulate > 1 else ""
        what, advice = ("micro-batch", "a smaller accumulate") if divided else ("last batch", "another batch_size")
        text = (
            f"{len(dataset.train)} training images in batches of {training.batch_size}{divided} leave a {what} of a "
            f"single image, from which the batch norm of {spec.model.name} can learn nothing at {size} px; choose "
            f"{advice}"
        )
        raise TrainingError("spec", text) from error
