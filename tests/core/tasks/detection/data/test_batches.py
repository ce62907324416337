"""Batches of detection: their order, padding and objects, and what two ranks see of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from core.specs.training import Training
from core.tasks.detection.data import DatasetError, DetectionData, hold_out
from core.tasks.detection.data.resizing import ResizeRule
from core.tasks.detection.types import DetectionBatch
from core.tasks.hashing import hashed_bits, permutation
from tests.core.speed_runs import DEVICES
from tests.core.tasks.detection.data.made_data import SIZES, made_data

AUGMENTS: list[Any] = [
    "none",
    "standard",
    ["flip", {"name": "multi_scale", "params": {"min_size": 32, "max_size": 64, "step": 8}}],
    ["standard", {"name": "scale_jitter", "params": {"size": 64}}, "colour_jitter"],
    [{"name": "colour_jitter", "params": {"hue": 0.2}}],
]


def validated(augment: Any) -> Any:
    return Training(epochs=1, augment=augment).augment


def assert_same(one: DetectionBatch, other: DetectionBatch) -> None:
    assert torch.equal(one.images.cpu(), other.images.cpu())
    assert (one.sizes, one.originals, one.total) == (other.sizes, other.originals, other.total)
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.keys, other.keys)
    for mine, theirs in zip(one.targets, other.targets, strict=True):
        for name in ("boxes", "labels", "ignored"):
            assert torch.equal(getattr(mine, name).cpu(), getattr(theirs, name).cpu())


def share_of(rank: int, ranks: int) -> Callable[[int], slice]:
    return lambda total: slice(total * rank // ranks, total * (rank + 1) // ranks)


def joined(parts: Iterable[DetectionBatch]) -> DetectionBatch:
    first, *others = parts
    for other in others:
        first = replace(
            first,
            images=torch.cat((first.images, other.images)),
            sizes=first.sizes + other.sizes,
            originals=first.originals + other.originals,
            targets=first.targets + other.targets,
            index=torch.cat((first.index, other.index)),
            keys=torch.cat((first.keys, other.keys)),
        )
    return first


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_two_ranks_together_see_what_one_sees(augment: Any) -> None:
    data, augment = made_data(), validated(augment)
    alone = list(data.batches(5, 1, 2, augment))
    ranks = [list(data.batches(5, 1, 2, augment, share=share_of(rank, 3))) for rank in range(3)]
    assert len(alone) == 5
    for number, batch in enumerate(alone):
        assert_same(batch, joined(batches[number] for batches in ranks))
    assert len(alone[-1].images) == 2, "a rank may have no image"


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_a_view_is_a_function_of_seed_epoch_and_sample(augment: Any) -> None:
    data, augment = made_data(), validated(augment)

    def views(batch_size: int, seed: int, epoch: int, start: int = 0) -> dict[int, tuple[Tensor, Tensor, int]]:
        return {
            sample: (batch.images[place, :, :high, :wide], batch.targets[place].boxes, int(batch.keys[place]))
            for batch in data.batches(batch_size, seed, epoch, augment, start)
            for place, (sample, (high, wide)) in enumerate(zip(batch.index.tolist(), batch.sizes, strict=True))
        }

    whole = views(22, 3, 1)
    for others in (views(4, 3, 1), views(7, 3, 1)):
        assert whole.keys() == others.keys()
        for sample, (image, boxes, key) in others.items():
            assert torch.equal(image, whole[sample][0])
            assert torch.equal(boxes, whole[sample][1])
            assert key == whole[sample][2]
    resumed = views(4, 3, 1, start=3)
    assert list(resumed) == list(views(4, 3, 1))[12:]
    for later in (views(22, 3, 2), views(22, 4, 1)):
        assert all(later[sample][2] != whole[sample][2] for sample in whole)
        if augment != "none":
            changed = [not torch.equal(later[sample][0], whole[sample][0]) for sample in whole]
            assert any(changed)


def test_the_order_is_that_of_classification() -> None:
    data = made_data()
    order = torch.cat([batch.index for batch in data.batches(4, 5, 6)])
    assert torch.equal(order, torch.from_numpy(permutation(22, 5, 6)))
    keys = torch.cat([batch.keys for batch in data.batches(4, 5, 6)])
    assert torch.equal(keys, torch.from_numpy(hashed_bits(22, 5, 6, "draws").view(np.int64))[order])


@pytest.mark.parametrize("augment", AUGMENTS[:4], ids=str)
def test_boxes_follow_the_pixels(augment: Any) -> None:
    """Each image has one bright rectangle on black, and so has each view of it."""
    data = made_data(train=60)
    found = 0
    for epoch in range(3):
        for batch in data.batches(8, 0, epoch, validated(augment)):
            for image, targets, (height, width) in zip(batch.images, batch.targets, batch.sizes, strict=True):
                assert not image[:, height:].any()
                assert not image[:, :, width:].any()
                for box in targets.boxes:
                    bright = image[0] > image[0].max() / 2
                    rows, columns = bright.any(1).nonzero().ravel(), bright.any(0).nonzero().ravel()
                    edges = torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
                    assert (edges - box).abs().max() <= 1, "an edge is where the brightness is half of the rectangle's"
                    assert (box >= 0).all()
                    assert (box[2:] > box[:2]).all()
                    assert (box <= torch.tensor([width, height, width, height])).all()
                    found += 1
    assert found > 100


def test_boxes_of_which_little_is_seen_are_dropped() -> None:
    data = made_data(train=200, flip=False)

    def boxes(min_visible: float) -> int:
        params = {"size": 32, "min_scale": 2.0, "max_scale": 2.0, "min_visible": min_visible}
        augment = validated(["none", {"name": "scale_jitter", "params": params}])
        return sum(len(targets.labels) for batch in data.batches(50, 0, 0, augment) for targets in batch.targets)

    all_of_them = len(data.train.objects.labels)
    assert boxes(1.0) < boxes(0.3) < boxes(0.0) < all_of_them


@pytest.mark.parametrize("rule", [(48, 80), (800, 1333), (33, 35), (640, 640)])
def test_sizes_are_those_of_torchvision(rule: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    originals = np.concatenate([random.integers(20, 700, (60, 2)), np.array([(480, 640), (333, 500), (1, 3)])])
    transform = GeneralizedRCNNTransform(*rule, image_mean=[0.0], image_std=[1.0])
    expected = [transform.resize(torch.zeros(1, *size), None)[0].shape[-2:] for size in originals.tolist()]
    assert ResizeRule(*rule).sizes(originals).tolist() == [list(size) for size in expected]


def test_resized_pixels_are_those_of_torchvision_where_the_image_is_enlarged() -> None:
    data = made_data(rule=(96, 160))
    transform = GeneralizedRCNNTransform(96, 160, image_mean=[0.0], image_std=[1.0])
    for batch in data.evaluation_batches(data.test, 3):
        for place, (sample, (height, width)) in enumerate(zip(batch.index.tolist(), batch.sizes, strict=True)):
            expected, _ = transform.resize(data.test.image(sample).float() / 255, None)
            torch.testing.assert_close(batch.images[place, :, :height, :width], expected)


def test_evaluation_shows_all_images_in_order_and_unchanged() -> None:
    data = made_data(rule=(30, 200))
    batches = list(data.evaluation_batches(data.test, 3))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(7))
    assert [batch.total for batch in batches] == [3, 3, 1]
    truth = data.ground_truth(data.test)
    assert truth.images == 7
    assert truth.ids.tolist() == list(range(100, 107))
    for batch in batches:
        for sample, targets, size, original in zip(
            batch.index.tolist(), batch.targets, batch.sizes, batch.originals, strict=True
        ):
            assert original == SIZES[sample % len(SIZES)]
            of_image = truth.boxes[truth.image == sample]
            ratio = torch.tensor([size[1] / original[1], size[0] / original[0]] * 2)
            torch.testing.assert_close(targets.boxes, torch.from_numpy(of_image) * ratio)


def test_empty_images_are_in_batches_without_boxes() -> None:
    data = made_data()
    (batch,) = data.batches(22, 0, 0, "none")
    empty = [
        sample for sample, targets in zip(batch.index.tolist(), batch.targets, strict=True) if not len(targets.labels)
    ]
    assert sorted(empty) == [3, 7, 11, 15, 19]


def test_batches_are_padded_to_multiples_of_32_or_to_the_canvas() -> None:
    data = made_data()
    assert {side % 32 for batch in data.batches(3, 0, 0) for side in batch.images.shape[-2:]} == {0}
    assert data.largest == (96, 96)
    fixed = replace(data, canvas=(100, 90))
    assert fixed.largest == (100, 90)
    assert {tuple(batch.images.shape[-2:]) for batch in fixed.batches(3, 0, 0)} == {(100, 90)}
    with pytest.raises(ValueError, match=r"of up to .* do not fit in the network's input of 64×64 px"):
        replace(data, canvas=(64, 64)).batches(22, 0, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_devices_agree(device: str, augment: Any) -> None:
    data = made_data()
    here, there = (
        list(chosen.batches(5, 0, 1, validated(augment))) for chosen in (data, data.to(torch.device(device)))
    )
    for one, other in zip(here, there, strict=True):
        assert other.images.device.type == device
        torch.testing.assert_close(one.images, other.images.cpu(), rtol=0, atol=1e-5)
        assert_same(replace(one, images=other.images), other)


def test_an_augmentation_of_classification_is_refused() -> None:
    with pytest.raises(ValueError, match="mixup is not an augmentation of images with boxes"):
        made_data().batches(4, 0, 0, validated("mixup"))


class TestHoldOut:
    def test_held_out_images_leave_the_training_split(self) -> None:
        data = made_data(train=40)
        held = hold_out(data, 0.25, 0)
        assert held.val
        assert (len(held.train), len(held.val)) == (30, 10)
        assert sorted([*held.train.ids, *held.val.ids]) == data.train.ids.tolist()
        assert held.val.pixels is data.train.pixels
        for number, identity in enumerate(held.val.ids.tolist()):
            source = identity - 100
            assert torch.equal(held.val.image(number), data.train.image(source))
            assert held.val.paths[number] == f"{source}.png"
            mine, theirs = held.val.objects.of(number), data.train.objects.of(source)
            assert np.array_equal(mine.boxes, theirs.boxes)
        assert hold_out(data, 0.25, 0).val.ids.tolist() == held.val.ids.tolist()  # type: ignore[union-attr]
        assert hold_out(data, 0.25, 1).val.ids.tolist() != held.val.ids.tolist()  # type: ignore[union-attr]

    def test_an_empty_split_is_refused(self) -> None:
        data: DetectionData = made_data(train=3)
        with pytest.raises(DatasetError, match="leaves a split empty"):
            hold_out(data, 0.1, 0)
