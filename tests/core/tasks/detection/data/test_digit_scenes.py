"""Scenes of digits: exact boxes, the parameters, and equal scenes for equal parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from core.catalog import DATASETS
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.detection.data import DetectionData, load
from core.tasks.detection.data.digit_scenes import background


def scenes(**params: Any) -> DetectionData:
    choice = DatasetRef(name="digit_scenes", params={"train_size": 12, "test_size": 6} | params)
    return load(choice, TrainingSettings.from_environment())


def test_boxes_are_the_smallest_rectangles_around_the_digits() -> None:
    data = scenes(clutter=0, noise=0.0, min_digits=1, max_digits=5, overlap=0.0)
    for number in range(len(data.train)):
        # The background is the first that is drawn of a scene.
        empty = np.rint(background(96, np.random.default_rng((0, 0, number))))
        inked = (data.train.image(number).numpy() != empty).any(axis=0)
        boxes = data.train.objects.of(number).boxes.astype(int)
        assert len(boxes)
        for left, top, right, bottom in boxes:
            part = inked[top:bottom, left:right]
            assert all(border.any() for border in (part[0], part[-1], part[:, 0], part[:, -1]))
            inked[top:bottom, left:right] = False
        assert not inked.any(), "no ink is outside of the boxes"


def test_parameters_limit_digits_and_overlap() -> None:
    data = scenes(image_size=80, min_digit=10, max_digit=20, min_digits=3, max_digits=4, overlap=0.1)
    counts = np.diff(data.train.objects.first)
    assert set(counts) == {3, 4}
    boxes = data.train.objects.boxes
    sides = boxes[:, 2:] - boxes[:, :2]
    assert 6 <= sides.max(axis=1).min() <= sides.max() <= 20
    assert boxes.min() >= 0
    assert boxes.max() <= 80
    for number in range(len(data.train)):
        found = data.train.objects.of(number).boxes
        for first in range(len(found)):
            for second in range(first):
                common = np.minimum(found[first, 2:], found[second, 2:]) - np.maximum(
                    found[first, :2], found[second, :2]
                )
                smaller = min((box[2:] - box[:2]).prod() for box in (found[first], found[second]))
                assert common.clip(0).prod() <= 0.1 * smaller


def test_equal_parameters_give_equal_scenes_and_another_seed_others() -> None:
    one, again, other = scenes(), scenes(), scenes(seed=1)
    assert torch.equal(one.train.pixels, again.train.pixels)
    assert np.array_equal(one.train.objects.boxes, again.train.objects.boxes)
    assert not torch.equal(one.train.pixels, other.train.pixels)
    longer = scenes(train_size=20)
    assert torch.equal(one.train.image(11), longer.train.image(11)), "a scene does not depend on the number of scenes"


def test_scenes_have_ten_classes_and_a_background() -> None:
    data = scenes(train_size=60)
    assert data.classes == tuple("0123456789")
    assert data.num_classes == 11
    assert set(data.train.objects.labels.tolist()) == set(range(1, 11))
    params = DatasetRef(name="digit_scenes", params={"val_fraction": 0.25}).parsed_params
    facts = DATASETS["digit_scenes"].facts(params)
    assert facts
    assert (facts.num_classes, facts.channels, facts.image_size) == (11, 3, 96)
    assert (facts.train_size, facts.test_size) == (750, 500)


def test_a_validation_split_is_held_out_of_the_training_scenes() -> None:
    whole, data = scenes(train_size=20), scenes(train_size=20, val_fraction=0.2, val_seed=3)
    assert data.val
    assert (len(data.train), len(data.val), len(data.test)) == (16, 4, 6)
    assert sorted([*data.train.ids, *data.val.ids]) == whole.train.ids.tolist()
    (batch,) = data.evaluation_batches(data.val, 4)
    for place, number in enumerate(data.val.ids.tolist()):
        assert torch.equal(batch.images[place], whole.train.image(number).float() / 255)


def test_digits_are_not_mirrored() -> None:
    data = scenes()
    (batch,) = data.batches(12, 0, 0)
    for place, sample in enumerate(batch.index.tolist()):
        assert torch.equal(batch.images[place], data.train.image(sample).float() / 255)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"min_digit": 40, "max_digit": 20}, "min_digit should not be greater than max_digit"),
        ({"max_digit": 200}, "max_digit should not be greater than image_size"),
        ({"min_digits": 9}, "min_digits should not be greater than max_digits"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(params: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        scenes(**params)
