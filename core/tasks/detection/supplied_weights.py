"""Weights from elsewhere as a run's initial weights, with the classes that they have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.errors import TrainingError
from core.tasks.classification.models.weights import SuppliedWeights, read_source
from core.tasks.detection.data import DetectionData
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.models.weights import Classes, load_backbone, load_supplied
from core.tasks.task import RunContext
from core.weights.errors import WeightsError
from core.weights.metadata import Metadata

_IMAGENET = "imagenet"


@dataclass(frozen=True)
class InitialWeights:
    """Weights that were read for a run.

    Attributes:
        weights: The weights.
        classes: The classes of the run's data set, and those of the weights if they name them.
        warnings: What users of the weights should know.
    """

    weights: SuppliedWeights
    classes: Classes
    warnings: tuple[str, ...] = ()

    def metadata(self, warnings: Sequence[str]) -> Metadata:
        """Return the metadata of a copy of the weights: their classes are then those of the data set, in its order."""
        return replace(
            self.weights.metadata, classes=self.classes.wanted, notes=(*self.warnings, *warnings), input=None
        )


def read_initial_weights(context: RunContext, data: DetectionData) -> InitialWeights | None:
    """Read the weights that a run's spec names; None if it names none.

    Raises:
        TrainingError: The weights cannot be read.
    """
    chosen = context.spec.weights
    if chosen is None:
        return None
    try:
        supplied = read_source(chosen.source, chosen.sha256, context.settings)
    except WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    return InitialWeights(supplied, Classes(data.classes, supplied.metadata.classes, other=chosen.fine_tune))


def load_initial_weights(context: RunContext, detector: Detector, initial: InitialWeights) -> None:
    """Load weights into a detector, and log what did not match.

    Raises:
        TrainingError: The weights do not fit the detector or the data set's classes.
    """
    chosen, supplied = context.spec.weights, initial.weights
    assert chosen
    try:
        notes = load_supplied(detector, supplied, initial.classes, allow_download=context.settings.download)
    except WeightsError as error:
        raise TrainingError("spec", f"the teacher's weights: {error}") from error
    use = "trained on" if chosen.fine_tune else "used as they are"
    context.log("; ".join((f"weights from {chosen.source}, {use}", *notes)), "info")


def load_published_backbone(context: RunContext, detector: Detector) -> None:
    """Load the published weights of the backbone, if the spec's network starts from them.

    Raises:
        TrainingError: The weights are not on this machine and cannot be downloaded, or do not fit.
    """
    if getattr(context.spec.model.parsed_params, "backbone_weights", "none") != _IMAGENET:
        return
    try:
        load_backbone(detector, allow_download=context.settings.download)
    except WeightsError as error:
        raise TrainingError("spec", f"model.params.backbone_weights: {error}") from error
    context.log("the backbone starts from the published weights of ImageNet", "info")
