"""Augmentations: pure functions of (data seed, epoch, sample), with the operations and mixtures of their papers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from core.catalog import AUGMENTATIONS
from core.catalog.augmentations import (
    CutMixParams,
    FixMatchParams,
    MixupParams,
    RandAugmentParams,
    RandomErasingParams,
)
from core.catalog.registry import NoParams
from core.catalog.tasks import CLASSIFICATION
from core.specs import Training
from core.tasks.classification.data import Batch, Dataset
from core.tasks.classification.data.augmentations.erasing import RandomErasing
from core.tasks.classification.data.augmentations.mixing import CutMix, Mixup, beta_quantiles
from core.tasks.classification.data.augmentations.policies import FixMatch, RandAugment, TrivialAugment
from core.tasks.classification.data.fingerprint import digest
from tests.core.speed_runs import DEVICES, synthetic

EVERY = ["mixup", "cutmix", "randaugment", "trivialaugment", "fixmatch", "random_erasing"]


def batches(dataset: Dataset, augment: Any, size: int = 64, **choices: Any) -> list[Batch]:
    seed, epoch = choices.pop("seed", 3), choices.pop("epoch", 2)
    return list(dataset.batches(size, seed, epoch, Training(epochs=1, augment=augment).augment, **choices))


def by_sample(found: list[Batch]) -> Mapping[int, Tensor]:
    return {int(index): image for batch in found for index, image in zip(batch.index, batch.images, strict=True)}


class TestPurity:
    @pytest.mark.parametrize("augment", ["randaugment", "trivialaugment", "fixmatch", "random_erasing"])
    def test_augmented_image_does_not_depend_on_its_batch(self, augment: str) -> None:
        dataset = synthetic(train_size=150)
        ours, others = (by_sample(batches(dataset, augment, size)) for size in (64, 7))
        assert all(torch.equal(ours[index], others[index]) for index in range(150))

    @pytest.mark.parametrize("augment", [*EVERY, EVERY])
    def test_augmented_images_depend_on_seed_and_epoch_but_not_on_the_start(self, augment: Any) -> None:
        dataset = synthetic(train_size=150)
        first, again = batches(dataset, augment), batches(dataset, augment)
        assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
        resumed = batches(dataset, augment, start=1)
        assert all(torch.equal(a.images, b.images) for a, b in zip(first[1:], resumed, strict=True))
        for change in ({"seed": 4}, {"epoch": 3}):
            ours, others = by_sample(first), by_sample(batches(dataset, augment, **change))
            assert sum(torch.equal(ours[index], others[index]) for index in range(150)) < 40, change

    @pytest.mark.parametrize("augment", ["mixup", EVERY])
    @pytest.mark.parametrize("ranks", [2, 3, 70])
    def test_shares_of_the_ranks_concatenate_to_the_whole_batch(self, augment: Any, ranks: int) -> None:
        dataset = synthetic(train_size=150)
        shares = [
            batches(dataset, augment, share=lambda n, rank=rank: slice(n * rank // ranks, n * (rank + 1) // ranks))
            for rank in range(ranks)
        ]
        for batch, parts in zip(batches(dataset, augment), zip(*shares, strict=True), strict=True):
            assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
            assert torch.equal(torch.cat([part.index for part in parts]), batch.index)
            for name in ("target", "partner_target", "lam"):
                joined = torch.cat([getattr(part.mixed, name) for part in parts])
                assert torch.equal(joined, getattr(batch.mixed, name))

    @pytest.mark.parametrize("device", DEVICES)
    def test_mixtures_and_erased_boxes_are_equal_on_every_device(self, device: str) -> None:
        dataset = synthetic(train_size=150)
        there = dataset.to(torch.device(device))
        augment = ["none", "mixup", "cutmix", "random_erasing"]
        for ours, theirs in zip(batches(dataset, augment), batches(there, augment), strict=True):
            assert torch.equal(ours.images, theirs.images.cpu())

    def test_augmentation_that_does_not_apply_leaves_images_unchanged(self) -> None:
        dataset = synthetic(train_size=150)
        plain = by_sample(batches(dataset, "none"))
        never = {"name": "random_erasing", "params": {"probability": 0}}
        weak = {"name": "randaugment", "params": {"magnitude": 0}}
        assert all(
            torch.equal(image, plain[index]) for index, image in by_sample(batches(dataset, ["none", never])).items()
        )
        # At strength 0 only the operations without a strength change anything: equalize and autocontrast.
        changed = [
            not torch.equal(image, plain[index]) for index, image in by_sample(batches(dataset, ["none", weak])).items()
        ]
        assert 0.1 < np.mean(changed) < 0.4

    def test_tables_match_their_version(self) -> None:
        """Another table would give other images under the same seed, so cached logits would be those of others."""
        augmentations: dict[str, Any] = {
            "randaugment": RandAugment(RandAugmentParams()),
            "trivialaugment": TrivialAugment(NoParams()),
            "fixmatch": FixMatch(FixMatchParams()),
            "random_erasing": RandomErasing(RandomErasingParams()),
            "mixup": Mixup(MixupParams()),
            "cutmix": CutMix(CutMixParams()),
        }
        assert {
            name: digest(torch.from_numpy(kind.table(500, 32, 5, 9)))[:16] for name, kind in augmentations.items()
        } == {
            "randaugment": "2d4f2c829b0aba34",
            "trivialaugment": "6dcedd608996d804",
            "fixmatch": "87ca5efeed4ac51b",
            "random_erasing": "27e04a6e88878c4c",
            "mixup": "6856e352e4ce7020",
            "cutmix": "a05c71dbd85fd0c1",
        }


def pictures(count: int, side: int = 12) -> Tensor:
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestPolicies:
    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            ([0, 9, 0], lambda image: image),
            ([5, 15, 1], lambda image: functional.rotate(image, -15.0)),
            ([6, 30, 0], lambda image: functional.adjust_brightness(image, 1.9)),
            ([6, 30, 1], lambda image: functional.adjust_brightness(image, 1 - 0.9)),
            ([8, 10, 0], lambda image: functional.adjust_contrast(image, 1.3)),
            ([10, 30, 0], lambda image: functional.posterize(image, 4)),
            ([11, 15, 1], lambda image: functional.solarize(image, 127.5)),
            ([12, 3, 0], functional.autocontrast),
            ([13, 3, 0], functional.equalize),
            ([3, 30, 0], lambda image: functional.affine(image, 0.0, [5, 0], 1.0, [0.0, 0.0])),
        ],
    )
    def test_operations_equal_those_of_torchvision(self, row: list[int], expected: Any) -> None:
        images = pictures(3)
        rows = np.array([row, [0, 0, 0], row])
        augmented = RandAugment(RandAugmentParams(num_ops=1)).apply(images, rows)
        assert torch.equal(augmented[0], expected(images[0]))
        assert torch.equal(augmented[1], images[1])
        assert torch.equal(augmented[2], expected(images[2]))

    def test_second_operation_is_applied_to_the_result_of_the_first(self) -> None:
        images = pictures(1)
        augmented = RandAugment(RandAugmentParams()).apply(images, np.array([[10, 30, 0, 12, 9, 1]]))
        assert torch.equal(augmented[0], functional.autocontrast(functional.posterize(images[0], 4)))

    def test_every_operation_and_strength_is_drawn_equally_often(self) -> None:
        table = TrivialAugment(NoParams()).table(43_400, 32, 0, 0)
        counts = np.bincount(31 * table[:, 0] + table[:, 1], minlength=14 * 31)
        assert len(counts) == 14 * 31
        assert (counts.min(), counts.max()) == (pytest.approx(100, abs=45), pytest.approx(100, abs=45))
        assert table[:, 2].mean() == pytest.approx(0.5, abs=0.02)

    def test_square_of_fixmatch_is_grey_and_the_rest_is_the_image(self) -> None:
        images, rows = pictures(2), np.array([[0, 0, 0, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 0]])
        augmented = FixMatch(FixMatchParams(num_ops=1)).apply(images, rows)
        expected = images.clone()
        expected[0, :, 2:6, 3:8] = torch.tensor([125, 123, 114], dtype=torch.uint8).view(3, 1, 1)
        assert torch.equal(augmented, expected)

    def test_squares_of_fixmatch_have_at_most_half_of_the_side(self) -> None:
        table = FixMatch(FixMatchParams()).table(5000, 32, 0, 0)
        top, left, height, width = table[:, -4:].T
        assert set(height) == set(width) == set(range(17))
        assert (top + height).max() == (left + width).max() == 32
        assert (top == 0).mean() > 1 / 32, "a square at the upper border keeps its size"
        assert not FixMatch(FixMatchParams(cutout=0.0)).table(50, 32, 0, 0)[:, -2:].any()

    @pytest.mark.parametrize(
        ("operation", "step", "expected"),
        [
            (6, 0, lambda image: functional.adjust_brightness(image, 0.95)),
            (6, 30, lambda image: functional.adjust_brightness(image, 1 - 0.95)),
            (8, 30, lambda image: functional.adjust_contrast(image, 1 - 0.95)),
            (10, 0, lambda image: functional.posterize(image, 4)),
            (10, 30, lambda image: functional.posterize(image, 8)),
            (5, 30, lambda image: functional.rotate(image, 30.0)),
        ],
    )
    def test_operations_of_fixmatch_have_its_ranges(self, operation: int, step: int, expected: Any) -> None:
        images = pictures(1)
        augmented = FixMatch(FixMatchParams(num_ops=1)).apply(images, np.array([[operation, step, 0, 0, 0, 0, 0]]))
        assert torch.equal(augmented, expected(images))

    def test_every_operation_keeps_shape_and_dtype_of_grey_images(self) -> None:
        images = pictures(14, side=8)[:, :1]
        rows = np.array([[operation, 30, 0] for operation in range(14)])
        for policy in (RandAugment(RandAugmentParams(num_ops=1)), TrivialAugment(NoParams())):
            augmented = policy.apply(images, rows)
            assert (augmented.shape, augmented.dtype) == (images.shape, torch.uint8)


class TestErasing:
    def test_boxes_have_the_requested_probability_and_areas(self) -> None:
        params = RandomErasingParams(probability=0.4, min_area=0.1, max_area=0.3)
        rows = RandomErasing(params).table(20_000, 32, 1, 2)
        erased = rows[rows[:, 2] > 0]
        assert len(erased) / len(rows) == pytest.approx(0.4, abs=0.02)
        area = erased[:, 2] * erased[:, 3] / 32**2
        assert 0.08 < area.min() < area.max() < 0.33
        assert area.mean() == pytest.approx(0.2, abs=0.02)
        assert (erased[:, :2] >= 0).all()
        assert (erased[:, :2] + erased[:, 2:] <= 32).all()

    def test_only_the_pixels_of_the_box_are_erased(self) -> None:
        erased = RandomErasing(RandomErasingParams()).apply(
            torch.ones(2, 3, 5, 5), np.array([[1, 2, 2, 3], [0, 0, 0, 0]])
        )
        expected = torch.ones(2, 3, 5, 5)
        expected[0, :, 1:3, 2:5] = 0
        assert torch.equal(erased, expected)


class TestMixing:
    @pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
    def test_lambda_has_the_moments_of_its_beta_distribution(self, alpha: float) -> None:
        lam = Mixup(MixupParams(alpha=alpha)).table(50_000, 8, 0, 0)[:, 0] / 2**16
        assert lam.mean() == pytest.approx(0.5, abs=0.01)
        assert lam.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.03)
        assert (np.diff(beta_quantiles(alpha)) >= 0).all()

    def test_mixup_averages_images_of_one_batch(self) -> None:
        dataset = synthetic(train_size=150)
        for plain, mixed in zip(batches(dataset, "standard"), batches(dataset, "mixup"), strict=True):
            assert mixed.mixed
            lam = mixed.mixed.lam.view(-1, 1, 1, 1)
            partners = plain.images.roll(-1, 0)
            assert torch.equal(mixed.images, lam * plain.images + (1 - lam) * partners)
            assert torch.equal(mixed.mixed.target, plain.labels)
            assert torch.equal(mixed.mixed.partner_target, plain.labels.roll(-1, 0))
            assert torch.equal(mixed.labels, plain.labels)

    def test_lambda_of_cutmix_is_the_share_of_kept_pixels(self) -> None:
        cutmix = CutMix(CutMixParams())
        rows = cutmix.table(300, 12, 0, 0)
        lam = torch.from_numpy(cutmix.weights(rows, 12))
        mixed = cutmix.mix(torch.ones(300, 1, 12, 12), torch.zeros(300, 1, 12, 12), rows, lam)
        torch.testing.assert_close(mixed.mean((1, 2, 3)), lam)
        assert 0.5 < lam.mean() < 0.7, "boxes that reach over the border lose a part"

    def test_each_sample_gets_one_of_two_mixtures(self) -> None:
        dataset = synthetic(train_size=150)
        both, mixup, cutmix = (batches(dataset, augment) for augment in (["mixup", "cutmix"], "mixup", "cutmix"))
        chosen = []
        for one, two, three in zip(both, mixup, cutmix, strict=True):
            for row in range(len(one.index)):
                first, second = (torch.equal(one.images[row], other.images[row]) for other in (two, three))
                chosen.append(first)
                assert first or second
        assert 0.3 < np.mean(chosen) < 0.7


def test_every_entry_is_used_by_a_batch() -> None:
    dataset = synthetic(train_size=20)
    for entry in (entry for entry in AUGMENTATIONS if CLASSIFICATION.name in entry.tasks):
        (batch,) = batches(dataset, entry.name)
        assert batch.images.isfinite().all()
        assert batch.images.dtype == torch.float32
