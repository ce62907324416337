"""The two variants of a method that its paper and the public code define differently, on the same tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.parity.comparison import copied, gradients_of, without_labels
from benchmarks.parity.inputs import build, random_inputs
from core.catalog import METHODS
from core.catalog.methods.entry import MethodEntry
from core.specs import MethodRef


@dataclass(frozen=True)
class Variants:
    """What ``paper`` and ``public_code`` of a method have in common.

    Attributes:
        paper: The value of the loss without cross-entropy, with the default weights.
        public_code: That of the other variant.
        norm: The norm of the student's gradient in ``public_code``, divided by that in ``paper``.
        cosine: The cosine of the angle between the two gradients.
    """

    paper: float
    public_code: float
    norm: float
    cosine: float


def with_variants() -> list[MethodEntry]:
    """Return the methods that have both variants."""
    return [entry for entry in METHODS if "variant" in entry.params.model_fields]


def difference_of(entry: MethodEntry) -> str:
    """Return how the variants of a method differ, in the words of the catalog."""
    return entry.params.model_fields["variant"].description or ""


def compare_variants(entry: MethodEntry) -> Variants:
    """Compute both variants of a method with its default weights, for networks of the same shapes.

    Layers of the method's own have the same weights in both where they have the same shapes.
    """
    inputs = random_inputs("equal")
    results = []
    first: Any = None
    for variant in ("paper", "public_code"):
        published = dict(entry.published) if variant == "public_code" else {}
        params = without_labels(entry.name, {"variant": variant} | published)
        method = MethodRef.model_validate({"name": entry.name, "params": params})
        objective = build(method, inputs)
        if first is not None and _shapes(first) == _shapes(objective):
            copied(objective, first)
        first = objective
        results.append(gradients_of(objective, method, inputs, None))
    (paper, own), (code, other) = results
    cosine = torch.nn.functional.cosine_similarity(own, other, dim=0)
    return Variants(float(paper), float(code), float(other.norm() / own.norm()), float(cosine))


def _shapes(objective: Any) -> list[torch.Size]:
    return [parameter.shape for parameter in objective.parameters()]
