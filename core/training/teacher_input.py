"""A teacher sees the same views as its student, normalised and sized as its own weights expect."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.data import Dataset
from core.models.metadata import InputFormat


def input_format_of(dataset: Dataset) -> InputFormat:
    """The images that a data set shows to a network."""
    return InputFormat(tuple(dataset.mean), tuple(dataset.std), dataset.image_size)


class InputAdapter(nn.Module):
    """A network behind a change of normalisation and size.

    Takes images as ``shown`` has them, (N, channels, H, W), and gives the network what ``wanted`` says. With x the
    image scaled to 0–1, a student's input is s = (x − m)/d; the teacher's (x − m′)/d′ is s·d/d′ + (m − m′)/d′.

    Raises ValueError where the two have another number of channels.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, shown: InputFormat, wanted: InputFormat) -> None:
        super().__init__()
        if len(shown.mean) != len(wanted.mean):
            raise ValueError(f"mean and std are of {len(wanted.mean)} channels, and the images have {len(shown.mean)}")
        self.network = network
        mean, std, own_mean, own_std = (
            torch.tensor(row, dtype=torch.float64).view(1, -1, 1, 1)
            for row in (shown.mean, shown.std, wanted.mean, wanted.std)
        )
        self.register_buffer("scale", (std / own_std).float())
        self.register_buffer("shift", ((mean - own_mean) / own_std).float())
        self._size = wanted.image_size if wanted.image_size != shown.image_size else None
        self._mode = wanted.interpolation
        # Made smaller without a filter, an image would be a sample of its pixels; what is made larger needs none.
        self._antialias = wanted.image_size < shown.image_size and self._mode != "nearest"

    def forward(self, images: Tensor) -> Tensor:
        if self._size is not None:
            images = nn.functional.interpolate(images, size=self._size, mode=self._mode, antialias=self._antialias)
        logits: Tensor = self.network(images * self.scale + self.shift)
        return logits


def adapt_input(network: nn.Module, shown: InputFormat, wanted: InputFormat | None) -> nn.Module:
    """The network as it is where it expects what is shown, or where nobody knows what it expects; else behind a change.

    Raises ValueError as ``InputAdapter``.
    """
    return network if wanted is None or wanted.same_images(shown) else InputAdapter(network, shown, wanted)
