"""The validation split is a stratified share, equal for all runs and never trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.catalog import DATASETS
from core.events import JOURNAL_NAME, Failed, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, RunSpec
from core.tasks.classification import data
from core.tasks.classification.data.holdout import held_out_indices
from core.train import run_training
from tests.core import data_files as files


def synthetic(**params: Any) -> data.Dataset:
    sizes = {"num_classes": 4, "train_size": 200, "test_size": 8, "image_size": 8}
    return data.load(DatasetRef(name="synthetic", params=sizes | params), TrainingSettings.from_environment())


def run_spec(dataset: DatasetRef) -> RunSpec:
    return RunSpec.model_validate(
        {
            "role": "teacher",
            "dataset": dataset,
            "model": {"name": "small_cnn", "params": {"width": 2}},
            "method": "ce",
            "training": {"epochs": 1, "batch_size": 50},
            "seed": 0,
            "data_seed": 0,
        }
    )


def rows(split: data.Split | None) -> set[int]:
    assert split
    assert split.indices is not None
    return set(split.indices.tolist())


def test_split_is_stratified_and_disjoint() -> None:
    dataset = synthetic(val_fraction=0.1)
    assert dataset.val
    assert dataset.val.labels.bincount().tolist() == [5] * 4
    assert rows(dataset.train) | rows(dataset.val) == set(range(200))
    assert not rows(dataset.train) & rows(dataset.val)


def test_images_keep_their_labels() -> None:
    complete, split = synthetic(), synthetic(val_fraction=0.25)
    for part in (split.train, split.val):
        assert part
        assert part.indices is not None
        assert torch.equal(part.labels, complete.train.labels[part.indices])
        assert torch.equal(part.gather(torch.arange(len(part))), complete.train.images[part.indices])
        assert torch.equal(torch.cat(list(part.chunks(7))), complete.train.images[part.indices])


def test_batches_contain_only_remaining_training_images() -> None:
    complete, split = synthetic(), synthetic(val_fraction=0.25)
    seen = torch.cat([batch.images for batch in split.batches(64, 0, 0, augment="none")])
    left = complete.normalise(complete.train.images[torch.tensor(sorted(rows(split.train)))])
    assert len(seen) == 150
    assert sorted(image.numpy().tobytes() for image in seen) == sorted(image.numpy().tobytes() for image in left)


def test_both_splits_share_one_storage() -> None:
    dataset = synthetic(val_fraction=0.5).to(torch.device("cpu"))
    assert dataset.val
    assert dataset.val.images.data_ptr() == dataset.train.images.data_ptr()


def test_split_depends_only_on_its_seed() -> None:
    first = rows(synthetic(val_fraction=0.1).val)
    assert first == rows(synthetic(val_fraction=0.1).val)
    assert first != rows(synthetic(val_fraction=0.1, val_seed=1).val)


def test_unequal_classes_share_the_total_by_largest_remainder() -> None:
    labels = np.repeat([0, 1, 2, 3], [1, 10, 25, 64])
    for fraction in (0.1, 0.2, 0.37, 0.5):
        held = held_out_indices(labels, fraction, 0)
        assert len(held) == round(fraction * 100)
        counts = np.bincount(labels[held], minlength=4)
        assert counts[0] == 0  # the only image of a class is trained on
        assert (abs(counts - fraction * np.array([1, 10, 25, 64])) < 1).all()


def test_catalog_facts_count_remaining_images() -> None:
    choice = DatasetRef(name="digits", params={"val_fraction": 0.2})
    facts, loaded = (
        DATASETS["digits"].facts(choice.parsed_params),
        data.load(choice, TrainingSettings.from_environment()),
    )
    assert facts
    assert loaded.val
    assert (len(loaded.train), len(loaded.val)) == (facts.train_size, 896 - facts.train_size)


def test_fraction_that_leaves_a_split_empty_is_refused() -> None:
    with pytest.raises(data.DatasetError, match="leaves a split empty"):
        synthetic(val_fraction=0.001)


def test_fingerprint_is_unchanged_without_a_validation_split() -> None:
    plain = run_spec(DatasetRef(name="digits"))
    assert "val_fraction" not in plain.model_dump_json()
    none = run_spec(DatasetRef(name="digits", params={"val_fraction": 0, "val_seed": 3}))
    assert none.fingerprint() == plain.fingerprint()
    prints = {
        run_spec(DatasetRef(name="digits", params={"val_fraction": 0.1, "val_seed": seed})).fingerprint()
        for seed in (0, 1)
    }
    assert len(prints | {plain.fingerprint()}) == 3
    split = run_spec(DatasetRef(name="digits", params={"val_fraction": 0.1}))
    assert RunSpec.model_validate_json(split.model_dump_json()).fingerprint() == split.fingerprint()


def test_training_reports_validation_metrics(tmp_path: Path) -> None:
    choice = DatasetRef(
        name="synthetic",
        params={"num_classes": 2, "train_size": 100, "test_size": 20, "image_size": 8, "val_fraction": 0.2},
    )
    assert run_training(run_spec(choice), tmp_path) == "finished"
    events = [record.event for record in read_journal(tmp_path / JOURNAL_NAME)]
    [values] = [event.values for event in events if isinstance(event, Metrics)]
    assert 0 <= values["val/top1"] <= 100
    assert values["val/loss"] > 0


def test_unsuitable_folder_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    files.tree(tmp_path / "data/pets", ["cat", "dog"])
    spec = run_spec(DatasetRef(name="folder", params={"path": "pets", "image_size": 8})).model_dump()
    for change, reason in (
        (
            {"method": "dkd", "role": "student", "teacher": "v1-" + "0" * 32},
            "method: dkd compares the non-target classes with each other and needs at least 3 classes; folder has 2; "
            "with beta: 0 it is TCKD alone, which two classes are enough for",
        ),
        ({"model": "mobilenet_v2_half"}, "mobilenet_v2_half needs images of at least 16 px; folder has 8 px"),
    ):
        assert run_training(RunSpec.model_validate(spec | change), tmp_path / "out") == "failed"
        [failed] = [r.event for r in read_journal(tmp_path / "out" / JOURNAL_NAME) if isinstance(r.event, Failed)]
        assert (failed.kind, failed.reason) == ("spec", reason)


def test_last_batch_of_one_image_is_refused_for_batch_norm(tmp_path: Path) -> None:
    """Otherwise the training would fail after its first epoch with an error of torch."""
    choice = DatasetRef(name="synthetic", params={"image_size": 16, "train_size": 51, "test_size": 8})
    change = {"model": {"name": "mobilenet_v2_half", "params": {}}}  # one pixel is left of 16
    assert run_training(RunSpec.model_validate(run_spec(choice).model_dump() | change), tmp_path / "out") == "failed"
    events = [record.event for record in read_journal(tmp_path / "out" / JOURNAL_NAME)]
    [failed] = [event for event in events if isinstance(event, Failed)]
    assert failed.kind == "spec"
    assert "51 training images in batches of 50 leave a last batch of a single image" in failed.reason
    assert not any(isinstance(event, Metrics) for event in events)
    assert run_training(run_spec(choice), tmp_path / "other") == "finished"  # a network that keeps its pixels


def test_run_fails_with_the_data_set_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    choice = DatasetRef(name="folder", params={"path": "pets", "image_size": 8})
    assert run_training(run_spec(choice), tmp_path / "out") == "failed"
    [failed] = [r.event for r in read_journal(tmp_path / "out" / JOURNAL_NAME) if isinstance(r.event, Failed)]
    assert "there is no image folder" in failed.reason

    files.tree(tmp_path / "data/pets", ["cat", "dog"])
    assert run_training(run_spec(choice), tmp_path / "out") == "finished"
    logs = [r.event.message for r in read_journal(tmp_path / "out" / JOURNAL_NAME) if isinstance(r.event, Log)]
    assert any("packing 8 images" in message for message in logs)
