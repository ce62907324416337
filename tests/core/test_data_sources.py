"""Data sets are read in their published formats with the official labels, or an error says what is missing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from core.catalog import DATASETS
from core.settings import SettingsError, TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification import data
from core.tasks.classification.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES
from tests.core import data_files as files


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DKD_DOWNLOAD", raising=False)
    monkeypatch.delenv("DKD_PACK_DIR", raising=False)
    return tmp_path


def load(name: str, **params: Any) -> data.Dataset:
    return data.load(DatasetRef(name=name, params=params), TrainingSettings.from_environment())


def red(split: data.Split) -> list[int]:
    return [int(image[0].float().mean().round()) for image in split.images]


class TestMnist:
    @pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
    @pytest.mark.parametrize("compress", [False, True])
    def test_idx_files_are_read(self, root: Path, folder: str, compress: bool) -> None:
        images, labels = files.mnist(root / folder, compress)
        dataset = load("mnist")
        assert np.array_equal(dataset.train.images[:, 0].numpy(), images)
        assert dataset.train.labels.tolist() == labels.tolist()
        assert dataset.train.labels.dtype == torch.int64
        assert len(dataset.test) == 20

    def test_each_data_set_is_read_from_its_folder(self, root: Path) -> None:
        files.mnist(root / "fashion_mnist")
        assert load("fashion_mnist").augmentation.flip
        with pytest.raises(data.DatasetError, match="mnist is not on this machine"):
            load("mnist")

    def test_truncated_file_is_named(self, root: Path) -> None:
        files.mnist(root / "mnist")
        broken = root / "mnist" / "t10k-images-idx3-ubyte"
        broken.write_bytes(broken.read_bytes()[:-5])
        with pytest.raises(data.DatasetError, match="t10k-images-idx3-ubyte cannot be read"):
            load("mnist")

    def test_damaged_archive_is_named(self, root: Path) -> None:
        files.mnist(root / "mnist", compress=True)
        broken = root / "mnist" / "t10k-images-idx3-ubyte.gz"
        content = bytearray(broken.read_bytes())
        content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
        broken.write_bytes(content)
        with pytest.raises(data.DatasetError, match=r"t10k-images-idx3-ubyte.gz cannot be read"):
            load("mnist")

    @pytest.mark.parametrize(
        ("shape", "label", "message"),
        [
            ((20, 28, 28), 10, "labels outside the 10 classes 0 to 9"),
            ((20, 20, 28), 9, "not square images of uint8"),
            ((0, 28, 28), 0, "test split is empty"),
        ],
    )
    def test_complete_but_invalid_files_are_refused(
        self, root: Path, shape: tuple[int, int, int], label: int, message: str
    ) -> None:
        """Otherwise the loss would fail after a minute on a GPU, and an empty split would never be noticed."""
        files.mnist(root / "mnist")
        files.idx(root / "mnist/t10k-images-idx3-ubyte", np.zeros(shape, dtype=np.uint8))
        files.idx(root / "mnist/t10k-labels-idx1-ubyte", np.full(shape[0], label, dtype=np.uint8))
        with pytest.raises(data.DatasetError, match=message):
            load("mnist")


class TestCifar:
    def test_official_files_of_cifar100_are_read(self, root: Path) -> None:
        train = files.cifar_pickle(root / "cifar-100-python/train", "fine_labels", list(range(100)))
        files.cifar_pickle(root / "cifar-100-python/test", "fine_labels", [99, 0])
        dataset = load("cifar100")
        assert np.array_equal(dataset.train.images.numpy(), train)
        assert dataset.train.labels.tolist() == list(range(100))
        assert dataset.test.labels.tolist() == [99, 0]

    def test_official_files_of_cifar10_are_concatenated_in_order(self, root: Path) -> None:
        folder = root / "cifar10/cifar-10-batches-py"
        parts = [files.cifar_pickle(folder / f"data_batch_{n}", "labels", [n, n + 1], seed=n) for n in range(1, 6)]
        files.cifar_pickle(folder / "test_batch", "labels", [0])
        dataset = load("cifar10")
        assert np.array_equal(dataset.train.images.numpy(), np.concatenate(parts))
        assert dataset.train.labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]

    def test_pickle_with_code_is_refused(self, root: Path) -> None:
        class Runs:
            def __reduce__(self) -> tuple[Any, ...]:
                return os.mkdir, (str(root / "ran"),)

        files.cifar_pickle(root / "cifar-100-python/test", "fine_labels", [0])
        (root / "cifar-100-python/train").write_bytes(pickle.dumps({"data": Runs()}))
        with pytest.raises(data.DatasetError, match=r"train cannot be read: .*posix\.mkdir"):
            load("cifar100")
        assert not (root / "ran").exists()

    @pytest.mark.parametrize(
        "content",
        [
            {"data": np.zeros((1, 3072), dtype=np.float64), "fine_labels": [0]},
            {"data": np.zeros((1, 3072), dtype=np.uint8), "fine_labels": [0.5]},
            {"data": np.zeros((1, 3072), dtype=np.uint8), "fine_labels": ["apple"]},
        ],
    )
    def test_file_of_another_size_is_refused(self, root: Path, content: dict[str, Any]) -> None:
        files.cifar_pickle(root / "cifar-100-python/test", "fine_labels", [0])
        (root / "cifar-100-python/train").write_bytes(pickle.dumps(content))
        with pytest.raises(data.DatasetError, match="train"):
            load("cifar100")

    @pytest.mark.parametrize(("name", "classes"), [("cifar10", CIFAR10_CLASSES), ("cifar100", CIFAR100_CLASSES)])
    def test_image_tree_has_the_official_labels(
        self, root: Path, name: str, classes: tuple[str, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        files.tree(root / name, list(classes), per_class=1)
        dataset = load(name)
        assert dataset.train.labels.tolist() == red(dataset.train) == list(range(len(classes)))
        assert dataset.train.images.shape[1:] == (3, 32, 32)
        assert f"{name} is not complete here" in caplog.text

    def test_official_order_equals_the_published_one(self) -> None:
        assert list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
        assert len(set(CIFAR100_CLASSES)) == 100
        numbers = [CIFAR100_CLASSES.index(name) for name in ("apple", "cattle", "lawn_mower", "plain", "worm")]
        assert numbers == [0, 19, 41, 60, 99]
        assert (CIFAR10_CLASSES.index("airplane"), CIFAR10_CLASSES.index("frog")) == (0, 6)

    def test_jpeg_files_and_names_with_spaces_are_read(self, root: Path) -> None:
        files.tree(root / "cifar100", [name.replace("_", " ") for name in CIFAR100_CLASSES], per_class=1)
        moved = root / "cifar100/train/aquarium fish/0.png"
        moved.unlink()
        files.picture(moved.with_suffix(".JPEG"), (200, 200, 200), (32, 32))
        dataset = load("cifar100")
        assert red(dataset.train)[:3] == [0, 200, 2]

    def test_missing_and_unexpected_classes_are_named(self, root: Path) -> None:
        files.tree(root / "cifar10", [*CIFAR10_CLASSES[:9]], per_class=1)
        with pytest.raises(data.DatasetError, match="has no folder for 1 classes: truck"):
            load("cifar10")
        files.tree(root / "cifar10", ["lorry"], per_class=1)
        with pytest.raises(data.DatasetError, match="not classes of the data set: lorry"):
            load("cifar10")


def test_svhn_class_ten_is_the_digit_zero(root: Path) -> None:
    from scipy.io import savemat

    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    for split in ("train", "test"):
        (root / "svhn").mkdir(exist_ok=True)
        savemat(root / "svhn" / f"{split}_32x32.mat", {"X": images, "y": np.array([[10], [1], [9], [10]], np.uint8)})
    dataset = load("svhn")
    assert dataset.train.labels.tolist() == [0, 1, 9, 0]
    assert np.array_equal(dataset.train.images[2].numpy(), images[..., 2].transpose(2, 0, 1))
    assert not dataset.augmentation.flip


class TestPhotographs:
    def test_food101_is_split_by_its_lists(self, root: Path) -> None:
        names = [f"dish_{number:03d}" for number in range(101)]
        for label, name in enumerate(names):
            for number in range(2):
                files.picture(root / "food-101/images" / name / f"{number}.jpg", (2 * label, 2 * label, 2 * label))
        for split, number in (("train", 1), ("test", 0)):
            (root / "food-101/meta").mkdir(exist_ok=True)
            lines = "".join(f"{name}/{number}\n" for name in reversed(names))
            (root / "food-101/meta" / f"{split}.txt").write_text(lines)
        dataset = load("food101", image_size=8)
        assert dataset.train.labels.tolist() == list(range(100, -1, -1))
        assert red(dataset.test) == [2 * label for label in range(100, -1, -1)]

    def test_tiny_imagenet_validation_classes_are_read_from_the_table(self, root: Path) -> None:
        folder = root / "tiny-imagenet-200"
        ids = [f"n{number:08d}" for number in range(200)]
        for label, name in enumerate(ids):
            files.picture(folder / "train" / name / "images" / f"{name}_0.JPEG", (label, label, label))
        for number, label in enumerate((7, 3)):
            files.picture(folder / "val/images" / f"val_{number}.JPEG", (label, label, label))
        (folder / "val/val_annotations.txt").write_text(
            f"val_0.JPEG\t{ids[7]}\t0\t0\t9\t9\nval_1.JPEG\t{ids[3]}\t0\t0\n"
        )
        dataset = load("tiny_imagenet", image_size=8)
        assert dataset.test.labels.tolist() == red(dataset.test) == [7, 3]
        assert dataset.train.labels.tolist() == list(range(200))

    def test_animals10_holds_out_a_fifth_of_each_class(self, root: Path) -> None:
        for label in range(10):
            for number in range(10):
                files.picture(root / "animals10/raw-img" / f"animal{label}" / f"{number}.jpeg", (label * 20, number, 0))
        dataset = load("animals10", image_size=8)
        assert dataset.test.labels.bincount().tolist() == [2] * 10
        assert dataset.train.labels.bincount().tolist() == [8] * 10
        # As far as JPEG keeps a colour.
        assert np.allclose(red(dataset.test), dataset.test.labels * 20, atol=2)

    def test_imagenet_tree_and_kaggle_layout_are_read(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = [f"n{number:08d}" for number in range(1000)]
        kaggle = root / "imagenet/ILSVRC/Data/CLS-LOC"
        for label, name in enumerate(ids):
            files.picture(kaggle / "train" / name / f"{name}_1.JPEG", (label % 200,) * 3)
        files.picture(kaggle / "val/ILSVRC2012_val_00000001.JPEG", (5, 5, 5))
        table = f"ImageId,PredictionString\nILSVRC2012_val_00000001,{ids[5]} 1 2 3 4\n"
        (root / "imagenet/LOC_val_solution.csv").write_text(table)
        dataset = load("imagenet", image_size=8)
        assert (len(dataset.train), dataset.test.labels.tolist(), red(dataset.test)) == (1000, [5], [5])

        for name in ids:
            (kaggle / "val" / name).mkdir()
        (kaggle / "val/ILSVRC2012_val_00000001.JPEG").unlink()
        with pytest.raises(data.DatasetError, match=f"val/{ids[0]} contains no image"):
            load("imagenet", image_size=8)


class TestFolder:
    def test_class_numbers_follow_sorted_names(self, root: Path) -> None:
        files.tree(root / "my/pets", ["zebra", "ant"], per_class=3)
        files.picture(root / "my/pets/train/ant/deep/er.png", (9, 9, 9))
        files.picture(root / "my/pets/train/ant/._0.png", (250, 0, 0))
        (root / "my/pets/train/ant/notes.txt").write_text("not an image")
        dataset = load("folder", path="my/pets", image_size=8)
        assert dataset.num_classes == 2
        assert dataset.train.labels.tolist() == [0] * 4 + [1] * 3
        assert red(dataset.train) == [1, 1, 1, 9, 0, 0, 0]
        # Nothing is published for it, so the statistics are its own.
        assert dataset.normalise(dataset.train.images).mean().item() == pytest.approx(0, abs=1e-5)

    def test_val_replaces_a_missing_test_split(self, root: Path) -> None:
        files.tree(root / "pets", ["a", "b"], splits=("train", "val"))
        assert len(load("folder", path="pets", image_size=8).test) == 4

    def test_flips_can_be_disabled(self, root: Path) -> None:
        files.tree(root / "signs", ["left", "right"])
        assert load("folder", path="signs", image_size=8).augmentation.flip
        assert not load("folder", path="signs", image_size=8, flip=False).augmentation.flip

    @pytest.mark.parametrize("path", ["/etc", "../other", "a/../../b", "~/x", ".", ""])
    def test_path_outside_of_the_data_folder_is_refused(self, path: str) -> None:
        with pytest.raises(ValidationError):
            DatasetRef(name="folder", params={"path": path, "image_size": 8})

    def test_invalid_folder_error_names_the_problem(self, root: Path) -> None:
        with pytest.raises(data.DatasetError, match=r"no image folder .*pets/train/<class>"):
            load("folder", path="pets", image_size=8)
        files.tree(root / "pets", ["only"])
        with pytest.raises(data.DatasetError, match="one class, only"):
            load("folder", path="pets", image_size=8)
        files.tree(root / "pets", ["more"], splits=("test",))
        with pytest.raises(data.DatasetError, match="not classes of the data set: more"):
            load("folder", path="pets", image_size=8)


class TestMissing:
    names = (
        "mnist",
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "svhn",
        "food101",
        "tiny_imagenet",
        "animals10",
        "imagenet",
    )

    @pytest.mark.parametrize("name", names)
    def test_error_names_the_layouts_and_the_source(self, root: Path, name: str) -> None:
        with pytest.raises(data.DatasetError, match=f"{name} is not on this machine") as refused:
            load(name)
        text = str(refused.value)
        assert str(root) in text
        assert "It is published at " in text
        assert ("DKD_DOWNLOAD=1" in text) == (name not in ("tiny_imagenet", "animals10", "imagenet"))

    @pytest.mark.parametrize(
        ("name", "downloader"),
        [
            ("mnist", "MNIST"),
            ("cifar10", "CIFAR10"),
            ("cifar100", "CIFAR100"),
            ("svhn", "SVHN"),
            ("food101", "Food101"),
        ],
    )
    def test_failed_download_is_explained(self, name: str, downloader: str, monkeypatch: pytest.MonkeyPatch) -> None:
        def offline(*_: Any, **__: Any) -> None:
            raise OSError("no route to host")

        monkeypatch.setenv("DKD_DOWNLOAD", "1")
        monkeypatch.setattr(f"torchvision.datasets.{downloader}", offline)
        with pytest.raises(data.DatasetError, match=f"{name} could not be downloaded to .*no route to host"):
            load(name)

    def test_downloaded_data_set_is_read(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def download(folder: str, download: bool) -> None:
            assert download
            files.mnist(Path(folder) / "MNIST" / "raw")

        monkeypatch.setattr("torchvision.datasets.MNIST", download)
        with pytest.raises(data.DatasetError, match="not on this machine"):
            load("mnist")
        monkeypatch.setenv("DKD_DOWNLOAD", "1")
        assert len(load("mnist").train) == 40

    def test_invalid_download_setting_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_DOWNLOAD", "yes")
        with pytest.raises(SettingsError, match="DKD_DOWNLOAD is 'yes'"):
            load("mnist")


class TestEmptySplits:
    """Partly unpacked archives: the lists exist but are empty."""

    def test_empty_split_of_food101_is_refused(self, root: Path) -> None:
        files.picture(root / "food-101/images/cake/1.jpg", (1, 2, 3))
        (root / "food-101/meta").mkdir()
        (root / "food-101/meta/train.txt").write_text("cake/1\n")
        (root / "food-101/meta/test.txt").write_text("")
        with pytest.raises(data.DatasetError, match="contains no test images of food101"):
            load("food101", image_size=8)

    def test_empty_split_of_tiny_imagenet_is_refused(self, root: Path) -> None:
        files.picture(root / "tiny-imagenet-200/train/n1/images/1.JPEG", (1, 2, 3))
        (root / "tiny-imagenet-200/val/images").mkdir(parents=True)
        (root / "tiny-imagenet-200/val/val_annotations.txt").write_text("")
        with pytest.raises(data.DatasetError, match="contains no test images of tiny_imagenet"):
            load("tiny_imagenet")

    @pytest.mark.parametrize("table", ["Image,Class\nv,n1 1 2 3 4\n", "ImageId,PredictionString\nv\n"])
    def test_incomplete_table_of_imagenet_is_refused(self, root: Path, table: str) -> None:
        files.picture(root / "imagenet/ILSVRC/Data/CLS-LOC/train/n1/1.JPEG", (1, 2, 3))
        files.picture(root / "imagenet/ILSVRC/Data/CLS-LOC/val/v.JPEG", (1, 2, 3))
        (root / "imagenet/LOC_val_solution.csv").write_text(table)
        with pytest.raises(data.DatasetError, match=r"LOC_val_solution.csv lacks the column"):
            load("imagenet", image_size=8)


def test_cyclic_folders_are_refused(root: Path) -> None:
    files.tree(root / "pets", ["cat", "dog"])
    (root / "pets/train/cat/again").symlink_to(root / "pets/train/cat")
    with pytest.raises(data.DatasetError, match=r"folder cannot be read: .*symbolic links"):
        load("folder", path="pets", image_size=8)


def test_deviation_from_the_catalog_is_refused(root: Path) -> None:
    """Specs are validated against the catalog's facts, so the images must match them."""
    files.tree(root / "tiny_imagenet", ["n1", "n2"], splits=("train", "val"))
    with pytest.raises(data.DatasetError, match=r"\(2, 3, 64\), but the catalog says \(200, 3, 64\)"):
        load("tiny_imagenet")


def test_catalog_has_facts_of_data_sets_with_fixed_content() -> None:
    described = {entry.name: entry.describe()["facts"] for entry in DATASETS}
    assert described.pop("folder") is None
    assert all(described.values())
    assert described["svhn"]["train_size"] == 73_257
    choice = DatasetRef(name="food101", params={"image_size": 64, "val_fraction": 0.1})
    facts = DATASETS["food101"].facts(choice.parsed_params)
    assert facts
    assert (facts.image_size, facts.train_size, facts.test_size) == (64, 75_750 - 7_575, 25_250)
