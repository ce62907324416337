"""What a spec could not be checked for before the data set was read: found before the first step, not hours later."""

from __future__ import annotations

import copy

import torch

from core.catalog import METHODS, MODELS
from core.data import Dataset
from core.models import Network
from core.specs import RunSpec
from core.training.errors import TrainingError


def check_dataset_fits(spec: RunSpec, dataset: Dataset) -> None:
    """Where only the worker knows the data set, as with a folder of images: too few classes, or too small images.

    Raises TrainingError.
    """
    least_classes, least_size = METHODS[spec.method.name].min_classes, MODELS[spec.model.name].min_image_size
    if dataset.num_classes < least_classes:
        text = (
            f"{spec.method.name} needs at least {least_classes} classes; {spec.dataset.name} has {dataset.num_classes}"
        )
        raise TrainingError("spec", text)
    if dataset.image_size < least_size:
        text = (
            f"{spec.model.name} needs images of at least {least_size} px; {spec.dataset.name} has {dataset.image_size}"
        )
        raise TrainingError("spec", f"{text} px")


def check_last_batch(spec: RunSpec, dataset: Dataset, model: Network) -> None:
    """An epoch's last batch of one image, where the network's batch norm sees one value a channel by then.

    Raises TrainingError. The network is left as it was, and so are torch's random numbers.
    """
    used_as_it_is = spec.weights is not None and not spec.weights.fine_tune
    size, channels = dataset.image_size, dataset.channels
    if used_as_it_is or len(dataset.train) % spec.training.batch_size != 1:
        return
    trial = copy.deepcopy(model).train()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            trial(torch.zeros(1, channels, size, size))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        text = (
            f"{len(dataset.train)} training images in batches of {spec.training.batch_size} leave a last one of a "
            f"single image, from which the batch norm of {spec.model.name} can learn nothing at {size} px; another "
            "batch_size leaves more"
        )
        raise TrainingError("spec", text) from error
