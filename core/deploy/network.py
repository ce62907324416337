"""The network of a run with its weights, behind the normalisation that its weights expect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.catalog import DATASETS
from core.catalog.datasets import task_of
from core.catalog.tasks import CLASSIFICATION
from core.errors import TrainingError
from core.specs import RunSpec
from core.tasks.classification import models
from core.tasks.classification.models.heads import with_head_form
from core.weights.errors import WeightsError
from core.weights.metadata import InputFormat, Metadata, read_metadata
from core.weights.network_weights import load_weights


class DeployError(ValueError):
    """A network cannot be exported or measured. The message says why."""


class Deployed(nn.Module):
    """A network that takes images as they are stored: it maps images (N, channels, H, W) in 0–1 to logits (N, C).

    Args:
        network: A network of normalised images.
        expected: Mean and standard deviation that the images are normalised with.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, expected: InputFormat) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(expected.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(expected.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network((images - self.mean) / self.std)
        return logits


@dataclass(frozen=True)
class RunNetwork:
    """A run's network, in eval mode and on the CPU.

    Attributes:
        spec: The run.
        weights: The file of its weights.
        network: The network, which takes normalised images.
        metadata: What the file says about its weights.
        expected: The images that the network expects.
        num_classes: Number of classes C.
    """

    spec: RunSpec
    weights: Path
    network: models.Network
    metadata: Metadata
    expected: InputFormat
    num_classes: int

    def deployed(self) -> Deployed:
        """Return the network behind its normalisation, in eval mode."""
        return Deployed(self.network, self.expected).eval()

    def images(self, count: int, seed: int = 0) -> Tensor:
        """Return random images (count, channels, H, W) in 0–1."""
        size = self.expected.image_size
        shape = (count, len(self.expected.mean), size, size)
        return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def read_run_network(spec: RunSpec, weights: Path) -> RunNetwork:
    """Build a run's network and load its weights.

    Args:
        spec: The run.
        weights: The safetensors file that the run left.

    Raises:
        DeployError: The run is not a classification, or the weights do not fit it or do not say what they expect.
    """
    if task_of(spec.dataset.name) is not CLASSIFICATION:
        raise DeployError(f"{spec.dataset.name} is not a data set of images with a class each; only these are exported")
    try:
        metadata = read_metadata(weights)
    except WeightsError as error:
        raise DeployError(f"the weights {weights.name}: {error}") from error
    if metadata.input is None:
        raise DeployError(f"the weights {weights.name} do not say which images they expect; train the run again")
    num_classes = len(metadata.classes or metadata.assumed_classes) or _classes_of_dataset(spec)
    expected = metadata.input
    try:
        network = models.build(
            spec.model.name,
            num_classes=num_classes,
            image_size=expected.image_size,
            in_channels=len(expected.mean),
            **spec.model.params,
        )
        network = with_head_form(network, metadata.head)
        load_weights(network, weights)
    except (TrainingError, ImportError, ValueError) as error:
        raise DeployError(str(error)) from error
    return RunNetwork(spec, weights, network.eval(), metadata, expected, num_classes)


def _classes_of_dataset(spec: RunSpec) -> int:
    """Return the number of classes of a data set whose classes have no names."""
    facts = DATASETS[spec.dataset.name].facts(spec.dataset.parsed_params)
    if facts is None:
        raise DeployError("neither the weights nor the data set say how many classes there are")
    return facts.num_classes
