"""Input format and classes of the weights that torchvision and timm publish."""

from __future__ import annotations

from typing import Any

from core.catalog import MODELS
from core.catalog.models import TIMM
from core.tasks.classification.models.torchvision_nets import WEIGHTS
from core.weights.metadata import InputFormat, Interpolation

_IMAGENET_CLASSES = 1000


def published_input(model: str) -> InputFormat | None:
    """Return the input format of a model's published weights; None without such weights or without their library.

    Sources: ``transforms()`` of torchvision's weights, and timm's ``pretrained_cfg``.
    """
    try:
        if model.startswith(TIMM):
            return _timm_input(model.removeprefix(TIMM))
        return _torchvision_input(model) if MODELS[model].pretrained_classes else None
    except (ImportError, LookupError, AttributeError):
        return None


def published_classes(model: str) -> int | None:
    """Return the number of classes of a model's published weights; None if unknown."""
    if not model.startswith(TIMM):
        return MODELS[model].pretrained_classes
    config = _timm_config(model.removeprefix(TIMM))
    return None if config is None else int(config.num_classes)


def imagenet_class_names() -> tuple[tuple[str, ...], ...]:
    """Return ImageNet's 1000 classes in the order of the published weights: WordNet ids, and English names."""
    naming_schemes: list[tuple[str, ...]] = []
    try:
        from timm.data import ImageNetInfo

        naming_schemes.append(tuple(ImageNetInfo("imagenet-1k").label_names()))
    except (ImportError, OSError, AssertionError):
        pass  # the other library may name them
    try:
        import torchvision

        naming_schemes.append(tuple(torchvision.models.get_model_weights("resnet18")[WEIGHTS].meta["categories"]))
    except (ImportError, LookupError):
        pass
    return tuple(names for names in naming_schemes if len(names) == _IMAGENET_CLASSES)


def _torchvision_input(name: str) -> InputFormat:
    import torchvision

    transforms = torchvision.models.get_model_weights(name)[WEIGHTS].transforms()
    size, interpolation = transforms.crop_size[0], transforms.interpolation.value
    return InputFormat(
        tuple(transforms.mean), tuple(transforms.std), size, _interpolation(interpolation), known_from="published"
    )


def _timm_input(name: str) -> InputFormat | None:
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
    except RuntimeError:  # an unknown tag, which building the network reports
        return None


def _interpolation(name: str) -> Interpolation:
    return "bicubic" if name == "bicubic" else "nearest" if name == "nearest" else "bilinear"
