"""The detectors: their parameters and limits. The code is in ``core.tasks.detection.models``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from core.catalog.models import MODELS, TIMM, ModelEntry
from core.catalog.registry import Params
from core.catalog.suggestions import suggest_name

SMALL_BACKBONES = (
    *(f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)),
    *(f"resnet{depth}x4" for depth in (8, 32)),
    *(f"resnet{depth}_cifar" for depth in (18, 34, 50, 101)),
    *(f"wrn_{depth}_{width}" for depth, width in ((16, 1), (16, 2), (40, 1), (40, 2))),
    *(f"vgg{depth}" for depth in (8, 11, 13, 16, 19)),
    "mobilenet_v2_half",
)
"""The catalog's networks for small images, whose stages are made into a pyramid."""

LARGE_BACKBONES = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_large")
"""Those of torchvision."""

_TIMM_BACKBONE = re.compile(TIMM + r"[a-z0-9_]+(\.[a-z0-9_]+)?")

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1, le=100_000)]
Channels = Annotated[int, Field(ge=8, le=2048)]
Pixels = Annotated[float, Field(gt=0, le=4096)]
Colour = tuple[float, float, float]


def is_small(backbone: str) -> bool:
    """Return whether a backbone is for small images, for which some parameters have other defaults."""
    return backbone in SMALL_BACKBONES


_CHOSEN = ("backbone", "stem_stride", "norm", "frozen_stages", "backbone_weights", "fpn_channels", "head_width", "form")
"""Parameters that distinguish one detector from another. The others are rarely changed."""


def _fold_the_others(schema: dict[str, Any]) -> None:
    for name, field in schema["properties"].items():
        if name not in _CHOSEN:
            field["x-group"] = "Anchors, thresholds and normalisation"


class DetectorParams(Params):
    model_config = ConfigDict(json_schema_extra=_fold_the_others)

    mean: Colour | None = Field(
        None,
        description="Mean of each channel that the network subtracts, for images scaled to 0-1. By default ImageNet's.",
    )
    std: Colour | None = Field(
        None,
        description="Standard deviation of each channel by which the network divides. By default ImageNet's.",
    )
    score_thresh: Share = Field(0.05, description="Detections with a lower score are dropped.")
    nms_thresh: Share = Field(
        0.5,
        description="Overlap (IoU) above which only the better of two detections of a class stays.",
    )
    detections_per_img: Count = Field(100, description="Maximum number of detections in an image.")

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        if self.std and min(self.std) <= 0:
            raise ValueError("std must be above 0")
        return self


class BackboneParams(DetectorParams):
    backbone: str = Field(
        "resnet50",
        max_length=100,
        description="The network below the pyramid: one of the catalog's for small images (resnet8 … resnet110, "
        "resnet8x4, resnet32x4, wrn_…, vgg…), torchvision's resnet18, resnet34, resnet50, resnet101, mobilenet_v2 or "
        "mobilenet_v3_large, or timm:NAME.",
        examples=["resnet8", "resnet18", "timm:resnet26"],
    )
    stem_stride: Literal[1, 2] = Field(
        2,
        description="Stride of the first convolution of a network for small images: 2 gives the first three levels "
        "the strides 2, 4 and 8; 1 gives them 1, 2 and 4. Other networks have strides of their own.",
    )
    norm: Literal["batch", "frozen", "group"] = Field(
        "batch",
        description="Normalisation in the backbone: batch norm, batch norm with fixed statistics and weights (usual "
        "with published weights and few images in a step), or group norm.",
    )
    frozen_stages: int = Field(
        0,
        ge=0,
        le=6,
        description="Number of parts at the start of the backbone that are not trained: 1 is the stem, 2 the stem and "
        "the first stage (usual with published weights).",
    )
    backbone_weights: Literal["none", "imagenet"] = Field(
        "none",
        description="What a new network starts from: random weights, or a backbone with the published weights of "
        "ImageNet.",
    )

    @field_validator("backbone")
    @classmethod
    def _known(cls, name: str) -> str:
        known = (*SMALL_BACKBONES, *LARGE_BACKBONES)
        if name in known or _TIMM_BACKBONE.fullmatch(name):
            return name
        raise ValueError(f"unknown backbone {name!r}; {suggest_name(name, dict.fromkeys(known, ()))}")

    @model_validator(mode="after")
    def _published_weights_fit(self) -> Self:
        if self.backbone_weights == "none":
            return self
        if is_small(self.backbone):
            raise ValueError(f"backbone_weights: {self.backbone} has no published weights of ImageNet")
        if self.norm == "group":
            raise ValueError("backbone_weights: the published weights are for batch norm, and norm is group")
        return self


class PyramidParams(BackboneParams):
    fpn_channels: Channels | None = Field(
        None, description="Channels of each level of the pyramid. By default 256, or 64 for networks for small images."
    )

    @property
    def channels(self) -> int:
        """The channels of each level."""
        return self.fpn_channels or (64 if is_small(self.backbone) else 256)


class FasterRCNNParams(PyramidParams):
    """Names and defaults are torchvision's. A field without a default has another one for small images."""

    form: Literal["v1", "v2"] = Field(
        "v1",
        description="v2 has batch norm in the pyramid, two convolutions in the RPN and four in the box head, as "
        "torchvision's fasterrcnn_resnet50_fpn_v2.",
    )
    convention: Literal["torchvision", "detectron2"] = Field(
        "torchvision",
        description="detectron2: RoIAlign shifted by half a pixel with as many samples as a region has cells, anchors "
        "that are not rounded, strides in the first convolution of a bottleneck, and L1 in place of smooth L1 for "
        "boxes. Its published weights need it.",
    )
    anchor_sizes: tuple[tuple[Pixels, ...], ...] | None = Field(
        None,
        max_length=8,
        description="Side in pixels of the anchors of each level. By default 8 times the level's stride.",
        examples=[[[16], [32], [64]]],
    )
    aspect_ratios: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0), min_length=1, max_length=8, description="Height of the anchors as a multiple of their width."
    )
    rpn_pre_nms_top_n_train: Count | None = Field(
        None,
        description="Maximum number of proposals of a level before NMS in training. By default 2000, or 500 for "
        "small images.",
    )
    rpn_pre_nms_top_n_test: Count | None = Field(
        None,
        description="Maximum number of proposals of a level before NMS in evaluation. By default 1000, or 300 for "
        "small images.",
    )
    rpn_post_nms_top_n_train: Count | None = Field(
        None,
        description="Maximum number of proposals of an image after NMS in training. By default 2000, or 300 for "
        "small images.",
    )
    rpn_post_nms_top_n_test: Count | None = Field(
        None,
        description="Maximum number of proposals of an image after NMS in evaluation. By default 1000, or 150 for "
        "small images.",
    )
    rpn_nms_thresh: Share = Field(0.7, description="Overlap (IoU) above which the worse of two proposals is dropped.")
    rpn_fg_iou_thresh: Share = Field(0.7, description="Overlap (IoU) with an object from which an anchor is positive.")
    rpn_bg_iou_thresh: Share = Field(
        0.3,
        description="Overlap (IoU) with every object below which an anchor is negative.",
    )
    rpn_batch_size_per_image: Count = Field(
        256,
        description="Number of anchors of an image that the RPN is trained on.",
    )
    rpn_positive_fraction: Share = Field(
        0.5,
        description="Maximum share of positive anchors among those that the RPN is trained on.",
    )
    rpn_score_thresh: Share | None = Field(
        None, description="Proposals with a lower score are dropped. By default 0, or 0.05 on mobilenet_v3_large."
    )
    box_fg_iou_thresh: Share = Field(
        0.5,
        description="Overlap (IoU) with an object from which a region has the class of the object.",
    )
    box_bg_iou_thresh: Share = Field(
        0.5,
        description="Overlap (IoU) with every object below which a region is background.",
    )
    box_batch_size_per_image: Count | None = Field(
        None,
        description="Number of regions of an image that the box head is trained on. By default 512, or 128 for small "
        "images.",
    )
    box_positive_fraction: Share = Field(
        0.25,
        description="Maximum share of regions with an object among those that the box head is trained on.",
    )
    roi_size: int = Field(7, ge=1, le=32, description="Cells along a side of the grid to which a region is pooled.")
    canonical_size: Pixels | None = Field(
        None,
        description="Side in pixels of a region that is pooled from the level of stride 16. By default 224, or 112 for "
        "small images.",
    )
    head_width: Channels | None = Field(
        None,
        description="Width of the box head's linear layers. By default 1024, or 128 for networks for small images.",
    )

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        for part in ("rpn", "box"):
            low, high = getattr(self, f"{part}_bg_iou_thresh"), getattr(self, f"{part}_fg_iou_thresh")
            if low > high:
                raise ValueError(f"{part}_bg_iou_thresh ({low:g}) must not be above {part}_fg_iou_thresh ({high:g})")
        return self

    @model_validator(mode="after")
    def _levels_have_equally_many_anchors(self) -> Self:
        if self.anchor_sizes is not None and len({len(sizes) for sizes in self.anchor_sizes}) != 1:
            raise ValueError("anchor_sizes: every level must have the same number of sizes")
        if min(self.aspect_ratios) <= 0:
            raise ValueError("aspect_ratios must be above 0")
        return self

    @model_validator(mode="after")
    def _detectron2_has_one_form(self) -> Self:
        if self.convention == "detectron2" and self.form != "v1":
            raise ValueError("convention detectron2 is for form v1")
        return self

    def either(self, value: int | None, usual: int, small: int) -> int:
        """Return a value, or its default for the backbone."""
        return value or (small if is_small(self.backbone) else usual)


class SSDParams(DetectorParams):
    iou_thresh: Share = Field(
        0.5,
        description="Overlap (IoU) with an object from which an anchor has the class of the object.",
    )
    positive_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.25,
        description="Share of the trained anchors that have an object. The others are the anchors without an "
        "object that have the largest loss.",
    )
    topk_candidates: Count = Field(400, description="Maximum number of detections of a class before NMS.")
    nms_thresh: Share = Field(
        0.45,
        description="Overlap (IoU) above which only the better of two detections of a class stays.",
    )
    score_thresh: Share = Field(0.01, description="Detections with a lower score are dropped.")
    detections_per_img: Count = Field(200, description="Maximum number of detections in an image.")
    norm: Literal["batch", "frozen", "group"] = Field(
        "batch", description="Normalisation in the network; VGG-16 has none."
    )


class SSDliteParams(SSDParams):
    topk_candidates: Count = Field(300, description="Maximum number of detections of a class before NMS.")
    nms_thresh: Share = Field(
        0.55,
        description="Overlap (IoU) above which only the better of two detections of a class stays.",
    )
    score_thresh: Share = Field(0.001, description="Detections with a lower score are dropped.")
    detections_per_img: Count = Field(300, description="Maximum number of detections in an image.")


class SmallSSDParams(SSDParams, BackboneParams):
    backbone: str = Field(
        "resnet8",
        max_length=100,
        description="The network: one of the catalog's for small images.",
        examples=["resnet20"],
    )
    extra_levels: int = Field(
        2,
        ge=0,
        le=4,
        description="Number of levels above the backbone's, each half the size of the level before it.",
    )
    extra_channels: Channels = Field(64, description="Channels of the levels above the backbone's.")
    min_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.1, description="Side of the finest level's anchors, as a share of the image."
    )
    max_ratio: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="Side of the coarsest level's anchors, as a share of the image.",
    )

    @field_validator("backbone")
    @classmethod
    def _is_small(cls, name: str) -> str:
        if not is_small(name):
            known: dict[str, tuple[str, ...]] = dict.fromkeys(SMALL_BACKBONES, ())
            raise ValueError(f"{name} is no network for small images; {suggest_name(name, known)}")
        return name

    @model_validator(mode="after")
    def _ratios_in_order(self) -> Self:
        if self.min_ratio >= self.max_ratio:
            raise ValueError("min_ratio must be below max_ratio")
        return self


class RetinaNetParams(PyramidParams):
    form: Literal["v1", "v2"] = Field(
        "v1",
        description="v2 has group norm in the heads and the GIoU loss, as torchvision's retinanet_resnet50_fpn_v2.",
    )
    fg_iou_thresh: Share = Field(0.5, description="Overlap (IoU) with an object from which an anchor is positive.")
    bg_iou_thresh: Share = Field(0.4, description="Overlap (IoU) with every object below which an anchor is negative.")
    topk_candidates: Count = Field(1000, description="Maximum number of detections of a level before NMS.")
    detections_per_img: Count = Field(300, description="Maximum number of detections in an image.")

    @model_validator(mode="after")
    def _thresholds_in_order(self) -> Self:
        if self.bg_iou_thresh > self.fg_iou_thresh:
            raise ValueError("bg_iou_thresh must not be above fg_iou_thresh")
        return self


class FCOSParams(PyramidParams):
    center_sampling_radius: Annotated[float, Field(gt=0, le=16)] = Field(
        1.5, description="Distance from an object's centre, in strides, within which a position is positive."
    )
    topk_candidates: Count = Field(1000, description="Maximum number of detections of a level before NMS.")
    score_thresh: Share = Field(0.2, description="Detections with a lower score are dropped.")
    nms_thresh: Share = Field(
        0.6,
        description="Overlap (IoU) above which only the better of two detections of a class stays.",
    )

    @field_validator("fpn_channels")
    @classmethod
    def _groups_of_32(cls, channels: int | None) -> int | None:
        if channels and channels % 32:
            raise ValueError("must be a multiple of 32, because the heads have group norm of 32 groups")
        return channels


def _frozen_random_parts(params: DetectorParams) -> Iterator[tuple[str, str]]:
    """Yield the parameters that freeze parts of a network that has no published weights."""
    if getattr(params, "backbone_weights", "none") != "none":
        return
    if getattr(params, "norm", "") == "frozen":
        yield "norm", "frozen batch norm never normalises in a network that begins with random weights"
    if getattr(params, "frozen_stages", 0):
        yield "frozen_stages", "the frozen parts begin with random weights and are never trained"


_CODE = "core.tasks.detection.models"
_OF_TORCHVISION = (
    ("ssd300", "SSD300 (VGG-16)", "ssd:ssd300", SSDParams, 300, "Liu et al. 2016, arXiv 1512.02325"),
    ("ssdlite320", "SSDlite320 (MobileNetV3)", "ssd:ssdlite320", SSDliteParams, 320, "Howard et al. 2019, 1905.02244"),
)

DETECTORS = (
    ModelEntry(
        name="faster_rcnn",
        title="Faster R-CNN",
        summary="Two stages on a feature pyramid: proposals, then a class and a box for each. Methods on logits "
        "compare its regions.",
        target=f"{_CODE}.faster_rcnn:faster_rcnn",
        params=FasterRCNNParams,
        variant="backbone",
        source="Ren et al. 2015, arXiv 1506.01497; Lin et al. 2017, arXiv 1612.03144",
        aliases=("fasterrcnn", "fasterrcnn_resnet50_fpn", "faster_rcnn_R_50_FPN"),
        min_image_size=32,
        usual_image_size=800,
        channels=(3,),
        pretrained_classes=0,
        tasks=("detection",),
        region_logits="any",
    ),
    *(
        ModelEntry(
            name=name,
            title=title,
            summary=f"One stage: a class and a box for each anchor, on images of {size} px. Methods on logits compare "
            "its anchors.",
            target=f"{_CODE}.{target}",
            params=params,
            source=source,
            min_image_size=32,
            usual_image_size=size,
            fixed_image_size=size,
            channels=(3,),
            pretrained_classes=0,
            tasks=("detection",),
            region_logits="anchors",
        )
        for name, title, target, params, size, source in _OF_TORCHVISION
    ),
    ModelEntry(
        name="ssd",
        title="SSD (small images)",
        summary="One stage on the stages of a network for small images: a class and a box for each anchor.",
        target=f"{_CODE}.ssd:small_ssd",
        params=SmallSSDParams,
        variant="backbone",
        source="Liu et al. 2016, arXiv 1512.02325",
        min_image_size=32,
        usual_image_size=128,
        channels=(3,),
        tasks=("detection",),
        region_logits="anchors",
        anchor_params=("extra_levels", "min_ratio", "max_ratio"),
    ),
    ModelEntry(
        name="retinanet",
        title="RetinaNet",
        summary="One stage on a feature pyramid with the focal loss. It has no softmax over classes, so only methods "
        "on features apply.",
        target=f"{_CODE}.dense:retinanet",
        params=RetinaNetParams,
        variant="backbone",
        source="Lin et al. 2017, arXiv 1708.02002",
        min_image_size=32,
        usual_image_size=800,
        channels=(3,),
        pretrained_classes=0,
        tasks=("detection",),
    ),
    ModelEntry(
        name="fcos",
        title="FCOS",
        summary="One stage on a feature pyramid without anchors. It has no softmax over classes, so only methods on "
        "features apply.",
        target=f"{_CODE}.dense:fcos",
        params=FCOSParams,
        variant="backbone",
        source="Tian et al. 2019, arXiv 1904.01355",
        min_image_size=32,
        usual_image_size=800,
        channels=(3,),
        pretrained_classes=0,
        tasks=("detection",),
    ),
)
for _entry in DETECTORS:
    MODELS.add(replace(_entry, random_weights_warnings=_frozen_random_parts))
