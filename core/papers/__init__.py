"""The published works that the platform takes protocols, results and claims from. Free of torch.

Everything that belongs to one work is in one module or folder here; the platform reads it through ``PAPERS``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.papers.decoupled_gradient_kd import PAPER as DECOUPLED_GRADIENT_KD
from core.papers.decoupled_kd import PAPER as DECOUPLED_KD
from core.papers.paper import LossFinding, LossSetting, Paper, Preset, PublishedRow, RunClaim

__all__ = [
    "PAPERS",
    "PUBLISHED",
    "LossFinding",
    "LossSetting",
    "Paper",
    "Preset",
    "PublishedRow",
    "RunClaim",
    "published_for",
    "with_claims",
]

PAPERS: Mapping[str, Paper] = {paper.name: paper for paper in (DECOUPLED_KD, DECOUPLED_GRADIENT_KD)}

PUBLISHED: tuple[PublishedRow, ...] = tuple(row for paper in PAPERS.values() for row in paper.published)


def with_claims() -> list[Paper]:
    """Return the papers whose claims the platform can judge."""
    return [paper for paper in PAPERS.values() if paper.run_claims]


def published_for(dataset: str, params: Mapping[str, Any], teacher: str, student: str) -> list[PublishedRow]:
    """Return the published rows of one setting.

    Args:
        dataset: name in the catalog.
        params: parameters of the data set. A parameter that the data set does not have is not compared.
        teacher: name in the catalog.
        student: name in the catalog.
    """
    return [
        row
        for row in PUBLISHED
        if (row.dataset, row.teacher, row.student) == (dataset, teacher, student)
        and all(params.get(name, value) == value for name, value in row.params.items())
    ]
