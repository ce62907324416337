"""Augmentation and order are pure functions of (data seed, epoch, sample)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from core.catalog import DATASETS
from core.catalog.datasets import SyntheticParams
from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification import data
from core.tasks.classification.data import Augmentation
from core.tasks.classification.data.views import augmentation_table, shift_and_flip
from core.tasks.hashing import hashed_randint, permutation


def digits() -> data.Dataset:
    return data.load(DatasetRef(name="digits"), TrainingSettings.from_environment())


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_loaded_data_set_matches_its_catalog_entry(name: str) -> None:
    choice = DatasetRef(name=name)
    facts = DATASETS[name].facts(choice.parsed_params)
    loaded = data.load(choice, TrainingSettings.from_environment())
    assert facts
    assert (facts.num_classes, facts.channels, facts.image_size) == (
        loaded.num_classes,
        loaded.channels,
        loaded.image_size,
    )
    assert (facts.train_size, facts.test_size) == (len(loaded.train), len(loaded.test))
    assert loaded.train.images.dtype == torch.uint8
    images = loaded.normalise(loaded.train.images)
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_digits_split_is_stratified_and_reproducible() -> None:
    first, second = digits(), digits()
    assert torch.equal(first.train.images, second.train.images)
    share = first.test.labels.bincount() / (first.test.labels.bincount() + first.train.labels.bincount())
    assert share.min() > 0.49
    assert share.max() < 0.52
    from sklearn.datasets import load_digits

    bundled = np.round(load_digits().data * (255 / 16)).astype(np.uint8)
    ours = torch.cat([first.train.images, first.test.images]).flatten(1).numpy()
    assert sorted(row.tobytes() for row in ours) == sorted(row.tobytes() for row in bundled)


def test_batches_are_reproducible_and_differ_by_seed_and_epoch() -> None:
    dataset = digits()

    def labels(seed: int, epoch: int, start: int = 0) -> torch.Tensor:
        return torch.cat([batch.labels for batch in dataset.batches(100, seed, epoch, augment="standard", start=start)])

    assert torch.equal(labels(0, 0), labels(0, 0))
    assert not torch.equal(labels(0, 0), labels(0, 1))
    assert not torch.equal(labels(0, 0), labels(1, 0))
    assert torch.equal(labels(0, 0)[300:], labels(0, 0, start=3))
    assert len(labels(0, 0)) == len(dataset.train)


def test_augmentation_depends_on_the_sample_and_not_on_the_batch() -> None:
    dataset = digits()
    for size in (32, 100):
        views = [batch.images for batch in dataset.batches(size, 3, 2, augment="standard")]
        reference = torch.cat([batch.images for batch in dataset.batches(64, 3, 2, augment="standard")])
        assert torch.equal(torch.cat(views), reference)


def test_images_are_unchanged_without_augmentation() -> None:
    dataset = digits()
    order = torch.from_numpy(permutation(len(dataset.train), 0, 0))
    images = torch.cat([batch.images for batch in dataset.batches(128, 0, 0, augment="none")])
    assert torch.equal(images, dataset.normalise(dataset.train.images[order]))


def test_images_are_upscaled_to_the_size_of_the_network() -> None:
    dataset = replace(digits(), upscaled_size=16)
    assert dataset.image_size == 16
    (batch, *_) = dataset.batches(10, 0, 0, augment="none")
    assert batch.images.shape == (10, 1, 16, 16)
    small = next(iter(digits().batches(10, 0, 0, augment="none"))).images
    assert torch.nn.functional.avg_pool2d(batch.images, 2).mean().item() == pytest.approx(small.mean().item(), abs=0.02)


def test_shift_moves_the_image_and_fills_with_zeros() -> None:
    image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
    augmentation = Augmentation(pad=1, flip=True)

    def view(top: int, left: int, flip: int) -> list[list[int]]:
        rows: list[list[int]] = shift_and_flip(image, torch.tensor([[top, left, flip]]), augmentation)[0, 0].tolist()
        return rows

    assert view(1, 1, 0) == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert view(0, 1, 0) == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert view(1, 2, 0) == [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    assert view(1, 1, 1) == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    assert view(1, 2, 1) == [[0, 3, 2], [0, 6, 5], [0, 9, 8]]


def test_augmentation_is_uniform_and_independent() -> None:
    table = augmentation_table(90_000, Augmentation(pad=1, flip=True), 0, 0)
    counts = np.unique(table, axis=0, return_counts=True)[1]
    assert len(counts) == 18
    # 5,000 expected each, standard deviation 69: six of them either way.
    assert abs(counts - 5000).max() < 6 * 69


def test_hashes_have_their_recorded_values() -> None:
    assert permutation(8, 1, 2).tolist() == [1, 2, 4, 0, 6, 5, 7, 3]
    assert hashed_randint(10, 8, 1, 2, "top").tolist() == [8, 9, 6, 0, 4, 7, 6, 7]


def _without_settings(params: SyntheticParams) -> data.Dataset:
    return data.load(DatasetRef(name="synthetic", params=params.model_dump()), TrainingSettings())


def _with_settings(params: SyntheticParams, settings: TrainingSettings) -> data.Dataset:
    (settings.data_dir / "read").touch()
    return _without_settings(params)


@pytest.mark.parametrize("reads_files", [False, True])
def test_loader_of_a_plugin_gets_the_given_settings_if_it_reads_files(
    reads_files: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    entry = replace(
        DATASETS["synthetic"],
        name="theirs",
        target=f"{__name__}:{'_with_settings' if reads_files else '_without_settings'}",
        reads_files=reads_files,
    )
    monkeypatch.setitem(DATASETS._entries, "theirs", entry)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "of the environment"))
    loaded = data.load(DatasetRef(name="theirs"), TrainingSettings(data_dir=tmp_path))
    assert loaded.num_classes == SyntheticParams().num_classes
    assert (tmp_path / "read").exists() == reads_files
