"""The claim as the worker reads it: an opaque spec with a few plain fields beside it."""

from __future__ import annotations

from typing import Any

import pytest

from core.protocol.worker import Claim
from tests.worker.fake import RUN

STUDENT: dict[str, Any] = {
    **RUN.model_dump(mode="json"),
    "role": "student",
    "teacher": "v1-" + "0" * 32,
    "weights": {"source": "upload:" + "a" * 64},
}


def claim(**fields: Any) -> Claim:
    return Claim.model_validate(
        {"run_id": "r", "attempt": 1, "lease_seconds": 60.0, "folder": "runs/r/attempt-1", **fields}
    )


def test_claim_of_a_previous_backend_gets_its_plain_fields_from_the_spec() -> None:
    student = claim(spec=STUDENT)
    assert (student.label, student.role, student.needs_teacher) == ("ce", "student", True)
    assert student.weights_source == "upload:" + "a" * 64
    teacher = claim(spec=RUN.model_dump(mode="json"))
    assert (teacher.role, teacher.needs_teacher, teacher.weights_source) == ("teacher", False, "")


def test_plain_fields_that_are_sent_win_over_the_spec() -> None:
    assert claim(spec=STUDENT, label="mine", needs_teacher=False).label == "mine"
    assert not claim(spec=STUDENT, needs_teacher=False).needs_teacher


@pytest.mark.parametrize(
    "spec", [{}, {"method": 5, "weights": [], "role": None}, {"method": {"label": {}}}, {"unknown": {"field": 1}}]
)
def test_spec_of_any_shape_is_accepted(spec: dict[str, Any]) -> None:
    assert claim(spec=spec).spec == spec
