"""Packs of detection sets: made once, opened again, made again if a file changes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.events import DECODING_KEY, IMAGES_KEY
from core.tasks.detection.data import DatasetError, DetectionData, coco, hold_out, packing
from core.tasks.detection.data.fingerprint import describe_training_images, image_identity
from tests.core.tasks.detection.data import written_data as files
from tests.core.tasks.detection.data.made_data import made_data
from tests.core.tasks.detection.data.written_data import annotation, loaded


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return files.coco(tmp_path / "coco")


def refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("the files are read again")

    monkeypatch.setattr(coco, "_read", fail)
    monkeypatch.setattr(packing, "decode_photo", fail)


def same(one: DetectionData, other: DetectionData) -> bool:
    pairs = ((one.train, other.train), (one.test, other.test))
    return all(
        torch.equal(mine.pixels, theirs.pixels)
        and mine.paths == theirs.paths
        and all(np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("stored", "originals", "ids"))
        and all(
            np.array_equal(getattr(mine.objects, name), getattr(theirs.objects, name))
            for name in ("first", "boxes", "labels", "ignored", "area", "crowd")
        )
        for mine, theirs in pairs
    )


def test_a_second_start_reads_neither_annotations_nor_images(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = loaded("coco", tmp_path)
    refuse(monkeypatch)
    second = loaded("coco", tmp_path)
    assert same(first, second)
    assert (first.pack_key, first.content_hash) == (second.pack_key, second.content_hash)
    assert (first.classes, first.category_ids) == (second.classes, second.category_ids)


def test_another_size_is_another_pack(root: Path, tmp_path: Path) -> None:
    first, second = loaded("coco", tmp_path), loaded("coco", tmp_path, max_size=36)
    assert second.train.stored[0].tolist() == [27, 36]
    assert first.pack_key != second.pack_key
    assert first.content_hash == second.content_hash, "the files are the same"


def test_changed_files_are_packed_again(root: Path, tmp_path: Path) -> None:
    first = loaded("coco", tmp_path)
    files.photo(root / "train2017/0.png", (40, 30), (1, 1, 9, 9))
    os.utime(root / "train2017/0.png", ns=(1, 1))
    second = loaded("coco", tmp_path)
    assert not torch.equal(first.train.pixels, second.train.pixels), "a pack in use stays as it is"
    assert first.pack_key != second.pack_key
    assert first.content_hash != second.content_hash
    rows = [annotation(1, 10, (4, 5, 16, 10))]
    files.write(root / "annotations/instances_train2017.json", files.coco_split(root / "train2017", 6, rows))
    third = loaded("coco", tmp_path)
    assert len(third.train.objects.labels) == 1
    assert third.content_hash not in (first.content_hash, second.content_hash)


def test_an_image_that_is_removed_later_is_named(root: Path, tmp_path: Path) -> None:
    loaded("coco", tmp_path)
    (root / "val2017/2.png").unlink()
    with pytest.raises(DatasetError, match=r"val2017/2\.png cannot be read"):
        loaded("coco", tmp_path)


def test_copies_have_the_same_hash(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "elsewhere/coco")
    os.utime(tmp_path / "elsewhere/coco/train2017/0.png", ns=(1, 1))
    first, second = loaded("coco", tmp_path), loaded("coco", tmp_path / "elsewhere")
    assert first.content_hash == second.content_hash
    assert first.pack_key != second.pack_key


@pytest.mark.parametrize("damaged", ["pack.json", "train.npz", "test.bin"])
def test_a_damaged_pack_is_made_again(root: Path, tmp_path: Path, damaged: str) -> None:
    first = loaded("coco", tmp_path)
    (folder,) = (tmp_path / ".packed").glob("coco-*/")
    pixels = first.train.pixels.clone()
    (folder / damaged).write_bytes((folder / damaged).read_bytes()[:-20])
    again = loaded("coco", tmp_path)
    assert torch.equal(again.train.pixels, pixels)
    assert json.loads((folder / "pack.json").read_text())["content"] == first.content_hash


def test_names_that_are_not_utf8_are_packed(tmp_path: Path) -> None:
    root = files.coco(tmp_path / "coco")
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (root / "train2017/0.png").rename(root / "train2017" / name)
    except OSError:
        pytest.skip("the file system has only names in UTF-8")
    content = json.loads((root / "annotations/instances_train2017.json").read_text())
    content["images"][0]["file_name"] = name
    files.write(root / "annotations/instances_train2017.json", content)
    for _ in range(2):
        assert loaded("coco", tmp_path).train.paths[0] == f"train2017/{name}"


def test_identity_names_files_and_decoder(root: Path, tmp_path: Path) -> None:
    data = loaded("coco", tmp_path)
    identity = image_identity(data)
    assert identity[IMAGES_KEY] == data.content_hash[:16]
    assert "pillow" in identity[DECODING_KEY]


def test_identity_of_images_in_memory_depends_on_pixels_and_boxes() -> None:
    data = made_data()
    assert image_identity(data) == image_identity(made_data())
    assert image_identity(data) != image_identity(made_data(train=23))
    moved = made_data()
    moved.train.objects.boxes[0] += 1
    assert image_identity(data) != image_identity(moved)


def test_fingerprint_tells_data_apart_that_give_other_views(root: Path, tmp_path: Path) -> None:
    data = loaded("coco", tmp_path)
    others = [
        loaded("coco", tmp_path, flip=False),
        loaded("coco", tmp_path, max_size=48),
        hold_out(data, 0.5, 0),
        hold_out(data, 0.5, 1),
    ]
    described = [json.dumps(describe_training_images(one)) for one in (data, *others)]
    assert len(set(described)) == 5
    assert described[0] == json.dumps(describe_training_images(loaded("coco", tmp_path)))
