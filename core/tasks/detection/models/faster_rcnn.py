"""Faster R-CNN with a feature pyramid: torchvision's parts, with samples from a step's own draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FasterRCNN,
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    RPNHead,
    TwoMLPHead,
)
from torchvision.models.detection.rpn import concat_box_prediction_layers

from core.catalog.detectors import FasterRCNNParams, is_small
from core.distill.objective import OwnTerm
from core.distill.rows import to_loss_dtype
from core.tasks.detection.models.backbones import build_body, with_backbone
from core.tasks.detection.models.boxes import (
    ExactAnchors,
    anchors_of,
    as_detections,
    as_dicts,
    image_numbers,
)
from core.tasks.detection.models.detector import CANVAS, MEAN, STD, Detector
from core.tasks.detection.models.pooling import region_pool
from core.tasks.detection.models.pyramid import Pyramid
from core.tasks.detection.models.sampling import drawn
from core.tasks.detection.types import Draws, ImageDetections, ImageTargets, Regions, Size

_BETA = 1 / 9  # of torchvision's smooth L1 losses; those of detectron2 are L1
_PASSED_ON = (
    "rpn_nms_thresh", "rpn_fg_iou_thresh", "rpn_bg_iou_thresh", "rpn_batch_size_per_image", "rpn_positive_fraction",
    "box_fg_iou_thresh", "box_bg_iou_thresh", "box_positive_fraction",
)  # fmt: skip
_MOBILENET_V3 = "mobilenet_v3_large"
_PUBLISHED = {
    ("resnet50", "v1"): "fasterrcnn_resnet50_fpn",
    ("resnet50", "v2"): "fasterrcnn_resnet50_fpn_v2",
    (_MOBILENET_V3, "v1"): "fasterrcnn_mobilenet_v3_large_fpn",
}
_MOBILENET_V3_ANCHORS = (32.0, 64.0, 128.0, 256.0, 512.0)


class FasterRCNNDetector(Detector):
    """Proposals from a pyramid, then a class and a box for each of them.

    Args:
        network: torchvision's network, whose transform is not used. Its keys follow ``network.``.
        strides: The stride of each level by its name.
        num_classes: C.
        mean: Of each channel.
        std: Of each channel.
        of_detectron2: Whether the network computes as detectron2's, whose losses of boxes are L1.
    """

    two_stage: ClassVar[bool] = True
    gives_regions: ClassVar[bool] = True
    terms: ClassVar[tuple[str, ...]] = ("objectness", "rpn_box", "box")

    def __init__(
        self,
        network: FasterRCNN,
        strides: dict[str, int],
        num_classes: int,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        *,
        of_detectron2: bool = False,
    ) -> None:
        super().__init__(num_classes, strides, mean, std)
        self.network = network
        self.of_detectron2 = of_detectron2
        self._beta = 0.0 if of_detectron2 else _BETA

    @property
    def class_layers(self) -> dict[str, tuple[int, int]]:
        """The layers of the box head's predictor."""
        predictor = "network.roi_heads.box_predictor"
        return {f"{predictor}.cls_score.": (1, 1), f"{predictor}.bbox_pred.": (1, 4)}

    def features(self, images: Tensor, sizes: Sequence[Size]) -> dict[str, Tensor]:
        """Normalise images and run the backbone with its pyramid."""
        levels: dict[str, Tensor] = self.network.backbone.with_deepest(self.normalised(images, sizes))
        return {**levels, CANVAS: torch.tensor(images.shape[-2:])}

    @torch.no_grad()
    def propose(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[Tensor]:
        """Return proposals of each image, best first, with the numbers of proposals of evaluation."""
        rpn = self.network.rpn
        with _in_eval_mode(rpn):
            return self._best(_Anchored(rpn, self._maps(features), features[CANVAS], len(sizes)), sizes)

    def regions(self, features: dict[str, Tensor], boxes: Sequence[Tensor], sizes: Sequence[Size]) -> Regions:
        """Run the box head on given boxes."""
        heads = self.network.roi_heads
        pooled = heads.box_roi_pool(features, list(boxes), list(sizes))
        logits, offsets = heads.box_predictor(heads.box_head(pooled))
        offsets = to_loss_dtype(offsets).view(len(offsets), self.num_classes, 4)
        return Regions(torch.cat(list(boxes)), image_numbers(boxes), to_loss_dtype(logits), offsets)

    def train_step(
        self, features: dict[str, Tensor], sizes: Sequence[Size], targets: Sequence[ImageTargets], draws: Draws
    ) -> tuple[Regions, dict[str, OwnTerm]]:
        """Return the sampled regions with labels, and the losses of the RPN and of the boxes."""
        trained = as_dicts(targets)
        rpn, heads = self.network.rpn, self.network.roi_heads
        anchored = _Anchored(rpn, self._maps(features), features[CANVAS], len(sizes))
        with torch.no_grad():
            proposals = self._best(anchored, sizes)
            with drawn(rpn, draws, "rpn"):
                terms = _RPNTargets(rpn, anchored.anchors, trained)
            with drawn(heads, draws, "roi"):
                boxes, _, of_image, target = heads.select_training_samples(proposals, trained)
            labels, offset_target = torch.cat(of_image), torch.cat(target)
            found = labels > 0
            offset_target = torch.where(found[:, None], offset_target, torch.zeros_like(offset_target))
        asked = self.regions(features, boxes, sizes)
        regions = Regions(asked.boxes, asked.image, asked.logits, asked.offsets, labels, offset_target)
        rows = torch.where(found)[0]
        box = F.smooth_l1_loss(
            regions.offsets[rows, labels[rows]], offset_target[rows], reduction="sum", beta=self._beta
        )
        own = terms.losses(anchored.objectness, anchored.offsets, self._beta)
        return regions, {**own, "box": OwnTerm(box, box.new_tensor(float(len(labels))))}

    @torch.no_grad()
    def detect(self, features: dict[str, Tensor], sizes: Sequence[Size]) -> list[ImageDetections]:
        """Return the detections of each image."""
        boxes = self.propose(features, sizes)
        asked = self.regions(features, boxes, sizes)
        found = self.network.roi_heads.postprocess_detections(
            asked.logits, asked.offsets.flatten(1), boxes, list(sizes)
        )
        return as_detections(
            [{"boxes": image, "scores": scores, "labels": labels} for image, scores, labels in zip(*found, strict=True)]
        )

    def _maps(self, features: dict[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.strides]

    def _best(self, anchored: _Anchored, sizes: Sequence[Size]) -> list[Tensor]:
        rpn = self.network.rpn
        decoded = rpn.box_coder.decode(anchored.offsets.detach(), anchored.anchors).view(len(sizes), -1, 4)
        boxes: list[Tensor] = rpn.filter_proposals(decoded, anchored.objectness, list(sizes), anchored.counts)[0]
        return boxes


class _Anchored:
    """The outputs of the RPN's head, in float32, with its anchors.

    Attributes:
        objectness: (B·A, 1).
        offsets: (B·A, 4).
        anchors: (A, 4) of each image.
        counts: The number of anchors of each level.
    """

    def __init__(self, rpn: Any, maps: list[Tensor], canvas: Tensor, images: int) -> None:
        objectness, offsets = rpn.head(maps)
        self.counts = [level[0].numel() for level in objectness]
        objectness, offsets = concat_box_prediction_layers(objectness, offsets)
        self.objectness, self.offsets = to_loss_dtype(objectness), to_loss_dtype(offsets)
        self.anchors = anchors_of(rpn.anchor_generator, maps, canvas, images)


class _RPNTargets:
    """The anchors that the RPN is trained on in a step, with their targets.

    Args:
        rpn: The RPN, with the sampler of the step.
        anchors: (A, 4) of each image.
        targets: The objects of each image.
    """

    def __init__(self, rpn: Any, anchors: list[Tensor], targets: list[dict[str, Tensor]]) -> None:
        labels, matched = rpn.assign_targets_to_anchors(anchors, targets)
        positive, negative = (torch.cat(masks) for masks in rpn.fg_bg_sampler(labels))
        self._sampled = torch.where(positive | negative)[0]
        self._positive = torch.where(positive)[0]
        self._labels = torch.cat(labels)[self._sampled]
        self._target = rpn.box_coder.encode_single(
            torch.cat(matched)[self._positive], torch.cat(anchors)[self._positive]
        )

    def losses(self, objectness: Tensor, offsets: Tensor, beta: float) -> dict[str, OwnTerm]:
        """Return the losses, both means over the sampled anchors."""
        count = objectness.new_tensor(float(len(self._sampled)))
        logits = objectness.flatten()[self._sampled]
        binary = F.binary_cross_entropy_with_logits(logits, self._labels.to(logits.dtype), reduction="sum")
        box = F.smooth_l1_loss(offsets[self._positive], self._target, reduction="sum", beta=beta)
        return {"objectness": OwnTerm(binary, count), "rpn_box": OwnTerm(box, count)}


@contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    """Set only the flag of one module, which decides how many proposals torchvision keeps."""
    training = module.training
    module.training = False
    try:
        yield
    finally:
        module.training = training


def faster_rcnn(num_classes: int, params: FasterRCNNParams) -> FasterRCNNDetector:
    """Build Faster R-CNN with weights from torch's random state.

    Args:
        num_classes: C, with the background.
        params: The parameters of the catalog.

    Raises:
        ValueError: The backbone cannot be built, or has another number of levels than ``anchor_sizes``.
    """
    of_detectron2, second = params.convention == "detectron2", params.form == "v2"
    small = is_small(params.backbone)
    body = build_body(params.backbone, params.norm, params.stem_stride, stride_in_1x1=of_detectron2)
    norm = nn.BatchNorm2d if second else None
    pyramid = Pyramid(body, params.channels, "none" if small else "pool", norm_layer=norm)
    anchors = _anchors(params, pyramid.strides)
    rois = {name: pyramid.strides[name] for name in pyramid.rois}
    canonical = params.canonical_size or (112.0 if small else 224.0)
    width = params.either(params.head_width, 1024, 128)
    shape = (pyramid.out_channels, params.roi_size, params.roi_size)
    if second:
        head: nn.Module = FastRCNNConvFCHead(shape, [pyramid.out_channels] * 4, [width], norm_layer=norm)
    else:
        head = TwoMLPHead(shape[0] * shape[1] * shape[2], width)
    score = params.rpn_score_thresh
    network = FasterRCNN(
        pyramid,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(pyramid.out_channels, anchors.num_anchors_per_location()[0], conv_depth=2 if second else 1),
        rpn_pre_nms_top_n_train=params.either(params.rpn_pre_nms_top_n_train, 2000, 500),
        rpn_pre_nms_top_n_test=params.either(params.rpn_pre_nms_top_n_test, 1000, 300),
        rpn_post_nms_top_n_train=params.either(params.rpn_post_nms_top_n_train, 2000, 300),
        rpn_post_nms_top_n_test=params.either(params.rpn_post_nms_top_n_test, 1000, 150),
        rpn_score_thresh=score if score is not None else 0.05 if params.backbone == _MOBILENET_V3 else 0.0,
        box_roi_pool=region_pool(rois, params.roi_size, canonical, aligned=of_detectron2),
        box_head=head,
        box_predictor=FastRCNNPredictor(width, num_classes),
        box_score_thresh=params.score_thresh,
        box_nms_thresh=params.nms_thresh,
        box_detections_per_img=params.detections_per_img,
        box_batch_size_per_image=params.either(params.box_batch_size_per_image, 512, 128),
        **{name: getattr(params, name) for name in _PASSED_ON},
    )
    mean, std = params.mean or MEAN, params.std or STD
    detector = FasterRCNNDetector(network, pyramid.strides, num_classes, mean, std, of_detectron2=of_detectron2)
    detector.published = "" if of_detectron2 else _PUBLISHED.get((params.backbone, params.form), "")
    return with_backbone(detector, params, body)


def _anchors(params: FasterRCNNParams, strides: dict[str, int]) -> AnchorGenerator:
    sizes = params.anchor_sizes
    if sizes is None and params.backbone == _MOBILENET_V3:
        sizes = (_MOBILENET_V3_ANCHORS,) * len(strides)
    if sizes is None:
        sizes = tuple((8.0 * stride,) for stride in strides.values())
    if len(sizes) != len(strides):
        text = (
            f"anchor_sizes is for {len(sizes)} levels, and {params.backbone} has {len(strides)}: {', '.join(strides)}"
        )
        raise ValueError(text)
    ratios = (params.aspect_ratios,) * len(sizes)
    if params.convention == "detectron2":
        return ExactAnchors(sizes, ratios, tuple(strides.values()))
    return AnchorGenerator(sizes, ratios)
