"""The networks of the catalog for scripts: ``build`` makes one with new weights."""

from __future__ import annotations

from core.tasks.classification.models import Network, build, count_parameters
from core.weights.errors import WeightsError

__all__ = ["Network", "WeightsError", "build", "count_parameters"]
