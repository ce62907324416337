"""Random resized crops equal torchvision's and are a pure function of seed, epoch and sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as vision

from core.settings import TrainingSettings
from core.specs import DatasetRef, parse_experiment
from core.tasks.classification import data
from core.tasks.classification.data.random_resized_crop import MIN_AREA, crop_and_resize, crop_table
from core.tasks.hashing import permutation

SIDE = 64


def pictures(count: int) -> torch.Tensor:
    """Return images (count, 3, SIDE, SIDE) with smooth areas and hard edges."""
    random = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (count, 3, 16, 16), generator=random, dtype=torch.uint8)
    return coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)


@pytest.mark.parametrize("seen", [56, 24])  # 256 to 224 in small, and a view so small that the antialias decides
def test_pixels_equal_those_of_torchvision(seen: int) -> None:
    images, views = pictures(24), torch.from_numpy(crop_table(24, SIDE, True, 0, 0))
    assert set(views[:, 4].tolist()) == {0, 1}
    for image, view, ours in zip(images, views.tolist(), crop_and_resize(images, views, seen), strict=True):
        top, left, height, width, flipped = view
        theirs = vision.resized_crop(
            image, top, left, height, width, [seen, seen], InterpolationMode.BILINEAR, antialias=True
        )
        theirs = theirs.flip(-1) if flipped else theirs
        assert (theirs.int() - ours.int()).abs().max() <= 1


def test_boxes_are_distributed_like_torchvisions() -> None:
    ours = crop_table(4000, 256, False, 0, 0)
    torch.manual_seed(0)
    blank = torch.empty(3, 256, 256)
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(blank, [MIN_AREA, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    )
    quantities: tuple[Callable[[NDArray[Any]], NDArray[Any]], ...] = (
        lambda boxes: boxes[:, 2] * boxes[:, 3] / 256**2,
        lambda boxes: np.log(boxes[:, 3] / boxes[:, 2]),
        lambda boxes: boxes[:, 0] / 256,
        lambda boxes: boxes[:, 1] / 256,
    )
    for quantity in quantities:
        a, b = quantity(ours), quantity(theirs)
        # Six standard errors of the difference of two means, and the same for quantiles, whose errors are larger.
        assert abs(a.mean() - b.mean()) < 6 * b.std() * math.sqrt(2 / 4000)
        assert np.abs(np.quantile(a, [0.1, 0.5, 0.9]) - np.quantile(b, [0.1, 0.5, 0.9])).max() < 12 * b.std() / 63
    assert ours[:, 4].sum() == 0
    assert (ours[:, 0] + ours[:, 2]).max() <= 256
    assert (ours[:, 1] + ours[:, 3]).max() <= 256
    assert ours.min() == 0


def test_boxes_depend_only_on_seed_epoch_and_sample() -> None:
    table = crop_table(100, 256, True, 3, 2)
    assert np.array_equal(table, crop_table(1000, 256, True, 3, 2)[:100])
    assert not np.array_equal(table, crop_table(100, 256, True, 3, 3))
    assert not np.array_equal(table, crop_table(100, 256, True, 4, 2))
    # On every machine.
    assert table[:3].tolist() == [[99, 12, 152, 115, 1], [110, 1, 94, 90, 0], [32, 85, 131, 133, 1]]


def test_aspect_ratios_do_not_depend_on_the_exponential_function() -> None:
    exact = 2**20 * np.exp(np.linspace(math.log(3 / 4), math.log(4 / 3), 1024))
    assert np.abs(exact % 1 - 0.5).min() > 1e-6  # its last bit is worth 1e-10


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Photographs that are no squares, of two classes."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DKD_PACK_DIR", str(tmp_path / "packs"))
    random = np.random.default_rng(0)
    for split, count in (("train", 10), ("test", 3)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (15, 21, 3), dtype=np.uint8)
                Image.fromarray(pixels).resize((171 + 2 * number, 120), Image.Resampling.BICUBIC).save(
                    folder / f"{number}.png"
                )
    return tmp_path / "pets"


def load(**params: object) -> data.Dataset:
    return data.load(
        DatasetRef(name="folder", params={"path": "pets", "image_size": 56, **params}),
        TrainingSettings.from_environment(),
    )


def shown(dataset: data.Dataset, split: data.Split) -> torch.Tensor:
    """What a network is tested on, back as bytes."""
    return torch.cat([dataset.normalise(images) for images in split.chunks(4)])


def test_test_images_are_center_crops(photos: Path) -> None:
    dataset = load(views="resized_crop")
    assert dataset.image_size == 56
    assert dataset.train.images.shape[-1] == 64
    published = transforms.Compose([transforms.Resize(64), transforms.CenterCrop(56), transforms.PILToTensor()])
    paths = [photos / "test" / name / f"{number}.png" for name in ("cat", "dog") for number in range(3)]
    theirs = torch.stack([published(Image.open(path)) for path in paths])
    assert torch.equal(torch.cat(list(dataset.test.chunks(4))), theirs)
    # As it is where nothing is augmented, for training images that are looked at, and for those held out.
    (batch,) = dataset.batches(20, 0, 0, "none")
    expected = shown(dataset, dataset.train)
    assert torch.equal(batch.images, expected[permutation(20, 0, 0)])
    held_out = load(views="resized_crop", val_fraction=0.5)
    assert held_out.val
    assert torch.equal(
        torch.cat(list(held_out.val.chunks(3))), torch.cat(list(dataset.train.chunks(4)))[held_out.val.indices]
    )


def test_training_crops_are_cut_from_the_whole_stored_image(photos: Path) -> None:
    dataset = load(views="resized_crop")
    (batch,) = dataset.batches(20, 1, 2)
    order = torch.from_numpy(permutation(20, 1, 2))
    views = torch.from_numpy(crop_table(20, 64, True, 1, 2))
    assert torch.equal(batch.images, dataset.normalise(crop_and_resize(dataset.train.images[order], views[order], 56)))
    (again,) = dataset.batches(20, 1, 2)
    assert torch.equal(again.images, batch.images)


def test_augment_flip_applies_only_flips(photos: Path) -> None:
    """The presets of Decoupled Gradient KD train on flipped images and nothing else."""
    dataset = load(views="resized_crop")
    (batch,) = dataset.batches(20, 0, 0, "flip")
    plain = shown(dataset, dataset.train)[permutation(20, 0, 0)]
    same = [torch.equal(a, b) for a, b in zip(batch.images, plain, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(batch.images, plain, strict=True)]
    assert all(one != other for one, other in zip(same, mirrored, strict=True))
    assert any(mirrored)
    assert any(same)


def test_folder_disables_flips_of_resized_crops(photos: Path) -> None:
    dataset = load(views="resized_crop", flip=False)
    (batch,) = dataset.batches(20, 0, 0)
    order = torch.from_numpy(permutation(20, 0, 0))
    views = torch.from_numpy(crop_table(20, 64, False, 0, 0))
    assert torch.equal(batch.images, dataset.normalise(crop_and_resize(dataset.train.images[order], views[order], 56)))


def test_shifts_are_unchanged(photos: Path) -> None:
    dataset = load()
    assert dataset.train.images.shape[-1] == 56
    assert dataset.augmentation == replace(dataset.augmentation, pad=7, resized_crop=False)
    assert DatasetRef(name="folder", params={"path": "pets", "image_size": 56, "views": "shift"}).params == {
        "path": "pets",
        "image_size": 56,
        "flip": True,
    }


def test_imagenet_preset_crops_and_author_preset_does_not() -> None:
    models = {"teacher": {"model": "resnet34"}, "student": {"model": "resnet18"}}
    ours = parse_experiment({"name": "x", "preset": "dkd-imagenet", **models})
    assert ours.dataset.params == {"image_size": 224, "views": "resized_crop"}
    shifted = parse_experiment(
        {"name": "x", "preset": "dkd-imagenet", **models, "dataset": {"name": "imagenet", "params": {"views": "shift"}}}
    )
    # The views are in the name of a training: a teacher that saw others is another one.
    assert shifted.plan()[0].spec.fingerprint() != ours.plan()[0].spec.fingerprint()
    authors = parse_experiment({"name": "x", "preset": "decoupled-gradient-kd-2025", "dataset": "imagenet", **models})
    assert authors.training.augment == "flip"
