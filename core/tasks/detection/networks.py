"""The detectors of a run: built for its classes, and measured without a change to them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.errors import TrainingError
from core.specs import ModelRef
from core.tasks.classification.diagnostics.inference import eval_mode
from core.tasks.detection import models
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.types import Size


def build_detector(choice: ModelRef, num_classes: int) -> Detector:
    """Build a detector with fresh weights.

    Args:
        choice: The name of the detector and its parameters.
        num_classes: C, with the background.

    Raises:
        TrainingError: The detector cannot be built, or needs a package that is not installed.
    """
    try:
        return models.build(choice.name, num_classes=num_classes, **choice.params)
    except ImportError as error:
        raise TrainingError("spec", f"{choice.name} needs a package that is not installed here: {error}") from error
    except ValueError as error:
        raise TrainingError("spec", str(error)) from error


def features_once(detector: Detector, size: Size) -> dict[str, Tensor]:
    """Return a detector's features of one empty image. The detector stays as it is."""
    parameter = next(detector.parameters())
    image = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
    with eval_mode(detector):
        return detector.features(image, [size])


def multiplications(detector: Detector, size: Size) -> float:
    """Count the multiplications of a detector's forward pass on one image, the heads included."""
    parameter = next(detector.parameters())
    image = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
    with eval_mode(detector), FlopCounterMode(display=False) as counter:
        detector.detect(detector.features(image, [size]), [size])
    return float(counter.get_total_flops()) / 2  # the counter includes additions
