"""SSD: a class and a box for each anchor. Its regions are its anchors, weighted by hard-negative mining."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG
from torchvision.models.detection.ssdlite import _extra_block
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import box_iou

from core.catalog.detectors import SmallSSDParams, SSDParams
from core.distill.objective import OwnTerm
from core.distill.rows import to_loss_dtype
from core.tasks.detection.models.backbones import Body, build_body, with_backbone
from core.tasks.detection.models.boxes import anchors_of, as_detections, as_dicts, image_numbers
from core.tasks.detection.models.detector import CANVAS, DEEPEST, MEAN, STD, Detector, NoRegionsError
from core.tasks.detection.models.norms import with_norm
from core.tasks.detection.models.pyramid import level_names
from core.tasks.detection.types import Draws, ImageDetections, ImageTargets, Regions, Size

_PASSED_ON = (
    "score_thresh", "nms_thresh", "detections_per_img", "iou_thresh", "topk_candidates", "positive_fraction",
)  # fmt: skip
_VGG_COLOURS = ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)
_LITE_COLOURS = ((0.5,) * 3, (0.5,) * 3)


class SSDDetector(Detector):
    """A class and a box for each anchor of several maps.

    A step trains the anchors with an object and, in each image, the anchors without one whose loss is greatest. These
    have the weight 1 in ``Regions.weight``, the others 0. Cross-entropy and box loss are both means over the anchors
    with weight 1; torchvision divides both by the number of anchors with an object, so that its losses are greater by
    one factor, which is 4 for a positive fraction of 1/4.

    Args:
        network: torchvision's network, whose transform is not used. Its keys follow ``network.``.
        strides: The nominal stride of each map by its name.
        num_classes: C.
        deepest: The name of the backbone's deepest map.
        mean: Of each channel.
        std: Of each channel.
        fixed_size: The height and width that every padded image must have; None for any.
    """

    gives_regions: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("box",)

    def __init__(
        self,
        network: SSD,
        strides: dict[str, int],
        num_classes: int,
        deepest: str,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        fixed_size: Size | None = None,
    ) -> None:
        super().__init__(num_classes, strides, mean, std)
        self.network = network
        self._deepest, self.fixed_size = deepest, fixed_size

    @property
    def class_layers(self) -> dict[str, tuple[int, int]]:
        """The last convolution of each map's classification head."""
        layers = {}
        anchors = self.network.anchor_generator.num_anchors_per_location()
        for level, (head, count) in enumerate(
            zip(self.network.head.classification_head.module_list, anchors, strict=True)
        ):
            last = "" if isinstance(head, nn.Conv2d) else f"{len(head) - 1}."  # behind a depthwise convolution
            layers[f"network.head.classification_head.module_list.{level}.{last}"] = (count, 1)
        return layers

    def features(self, images: Tensor, sizes: Sequence[Size]) -> dict[str, Tensor]:
        """Normalise images and run the network up to the heads."""
        maps = self.network.backbone(self.normalised(images, sizes)).values()
        levels = dict(zip(self.strides, maps, strict=True))
        return {**levels, DEEPEST: levels[self._deepest], CANVAS: torch.tensor(images.shape[-2:])}

    def propose(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Return the anchors of each image."""
        return anchors_of(self.network.anchor_generator, self._maps(features), features[CANVAS], len(sizes))

    def regions(self, features: dict[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[Size]) -> Regions:
        """Run the heads.

        Raises:
            NoRegionsError: The boxes are not the anchors.
        """
        anchors = self.propose(features, sizes)
        others = {id(part): part for part in boxes}.values()
        if not all(part.shape == anchors[0].shape and bool((part == anchors[0]).all()) for part in others):
            raise NoRegionsError("an SSD has logits of its own anchors only, and these are other boxes")
        return self._regions(self._outputs(features), anchors)

    def train_step(
        self, features: dict[str, Tensor], sizes: Sequence[Size], targets: Sequence[ImageTargets], draws: Draws
    ) -> tuple[Regions, dict[str, OwnTerm]]:
        """Return the anchors with labels and weights, and the loss of the boxes. Nothing is drawn."""
        outputs = self._outputs(features)
        anchors = self.propose(features, sizes)
        regions = self._regions(outputs, anchors)
        with torch.no_grad():
            matched = [self._matched(each, image) for each, image in zip(anchors, as_dicts(targets), strict=True)]
            labels = torch.stack([labels for labels, _ in matched])
            offset_target = torch.cat([target for _, target in matched])
            weight = self._mined(outputs["cls_logits"], labels)
        rows = torch.where(labels.flatten() > 0)[0]
        box = F.smooth_l1_loss(outputs["bbox_regression"].flatten(0, 1)[rows], offset_target[rows], reduction="sum")
        labelled = Regions(
            regions.boxes, regions.image, regions.logits, regions.offsets, labels.flatten(), offset_target, weight
        )
        return labelled, {"box": OwnTerm(box, weight.sum())}

    @torch.no_grad()
    def detect(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[ImageDetections]:
        """Return the detections of each image."""
        anchors = self.propose(features, sizes)
        found = self.network.postprocess_detections(self._outputs(features), anchors, list(sizes))
        return as_detections(found)

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.strides]

    def _outputs(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return logits (B, A, C) and offsets (B, A, 4) in float32."""
        return {name: to_loss_dtype(values) for name, values in self.network.head(self._maps(features)).items()}

    def _regions(self, outputs: dict[str, Tensor], anchors: list[Tensor]) -> Regions:
        logits, offsets = outputs["cls_logits"].flatten(0, 1), outputs["bbox_regression"].flatten(0, 1)
        every_class = offsets[:, None].expand(-1, self.num_classes, -1)
        return Regions(torch.cat(anchors), image_numbers(anchors), logits, every_class)

    def _matched(self, anchors: Tensor, objects: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return label (A,) and offsets to the object (A, 4) of each anchor of an image; 0 for background."""
        if not len(objects["labels"]):
            return anchors.new_zeros(len(anchors), dtype=torch.int64), torch.zeros_like(anchors)
        number = self.network.proposal_matcher(box_iou(objects["boxes"], anchors))
        found, number = number >= 0, number.clamp(min=0)
        offsets = self.network.box_coder.encode_single(objects["boxes"][number], anchors)
        labels = torch.where(found, objects["labels"][number], torch.zeros_like(number))
        return labels, torch.where(found[:, None], offsets, torch.zeros_like(offsets))

    def _mined(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the weights (B·A,): 1 for anchors with an object and for the hardest ones without, as torchvision."""
        found = labels > 0
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        loss = torch.where(found, torch.full_like(loss, -torch.inf), loss)
        place = loss.sort(dim=1, descending=True, stable=True).indices.argsort(1)
        hardest = place < self.network.neg_to_pos_ratio * found.sum(1, keepdim=True)
        weight: Tensor = (found | hardest).flatten().to(logits.dtype)
        return weight


class _StagesWithExtras(nn.Module):
    """A backbone for small images, and further levels of half the size each.

    Args:
        body: The backbone.
        extra: The number of further levels.
        channels: Of these.
    """

    def __init__(self, body: Body, extra: int, channels: int) -> None:
        super().__init__()
        self.body = body.module
        inputs = (body.channels[-1], *([channels] * extra))
        self.extra = nn.ModuleList(_extra_block(inputs[number], channels, nn.BatchNorm2d) for number in range(extra))
        self.out_channels = [*body.channels, *([channels] * extra)]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps, fine to coarse."""
        maps = list(self.body(images).values())
        for block in self.extra:
            maps.append(block(maps[-1]))
        return {str(number): each for number, each in enumerate(maps)}


def _options(params: SSDParams) -> dict[str, Any]:
    return {name: getattr(params, name) for name in _PASSED_ON}


def ssd300(num_classes: int, params: SSDParams) -> SSDDetector:
    """Build SSD300 with VGG-16 and weights from torch's random state."""
    # torchvision's builder would make the classifier of VGG-16 too, of 120 million weights, and drop it.
    layers = make_layers(cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    anchors = DefaultBoxGenerator(
        [[2], [2, 3], [2, 3], [2, 3], [2], [2]],
        scales=[0.07, 0.15, 0.33, 0.51, 0.69, 0.87, 1.05],
        steps=[8, 16, 32, 64, 100, 300],
    )
    network = SSD(SSDFeatureExtractorVGG(layers, False), anchors, (300, 300), num_classes, **_options(params))
    strides = dict(zip(level_names((8, 16, 32, 64, 128, 256)), (8, 16, 32, 64, 100, 300), strict=True))
    mean, std = (params.mean, params.std) if params.mean and params.std else _VGG_COLOURS
    detector = SSDDetector(network, strides, num_classes, "p4", mean, std, (300, 300))
    detector.published = "ssd300_vgg16"
    return detector


def ssdlite320(num_classes: int, params: SSDParams) -> SSDDetector:
    """Build SSDlite320 with MobileNetV3 and weights from torch's random state."""
    network = ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=num_classes, **_options(params)
    )
    with_norm(network.backbone, params.norm)
    nominal = (16, 32, 64, 128, 256, 512)
    mean, std = (params.mean, params.std) if params.mean and params.std else _LITE_COLOURS
    strides = dict(zip(level_names(nominal), nominal, strict=True))
    detector = SSDDetector(network, strides, num_classes, "p5", mean, std, (320, 320))
    detector.published = "ssdlite320_mobilenet_v3_large"
    return detector


def small_ssd(num_classes: int, params: SmallSSDParams) -> SSDDetector:
    """Build an SSD on a network for small images with weights from torch's random state.

    Raises:
        ValueError: The backbone cannot be built.
    """
    body = build_body(params.backbone, params.norm, params.stem_stride, without_finest=True)
    backbone = _StagesWithExtras(body, params.extra_levels, params.extra_channels)
    own = body.strides
    strides = (*own, *(own[-1] * 2**step for step in range(1, params.extra_levels + 1)))
    anchors = DefaultBoxGenerator([[2]] * len(strides), params.min_ratio, params.max_ratio)
    network = SSD(backbone, anchors, (0, 0), num_classes, **_options(params))
    names = level_names(strides)
    detector = SSDDetector(
        network,
        dict(zip(names, strides, strict=True)),
        num_classes,
        names[len(own) - 1],
        params.mean or MEAN,
        params.std or STD,
    )
    return with_backbone(detector, params, body)
