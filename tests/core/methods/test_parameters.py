"""Each parameter of the methods that compare taps without layers of their own has an effect."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.catalog import METHODS
from core.distill.objective import ObjectiveError
from core.distill.terms import LossTerms
from tests.core.methods.tapped import build, random_taps, step_of

STAGES = {"stage1": (4, 4, 4), "stage2": (4, 2, 2), "stage3": (4, 2, 2), "features": (6,)}
TWO = ("stage1", "stage2")

# Every parameter with a value that is not the default; "paper" or "public_code" before a name is the variant.
CHANGES: dict[str, dict[str, Any]] = {
    "at": {"weight": 10.0, "power": 1.0, "variant": "public_code"},
    "nst": {"weight": 10.0},
    "sp": {"weight": 10.0},
    "pkt": {"weight": 10.0, "variant": "public_code"},
    "rkd": {"distance_weight": 1.0, "angle_weight": 1.0},
    "cc": {"weight": 10.0, "variant": "public_code", "gamma": 1.0, "order": 3, "public_code width": 5},
    "fsp": {"weight": 10.0, "variant": "public_code", "init_epochs": 1},
    "kdsvd": {"weight": 10.0, "vectors": 2, "variant": "public_code"},
}


def changes_of(method: str) -> dict[str, Any]:
    if "student_taps" in METHODS[method].params.model_fields:
        return CHANGES[method] | {"ce_weight": 0.5, "student_taps": ("stage2", "stage3"), "teacher_taps": TWO[::-1]}
    return CHANGES[method] | {"ce_weight": 0.5, "student_tap": "stage1", "teacher_tap": "stage1"}


def total(method: str, params: dict[str, Any]) -> float:
    bound = METHODS[method].params(**params)
    read = METHODS[method].taps_of(bound)

    def chosen(names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        every = {"stages": TWO, "last_stage": ("stage2",)}
        return {tap: STAGES[tap] for name in names for tap in every.get(name, (name,))}

    own, other = chosen(read.student), chosen(read.teacher)
    objective = build(method, own, other, **params).double()
    for parameter in objective.parameters():
        parameter.data.fill_(0.1)
    taps = random_taps(4, STAGES, 1), random_taps(4, STAGES, 2)
    terms: LossTerms = objective(
        step_of({name: taps[0][name] for name in own}, {name: taps[1][name] for name in other})
    )
    return terms.total.item()


@pytest.mark.parametrize("method", CHANGES)
def test_every_parameter_is_tried(method: str) -> None:
    assert {name.split()[-1] for name in changes_of(method)} == set(METHODS[method].params.model_fields)


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in CHANGES for name in changes_of(method)])
def test_every_parameter_changes_the_loss(method: str, name: str) -> None:
    *variant, parameter = name.split()
    base: dict[str, Any] = {"variant": variant[0]} if variant else {}
    assert total(method, base) != pytest.approx(total(method, base | {parameter: changes_of(method)[name]}), rel=1e-6)


@pytest.mark.parametrize("method", CHANGES)
def test_terms_are_those_of_the_catalog_and_their_weights_are_parameters(method: str) -> None:
    entry = METHODS[method]
    assert set(entry.weight_params) == set(entry.terms)
    assert set(entry.weight_params.values()) <= set(entry.params.model_fields)
    objective = (
        build(method, {"stage1": (4, 4, 4), "stage2": (4, 2, 2)}, {"stage1": (4, 4, 4), "stage2": (4, 2, 2)})
        if ("student_taps" in entry.params.model_fields)
        else build(method, {"features": (6,)}, {"features": (6,)})
    )
    shapes = {tap: shape for tap, shape in STAGES.items() if tap in objective.taps.student}
    terms: LossTerms = objective(step_of(random_taps(4, shapes, 1), random_taps(4, shapes, 2)))
    assert set(terms.parts) == set(terms.values) == set(entry.terms)
    assert sum(part.item() for part in terms.parts.values()) == pytest.approx(terms.total.item())


@pytest.mark.parametrize(
    "method", [method for method in CHANGES if "student_tap" in METHODS[method].params.model_fields]
)
@pytest.mark.parametrize("field", ["student_tap", "teacher_tap"])
def test_several_layers_are_refused_where_one_is_read(method: str, field: str) -> None:
    with pytest.raises(ValidationError, match="'stages' are several; the deepest is 'last_stage'"):
        METHODS[method].params(**{field: "stages:preact"})


def test_names_that_expand_to_several_layers_are_refused() -> None:
    shapes = {"stage1": (4, 4, 4), "stage2": (4, 2, 2)}
    with pytest.raises(ObjectiveError, match="student_tap: this method reads one layer, and here are 2"):
        build("sp", shapes, {"stage1": (4, 4, 4)})
    with pytest.raises(ObjectiveError, match="teacher_tap: this method reads one layer, and here are 0"):
        build("sp", {"stage1": (4, 4, 4)}, {})


@pytest.mark.parametrize(
    "method", [method for method in CHANGES if "student_taps" in METHODS[method].params.model_fields]
)
def test_networks_without_stages_are_refused(method: str) -> None:
    with pytest.raises(ObjectiveError, match="teacher_taps: the network has no such stages"):
        build(method, {"stage1": (4, 4, 4)}, {})
    with pytest.raises(ValidationError, match="student_taps"):
        METHODS[method].params(**{"student_taps": ()})
