"""A teacher sees the same views as its student, normalised and resized as the teacher's weights expect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.tasks.classification.data import Dataset
from core.weights.metadata import InputFormat


def input_format_of(dataset: Dataset) -> InputFormat:
    """Return the format of the images that a data set shows to a network."""
    return InputFormat(tuple(dataset.mean), tuple(dataset.std), dataset.image_size)


class InputAdapter(nn.Module):
    """A network behind a change of normalisation and size.

    It takes images (N, channels, H, W) in the format ``shown``, and gives them to the network in the format
    ``expected``. With x the image scaled to 0–1, a student's input is s = (x − m)/d; the teacher's (x − m′)/d′ is
    s·d/d′ + (m − m′)/d′.

    Args:
        network: The network.
        shown: The format of the input.
        expected: The format that the network expects.

    Raises:
        ValueError: The two formats have different numbers of channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, shown: InputFormat, expected: InputFormat) -> None:
        super().__init__()
        if len(shown.mean) != len(expected.mean):
            raise ValueError(f"mean and std have {len(expected.mean)} channels, and the images have {len(shown.mean)}")
        self.network = network
        mean, std, expected_mean, expected_std = (
            torch.tensor(row, dtype=torch.float64).view(1, -1, 1, 1)
            for row in (shown.mean, shown.std, expected.mean, expected.std)
        )
        self.register_buffer("scale", (std / expected_std).float())
        self.register_buffer("shift", ((mean - expected_mean) / expected_std).float())
        self._size = expected.image_size if expected.image_size != shown.image_size else None
        self._mode = expected.interpolation
        # Made smaller without a filter, an image would be a sample of its pixels; an enlarged image needs no filter.
        self._antialias = expected.image_size < shown.image_size and self._mode != "nearest"

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's logits (N, C)."""
        if self._size is not None:
            images = nn.functional.interpolate(images, size=self._size, mode=self._mode, antialias=self._antialias)
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def adapt_input(network: nn.Module, shown: InputFormat, expected: InputFormat | None) -> nn.Module:
    """Put an ``InputAdapter`` before a network, if the network expects other images than it is shown.

    Args:
        network: The network.
        shown: The format of the input.
        expected: The format that the network expects; None if it is not known.

    Raises:
        ValueError: The two formats have different numbers of channels.
    """
    return network if expected is None or expected.same_images(shown) else InputAdapter(network, shown, expected)
