"""How much a run has to compute, which decides how it is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """How much a run has to compute.

    Attributes:
        samples: The number of samples that the network is trained on in the whole run, all epochs together.
        steps: The number of steps per epoch.
        image_size: The side of the images that the network sees, in pixels; 0 if they are no images.
        step_products: Multiplications of the student's forward pass in a step, on one process; infinite if unknown.
    """

    samples: int
    steps: int
    image_size: int
    step_products: float = math.inf
