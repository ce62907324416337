"""What the last epoch's evaluation needs beside the data set, made ready before the training starts."""

from __future__ import annotations

from core.data import Dataset
from core.data.paths import spec_path
from core.diagnostics.report import RobustnessInputs
from core.diagnostics.robustness import read_stylised
from core.specs import Training
from core.training.errors import TrainingError


def perturbed_images(training: Training, dataset: Dataset) -> RobustnessInputs:
    """What robustness is to be measured on.

    Raises TrainingError where the stylised folder cannot be used: now, not after hours of training.
    """
    if not training.stylised:
        return RobustnessInputs(training.robustness)
    try:
        stylised = read_stylised(spec_path(training.stylised, "folder"), dataset)
    except (ValueError, OSError) as error:
        raise TrainingError("spec", f"the stylised images: {error}") from error
    return RobustnessInputs(training.robustness, stylised)
