"""Everything that a spec can name: methods, models, data sets, optimisers and augmentations. Free of torch.

A new one is a file with its code and an entry here; the command line, the API, the form and the docs follow. A module
that is given as ``--plugin my.module`` (or in ``DKD_PLUGINS``) adds entries to the same registries.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from core.catalog import detection_augmentations as _detection_augmentations  # noqa: F401 (it adds its entries)
from core.catalog import detection_datasets as _detection_datasets  # noqa: F401 (it adds its entries)
from core.catalog.augmentations import AUGMENTATIONS, AugmentationEntry
from core.catalog.datasets import DATASETS, DatasetEntry, DatasetFacts
from core.catalog.detection_task import DETECTION
from core.catalog.detectors import DETECTORS
from core.catalog.examples import describe_examples
from core.catalog.methods import METHODS, MethodEntry
from core.catalog.metric import Metric
from core.catalog.metrics import METRICS, describe_metrics
from core.catalog.models import MODELS, ModelEntry
from core.catalog.optimizers import OPTIMIZERS, OptimizerEntry
from core.catalog.registry import Entry, NoParams, Params, Registry, UnknownNameError
from core.catalog.tasks import TASKS, TaskEntry

__all__ = [
    "AUGMENTATIONS",
    "DATASETS",
    "DETECTION",
    "DETECTORS",
    "METHODS",
    "METRICS",
    "MODELS",
    "OPTIMIZERS",
    "TASKS",
    "AugmentationEntry",
    "DatasetEntry",
    "DatasetFacts",
    "Entry",
    "MethodEntry",
    "Metric",
    "ModelEntry",
    "NoParams",
    "OptimizerEntry",
    "Params",
    "Registry",
    "TaskEntry",
    "UnknownNameError",
    "describe",
    "load_plugins",
]


def load_plugins(modules: Iterable[str]) -> None:
    """Import plug-in modules, which add their entries to the registries.

    Raises:
        ImportError: A module cannot be imported; the error names it and the reason.
    """
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ImportError(f"the plug-in {module} cannot be imported: {error}", name=module) from error


def describe() -> dict[str, list[dict[str, Any]]]:
    """Return the whole catalog as JSON."""
    return {
        "methods": [entry.describe() for entry in METHODS],
        "models": [entry.describe() for entry in MODELS],
        "datasets": [entry.describe() for entry in DATASETS],
        "optimizers": [entry.describe() for entry in OPTIMIZERS],
        "augmentations": [entry.describe() for entry in AUGMENTATIONS],
        "tasks": [entry.describe() for entry in TASKS],
        "metrics": describe_metrics(),
        "examples": describe_examples(),
    }
