"""Specs of small experiments whose runs share a teacher."""

from __future__ import annotations

from typing import Any

from core.specs import DatasetRef, ExperimentSpec, parse_experiment

SYNTHETIC = DatasetRef(name="synthetic", params={"num_classes": 5, "image_size": 8, "train_size": 150, "test_size": 10})
BATCH = 32


def experiment(*names: str, **training: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "kept",
            "dataset": SYNTHETIC.model_dump(),
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 64}},
            "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
            "methods": list(names),
            "seeds": [0],
            "training": {"batch_size": BATCH} | training,
        }
    )
