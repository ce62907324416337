"""A plug-in for the tests: a feature method (FitNet's hint) with an adapter, parameters and a metric."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from core.catalog import METHODS, MethodEntry, Params
from core.catalog.methods.shared import CE_TERM
from core.catalog.metric import Metric
from core.catalog.taps import Taps

HINT = Metric("train/hint", "Distance of the hint", panel="Terms of Hint")


class HintParams(Params):
    """Parameters of the hint."""

    weight: float = Field(1.0, ge=0, description="Weight of the hint.")
    student_tap: str = Field("stage1", description="Layer of the student.")
    teacher_tap: str = Field("stage1", description="Layer of the teacher.")


def _taps(params: Any) -> Taps:
    return Taps((params.student_tap,), (params.teacher_tap,))


if "test_hint" not in METHODS:
    METHODS.add(
        MethodEntry(
            name="test_hint",
            title="Hint",
            summary="Squared distance of an adapted map of the student from the teacher's.",
            target="tests.core.hint_objective:Hint",
            params=HintParams,
            taps=_taps,
            metrics=(CE_TERM, HINT),
        )
    )
    METHODS.add(
        MethodEntry(
            name="test_boxes",
            title="Boxes",
            summary="A method for another task than classification.",
            target="tests.core.hint_objective:Hint",
            tasks=("detection",),
        )
    )
