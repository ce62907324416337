"""The models: their parameters and limits. The code is in ``core.tasks.classification.models``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from pydantic import Field

from core.catalog.registry import Entry, Params, Registry, UnknownNameError
from core.catalog.taps import FEATURES, TapShape


@dataclass(frozen=True, kw_only=True)
class ModelEntry(Entry):
    """A network.

    ``target`` is a callable ``(num_classes, in_channels, image_size, **params)`` that returns a
    ``core.tasks.classification.models.Network``. That of a detector is a callable ``(num_classes, params)`` with the
    validated parameters, which returns a ``core.tasks.detection.models.Detector``.

    Attributes:
        tasks: Names of the tasks that it is for.
        variant: Name of the parameter that distinguishes networks of this name in tables, such as the backbone of a
            detector; empty if the name says enough.
        fixed_image_size: Side in pixels of the square to which the images of a detector are padded; 0 for any size.
        min_image_size: Side in pixels of the smallest image for which the last feature map is not empty.
        usual_image_size: Side in pixels of the images that it is designed for.
        channels: Numbers of channels that an image may have; empty for any.
        pretrained_classes: Classes of the weights that ``teacher.weights: pretrained`` names; None if it has no such
            weights, 0 if only the worker can know.
        small_images: The variant for images below 64 px, if this one is not meant for them.
        taps: Names of the layers that a method may read, in order; empty if only the worker can know them.
        region_logits: Of a detector, of which boxes it can give logits over all classes: of any that it is asked about,
            of its own anchors, or of none.
        anchor_params: Names of the parameters that decide these anchors, beside the backbone's.
        tap_shapes: The shapes of these layers; empty if parameters decide them, or only the worker can know them.
        random_weights_warnings: Returns what is wrong with parameters of a network that begins with random weights,
            as pairs of a parameter and a sentence.
    """

    min_image_size: int
    usual_image_size: int = 32
    channels: tuple[int, ...] = ()
    pretrained_classes: int | None = None
    small_images: str = ""
    taps: tuple[str, ...] = ()
    region_logits: Literal["any", "anchors", "none"] = "none"
    anchor_params: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("classification",)
    fixed_image_size: int = 0
    tap_shapes: Mapping[str, TapShape] = field(default_factory=dict)
    random_weights_warnings: Callable[[Any], Iterable[tuple[str, str]]] | None = None
    variant: str = ""

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "min_image_size": self.min_image_size,
            "usual_image_size": self.usual_image_size,
            "channels": list(self.channels),
            "pretrained": self.pretrained_classes is not None,
            "taps": list(self.taps),
            "region_logits": self.region_logits,
            "tasks": list(self.tasks),
        }

    def title_of(self, params: Mapping[str, Any]) -> str:
        """Return the name with the variant that parameters choose, as "faster_rcnn resnet18"."""
        if not self.variant:
            return self.name
        return f"{self.name} {params.get(self.variant, self.params.model_fields[self.variant].default)}"

    def refusal(self, image_size: int, channels: int) -> str | None:
        """Return why the network cannot read such images; None if it can."""
        if image_size < self.min_image_size:
            return f"{self.name} needs images of at least {self.min_image_size} px"
        if self.channels and channels not in self.channels:
            return f"{self.name} reads images of {' or '.join(map(str, self.channels))} channels"
        return None


MODELS: Registry[ModelEntry] = Registry("model")


def network_title(name: str, params: Mapping[str, Any]) -> str:
    """Return the name of a network in tables, with its variant if it has one, as "faster_rcnn resnet18".

    Args:
        name: The name in a spec; that of a plug-in that is not loaded stays as it is.
        params: The parameters.
    """
    return MODELS[name].title_of(params) if name in MODELS else name


def _stages(count: int, *, stem: bool = True) -> tuple[str, ...]:
    """Return the taps of a network with so many stages."""
    return (*(("stem",) if stem else ()), *(f"stage{number}" for number in range(1, count + 1)), FEATURES)


def _shapes(*stages: int, stem: int = 0, features: int = 0, strides: Sequence[int] = ()) -> dict[str, TapShape]:
    """Return the shapes of the taps of a network.

    Args:
        stages: Channels of each stage.
        stem: Channels of the stem; 0 without one.
        features: Width of the features; 0 for the channels of the last stage.
        strides: Of the stem, if there is one, and of each stage; by default the first stage has the size of the image,
            and each other stage half the size of the stage before it.
    """
    channels = (*((stem,) if stem else ()), *stages)
    strides = strides or (*((1,) if stem else ()), *(2**number for number in range(len(stages))))
    shapes = [TapShape(*pair) for pair in zip(channels, strides, strict=True)]
    names = _stages(len(stages), stem=bool(stem))
    return dict(zip(names, [*shapes, TapShape(features or stages[-1], 0)], strict=True))


class SmallCNNParams(Params):
    width: int = Field(16, ge=1, le=1024, description="Channels of the first stage. The second has twice as many.")


class TimmParams(Params):
    patch_size: int | None = Field(
        None,
        ge=1,
        le=64,
        description="Side in pixels of a vision transformer's patch; by default as the name states. Use 4 for "
        "images of 32 px.",
        examples=[4],
    )
    drop_path_rate: float = Field(
        0.0, ge=0, lt=1, description="Stochastic depth: share of the blocks that are skipped."
    )


MODELS.add(
    ModelEntry(
        name="small_cnn",
        title="Small CNN",
        summary="Two convolutions with batch norm and pooling, then a linear layer, for digits and quick experiments.",
        target="core.tasks.classification.models.small_cnn:SmallCNN",
        taps=_stages(1),
        params=SmallCNNParams,
        min_image_size=4,
    )
)

_HE = "He et al. 2016, arXiv 1512.03385"
for _depth in (8, 14, 20, 32, 44, 56, 110):
    MODELS.add(
        ModelEntry(
            name=f"resnet{_depth}",
            title=f"ResNet-{_depth}",
            summary=f"CIFAR ResNet of depth {_depth}: three stages of 16, 32 and 64 channels.",
            target=f"core.tasks.classification.models.resnet_cifar:resnet{_depth}",
            taps=_stages(3),
            tap_shapes=_shapes(16, 32, 64, stem=16),
            source=f"{_HE}, section 4.2",
            min_image_size=8,
        )
    )
for _depth in (8, 32):
    MODELS.add(
        ModelEntry(
            name=f"resnet{_depth}x4",
            title=f"ResNet-{_depth}×4",
            summary=f"CIFAR ResNet of depth {_depth}, wide: a stem of 32, stages of 64, 128 and 256 channels.",
            target=f"core.tasks.classification.models.resnet_cifar:resnet{_depth}x4",
            taps=_stages(3),
            tap_shapes=_shapes(64, 128, 256, stem=32),
            source="Tian et al. 2020, arXiv 1910.10699",
            min_image_size=8,
        )
    )
_RESNET = dict.fromkeys((18, 34), (64, 128, 256, 512)) | dict.fromkeys((50, 101), (256, 512, 1024, 2048))
"""Channels of the stages of ResNets by depth."""
for _depth in (18, 34, 50, 101):
    MODELS.add(
        ModelEntry(
            name=f"resnet{_depth}_cifar",
            title=f"ResNet-{_depth} (CIFAR stem)",
            summary=f"ResNet-{_depth} that begins with one 3×3 convolution, which keeps the size of small images.",
            target=f"core.tasks.classification.models.resnet_cifar:resnet{_depth}_cifar",
            taps=_stages(4),
            tap_shapes=_shapes(*_RESNET[_depth], stem=64),
            source=_HE,
            min_image_size=8,
        )
    )
for _depth, _width in ((16, 1), (16, 2), (40, 1), (40, 2)):
    MODELS.add(
        ModelEntry(
            name=f"wrn_{_depth}_{_width}",
            title=f"WRN-{_depth}-{_width}",
            summary=f"Wide ResNet with pre-activation, depth {_depth}, {_width} × (16, 32, 64) channels.",
            target=f"core.tasks.classification.models.wrn:wrn_{_depth}_{_width}",
            taps=_stages(3),
            tap_shapes=_shapes(16 * _width, 32 * _width, 64 * _width, stem=16),
            source="Zagoruyko and Komodakis 2016, arXiv 1605.07146",
            aliases=(f"wide_resnet_{_depth}_{_width}",),
            min_image_size=8,
        )
    )
for _depth in (8, 11, 13, 16, 19):
    MODELS.add(
        ModelEntry(
            name=f"vgg{_depth}",
            title=f"VGG-{_depth}",
            summary=f"VGG-{_depth} with batch norm and one linear layer, as used on CIFAR.",
            target=f"core.tasks.classification.models.vgg:vgg{_depth}",
            taps=_stages(5, stem=False),
            tap_shapes=_shapes(64, 128, 256, 512, 512, strides=(1, 2, 4, 8, 8)),
            source="Simonyan and Zisserman 2015, arXiv 1409.1556",
            min_image_size=8,
        )
    )
MODELS.add(
    ModelEntry(
        name="shufflenet_v1",
        title="ShuffleNetV1 (CIFAR)",
        aliases=("ShuffleNetV1", "ShuffleV1"),
        summary="ShuffleNetV1 1×, 3 groups, beginning with a 1×1 convolution for small images.",
        target="core.tasks.classification.models.shufflenet:shufflenet_v1",
        taps=_stages(3),
        tap_shapes=_shapes(240, 480, 960, stem=24, strides=(1, 2, 4, 8)),
        source="Zhang et al. 2018, arXiv 1707.01083",
        min_image_size=8,
    )
)
MODELS.add(
    ModelEntry(
        name="shufflenet_v2",
        title="ShuffleNetV2 (CIFAR)",
        summary="ShuffleNetV2 1×, beginning with a 1×1 convolution for small images.",
        target="core.tasks.classification.models.shufflenet:shufflenet_v2",
        taps=_stages(3),
        tap_shapes=_shapes(116, 232, 464, stem=24, features=1024, strides=(1, 2, 4, 8)),
        source="Ma et al. 2018, arXiv 1807.11164",
        min_image_size=8,
    )
)
MODELS.add(
    ModelEntry(
        name="mobilenet_v2_half",
        title="MobileNetV2 ½ (CIFAR)",
        aliases=("MobileNetV2", "mobile_half"),
        summary="MobileNetV2 at half width with expansion 6, the variant of CIFAR distillation papers.",
        target="core.tasks.classification.models.mobilenet:mobilenet_v2_half",
        taps=_stages(4),
        tap_shapes=_shapes(12, 16, 48, 160, stem=16, features=1280, strides=(2, 2, 4, 8, 16)),
        source="Sandler et al. 2018, arXiv 1801.04381; Tian et al. 2020, arXiv 1910.10699",
        min_image_size=16,
    )
)

_FROM_QUARTER = (4, 4, 8, 16, 32)
_TRANSFORMER = _shapes(96, 192, 384, 768, stem=96, strides=_FROM_QUARTER)
_SHUFFLENET = _shapes(116, 232, 464, stem=24, features=1024, strides=(4, 8, 16, 32))
_MOBILENET = _shapes(16, 24, 32, 96, 320, stem=32, features=1280, strides=(2, 2, 4, 8, 16, 32))
_IMAGENET = (
    *(
        (
            f"resnet{_depth}",
            f"ResNet-{_depth}",
            f"resnet{_depth}_cifar",
            _shapes(*_sizes, stem=64, strides=_FROM_QUARTER),
            _HE,
        )
        for _depth, _sizes in _RESNET.items()
    ),
    ("shufflenet_v2_x1_0", "ShuffleNetV2 1×", "shufflenet_v2", _SHUFFLENET, "Ma et al. 2018, arXiv 1807.11164"),
    ("mobilenet_v2", "MobileNetV2", "mobilenet_v2_half", _MOBILENET, "Sandler et al. 2018, arXiv 1801.04381"),
    ("convnext_tiny", "ConvNeXt-T", "", _TRANSFORMER, "Liu et al. 2022, arXiv 2201.03545"),
    ("swin_s", "Swin-S", "", _TRANSFORMER, "Liu et al. 2021, arXiv 2103.14030"),
)
for _name, _title, _small, _known, _source in _IMAGENET:
    MODELS.add(
        ModelEntry(
            name=_name,
            title=_title,
            summary=f"{_title} for ImageNet from torchvision; its IMAGENET1K_V1 weights are the pretrained ones.",
            target=f"core.tasks.classification.models.torchvision_nets:{_name}",
            taps=tuple(_known),
            tap_shapes=_known,
            source=_source,
            min_image_size=32,
            usual_image_size=224,
            pretrained_classes=1000,
            small_images=_small,
        )
    )
MODELS.add(
    ModelEntry(
        name="mobilenet_v1",
        title="MobileNetV1",
        summary="MobileNetV1 for ImageNet: depthwise-separable convolutions, full width.",
        target="core.tasks.classification.models.mobilenet:mobilenet_v1",
        taps=_stages(4),
        tap_shapes=_shapes(128, 256, 512, 1024, stem=32, strides=(2, 4, 8, 16, 32)),
        source="Howard et al. 2017, arXiv 1704.04861",
        min_image_size=32,
        usual_image_size=224,
    )
)

TIMM = "timm:"
_TIMM_NAME = re.compile(r"timm:[a-z0-9_]+(\.[a-z0-9_]+)?")


@dataclass(frozen=True, kw_only=True)
class _TimmEntry(ModelEntry):
    def load(self) -> Any:
        return partial(super().load(), self.name.removeprefix(TIMM))


def _timm_entry(name: str) -> ModelEntry:
    # With another colon or a slash in the name, timm would load code and settings from a hub.
    if not _TIMM_NAME.fullmatch(name):
        raise UnknownNameError("model", name, MODELS.spellings(TIMM))
    plain = name.removeprefix(TIMM)
    return _TimmEntry(
        name=name,
        title=plain,
        summary=f"{plain} of the timm library. Only the worker can tell whether timm has the model.",
        target="core.tasks.classification.models.timm_nets:TimmNetwork",
        params=TimmParams,
        source="https://github.com/huggingface/pytorch-image-models",
        min_image_size=4,
        usual_image_size=224,
        pretrained_classes=0,
    )


MODELS.add_family(TIMM, _timm_entry)
MODELS.add(
    replace(
        _timm_entry("timm:vit_small_patch16_224"),
        title="ViT-S/16 (timm)",
        summary="Small vision transformer; use patch_size 4 for images of 32 px. Any timm model can be "
        "named: timm:NAME.",
        source="Dosovitskiy et al. 2021, arXiv 2010.11929; timm",
    )
)
