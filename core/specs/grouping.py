"""Which runs may train in one process: those that read the same images and the same teachers."""

from __future__ import annotations

import hashlib
import json

from core.specs.run import RunSpec


def group_key(spec: RunSpec) -> str:
    """Return the name of the group of runs that a run may share a process with; equal for runs of one group.

    Runs of a group have the same data set, teachers, views and arithmetic, but not the same seeds: the runs of all
    seeds of an experiment go together. What two of them share, such as a teacher's outputs, has more exact keys.
    """
    values = spec.model_dump(mode="json")
    training = values["training"]
    content = {
        "dataset": values["dataset"],
        "teachers": spec.teachers,
        "augment": training["augment"],
        "strong_augment": training.get("strong_augment"),  # left out if there is no second view
        "batch_size": training["batch_size"],
        # cuBLAS reads once in a process whether its products have to repeat.
        "deterministic": training["speed"]["deterministic"],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
