"""Batches: the same for every method of a seed, augmented image by image, prefetched in order."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.tasks.classification.data import Augmentation
from core.tasks.classification.data.dataset import Batch, Split
from core.tasks.classification.data.prefetch import prefetch
from core.tasks.classification.data.views import augmentation_table, shift_and_flip
from core.train import run_training
from core.train.stepper import Stepper
from tests.core.speed_runs import DEVICES, run_spec, synthetic


def reference_view(image: Tensor, view: Tensor, pad: int) -> Tensor:
    """One image's crop and flip, pixel by pixel as the definition has it."""
    side = image.shape[-1]
    padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
    top, left, flipped = view.tolist()
    crop = padded[:, top : top + side, left : left + side]
    return crop.flip(2) if flipped else crop


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_batch_augmentation_equals_augmenting_each_image(pad: int, device: str) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, 12, 12), dtype=torch.uint8, generator=random)
    augmentation = Augmentation(pad=pad, flip=True)
    views = torch.from_numpy(augmentation_table(50, augmentation, 3, 1))
    augmented = shift_and_flip(images.to(device), views.to(device), augmentation).cpu()
    expected = torch.stack([reference_view(image, view, pad) for image, view in zip(images, views, strict=True)])
    assert torch.equal(augmented, expected)


def test_normalise_leaves_its_argument_unchanged() -> None:
    dataset = synthetic()
    images = dataset.train.images[:4].float()
    before = images.clone()
    dataset.normalise(images)
    assert torch.equal(images, before)


def fingerprints(batches: Iterator[Batch]) -> list[str]:
    return [
        hashlib.sha256(
            b"".join(part.cpu().numpy().tobytes() for part in (batch.images, batch.labels, batch.index))
        ).hexdigest()
        for batch in batches
    ]


class TestBatches:
    def test_methods_with_the_same_seed_see_identical_batches(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: dict[str, list[str]] = {}
        original = Stepper.step

        def spy(self: Stepper, batch: Batch, *rest: Any, **options: Any) -> None:
            seen.setdefault(label, []).extend(fingerprints(iter([batch])))
            original(self, batch, *rest, **options)

        monkeypatch.setattr(Stepper, "step", spy)
        for label, method, seed in (("ce", "ce", 0), ("again", "ce", 0), ("other seed", "ce", 1)):
            run_training(run_spec(method, seed), tmp_path / label)
        label = "another network"
        spec = run_spec()
        wider = spec.model_copy(update={"model": spec.model.model_copy(update={"params": {"width": 8}})})
        run_training(wider, tmp_path / label)
        assert len(seen["ce"]) == 3 * 10
        assert len(set(seen["ce"])) == len(seen["ce"])
        assert seen["ce"] == seen["again"] == seen["another network"]
        assert not set(seen["ce"]) & set(seen["other seed"])

    @pytest.mark.parametrize("device", DEVICES)
    def test_streamed_batches_equal_resident_ones_bit_for_bit(self, device: str) -> None:
        resident = synthetic()
        rows = torch.arange(0, 300, 2)
        half = Split(resident.train.images, resident.train.labels[rows], rows)
        for train in (resident.train, half):
            here = replace(resident, train=train)
            streamed = replace(here, train=replace(train, memory_mapped=True, labels=train.labels.to(device)))
            assert streamed.train.needs_transfer
            assert not here.train.needs_transfer
            expected = fingerprints(here.batches(32, 0, 1, start=1))
            assert fingerprints(streamed.batches(32, 0, 1, start=1)) == expected
            if device == "cuda":
                assert fingerprints(here.to(torch.device(device)).batches(32, 0, 1, start=1)) == expected


class TestPrefetch:
    def test_prefetch_keeps_the_order_and_the_depth(self) -> None:
        made: list[int] = []

        def make(number: int) -> int:
            made.append(number)
            return number

        received = []
        for number in prefetch(make, range(50), depth=3):
            received.append(number)
            assert len(made) <= number + 1 + 3
        assert received == list(range(50))

    def test_prefetch_raises_an_error_at_its_item(self) -> None:
        def make(number: int) -> int:
            if number == 2:
                raise OSError("the disk is gone")
            return number

        items = prefetch(make, range(5))
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_prefetch_thread_ends_with_its_iterator(self, how: str) -> None:
        before = threading.active_count()
        batches = replace(synthetic(), train=replace(synthetic().train, memory_mapped=True)).batches(32, 0, 0)
        next(batches)
        assert threading.active_count() == before + 1
        if how == "close":
            batches.close()
        else:
            del batches
        assert threading.active_count() == before
