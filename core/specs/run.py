"""One training, fully resolved: what the worker hands to ``core``, whole."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import Field

from core.specs.components import DatasetRef, MethodRef, ModelRef, Seed, SpecModel, Speed, Training
from core.specs.weights import Weights

FINGERPRINT_VERSION = 1
"""Raised when the same RunSpec begins to mean another training; old teachers and caches are then not reused."""

_ADDED = ("collapse_every", "robustness", "stylised")
"""Fields of ``Training`` that version 1 began without: at their defaults they are left out, so that names stay."""


class RunSpec(SpecModel):
    """One training: everything that decides its numbers, nothing that does not.

    Attributes:
        role: a teacher is trained by cross-entropy and shared; a student is what is compared.
        seed: of the initialisation.
        data_seed: of the batch order and the augmentation. Runs that share both seeds are a pair.
        teacher: fingerprint of the teacher's run, where the method reads one.
        weights: what the network starts from, or where nothing is trained is; None for fresh ones.
    """

    role: Literal["teacher", "student"]
    dataset: DatasetRef
    model: ModelRef
    method: MethodRef
    training: Training
    seed: Seed
    data_seed: Seed
    teacher: str | None = Field(None, pattern=r"^v\d+-[0-9a-f]{32}$")
    weights: Weights | None = None

    def fingerprint(self) -> str:
        """Name of what this trains, ``v1-`` and 32 hexadecimal digits: equal specs, equal name.

        Canonical JSON of every field but the method's label, so that renaming changes nothing.
        """
        content = self.model_dump(mode="json")
        del content["method"]["label"]
        if self.weights is None:
            del content["weights"]  # as it was before there was such a field, so that its runs keep their names
        for name in _ADDED:
            if content["training"][name] == Training.model_fields[name].default:
                del content["training"][name]
        # Only what is not left at its default, so that the names stay when there are more such switches.
        speed = content["training"].pop("speed")
        if chosen := {name: value for name, value in speed.items() if value != Speed.model_fields[name].default}:
            content["training"]["speed"] = chosen
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(f"dkd-lab run {FINGERPRINT_VERSION}\n{text}".encode()).hexdigest()
        return f"v{FINGERPRINT_VERSION}-{digest[:32]}"
