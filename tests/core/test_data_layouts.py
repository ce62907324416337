"""Data sets in the layouts of archives and preparation scripts; errors say what to do."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.settings import TrainingSettings
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


IDS = [f"n{number:08d}" for number in range(200)]


class TestTinyImageNet:
    def make(self, folder: Path, place: Callable[[int, str], str | None], *, table: bool, images: bool = True) -> Path:
        """Create the archive's layout with rearranged validation images; the grey level is the class."""
        for label, name in enumerate(IDS):
            below = "images/" if images else ""
            files.picture(folder / f"train/{name}/{below}{name}_0.JPEG", (label, label, label))
            (folder / f"train/{name}/{name}_boxes.txt").write_text("0 0 63 63")
            to = place(label, name)
            if to:
                files.picture(folder / f"val/{to}val_{label}.JPEG", (label, label, label))
        files.picture(folder / "test/images/test_0.JPEG", (0, 0, 0))
        if table:
            lines = [f"val_{label}.JPEG\t{name}\t0\t0\t62\t62\n" for label, name in enumerate(IDS)]
            (folder / "val/val_annotations.txt").write_text("".join(lines))
        return folder

    @pytest.mark.parametrize("table", [False, True])
    @pytest.mark.parametrize("leftover", [False, True])
    @pytest.mark.parametrize("form", ["{name}/", "{name}/images/", "images/{name}/"])
    def test_validation_images_in_class_folders(
        self, root: Path, form: str, leftover: bool, table: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = self.make(root / "tiny-imagenet-200", lambda _, name: form.format(name=name), table=table)
        if leftover:
            (folder / "val/images").mkdir(exist_ok=True)
        test = load("tiny_imagenet", image_size=8).test
        assert test.labels.tolist() == red(test) == list(range(200))
        assert "left out" not in caplog.text

    def test_some_validation_images_in_class_folders(self, root: Path) -> None:
        self.make(root / "tiny-imagenet-200", lambda label, name: f"{name}/" if label % 2 else "images/", table=True)
        test = load("tiny_imagenet", image_size=8).test
        assert test.labels.tolist() == red(test)
        assert sorted(red(test)) == list(range(200))

    @pytest.mark.parametrize("table", [False, True])
    def test_copied_validation_images_count_once(
        self, root: Path, table: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = self.make(root / "tiny-imagenet-200", lambda _, name: f"{name}/", table=table)
        for label in range(200):
            files.picture(folder / f"val/images/val_{label}.JPEG", (label, label, label))
        assert red(load("tiny_imagenet", image_size=8).test) == list(range(200))
        assert "200 copy of an image in a class folder" in caplog.text

    @pytest.mark.parametrize(
        "top",
        ["tiny-imagenet-200/tiny-imagenet-200", "tiny-imagenet/tiny-imagenet-200", "TinyImageNet", "tiny_imagenet_200"],
    )
    def test_top_folders_of_archives_are_searched(self, root: Path, top: str) -> None:
        self.make(root / top, lambda *_: "images/", table=True, images=False)
        test = load("tiny_imagenet", image_size=8).test
        assert test.labels.tolist() == red(test)

    def test_images_without_class_are_refused(self, root: Path) -> None:
        self.make(root / "tiny-imagenet-200", lambda *_: "images/", table=False)
        with pytest.raises(
            data.DatasetError, match=r"no table and no folder gives .*JPEG a class.* there are 200 such"
        ):
            load("tiny_imagenet", image_size=8)

    def test_class_without_validation_images_is_named(self, root: Path) -> None:
        self.make(root / "tiny-imagenet-200", lambda label, name: f"{name}/" if label else None, table=False)
        with pytest.raises(data.DatasetError, match=f"val has no image of 1 classes: {IDS[0]}"):
            load("tiny_imagenet", image_size=8)

    def test_folder_that_contradicts_the_table_is_refused(self, root: Path) -> None:
        self.make(root / "tiny-imagenet-200", lambda label, _: f"{IDS[label - 1]}/", table=True)
        with pytest.raises(data.DatasetError, match="but the table gives it the class"):
            load("tiny_imagenet", image_size=8)


class TestImageNet:
    ids = tuple(f"n{number:08d}" for number in range(1000))

    @pytest.fixture
    def official(self, root: Path) -> Path:
        """Five validation images in one folder, the class of each its number times a hundred."""
        folder = root / "imagenet"
        content = files.picture(root / "one.png", (9, 9, 9)).read_bytes()
        for name in self.ids:
            path = folder / "train" / name / f"{name}_1.JPEG"
            path.parent.mkdir(parents=True)
            path.write_bytes(content)
        for number in range(1, 6):
            files.picture(folder / f"val/ILSVRC2012_val_{number:08d}.JPEG", (number,) * 3)
        return folder

    @pytest.mark.parametrize("place", ["", "val/", "../"])
    def test_synset_labels_are_read(self, official: Path, place: str) -> None:
        lines = "".join(f"{self.ids[100 * number]}\n" for number in range(1, 6))
        (official / place / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
        assert load("imagenet", image_size=8).test.labels.tolist() == [100, 200, 300, 400, 500]

    def test_development_kit_labels_are_read(self, official: Path) -> None:
        """Its class numbers do not follow the sorted WordNet ids."""
        from scipy.io import savemat

        kit = official / "ILSVRC2012_devkit_t12/data"
        kit.mkdir(parents=True)
        kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
        synsets = np.array([(1000 - label, name, "x") for label, name in enumerate(self.ids)], dtype=kind)
        savemat(kit / "meta.mat", {"synsets": synsets[:, None]})
        truth = "".join(f"{1000 - 100 * number}\n" for number in range(1, 6))
        (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(truth)
        assert load("imagenet", image_size=8).test.labels.tolist() == [100, 200, 300, 400, 500]

    @pytest.mark.parametrize("named", [False, True])
    def test_table_of_names_and_classes_is_read(self, official: Path, named: bool) -> None:
        classes = [self.ids[100 * number] if named else str(100 * number) for number in range(1, 6)]
        lines = [f"ILSVRC2012_val_{number:08d}.JPEG {name}\n" for number, name in enumerate(classes, 1)]
        (official / "val.txt").write_text("".join(lines))
        assert load("imagenet", image_size=8).test.labels.tolist() == [100, 200, 300, 400, 500]

    def test_missing_table_error_names_the_possible_tables(self, official: Path) -> None:
        with pytest.raises(data.DatasetError, match=r"no table of its classes in .*synset_labels.*val/<id>/"):
            load("imagenet", image_size=8)

    def test_renamed_kaggle_folder_is_found(self, root: Path, official: Path) -> None:
        place = root / "imagenet-object-localization-challenge"
        (place / "ILSVRC/Data").mkdir(parents=True)
        official.rename(place / "ILSVRC/Data/CLS-LOC")
        rows = "".join(f"ILSVRC2012_val_{n:08d},{self.ids[100 * n]} 1 2 3 4\n" for n in range(1, 6))
        (place / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{rows}")
        assert load("imagenet", image_size=8).test.labels.tolist() == [100, 200, 300, 400, 500]


class TestCifar:
    def test_binary_files_are_read(self, root: Path) -> None:
        folder = root / "cifar-10-batches-bin"
        folder.mkdir()
        images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
        for number, name in enumerate([*(f"data_batch_{n}.bin" for n in range(1, 6)), "test_batch.bin"]):
            (folder / name).write_bytes(bytes([number]) + images[number].tobytes())
        dataset = load("cifar10")
        assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]
        assert np.array_equal(dataset.train.images.numpy(), images[:5])
        (folder / "test_batch.bin").write_bytes(bytes(3000))
        with pytest.raises(data.DatasetError, match=r"test_batch.bin is truncated"):
            load("cifar10")

    def test_binary_files_of_cifar100_have_two_labels(self, root: Path) -> None:
        for name, labels in (("train", (3, 99)), ("test", (1, 7))):
            path = root / "cifar100/cifar-100-binary" / f"{name}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(labels) + bytes(3072))
        assert load("cifar100").train.labels.tolist() == [99]
        assert load("cifar100").test.labels.tolist() == [7]

    @pytest.mark.parametrize(
        "names", [[str(number) for number in range(10)], [f"{name[0].upper()}{name[1:]}" for name in CIFAR10_CLASSES]]
    )
    def test_class_folders_with_other_names_are_read(self, root: Path, names: list[str]) -> None:
        files.tree(root / "CIFAR10", names, per_class=1)
        if names[0] == "0":
            assert red(load("cifar10").train) == list(range(10))
        else:
            with pytest.raises(data.DatasetError, match="'Airplane' differs from 'airplane' only in case"):
                load("cifar10")

    @pytest.mark.parametrize("folder", ["CIFAR-10-images-master", "cifar10_png/cifar10", "CIFAR-10-images-main/data"])
    def test_folder_names_of_repositories_and_archives_are_found(self, root: Path, folder: str) -> None:
        files.tree(root / folder, CIFAR10_CLASSES, per_class=1)
        files.tree(root / "CIFAR-100-images-master", CIFAR100_CLASSES, per_class=1)
        assert load("cifar10").classes == CIFAR10_CLASSES
        assert load("cifar100").classes == CIFAR100_CLASSES

    def test_binary_files_in_a_folder_named_like_the_archive(self, root: Path) -> None:
        for name in ("train", "test"):
            path = root / "cifar-100-binary" / "cifar-100-binary" / f"{name}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes((3, 99)) + bytes(3072))
        assert load("cifar100").train.labels.tolist() == [99]

    def test_class_folders_below_superclass_folders(self, root: Path) -> None:
        for split in ("train", "test"):
            for label, name in enumerate(CIFAR100_CLASSES):
                files.picture(root / f"cifar100/{split}/group{label % 20}/{name}/0.png", (label, 0, 0))
        dataset = load("cifar100")
        assert dataset.train.labels.tolist() == red(dataset.train) == list(range(100))

    def test_packed_archive_is_named_in_the_error(self, root: Path) -> None:
        (root / "cifar-100-python.tar.gz").write_bytes(b"")
        with pytest.raises(data.DatasetError, match=r"Found there: cifar-100-python.tar.gz, an archive that has"):
            load("cifar100")

    def test_unsupported_layout_is_named_in_the_error(self, root: Path) -> None:
        (root / "cifar10").mkdir()
        (root / "cifar10/trainLabels.csv").touch()
        with pytest.raises(data.DatasetError, match=r"Found there: cifar10/ with trainLabels.csv"):
            load("cifar10")


class TestMnist:
    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("mnist", "mnist/MNIST/raw"),
            ("mnist", "MNIST"),
            ("fashion_mnist", "FashionMNIST/raw"),
            ("fashion_mnist", "fashion-mnist"),
            ("fashion_mnist", "fashion_mnist/FashionMNIST/raw"),
        ],
    )
    def test_folder_names_are_found(self, root: Path, name: str, folder: str) -> None:
        files.mnist(root / folder)
        assert len(load(name).train) == 40

    @pytest.mark.parametrize("form", ["{0}.idx3-ubyte", "{0}.idx3-ubyte.gz", "{0}-idx3-ubyte/{0}.idx3-ubyte"])
    def test_file_names_are_found(self, root: Path, form: str) -> None:
        files.mnist(root / "mnist")
        for path in list((root / "mnist").iterdir()):
            stem, kind = path.name.rsplit("-", 2)[0], path.name.rsplit("-", 2)[1]
            content = path.read_bytes()
            path.unlink()
            to = root / "mnist" / form.format(stem).replace("idx3", kind)
            to.parent.mkdir(exist_ok=True)
            to.write_bytes(gzip.compress(content) if to.suffix == ".gz" else content)
        assert len(load("mnist").train) == 40

    def test_data_sets_with_equal_file_names_are_distinguished(self, root: Path) -> None:
        files.mnist(root / "mnist/FashionMNIST/raw")
        with pytest.raises(data.DatasetError, match="mnist is not on this machine"):
            load("mnist")


@pytest.mark.parametrize("folder", ["svhn/{split}/", "SVHN/", "svhn/svhn/", ""])
def test_svhn_folder_names_are_found(root: Path, folder: str) -> None:
    from scipy.io import savemat

    images = np.zeros((32, 32, 3, 2), dtype=np.uint8)
    for split in ("train", "test"):
        path = root / f"{folder.format(split=split)}{split}_32x32.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, {"X": images, "y": np.array([[10], [3]], np.uint8)})
    assert load("svhn").train.labels.tolist() == [0, 3]


class TestFolder:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("train", "valid"),
            ("training", "testing"),
            ("training", "validation"),
            ("Train", "Test"),
            ("TRAIN", "VAL"),
        ],
    )
    @pytest.mark.parametrize("top", ["", "pets-master/", "archive/pets/"])
    def test_split_names_are_found(self, root: Path, top: str, train: str, test: str) -> None:
        files.tree(root / "pets" / top, ["a", "b"], splits=(train, test))
        assert red(load("folder", path="pets", image_size=8).test) == [0, 0, 1, 1]

    def test_unused_split_is_logged(self, root: Path, caplog: pytest.LogCaptureFixture) -> None:
        files.tree(root / "pets", ["a", "b"], splits=("train", "val", "test"))
        load("folder", path="pets", image_size=8)
        assert "pets/val is not used: the training images are in train, the test images in test" in caplog.text

    def test_validation_split_replaces_test_images_without_classes(self, root: Path) -> None:
        files.tree(root / "pets", ["a", "b"], splits=("train", "val"))
        files.picture(root / "pets/test/images/0.png", (9, 9, 9))
        assert red(load("folder", path="pets", image_size=8).test) == [0, 0, 1, 1]

    def test_missing_splits_error_names_the_command(self, root: Path) -> None:
        files.tree(root / "pets", ["a", "b"], splits=(".",))
        with pytest.raises(data.DatasetError, match=r"It contains a/, b/\..* move a part of each class to train/"):
            load("folder", path="pets", image_size=8)
