"""Images are recognised by their content; other files and unreadable ones are counted in the log."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from core.settings import TrainingSettings
from core.specs import DatasetRef, parse_experiment
from core.standalone import run_experiment
from core.tasks.classification import data
from tests.core import data_files as files


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.delenv("DKD_PACK_DIR", raising=False)
    return files.tree(tmp_path / "pets", ["cat", "dog"], per_class=8)


def load() -> data.Dataset:
    return data.load(
        DatasetRef(name="folder", params={"path": "pets", "image_size": 8}), TrainingSettings.from_environment()
    )


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jfif", "JPEG"),
        ("b.jpe", "JPEG"),
        ("c.jpg_large", "JPEG"),
        ("d.jpg?w=300", "JPEG"),
        ("e", "JPEG"),
        ("F.JPG", "JPEG"),
        ("g.txt", "PNG"),
        ("h.avif", "AVIF"),
        ("i.jp2", "JPEG2000"),
        ("j.dib", "BMP"),
        ("k.pbm", "PPM"),
        ("l.apng", "PNG"),
        ("m.tga", "TGA"),
        ("n.ico", "ICO"),
        ("o.download", "WEBP"),
        ("p.bin", "GIF"),
        ("q.dat", "TIFF"),
    ],
)
def test_image_is_recognised_by_content_and_not_by_extension(pets: Path, name: str, form: str) -> None:
    Image.new("RGB", (16, 16), (200, 200, 200)).save(pets / "train/cat" / name, format=form)
    dataset = load()
    assert dataset.train.labels.tolist() == [0] * 9 + [1] * 8
    assert any(abs(int(image.float().mean()) - 200) <= 3 for image in dataset.train.images)


@pytest.mark.parametrize(
    ("create", "expected"),
    [
        (lambda folder: (folder / "notes.json").write_text("{}"), r"1 \.json file \(not an image\)"),
        (lambda folder: (folder / "BMW.txt").write_text("BM is no bitmap"), r"1 \.txt file \(not an image\)"),
        (lambda folder: (folder / "empty.jpg").touch(), r"1 empty \.jpg file"),
        (lambda folder: (folder / "._0.png").write_bytes(b"\0\5\x16\7"), "1 hidden or system file"),
        (lambda folder: (folder / "Thumbs.db").write_bytes(b"\xd0\xcf"), "1 hidden or system file"),
        (lambda folder: (folder / "p.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20)), "1 .heic file in HEIC"),
        (lambda folder: os.mkfifo(folder / "pipe.png"), "1 FIFO, which is not a regular file"),
        (lambda folder: socket.socket(socket.AF_UNIX).bind(str(folder / "s")), "1 socket, which is not a regular file"),
        (lambda folder: (folder / "l.png").symlink_to(folder / "no"), r"1 \.png file, a broken symbolic link"),
        (lambda folder: files.picture(folder / ".ipynb_checkpoints/0.png", 1), "1 hidden or system folder"),
        (lambda folder: files.picture(folder.parent / "loose.png", 1), r"1 \.png file outside of the class folders"),
        (lambda folder: files.picture(folder.parents[1] / "loose.png", 1), r"1 \.png file outside of the class"),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed")
def test_skipped_files_are_counted_in_the_log(
    pets: Path, create: Callable[[Path], object], expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    create(pets / "train/cat")
    assert len(load().train) == 16
    [record] = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.name.startswith("core.tasks.classification.data")
    assert record.getMessage().startswith(f"{pets}: skipped 1 files and folders: ")
    assert re.search(expected, record.getMessage())


def test_data_set_of_images_logs_no_warning(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    load()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_later_start_logs_skipped_files_too(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pets / "train/cat/notes.json").write_text("{}")
    load()
    caplog.clear()
    load()
    assert "1 .json file" in caplog.text


@pytest.mark.parametrize("name", [".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git"])
def test_system_folder_is_not_a_class(pets: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "test"):
        files.picture(pets / split / name / "0.png", 1)
    assert load().classes == ("cat", "dog")
    assert f"hidden or system folder (for example train/{name})" in caplog.text


def test_class_with_many_skipped_files_is_named(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        (pets / "train/dog" / f"{number}.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    load()
    assert "a large share of the files of some classes was skipped: train/dog 3 of 11" in caplog.text


def test_class_without_images_is_refused_and_its_files_are_named(pets: Path) -> None:
    for path in (pets / "train/dog").iterdir():
        path.rename(path.with_suffix(".txt")).write_text("no image")
    with pytest.raises(
        data.DatasetError, match=r"train/dog contains no image; it contains \.txt file \(not an image\)"
    ):
        load()


def test_fifo_in_an_official_list_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists of Food-101 name files that are not searched for in a folder."""
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    folder = tmp_path / "food-101"
    files.picture(folder / "images/cake/2.jpg", (1, 2, 3))
    os.mkfifo(folder / "images/cake/1.jpg")
    (folder / "meta").mkdir()
    (folder / "meta/train.txt").write_text("cake/1\n")
    (folder / "meta/test.txt").write_text("cake/2\n")
    with pytest.raises(data.DatasetError, match=r"cake/1.jpg is not a regular file"):
        data.load(DatasetRef(name="food101", params={"image_size": 8}), TrainingSettings.from_environment())


def test_cyclic_symbolic_links_are_refused(pets: Path) -> None:
    """Two such links in one folder would be followed 2^40 times before the system refuses."""
    for name in ("again", "and-again"):
        (pets / "train/cat" / name).symlink_to(pets / "train")
    with pytest.raises(data.DatasetError, match="leads back to a folder above it"):
        load()


def test_core_run_prints_skipped_files(pets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pets / "train/cat/notes.json").write_text("{}")
    network = {"name": "small_cnn", "params": {"width": 2}}
    spec = parse_experiment(
        {
            "name": "left-out",
            "dataset": {"name": "folder", "params": {"path": "pets", "image_size": 8}},
            "teacher": {"model": network},
            "student": {"model": network},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 8},
        }
    )
    assert run_experiment(spec, tmp_path / "out") == 0
    output = capsys.readouterr().err
    assert output.count("1 .json file (not an image) (for example train/cat/notes.json)") == 1
    assert "warning" in output
