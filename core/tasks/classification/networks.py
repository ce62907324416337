"""The networks of a run: built for its images, tapped, and measured without a change to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.catalog.taps import STRONG_LOGITS, split_suffix
from core.distill.objective import NetworkShape
from core.errors import TrainingError
from core.specs import ModelRef
from core.tasks.classification import models
from core.tasks.classification.data import Dataset
from core.tasks.classification.diagnostics.inference import eval_mode
from core.tasks.classification.models.taps import tap_once
from core.tasks.classification.teacher_input import InputAdapter
from core.weights.metadata import InputFormat


def build_network(choice: ModelRef, dataset: Dataset, expected: InputFormat | None = None) -> models.Network:
    """Build a network with fresh weights.

    Args:
        choice: The name of the network and its parameters.
        dataset: Decides the number of classes and of channels.
        expected: The images that the network's weights expect; None for those of the data set.

    Raises:
        TrainingError: The network cannot be built for these images, or needs a package that is not installed.
    """
    try:
        return models.build(
            choice.name,
            num_classes=dataset.num_classes,
            image_size=expected.image_size if expected else dataset.image_size,
            in_channels=dataset.channels,
            **choice.params,
        )
    except ImportError as error:
        raise TrainingError("spec", f"{choice.name} needs a package that is not installed here: {error}") from error
    except ValueError as error:
        raise TrainingError("spec", str(error)) from error


def network_shape(network: nn.Module, names: Sequence[str], dataset: Dataset) -> NetworkShape:
    """Return the shapes of a network's logits and taps. The network stays as it is.

    Args:
        network: The network, behind an ``InputAdapter`` or not.
        names: The taps.
        dataset: Decides the shape of an image.

    Raises:
        TrainingError: The network has no such tap, or a later layer changes the output of a tapped one in place.
    """
    inner = network.network if isinstance(network, InputAdapter) else network
    linear = inner.linear if isinstance(inner, models.Network) else None
    shapes: dict[str, torch.Size] = {}
    norms: dict[str, tuple[Tensor, Tensor]] = {}
    if names:
        parameter = next(network.parameters())
        views = 2 if STRONG_LOGITS in names else 1
        image = torch.zeros(
            (views, dataset.channels, dataset.image_size, dataset.image_size),
            dtype=parameter.dtype,
            device=parameter.device,
        )
        with eval_mode(network):
            for name, tap in tap_once(network, names, image).items():
                shapes[name] = tap.shape[1:]
                if isinstance(inner, models.Network) and (norm := _norm_before(inner, name, tap.shape[1])):
                    norms[name] = norm
    return NetworkShape(dataset.num_classes, shapes, linear, norms)


def _norm_before(network: models.Network, name: str, channels: int) -> tuple[Tensor, Tensor] | None:
    """Return weight and bias of the batch norm before the activation that a tap is before; None if none is known."""
    stage, suffix = split_suffix(name)
    norm = network.preactivation_norm(stage) if suffix else None
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not norm.affine or norm.num_features != channels:
        return None
    return norm.weight.detach().clone(), norm.bias.detach().clone()


def forward_multiplications(model: nn.Module, dataset: Dataset) -> float:
    """Count the multiplications of a network's forward pass on one image. The network stays as it is."""
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    image = torch.zeros(1, dataset.channels, dataset.image_size, dataset.image_size, dtype=dtype)
    # In eval mode neither batch norm's statistics nor the random state of dropout changes.
    with eval_mode(model), FlopCounterMode(display=False) as counter:
        model(image)
    return float(counter.get_total_flops()) / 2  # the counter includes additions
