"""Weights for detectors: our own files, torchvision's, detectron2's, and those of a backbone alone.

Three things differ between them besides the keys: where the background is (``detectron2``), which classes there are and
in which order, and the constant in torchvision's frozen batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models._meta import _COCO_CATEGORIES

from core.catalog.models import TIMM
from core.tasks.classification.models.timm_nets import FEATURES_ONLY, create_pretrained
from core.tasks.classification.models.torchvision_nets import WEIGHTS, published_tensors
from core.tasks.classification.models.weights import PRETRAINED, SuppliedWeights
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.models.detectron2 import from_detectron2, is_of_detectron2
from core.weights.errors import WeightsError
from core.weights.key_matching import check_usable, match_state_dict, mismatch_error
from core.weights.metadata import describe_class_differences
from core.weights.state_dicts import StateDict, find_state_dicts, strip_prefixes

PUBLISHED = "COCO_V1"
"""The name of the weights that torchvision publishes for each detector."""

_HOLE = "N/A"
COCO_LOGITS: tuple[str, ...] = tuple(_COCO_CATEGORIES)
"""The meaning of the 91 logits of torchvision's detectors: the background, COCO's 80 classes and holes between them."""

COCO_CLASSES: tuple[str, ...] = tuple(name for name in COCO_LOGITS[1:] if name != _HOLE)
"""The 80 classes in COCO's order."""

_KNOWN = {len(names) + 1: names for names in (COCO_LOGITS[1:], COCO_CLASSES)}
"""The classes of weights that name none, by the number of logits."""

_COUNTER = "num_batches_tracked"
_USUAL_EPS = 1e-5
_WITHOUT_EPS = ("fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn")
"""Published with frozen batch norm that adds nothing to the variance; torchvision sets the constant to 0 after it has
loaded the weights, and a file cannot say so."""


@dataclass(frozen=True)
class Classes:
    """The classes of a detector and of weights for it.

    Attributes:
        wanted: The names of the classes 1 to K of the detector; empty if they have none.
        given: The names of the weights' classes; empty if they are not known.
        fresh: Whether the layers that depend on the classes always keep their initial weights.
        other: Whether these layers may keep their initial weights if the weights have other classes.
    """

    wanted: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    fresh: bool = False
    other: bool = False


def load_supplied(
    detector: Detector, supplied: SuppliedWeights, classes: Classes, *, allow_download: bool
) -> tuple[str, ...]:
    """Load weights that were read, or the published ones.

    Args:
        detector: The detector.
        supplied: The weights.
        classes: Its classes and those of the weights.
        allow_download: Whether to download published weights that are not on this machine.

    Returns:
        What was chosen and left out, one sentence each.

    Raises:
        WeightsError: The weights cannot be loaded; the message says what to do.
    """
    if supplied.source == PRETRAINED:
        return _load_published(detector, classes, allow_download)
    try:
        return load_content(detector, supplied.content, classes, name=PurePosixPath(supplied.source).name)
    except WeightsError as error:
        raise WeightsError(f"{supplied.source}: {error}") from error


def _load_published(detector: Detector, classes: Classes, allow_download: bool) -> tuple[str, ...]:
    if not detector.published:
        has = "detectron2 does not publish them here" if detector.of_detectron2 else "torchvision publishes none for it"
        raise WeightsError(f"this detector has no published weights ({has}); name a file")
    tensors = published_tensors(detector.published, PUBLISHED, allow_download)
    # A data set of 90 other classes has as many logits.
    of_coco = replace(classes, given=COCO_LOGITS[1:])
    return load_content(detector, tensors, of_coco, name=_published_file(detector.published))


def load_content(
    detector: Detector, content: Any, classes: Classes = Classes(), *, name: str = "", container: str = ""
) -> tuple[str, ...]:
    """Find a detector's weights in a checkpoint and load them.

    Weights of a network for classification are loaded into the backbone, if the classes may be others.

    Args:
        detector: The detector.
        content: The checkpoint.
        classes: Its classes and those of the weights.
        name: The name of the file.
        container: See ``find_state_dicts``.

    Returns:
        What was chosen and left out, one sentence each.

    Raises:
        WeightsError: Keys, shapes or classes do not match, or the weights cannot be used.
    """
    notes: list[str] = []
    candidates = [_with_our_conventions(item, detector, notes) for item in find_state_dicts(content, container)]
    state = detector.state_dict()
    by_class = {key: layer for key in state if (layer := _class_layer(detector, key))}
    match = match_state_dict(detector, candidates, detector.map_published_key, by_class.keys())
    if match is None:
        if (classes.other or classes.fresh) and _load_backbone(detector, candidates):
            return ("the weights are of a network for classification: only the backbone starts from them",)
        raise mismatch_error(detector, candidates, detector.map_published_key, by_class.keys())
    tensors = dict(match.tensors)
    if name in {_published_file(published) for published in _WITHOUT_EPS}:
        tensors = _with_usual_eps(tensors)
    indices = _chosen_classes(detector, tensors, by_class, classes, notes)
    for key, (before, after) in by_class.items():
        if key not in tensors:
            continue
        if indices is None:
            del tensors[key]
        else:
            tensors[key] = select_classes(tensors[key], before, after, indices)
    check_usable(state, tensors)
    detector.load_state_dict(tensors, strict=False)
    return (*match.notes, *notes)


def _with_our_conventions(item: StateDict, detector: Detector, notes: list[str]) -> StateDict:
    """Return weights without counters, and those of detectron2 as torchvision's."""
    tensors = {key: tensor for key, tensor in item.tensors.items() if not key.endswith(_COUNTER)}
    stripped = strip_prefixes(replace(item, tensors=tensors))
    if not is_of_detectron2(list(stripped)):
        return replace(item, tensors=tensors)
    if not detector.of_detectron2:
        raise WeightsError(
            "the weights are of detectron2, whose networks compute otherwise; set the model's parameter convention to "
            "detectron2"
        )
    notes.append("converted the weights of detectron2: order of classes, colours and names of layers")
    mean, std = detector.mean.flatten().tolist(), detector.std.flatten().tolist()
    return replace(item, tensors=from_detectron2(stripped, mean, std))


def _class_layer(detector: Detector, key: str) -> tuple[int, int] | None:
    return next((layer for start, layer in detector.class_layers.items() if key.startswith(start)), None)


def select_classes(values: Tensor, before: int, after: int, indices: Sequence[int]) -> Tensor:
    """Return weights (before · C · after, …) of some classes, in their order.

    Args:
        values: Weights (before · C' · after, …).
        before: See ``Detector.class_layers``.
        after: See there.
        indices: The index of each class among the C', including the background.
    """
    rest = values.shape[1:]
    chosen = values.reshape(before, -1, after, *rest)[:, torch.tensor(indices)]
    return chosen.reshape(before * len(indices) * after, *rest)


def _chosen_classes(
    detector: Detector,
    tensors: dict[str, Tensor],
    by_class: dict[str, tuple[int, int]],
    classes: Classes,
    notes: list[str],
) -> list[int] | None:
    """Return for each class of the detector its index among the classes of the weights; None for fresh layers.

    Raises:
        WeightsError: The weights do not have these classes.
    """
    if classes.fresh:
        return None
    counts = {len(tensors[key]) // (before * after) for key, (before, after) in by_class.items() if key in tensors}
    count, names = max(counts), classes.given or _KNOWN.get(max(counts), ())
    if classes.wanted and set(classes.wanted) <= set(names) and count == len(names) + 1:
        indices = [0, *(1 + names.index(name) for name in classes.wanted)]
        if indices != list(range(count)):
            notes.append(f"took {len(indices) - 1} of the weights' {count - 1} classes, in the order of the data set")
        return indices
    if count == detector.num_classes and not (classes.given and classes.wanted):
        return list(range(count))
    if count == len(COCO_LOGITS) and detector.num_classes == len(COCO_CLASSES) + 1 and not classes.wanted:
        notes.append("took COCO's 80 classes of the weights' 90")
        return [0, *(COCO_LOGITS.index(name) for name in COCO_CLASSES)]
    if classes.other:
        notes.append("the weights have other classes, so the layers that depend on them start from new weights")
        return None
    real = [name for name in names if name != _HOLE]
    difference = describe_class_differences(real, classes.wanted) if real and classes.wanted else ""
    text = difference or f"{count - 1} classes, not {detector.num_classes - 1}"
    raise WeightsError(f"the weights have other classes than the data set: {text}")


def _published_file(name: str) -> str:
    """Return the name of the file that torchvision publishes of a detector."""
    url: str = torchvision.models.get_model_weights(name)[PUBLISHED].url
    return url.rpartition("/")[2]


def _with_usual_eps(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights that give with the usual constant in batch norm what these give without it."""
    changed = dict(tensors)
    for key, variance in tensors.items():
        if key.endswith(".running_var"):
            weight = f"{key.removesuffix('running_var')}weight"
            changed[weight] = tensors[weight] * ((variance + _USUAL_EPS) / variance).sqrt()
    return changed


def load_backbone(detector: Detector, *, allow_download: bool) -> None:
    """Load the published weights of ImageNet into a detector's backbone.

    Args:
        detector: The detector.
        allow_download: Whether to download them if they are not on this machine.

    Raises:
        WeightsError: The weights are not available, or do not fit; the message says what to do.
    """
    backbone = detector.backbone
    if backbone is None:
        raise WeightsError("this detector has no backbone with published weights")
    if backbone.name.startswith(TIMM):
        source: nn.Module = create_pretrained(backbone.name.removeprefix(TIMM), FEATURES_ONLY, allow_download)
        tensors = {f"network.{key}": value for key, value in source.state_dict().items()}
    else:
        tensors = published_tensors(backbone.name, WEIGHTS, allow_download)
    if not _load_backbone(detector, [StateDict("", tensors)]):
        raise WeightsError(f"the published weights of {backbone.name} do not fit this backbone")


def _load_backbone(detector: Detector, candidates: Sequence[StateDict]) -> bool:
    """Load the weights of a network for classification into the backbone; return whether any of them fit."""
    backbone = detector.backbone
    if backbone is None:
        return False
    state = backbone.module.state_dict()
    # What normalises the stages of a wide ResNet for the pyramid is not in the network for classification.
    needed = {key for key in state if not key.endswith(_COUNTER) and not key.startswith("activations.")}
    for candidate in candidates:
        found = strip_prefixes(candidate)
        for names in (found, {(backbone.rename or str)(key): value for key, value in found.items()}):
            tensors = {key: value for key, value in names.items() if key in needed}
            if needed <= tensors.keys() and all(tensors[key].shape == state[key].shape for key in needed):
                check_usable(state, tensors)
                backbone.module.load_state_dict(tensors, strict=False)
                return True
    return False
