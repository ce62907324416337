"""The interface of the detectors of the catalog.

Background is class 0, and C = K + 1 is the width of the logits. Images come resized and padded, and their boxes are in
pixels of these images. A pass has two parts: ``features`` runs the backbone with its pyramid, and the other methods run
the heads on these features, so that the heads can be asked about several sets of boxes.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from core.distill.objective import OwnTerm
from core.tasks.detection.passes import DetectorPass, run_detector
from core.tasks.detection.types import DetectionBatch, Draws, ImageDetections, ImageTargets, Regions, Size
from core.weights.key_matching import KeyMap

DEEPEST = "deepest"
"""The key of the backbone's deepest map in ``Detector.features``: where gradients of terms are compared. No tap."""

CANVAS = "canvas"
"""The key of the padded height and width (2,) int64 in ``Detector.features``, on the CPU. No tap."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet."""


@dataclass(frozen=True)
class PublishedBackbone:
    """The part of a detector that can have the weights of a network for classification.

    Attributes:
        name: The name of the backbone in the catalog.
        module: The part.
        rename: Maps the keys of the whole network to those of the part; None if they are not known.
    """

    name: str
    module: nn.Module
    rename: KeyMap | None


class NoRegionsError(TypeError):
    """The detector gives no logits for regions, so that no method on logits fits it."""


class Detector(nn.Module, ABC):
    """A network that finds objects in images.

    In a training step all trainable parameters have a gradient: those of the heads from ``train_step``, together with
    the cross-entropy of its regions, and those of backbone and pyramid through the heads. If a step does not use the
    outputs of ``train_step``, the heads have none.

    Args:
        num_classes: C, the number of classes with the background.
        levels: The stride of each level of the pyramid by its name, fine to coarse.
        mean: Of each channel of the images that the network was made for, scaled to 0-1.
        std: The standard deviation of each of these channels.

    Attributes:
        two_stage: Whether ``regions`` takes any boxes. An SSD takes only its own anchors.
        gives_regions: Whether there are logits of regions. RetinaNet and FCOS have none.
        terms: The names of the own terms that ``train_step`` returns.
        num_classes: C.
        strides: The stride of each level by its name, fine to coarse. The names are those of the taps.
        fixed_size: The height and width that every padded image must have; None for any.
        published: The name of the detector in torchvision whose published weights it can have; "" for none.
        backbone: The network whose published weights its backbone can have; None for none.
        of_detectron2: Whether it computes as detectron2 does.
    """

    two_stage: ClassVar[bool] = False
    gives_regions: ClassVar[bool] = False
    terms: ClassVar[tuple[str, ...]] = ()

    num_classes: int
    strides: dict[str, int]
    fixed_size: Size | None = None
    published: str = ""
    backbone: PublishedBackbone | None = None
    of_detectron2: bool = False

    mean: Tensor
    std: Tensor
    _frozen: tuple[nn.Module, ...] = ()

    def __init__(
        self, num_classes: int, levels: dict[str, int], mean: Sequence[float] = MEAN, std: Sequence[float] = STD
    ) -> None:
        super().__init__()
        self.num_classes, self.strides = num_classes, levels
        # Not persistent, so that the keys of a state dict are torchvision's.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def levels(self) -> tuple[str, ...]:
        """The names of the pyramid's levels, which are the taps, fine to coarse."""
        return tuple(self.strides)

    @property
    @abstractmethod
    def class_layers(self) -> dict[str, tuple[int, int]]:
        """The layers whose outputs depend on the classes, by the beginning of their keys.

        Their weights are (before · C · after, …) with the two numbers given here.
        """

    def map_published_key(self, key: str) -> str:
        """Return the key for a key of torchvision's network, also of its earlier versions."""
        key = re.sub(
            r"^backbone\.fpn\.(inner|layer)_blocks\.(\d+)\.(weight|bias)$", r"backbone.fpn.\1_blocks.\2.0.\3", key
        )
        key = re.sub(r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1", key)
        return f"network.{key}"

    @abstractmethod
    def features(self, images: Tensor, sizes: Sequence[Size]) -> dict[str, Tensor]:
        """Normalise images and run the backbone with its pyramid.

        Args:
            images: (B, 3, H, W) in [0, 1], padded on the right and below.
            sizes: Height and width of each image without the padding.

        Returns:
            The map (B, channels, height, width) of each level by its name, fine to coarse, then ``DEEPEST`` and
            ``CANVAS``.
        """

    def propose(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Return proposals (n_i, 4) of each image, best first, as in evaluation even in training mode. Constants.

        An SSD proposes its anchors.

        Raises:
            NoRegionsError: The detector gives no regions.
        """
        raise NoRegionsError(f"{type(self).__name__} has no logits of regions")

    def regions(self, features: dict[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[Size]) -> Regions:
        """Run the head on given boxes.

        Args:
            features: The features.
            boxes: (n_i, 4) of each image. For an SSD those of ``propose``.
            sizes: Height and width of each image without the padding.

        Returns:
            The regions without labels, one image after the other.

        Raises:
            NoRegionsError: The detector gives no regions, or not for these boxes.
        """
        raise NoRegionsError(f"{type(self).__name__} has no logits of regions")

    @abstractmethod
    def train_step(
        self, features: dict[str, Tensor], sizes: Sequence[Size], targets: Sequence[ImageTargets], draws: Draws
    ) -> tuple[Regions | None, dict[str, OwnTerm]]:
        """Return the regions on which the detector is trained in a step, and the terms of its own loss.

        The regions are sampled, matched with the objects and labelled. Their classification loss is not among the
        terms: it is the objective's cross-entropy. A detector without regions returns None, and its classification
        loss is the term ``classification``. Terms are computed in float32 whatever the autocast dtype.

        Args:
            features: The features.
            sizes: Height and width of each image without the padding.
            targets: The objects of each image; ignored ones are left out here.
            draws: The random numbers of the step, all that is drawn.
        """

    @abstractmethod
    def detect(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[ImageDetections]:
        """Return the detections in each image, best score first, in pixels of the network's image, without gradient."""

    def freeze(self, modules: Sequence[nn.Module]) -> None:
        """Keep modules as they are: no gradient for their parameters, and eval mode for their batch norms."""
        self._frozen = tuple(modules)
        for module in self._frozen:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules that are not frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(self, batch: DetectionBatch) -> DetectorPass:
        """Run the detector on a batch: in training mode with its own loss, else without; and on the given boxes."""
        return run_detector(self, batch)

    def find(self, images: Tensor) -> list[ImageDetections]:
        """Detect objects in images (B, 3, H, W) in [0, 1] without padding."""
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        return self.detect(self.features(images, sizes), sizes)

    def normalised(self, images: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return images as the backbone reads them: the padding is 0 after the normalisation, as in torchvision."""
        result = (images - self.mean) / self.std
        canvas = tuple(images.shape[-2:])
        for image, (height, width) in zip(result, sizes, strict=True):
            if (height, width) != canvas:
                image[:, height:] = 0
                image[:, :, width:] = 0
        return result
