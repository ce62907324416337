"""RetinaNet and FCOS, which score every class by itself: detectors for methods on features."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOS, FCOSHead
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead

from core.catalog.detectors import FCOSParams, PyramidParams, RetinaNetParams
from core.distill.objective import OwnTerm
from core.distill.rows import to_loss_dtype
from core.tasks.detection.models.backbones import Body, build_body, with_backbone
from core.tasks.detection.models.boxes import anchors_of, as_detections, as_dicts
from core.tasks.detection.models.detector import CANVAS, MEAN, STD, Detector
from core.tasks.detection.models.norms import group_norm
from core.tasks.detection.models.pyramid import Pyramid
from core.tasks.detection.types import Draws, ImageDetections, ImageTargets, Size


class DenseDetector(Detector):
    """A pyramid with heads that give scores and a box for every position and anchor.

    As in torchvision, the heads have a score for class 0 too, which is trained to be low and never detected.

    Args:
        network: torchvision's network, whose transform is not used. Its keys follow ``network.``.
        strides: The stride of each level by its name.
        num_classes: C.
        mean: Of each channel.
        std: Of each channel.
    """

    def __init__(
        self,
        network: Any,
        strides: dict[str, int],
        num_classes: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        super().__init__(num_classes, strides, mean, std)
        self.network = network

    @property
    def class_layers(self) -> dict[str, tuple[int, int]]:
        """The last layer of the classification head."""
        anchors = self.network.anchor_generator.num_anchors_per_location()[0]
        return {"network.head.classification_head.cls_logits.": (anchors, 1)}

    def features(self, images: Tensor, sizes: Sequence[Size]) -> dict[str, Tensor]:
        """Normalise images and run the backbone with its pyramid."""
        levels: dict[str, Tensor] = self.network.backbone.with_deepest(self.normalised(images, sizes))
        return {**levels, CANVAS: torch.tensor(images.shape[-2:])}

    def train_step(
        self, features: dict[str, Tensor], sizes: Sequence[Size], targets: Sequence[ImageTargets], draws: Draws
    ) -> tuple[None, dict[str, OwnTerm]]:
        """Return the own terms, with the classification loss. Nothing is drawn."""
        maps = self._maps(features)
        anchors = anchors_of(self.network.anchor_generator, maps, features[CANVAS], len(sizes))
        return None, self._losses(as_dicts(targets), self._outputs(maps), anchors, self._counts(maps))

    @torch.no_grad()
    def detect(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[ImageDetections]:
        """Return the detections of each image."""
        maps = self._maps(features)
        anchors = anchors_of(self.network.anchor_generator, maps, features[CANVAS], len(sizes))
        outputs, counts = self._outputs(maps), self._counts(maps)
        outputs["cls_logits"][..., 0] = -torch.inf  # class 0 is the background, which is never detected
        by_level = {name: list(torch.split(values, counts, 1)) for name, values in outputs.items()}
        anchors_by_level = [list(torch.split(image, counts)) for image in anchors]
        return as_detections(self.network.postprocess_detections(by_level, anchors_by_level, list(sizes)))

    @abstractmethod
    def _losses(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, OwnTerm]:
        """Return the own terms."""

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.strides]

    def _outputs(self, maps: list[Tensor]) -> dict[str, Tensor]:
        """Return the outputs (B, A, …) of the heads, in float32."""
        return {name: to_loss_dtype(values) for name, values in self.network.head(maps).items()}

    def _counts(self, maps: list[Tensor]) -> list[int]:
        """Return the number of anchors of each level."""
        (anchors, *_) = self.network.anchor_generator.num_anchors_per_location()
        return [level.shape[2] * level.shape[3] * anchors for level in maps]


_D = TypeVar("_D", bound=DenseDetector)


class RetinaNetDetector(DenseDetector):
    """RetinaNet. Its losses are means over images, in each of which they are divided by the positive anchors."""

    terms: ClassVar[tuple[str, ...]] = ("classification", "box")

    def map_published_key(self, key: str) -> str:
        """Return the key for a key of torchvision's network; an earlier version had no norms in the heads."""
        match = re.match(r"head\.(classification|regression)_head\.conv\.(\d+)\.(weight|bias)$", key)
        if match:
            key = f"head.{match[1]}_head.conv.{int(match[2]) // 2}.0.{match[3]}"
        return super().map_published_key(key)

    def _losses(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, OwnTerm]:
        means = self.network.compute_loss(targets, outputs, anchors)
        images = outputs["cls_logits"].new_tensor(float(len(targets)))
        return {
            "classification": OwnTerm(means["classification"] * images, images),
            "box": OwnTerm(means["bbox_regression"] * images, images),
        }


class FCOSDetector(DenseDetector):
    """FCOS. Its losses are divided by the positive positions of the batch, and are 0 in a batch without objects."""

    terms: ClassVar[tuple[str, ...]] = ("classification", "box", "centerness")

    def _losses(
        self,
        targets: list[dict[str, Tensor]],
        outputs: dict[str, Tensor],
        anchors: list[Tensor],
        counts: list[int],
    ) -> dict[str, OwnTerm]:
        means = self.network.compute_loss(targets, outputs, anchors, counts)
        found = means[_FOUND]
        divisor = found.clamp(min=1)  # torchvision's
        names = {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
        return {own: OwnTerm(means[theirs] * divisor, found) for own, theirs in names.items()}


_FOUND = "positive positions"


class _CountingHead(FCOSHead):  # type: ignore[misc]
    """The head of FCOS, which also returns how many positions its losses are divided by."""

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = super().compute_loss(targets, head_outputs, anchors, matched_idxs)
        found = torch.stack([(matched >= 0).sum() for matched in matched_idxs]).sum()
        return {**losses, _FOUND: found.to(losses["classification"].dtype)}


def _pyramid(params: PyramidParams, *, from_body: bool = False) -> tuple[Body, Pyramid]:
    body = build_body(params.backbone, params.norm, params.stem_stride, without_finest=True)
    return body, Pyramid(body, params.channels, "p6p7", from_body=from_body)


def retinanet(num_classes: int, params: RetinaNetParams) -> RetinaNetDetector:
    """Build RetinaNet with weights from torch's random state.

    Raises:
        ValueError: The backbone cannot be built.
    """
    second = params.form == "v2"
    body, pyramid = _pyramid(params, from_body=second)
    sides = [4 * stride for stride in pyramid.strides.values()]
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sides)
    anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
    per_position = anchors.num_anchors_per_location()[0]
    head = RetinaNetHead(pyramid.out_channels, per_position, num_classes, norm_layer=group_norm if second else None)
    if second:
        head.regression_head._loss_type = "giou"
    network = RetinaNet(
        pyramid,
        num_classes,
        anchor_generator=anchors,
        head=head,
        **{name: getattr(params, name) for name in ("fg_iou_thresh", "bg_iou_thresh")},
        **_thresholds(params),
    )
    detector = _finished(RetinaNetDetector, network, num_classes, params, body)
    if params.backbone == "resnet50":
        detector.published = "retinanet_resnet50_fpn_v2" if second else "retinanet_resnet50_fpn"
    return detector


def fcos(num_classes: int, params: FCOSParams) -> FCOSDetector:
    """Build FCOS with weights from torch's random state.

    Raises:
        ValueError: The backbone cannot be built.
    """
    body, pyramid = _pyramid(params)
    strides = tuple((stride,) for stride in pyramid.strides.values())
    network = FCOS(
        pyramid,
        num_classes,
        anchor_generator=AnchorGenerator(strides, ((1.0,),) * len(strides)),
        head=_CountingHead(pyramid.out_channels, 1, num_classes),
        center_sampling_radius=params.center_sampling_radius,
        **_thresholds(params),
    )
    detector = _finished(FCOSDetector, network, num_classes, params, body)
    detector.published = "fcos_resnet50_fpn" if params.backbone == "resnet50" else ""
    return detector


def _thresholds(params: RetinaNetParams | FCOSParams) -> dict[str, Any]:
    names = ("score_thresh", "nms_thresh", "detections_per_img", "topk_candidates")
    return {name: getattr(params, name) for name in names}


def _finished(kind: type[_D], network: Any, num_classes: int, params: PyramidParams, body: Body) -> _D:
    mean, std = params.mean or MEAN, params.std or STD
    return with_backbone(kind(network, network.backbone.strides, num_classes, mean, std), params, body)
