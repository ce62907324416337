"""One pass of a detector over a batch, and what can still be asked of its features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.distill.objective import OwnTerm
from core.tasks.detection.data.draws import HashedDraws
from core.tasks.detection.regions import RegionOutputs
from core.tasks.detection.types import DetectionBatch, Regions, Size

if TYPE_CHECKING:
    from core.tasks.detection.models.detector import Detector


@dataclass(frozen=True)
class DetectorPass:
    """What a detector computed of a batch.

    Attributes:
        found: Its regions.
        own_terms: The terms of its own loss; empty in eval mode.
        features: What its heads read, with the levels of its pyramid by name.
        detector: The detector.
        sizes: Height and width of each image without the padding.
        autocast: The arithmetic of the pass.
    """

    found: RegionOutputs
    own_terms: Mapping[str, OwnTerm]
    features: dict[str, Tensor]
    detector: Detector
    sizes: tuple[Size, ...]
    autocast: torch.autocast = field(repr=False)

    def regions(self, boxes: Sequence[Tensor]) -> Regions:
        """Return the detector's outputs for other boxes, (n, 4) for each image."""
        with self.autocast:
            return self.detector.regions(self.features, boxes, self.sizes)

    def proposals(self) -> list[Tensor]:
        """Return the detector's proposals (n, 4) for each image, best first."""
        with self.autocast:
            return self.detector.propose(self.features, self.sizes)


def run_detector(detector: Detector, batch: DetectionBatch) -> DetectorPass:
    """Run a detector on a batch: in training mode with its own loss, else without; and on the given boxes."""
    device = batch.images.device.type
    autocast = torch.autocast(device, dtype=torch.get_autocast_dtype(device), enabled=torch.is_autocast_enabled(device))
    features = detector.features(batch.images, batch.sizes)
    sampled: Regions | None = None
    own: dict[str, OwnTerm] = {}
    if detector.training:
        draws = HashedDraws(batch.keys, batch.images.device)
        sampled, own = detector.train_step(features, batch.sizes, batch.targets, draws)
    given = detector.regions(features, batch.given, batch.sizes) if batch.given is not None else None
    found = RegionOutputs.join(sampled, given, detector.num_classes, batch.images)
    return DetectorPass(found, own, features, detector, batch.sizes, autocast)
