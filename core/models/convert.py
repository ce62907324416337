"""``python -m core convert``: a published checkpoint as a safetensors file for ``teacher.weights``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from core.models import build, count_parameters
from core.models.weights import load_state, read_checkpoint


@dataclass(frozen=True)
class ModelShape:
    """Which network the weights are of; ``params`` are the catalog entry's own."""

    name: str
    num_classes: int
    image_size: int
    in_channels: int
    params: dict[str, Any]


def convert(source: Path, out: Path, shape: ModelShape) -> int:
    """Write the weights in ``source`` under the keys of the catalog's network; returns its count of parameters.

    Raises WeightsError where the file cannot be read or its keys do not fit, ValueError where there is no such network.
    """
    network = build(
        shape.name,
        num_classes=shape.num_classes,
        image_size=shape.image_size,
        in_channels=shape.in_channels,
        **shape.params,
    )
    load_state(network, read_checkpoint(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, out)
    return count_parameters(network)
