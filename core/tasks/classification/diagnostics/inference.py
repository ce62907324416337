"""Inference of networks on whole splits, and transfer of scalars from the device."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from core.distill.objective import Outputs
from core.tasks.classification.data import Dataset, Split
from core.tasks.classification.models.taps import Tapped
from core.turns import pass_turn

_BATCH = 1024  # images; without gradients this fits wherever the training fits, for small images
_PIXELS = 1024 * 64 * 64  # limit per batch for larger images


def inference_batch_size(image_size: int) -> int:
    """Return the number of images per batch without training: 1,024 up to 64 px, 83 at 224 px."""
    return max(1, min(_BATCH, _PIXELS // image_size**2))


@contextmanager
def eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Set networks to eval mode without gradients; afterwards every module, even a frozen one, gets its mode back."""
    modes = [(module, module.training) for network in networks for module in network.modules()]
    for network in networks:
        network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def predict(network: Callable[[Tensor], Tensor], dataset: Dataset, split: Split) -> Tensor:
    """Return the output of a network for every image of a split (N, …), in float32. Call it within ``eval_mode``.

    Args:
        network: a function of normalised images: a module returns its logits, its ``features`` the features.
        dataset: the data set, for the normalisation.
        split: the images.
    """
    outputs = []
    for images in split.chunks(inference_batch_size(dataset.image_size)):
        pass_turn()
        outputs.append(network(dataset.normalise(images)).float())
    return torch.cat(outputs)


def predict_logits(model: nn.Module, dataset: Dataset, split: Split) -> Tensor:
    """Return the logits of every image of a split (N, C), with the network in eval mode."""
    with eval_mode(model):
        return predict(model, dataset, split)


def predict_taps(network: nn.Module, names: Sequence[str], dataset: Dataset, split: Split, index: Tensor) -> Outputs:
    """Return logits and taps of some images of a split, in float32 and with the network in eval mode.

    Args:
        network: The network.
        names: The taps.
        dataset: The data set, for the normalisation.
        split: The images.
        index: (M,), the indices of the images in the split.
    """
    tapped, dtype = Tapped(network, names), next(network.parameters()).dtype
    parts: list[list[Tensor]] = []
    try:
        with eval_mode(network):
            for some in torch.split(index, inference_batch_size(dataset.image_size)):
                images = dataset.normalise(split.unaugmented(some)).to(dtype)
                parts.append([output.float() for output in tapped(images)])
    finally:
        tapped.remove_hooks()
    logits, *taps = (torch.cat(chunks) for chunks in zip(*parts, strict=True))
    return Outputs(logits, dict(zip(tapped.names, taps, strict=True)))


def to_floats(values: Mapping[str, Tensor], may_miss: Collection[str] = ()) -> dict[str, float]:
    """Convert scalars to numbers with one synchronisation.

    Args:
        values: scalar tensors by name.
        may_miss: names that are omitted if their value is NaN, which means that there was nothing to measure.
    """
    if not values:
        return {}
    numbers = torch.stack([value.detach().double() for value in values.values()]).tolist()
    return {
        name: number
        for name, number in zip(values, numbers, strict=True)
        if name not in may_miss or number == number  # only NaN is not equal to itself
    }
