"""A detector for images of one size: what the data set must fit in, and to what its batches are padded."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.catalog import MODELS
from core.errors import TrainingError
from core.specs import RunSpec
from core.tasks.detection import data, models
from core.tasks.detection.data import DetectionData
from core.tasks.detection.preflight import check_detector, on_canvas
from tests.core.tasks.detection.runs import IMAGES, planned, settings


def run_of(model: str, image_size: int) -> RunSpec:
    dataset = {"name": "digit_scenes", "params": {**IMAGES, "image_size": image_size}}
    return planned("ce", student={"model": model}, dataset=dataset)["ce"]


def loaded(run: RunSpec, folder: Path) -> DetectionData:
    return data.load(run.dataset, settings(folder))


def test_batches_are_padded_to_the_size_of_an_ssd(tmp_path: Path) -> None:
    run = run_of("ssdlite320", 64)
    images = on_canvas(run, loaded(run, tmp_path))
    assert images.largest == (320, 320)
    batch = next(images.batches(4, 0, 0))
    assert batch.images.shape == (4, 3, 320, 320)
    assert set(batch.sizes) == {(64, 64)}
    detector = models.build("ssdlite320", num_classes=images.num_classes)
    check_detector(run, detector, images)
    assert not batch.images[:, :, 64:].any()


def test_larger_images_are_refused_with_the_field_to_change(tmp_path: Path) -> None:
    run = run_of("ssd300", 320)
    with pytest.raises(TrainingError, match=r"ssd300 reads images of up to 300×300 pixels.*320 on a side.*max_size"):
        on_canvas(run, loaded(run, tmp_path))


def test_other_detectors_take_images_as_they_are(tmp_path: Path) -> None:
    run = run_of("ssd", 64)
    images = loaded(run, tmp_path)
    assert on_canvas(run, images) is images


@pytest.mark.parametrize("name", ["ssd300", "ssdlite320"])
def test_catalog_and_network_agree_about_the_size(name: str) -> None:
    side = MODELS[name].fixed_image_size
    assert models.build(name, num_classes=3).fixed_size == (side, side)
