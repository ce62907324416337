"""What torchvision and timm say of the weights that they publish: the input they expect, and their classes."""

from __future__ import annotations

from typing import Any

from core.catalog import MODELS
from core.catalog.models import TIMM
from core.models.metadata import InputFormat, Interpolation
from core.models.torchvision_nets import WEIGHTS

_IMAGENET_CLASSES = 1000


def published_input(model: str) -> InputFormat | None:
    """The images that the published weights of a model expect; None where it has none, or their library is not here.

    Sources: ``transforms()`` of torchvision's weights, and timm's ``pretrained_cfg``.
    """
    try:
        if model.startswith(TIMM):
            return _of_timm(model.removeprefix(TIMM))
        return _of_torchvision(model) if MODELS[model].pretrained_classes else None
    except (ImportError, LookupError, AttributeError):
        return None


def published_classes(model: str) -> int | None:
    """How many classes the published weights of a model have; None where that is not known."""
    if not model.startswith(TIMM):
        return MODELS[model].pretrained_classes
    config = _timm_config(model.removeprefix(TIMM))
    return None if config is None else int(config.num_classes)


def imagenet_class_names() -> tuple[tuple[str, ...], ...]:
    """ImageNet's 1000 classes in the order of the published weights: WordNet ids, and torchvision's English names."""
    found: list[tuple[str, ...]] = []
    try:
        from timm.data import ImageNetInfo

        found.append(tuple(ImageNetInfo("imagenet-1k").label_names()))
    except (ImportError, OSError, AssertionError):
        pass  # named by the other library then
    try:
        import torchvision

        found.append(tuple(torchvision.models.get_model_weights("resnet18")[WEIGHTS].meta["categories"]))
    except (ImportError, LookupError):
        pass
    return tuple(names for names in found if len(names) == _IMAGENET_CLASSES)


def _of_torchvision(name: str) -> InputFormat:
    import torchvision

    transforms = torchvision.models.get_model_weights(name)[WEIGHTS].transforms()
    size, interpolation = transforms.crop_size[0], transforms.interpolation.value
    return InputFormat(
        tuple(transforms.mean), tuple(transforms.std), size, _interpolation(interpolation), known_from="published"
    )


def _of_timm(name: str) -> InputFormat | None:
    config = _timm_config(name)
    if config is None or not config.has_weights:
        return None
    return InputFormat(
        tuple(config.mean),
        tuple(config.std),
        int(config.input_size[-1]),
        _interpolation(config.interpolation),
        known_from="published",
    )


def _timm_config(name: str) -> Any:
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that it does not know, which whoever builds the network says
        return None


def _interpolation(name: str) -> Interpolation:
    return "bicubic" if name == "bicubic" else "nearest" if name == "nearest" else "bilinear"
