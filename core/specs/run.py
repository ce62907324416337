"""Run specs: one training with all its settings, which the worker passes to ``core`` as a whole."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from core.specs.components import DatasetRef, MethodRef, ModelRef, Seed, SpecModel
from core.specs.teachers import Ensemble
from core.specs.training import Speed, Training
from core.specs.weights import Weights

FINGERPRINT_VERSION = 1
"""Increased when the same RunSpec comes to mean another training; old teachers and caches are then not reused."""

Fingerprint = Annotated[str, Field(pattern=r"^v\d+-[0-9a-f]{32}$")]

_ADDED = ("collapse_every", "robustness", "stylised")
"""Fields of ``Training`` that were added later. Their defaults are left out, so that fingerprints stay the same."""


class RunSpec(SpecModel):
    """One training: everything that decides its metrics, and nothing else.

    Attributes:
        role: A teacher is shared. Students are compared with each other.
        dataset: The data set.
        model: The network.
        method: The loss.
        training: Epochs, optimiser, augmentation …
        seed: Seed of the initialisation.
        data_seed: Seed of the batch order and the augmentation. Runs that share both seeds form a pair.
        teacher: Fingerprint of the teacher's run, if the method reads a teacher; of several teachers, of the first.
        further_teachers: Of several teachers, the fingerprints of the others.
        ensemble: How several teachers are combined; None with at most one.
        weights: Weights that the training starts from, or that are used without training; None to initialise them.
    """

    role: Literal["teacher", "student"]
    dataset: DatasetRef
    model: ModelRef
    method: MethodRef
    training: Training
    seed: Seed
    data_seed: Seed
    teacher: Fingerprint | None = None
    weights: Weights | None = None
    further_teachers: tuple[Fingerprint, ...] = ()
    ensemble: Ensemble | None = None

    @model_serializer(mode="wrap")
    def _without_ensemble(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what a run with one teacher does not have, so that its fingerprint stays the same."""
        values: dict[str, Any] = serialise(self)
        added = ("further_teachers", "ensemble")
        return {name: value for name, value in values.items() if name not in added or value}

    @property
    def teachers(self) -> tuple[str, ...]:
        """Fingerprints of all teachers."""
        return (self.teacher, *self.further_teachers) if self.teacher else ()

    @property
    def uses_weights_unchanged(self) -> bool:
        """Whether the run trains nothing and hands out supplied weights as they are."""
        return self.weights is not None and not self.weights.fine_tune

    def fingerprint(self) -> str:
        """Return the name of this training, ``v1-`` and 32 hexadecimal digits: equal specs have equal names.

        It is a hash of the canonical JSON of every field except the method's label, so that a new label changes
        nothing.
        """
        content = self.model_dump(mode="json")
        del content["method"]["label"]
        if self.weights is None:
            del content["weights"]  # added later: without weights, the fingerprint stays the same
        for name in _ADDED:
            if content["training"][name] == Training.model_fields[name].default:
                del content["training"][name]
        # Only values that are not the default, so that fingerprints stay the same when switches are added.
        speed = content["training"].pop("speed")
        if changed := {name: value for name, value in speed.items() if value != Speed.model_fields[name].default}:
            content["training"]["speed"] = changed
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(f"dkd-lab run {FINGERPRINT_VERSION}\n{text}".encode()).hexdigest()
        return f"v{FINGERPRINT_VERSION}-{digest[:32]}"
