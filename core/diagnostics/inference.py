"""A network's answers to images, and scalars brought from the device all at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from core.data import Dataset, Split

_BATCH = 1024  # no gradients are kept, so this fits wherever the training does, for the small images of most data sets
_PIXELS = 1024 * 64 * 64  # of larger images a batch holds fewer


def inference_batch_size(image_size: int) -> int:
    """Images that a network is shown at once when nothing is learnt: 1,024 up to 64 px, 83 at 224 px."""
    return max(1, min(_BATCH, _PIXELS // image_size**2))


@contextmanager
def eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Networks in eval mode and without gradients; each module back in its own mode after, a frozen batch norm too."""
    before = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in before:
            module.training = mode


def predict(network: Callable[[Tensor], Tensor], dataset: Dataset, split: Split) -> Tensor:
    """What a network makes of every image of a split (N, …), in float32; call it inside ``eval_mode``.

    Args:
        network: takes normalised images: a module for its logits, its ``features`` for those.
    """
    parts = split.chunks(inference_batch_size(dataset.image_size))
    return torch.cat([network(dataset.normalise(images)).float() for images in parts])


def predict_logits(model: nn.Module, dataset: Dataset, split: Split) -> Tensor:
    """Logits of every image of a split (N, C), the network in eval mode."""
    with eval_mode(model):
        return predict(model, dataset, split)


def to_floats(values: Mapping[str, Tensor], may_miss: Collection[str] = ()) -> dict[str, float]:
    """Scalars as numbers, with one wait for the device.

    Args:
        may_miss: names whose NaN means that there was nothing to measure; they are then left out.
    """
    if not values:
        return {}
    numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
    return {
        name: number
        for name, number in zip(values, numbers, strict=True)
        if name not in may_miss or number == number  # only NaN differs from itself
    }
