"""Image files are decoded once; packs match the files; damaged files are named and not packed."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification import data
from tests.core import data_files as files

SIZE = 8


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DKD_PACK_DIR", str(tmp_path / "packs"))
    return files.tree(tmp_path / "pets", ["cat", "dog"], per_class=3)


def load(size: int = SIZE) -> data.Dataset:
    return data.load(
        DatasetRef(name="folder", params={"path": "pets", "image_size": size}), TrainingSettings.from_environment()
    )


def packs(pets: Path) -> list[Path]:
    return [path for path in sorted((pets.parent / "packs").iterdir()) if path.suffix != ".lock"]


def repaint(path: Path, colour: tuple[int, int, int], *, keep_time: bool) -> None:
    """Replace an image by another one in a file of the same size."""
    before = path.stat()
    files.picture(path, colour)
    assert path.stat().st_size == before.st_size
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def test_second_start_reads_the_pack_and_not_the_images(pets: Path) -> None:
    first = load()
    assert len(packs(pets)) == 1
    repaint(pets / "train/cat/0.png", (77, 77, 77), keep_time=True)
    assert torch.equal(load().train.images, first.train.images)


def test_changed_file_is_packed_again(pets: Path) -> None:
    load()
    repaint(pets / "train/cat/0.png", (77, 77, 77), keep_time=False)
    assert set(load().train.images[0].flatten().tolist()) == {77}
    (pets / "train/dog/1.png").unlink()
    assert len(load().train) == 5


def test_another_image_size_has_another_pack(pets: Path) -> None:
    assert load(8).image_size == 8
    assert load(16).image_size == 16
    assert len(packs(pets)) == 2
    assert load(8).image_size == 8


def test_damaged_image_is_named_and_nothing_is_packed(pets: Path) -> None:
    cut = pets / "train/dog/1.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:3000])
    no_image = pets / "train/dog/2.png"
    no_image.write_text("<html>404</html>")
    with pytest.raises(data.DatasetError, match=r"2 image\(s\) cannot be read") as refused:
        load()
    assert str(cut) in str(refused.value)
    assert str(no_image) in str(refused.value)
    assert packs(pets) == []
    files.picture(cut, (1, 2, 3))
    files.picture(no_image, (1, 2, 3))
    assert len(load().train) == 6


def test_truncated_pack_is_created_again(pets: Path) -> None:
    images = load().train.images.clone()
    [pack] = packs(pets)
    os.truncate(pack / "train.bin", 10)
    assert torch.equal(load().train.images, images)
    (pack / "pack.json").write_text("{")
    assert torch.equal(load().train.images, images)


def test_partial_pack_of_a_killed_process_is_replaced(pets: Path) -> None:
    images = load().train.images.clone()
    [pack] = packs(pets)
    left = pack.rename(pack.with_name(pack.name + ".partial"))
    os.truncate(left / "train.bin", 10)
    assert torch.equal(load().train.images, images)
    assert packs(pets) == [pack]


def test_concurrent_trainings_pack_once(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "core.tasks.classification.data")
    with ThreadPoolExecutor(4) as threads:
        loaded = list(threads.map(lambda _: load(), range(4)))
    assert all(torch.equal(dataset.train.images, loaded[0].train.images) for dataset in loaded)
    assert sum(record.message.startswith("packed 12 images") for record in caplog.records) == 1


def test_write_to_mapped_images_does_not_change_the_pack(pets: Path) -> None:
    """Copy on write: a mistake in training code must neither end the process nor damage the pack."""
    dataset = load()
    dataset.train.images.zero_()
    assert load().train.images.any()


def test_unwritable_folder_is_explained(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pets.parent / "file").write_text("")
    monkeypatch.setenv("DKD_PACK_DIR", str(pets.parent / "file" / "packs"))
    with pytest.raises(data.DatasetError, match=r"cannot be packed into .* DKD_PACK_DIR names another folder"):
        load()


@pytest.mark.parametrize("shape", [(64, 64), (33, 64), (64, 33), (20, 37), (31, 500), (16, 16), (16, 21), (9, 9)])
def test_images_are_resized_like_torchvision(pets: Path, shape: tuple[int, int]) -> None:
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(pets / "train/cat/0.png")
    expected = v2.Compose([v2.Resize(16), v2.CenterCrop(16), v2.PILToTensor()])(Image.fromarray(pixels))
    assert torch.equal(load(16).train.images[0], expected)


def test_upper_eight_of_sixteen_bits_are_used(pets: Path) -> None:
    """Pillow's conversion would clip at 255, which makes an X-ray image white."""
    levels = np.arange(SIZE * SIZE, dtype=np.uint16).reshape(SIZE, SIZE) * 900
    (pets / "train/cat/1.png").unlink()
    for name in ("0.png", "1.tif"):
        Image.fromarray(levels).save(pets / "train/cat" / name)
    images = load().train.images
    expected = torch.from_numpy((levels >> 8).astype(np.uint8)).expand(3, -1, -1)
    assert torch.equal(images[0], expected)
    assert torch.equal(images[1], expected)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_with_unknown_white_level_are_refused(pets: Path, dtype: type[np.generic]) -> None:
    Image.fromarray(np.full((8, 8), 7, dtype=dtype)).save(pets / "train/cat/0.tif")
    with pytest.raises(data.DatasetError, match=r"cat/0.tif \(ValueError: the pixels have 32 bits"):
        load()


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK", "I;16"])
def test_image_of_every_mode_has_three_channels(pets: Path, mode: str) -> None:
    path = pets / "train/cat/0.png"
    if mode == "I;16":
        Image.fromarray(np.full((8, 8), 512, dtype=np.uint16)).save(path)
    elif mode == "CMYK":
        path.unlink()
        Image.new("CMYK", (8, 8)).save(path.with_suffix(".jpg"))
    else:
        Image.new(mode, (8, 8)).save(path)
    assert load().train.images.shape == (6, 3, SIZE, SIZE)
