"""Augmentations in a spec: each belongs to the images of some tasks."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from core.catalog import AUGMENTATIONS
from core.specs import DatasetRef, SpecError
from core.specs.region_checks import training_problems
from core.specs.training import Training
from tests.core.speed_runs import experiment


def problems(dataset: str, **training: Any) -> dict[tuple[int | str, ...], str]:
    found = training_problems(Training(epochs=1, **training), DatasetRef(name=dataset))
    return {path: text for path, text, _ in found}


@pytest.mark.parametrize("name", ["randaugment", "mixup", "random_erasing"])
def test_augmentations_of_classification_are_refused_for_detection(name: str) -> None:
    (text,) = problems("digit_scenes", augment=["standard", name]).values()
    assert f"{name} is for classification; digit_scenes is a data set of detection" in text
    assert "multi_scale, scale_jitter, colour_jitter" in text
    assert problems("digit_scenes", augment=name).keys() == {("augment",)}
    assert problems("digit_scenes", strong_augment=["none", "trivialaugment"]).keys() == {("strong_augment",)}


@pytest.mark.parametrize("name", ["multi_scale", "scale_jitter", "colour_jitter"])
def test_augmentations_of_detection_are_refused_for_classification(name: str) -> None:
    assert not problems("digit_scenes", augment=["flip", name])
    with pytest.raises(SpecError) as caught:
        experiment("ce", 0, augment=["flip", name])
    (problem,) = caught.value.problems
    assert problem.path == "training.augment"
    assert f"{name} is for detection; synthetic is a data set of classification" in problem.message


def test_views_are_for_both() -> None:
    for name in ("standard", "flip", "none"):
        assert not problems("digit_scenes", augment=name)
        assert not problems("digits", augment=name)


def test_two_scales_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="multi_scale and scale_jitter exclude each other"):
        Training(epochs=1, augment=["multi_scale", "colour_jitter", "scale_jitter"])


def test_the_pipeline_is_in_the_order_of_its_stages() -> None:
    augment = Training(epochs=1, augment=["colour_jitter", "multi_scale"]).augment
    assert [item if isinstance(item, str) else item["name"] for item in augment] == [
        "standard",
        "multi_scale",
        "colour_jitter",
    ]


@pytest.mark.parametrize(
    ("name", "params"),
    [("multi_scale", {"min_size": 700, "max_size": 640}), ("scale_jitter", {"min_scale": 2.0, "max_scale": 1.0})],
)
def test_ranges_the_wrong_way_round_are_refused(name: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="should not be smaller than"):
        Training(epochs=1, augment=[{"name": name, "params": params}])


def test_the_catalog_says_for_which_tasks_an_augmentation_is() -> None:
    described = {entry.name: entry.describe()["tasks"] for entry in AUGMENTATIONS}
    assert described["flip"] == ["classification", "detection"]
    assert described["mixup"] == ["classification"]
    assert described["scale_jitter"] == ["detection"]
