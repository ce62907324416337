"""The networks of a run: built for its images, tapped, and measured without a change to them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.catalog.taps import FEATURES, STRONG_LOGITS, split_suffix
from core.distill.objective import NetworkShape
from core.errors import TrainingError
from core.specs import ModelRef
from core.tasks.classification import models
from core.tasks.classification.data import Dataset
from core.tasks.classification.diagnostics.inference import eval_mode
from core.tasks.classification.models.heads import with_head_form
from core.tasks.classification.models.taps import tap_once
from core.tasks.classification.teacher_input import InputAdapter
from core.weights.metadata import HeadForm, InputFormat

_ROUNDING = 1e-4  # relative to the greatest feature


def build_network(
    choice: ModelRef, dataset: Dataset, expected: InputFormat | None = None, head: HeadForm | None = None
) -> models.Network:
    """Build a network with fresh weights.

    Args:
        choice: The name of the network and its parameters.
        dataset: Decides the number of classes and of channels.
        expected: The images that the network's weights expect; None for those of the data set.
        head: What the network's weights have in place of its own head; None for its own.

    Raises:
        TrainingError: The network cannot be built for these images, or needs a package that is not installed.
    """
    try:
        network = models.build(
            choice.name,
            num_classes=dataset.num_classes,
            image_size=expected.image_size if expected else dataset.image_size,
            in_channels=dataset.channels,
            **choice.params,
        )
        return with_head_form(network, head)
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
    if not names:
        return NetworkShape(dataset.num_classes, linear=linear)
    # Random, because the maps of a constant image say little about what is done to them afterwards.
    views = 2 if STRONG_LOGITS in names else 1
    shape = (views, dataset.channels, dataset.image_size, dataset.image_size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(next(network.parameters()))
    read = [*names, FEATURES] if linear else names
    with eval_mode(network):
        taps = tap_once(network, read, image)
    features = taps.get(FEATURES)
    if FEATURES not in names:
        taps.pop(FEATURES, None)
    averaged = frozenset(name for name, tap in taps.items() if features is not None and _has_mean(tap, features))
    norms = {}
    for name, tap in taps.items():
        if isinstance(inner, models.Network) and (norm := _norm_before(inner, name, tap.shape[1])):
            norms[name] = norm
    shapes = {name: tap.shape[1:] for name, tap in taps.items()}
    return NetworkShape(dataset.num_classes, shapes, linear, norms, averaged)


def _has_mean(maps: Tensor, features: Tensor) -> bool:
    """Return whether features (1, D) are the mean of maps over positions."""
    if maps.ndim != 4 or maps.shape[1] != features.shape[1]:
        return False
    greatest = features.abs().max()
    return bool((maps.mean((2, 3)) - features).abs().max() <= _ROUNDING * greatest and greatest > 0)


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
