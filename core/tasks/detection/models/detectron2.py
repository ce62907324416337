"""Weights of detectron2's Faster R-CNN as weights of torchvision's: the one place where their conventions meet.

Background is the last class there and the first one here. Box offsets there are without a background. Its networks read
blue, green and red in 0-255 without division by a standard deviation; the first convolution is converted instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from core.weights.errors import WeightsError

_MARK = "proposal_generator."
_DROPPED = re.compile(r"pixel_(mean|std)$|proposal_generator\.anchor_generator\.|roi_heads\.(mask|keypoint)_")
_FIRST = "backbone.body.conv1.weight"
_LOGITS, _OFFSETS = "roi_heads.box_predictor.cls_score.", "roi_heads.box_predictor.bbox_pred."
_BGR_MEAN, _BGR_STD = (103.53, 116.28, 123.675), (1.0, 1.0, 1.0)  # the defaults of detectron2
_SAME_COLOUR = 0.5  # of 255

_RULES: tuple[tuple[str, str], ...] = (
    (r"backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.body.bn1."),
    (r"backbone\.bottom_up\.stem\.conv1\.", "backbone.body.conv1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.norm\.", r"backbone.body.layer{}.\2.downsample.1."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.shortcut\.", r"backbone.body.layer{}.\2.downsample.0."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.norm\.", r"backbone.body.layer{}.\2.bn\3."),
    (r"backbone\.bottom_up\.res(\d)\.(\d+)\.conv(\d)\.", r"backbone.body.layer{}.\2.conv\3."),
    (r"backbone\.fpn_lateral(\d)\.", "backbone.fpn.inner_blocks.{}.0."),
    (r"backbone\.fpn_output(\d)\.", "backbone.fpn.layer_blocks.{}.0."),
    (r"proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
)


def is_of_detectron2(keys: Sequence[str]) -> bool:
    """Return whether keys are those of a detector of detectron2."""
    return any(key.startswith(_MARK) for key in keys)


def from_detectron2(tensors: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """Return weights with the keys, the order of classes and the colours of torchvision's network.

    Args:
        tensors: Weights of detectron2. Those of masks and keypoints are left out.
        mean: The mean of each channel that our network subtracts, of images in 0-1.
        std: The standard deviation of each channel, by which it divides.

    Raises:
        WeightsError: The weights were trained with another mean, or their offsets do not depend on the class.
    """
    converted = {_key(key): value for key, value in tensors.items() if not _DROPPED.match(key)}
    if _FIRST in converted:
        converted[_FIRST] = _first_convolution(converted[_FIRST], tensors, mean, std)
    for key in [key for key in converted if key.startswith(_LOGITS)]:
        converted[key] = background_first(converted[key])
    classes = max((len(value) for key, value in converted.items() if key.startswith(_LOGITS)), default=0)
    for key in [key for key in converted if key.startswith(_OFFSETS)]:
        if len(converted[key]) != 4 * (classes - 1):
            raise WeightsError("the box offsets of these weights do not depend on the class, unlike this network's")
        # The background has no offsets there; here it has some that nothing reads.
        converted[key] = torch.cat([torch.zeros_like(converted[key][:4]), converted[key]])
    return converted


def background_first(values: Tensor) -> Tensor:
    """Return values (C, …) of classes whose background is the last one, with the background as the first."""
    return torch.cat([values[-1:], values[:-1]])


def _key(key: str) -> str:
    for pattern, replacement in _RULES:
        if match := re.match(pattern, key):
            if "{}" not in replacement:
                return match.expand(replacement) + key[match.end() :]
            # Stage res2 is torchvision's layer1, and the pyramid's level p2 has the number 0.
            number = int(match[1]) - (1 if "layer{}" in replacement else 2)
            return match.expand(replacement.replace("{}", str(number))) + key[match.end() :]
    return key


def _first_convolution(
    weight: Tensor, tensors: Mapping[str, Tensor], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """Return the first convolution for channels red, green and blue that are normalised with ``mean`` and ``std``."""
    their_mean, their_std = (
        tensors[name].flatten().tolist() if name in tensors else list(usual)
        for name, usual in (("pixel_mean", _BGR_MEAN), ("pixel_std", _BGR_STD))
    )
    if their_mean[0] < their_mean[-1]:  # blue first: the mean of blue is the least
        weight, their_mean, their_std = weight.flip(1), their_mean[::-1], their_std[::-1]
    if any(abs(theirs - 255 * ours) > _SAME_COLOUR for theirs, ours in zip(their_mean, mean, strict=True)):
        wanted = ", ".join(f"{value / 255:.4f}" for value in their_mean)
        raise WeightsError(f"these weights were trained with the mean ({wanted}); give it as the parameter mean")
    factor = torch.tensor([255 * ours / theirs for ours, theirs in zip(std, their_std, strict=True)])
    return weight * factor.to(weight.dtype).view(1, -1, 1, 1)
