"""Images of every kind are decoded as intended or reported, in bounded memory, and packs of old versions are read."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.classification import data
from tests.core import data_files as files

SIZE = 8


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DKD_PACK_DIR", str(tmp_path / "packs"))
    return files.tree(tmp_path / "pets", ["cat", "dog"], per_class=2)


def load() -> data.Dataset:
    return data.load(
        DatasetRef(name="folder", params={"path": "pets", "image_size": SIZE}), TrainingSettings.from_environment()
    )


def pack(pets: Path) -> Path:
    [pack_file] = (pets.parent / "packs").glob("*/pack.json")
    return pack_file


def noise(shape: tuple[int, ...] = (SIZE, SIZE, 3)) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def turned(path: Path, orientation: int) -> None:
    """Save noise with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise()).save(path, exif=exif)


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
    def test_exif_orientation_is_applied(self, pets: Path, orientation: int, suffix: str) -> None:
        from PIL import ImageOps

        path = pets / "train/cat/0.png"
        path.unlink()
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"lossless": True} if suffix == ".webp" else {}
        Image.fromarray(noise()).save(path.with_suffix(suffix), exif=exif, **options)
        with Image.open(path.with_suffix(suffix)) as image:
            expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(load().train.images[0].numpy(), expected)

    def test_rotation_is_logged_and_changes_the_content_hash(
        self, pets: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A comparison with an earlier run, which trained on the unrotated image, must be flagged."""
        path = pets / "train/cat/0.png"
        turned(path, 6)
        caplog.set_level(logging.INFO, "core.tasks.classification.data")
        dataset = load()
        assert (
            "1 images are rotated upright according to their EXIF orientation (for example train/cat/0.png)"
            in caplog.text
        )
        assert dataset.content_hash != content_of_commit_2ef2faf(pets)

    def test_content_hash_of_ordinary_images_is_unchanged(self, pets: Path) -> None:
        assert load().content_hash == content_of_commit_2ef2faf(pets)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_damaged_exif_is_ignored(self, pets: Path) -> None:
        path = pets / "train/cat/0.jpg"
        Image.fromarray(noise()).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff\1\2\3")
        assert len(load().train) == 5


def content_of_commit_2ef2faf(pets: Path) -> str:
    """Return the content hash that this version wrote into ``pack.json`` and used to compare runs."""
    content = hashlib.sha256(json.dumps(["cat", "dog"]).encode())
    for split in ("train", "test"):
        paths = sorted((pets / split).rglob("*.png"))
        content.update(f"{split} {len(paths)}\n".encode())
        for path in paths:
            label = ["cat", "dog"].index(path.parent.name)
            content.update(f"{label} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return content.hexdigest()


class TestPacksOfEarlierVersions:
    """Packs of commit 2ef2faf have no decoding version and contain unrotated images."""

    def make_old(self, pets: Path) -> Path:
        """Change the existing pack into one of that commit, with recognisable pixels."""
        path = pack(pets)
        written = json.loads(path.read_text())
        del written["decoding"], written["notes"]
        path.write_text(json.dumps(written))
        content = bytearray((path.parent / "train.bin").read_bytes())
        content[0] = 123
        (path.parent / "train.bin").write_bytes(content)
        return path

    def test_pack_of_ordinary_images_is_read(self, pets: Path) -> None:
        before = load()
        old = self.make_old(pets)
        after = load()
        assert int(after.train.images.flatten()[0]) == 123
        assert (after.pack_key, after.content_hash) == (before.pack_key, before.content_hash)
        assert pack(pets) == old
        assert json.loads(old.read_text())["decoding"] == 3

    def test_pack_with_unrotated_images_is_not_read(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        turned(pets / "test/dog/1.png", 3)
        before = load()
        images = before.train.images.clone()
        place = pack(pets).parent
        old = self.make_old(pets).parent.rename(place.with_name(place.name.removesuffix("-v3")))
        after = load()
        assert torch.equal(after.train.images, images)
        assert "1 images differ from those in the pack of an earlier version" in caplog.text
        assert old.exists()  # of an earlier version that is still in use
        assert after.pack_key == before.pack_key
        assert after.pack_key[:20] not in old.name


class TestPng:
    @pytest.mark.parametrize("where", ["before", "after"])
    def test_long_texts_and_profiles_are_ignored(self, pets: Path, where: str) -> None:
        pixels, path = noise(), pets / "train/cat/0.png"
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", "x" * 2_000_000, zip=True)
        if where == "before":
            Image.fromarray(pixels).save(path, pnginfo=info, icc_profile=b"\0" * 2_000_000)
        else:
            info.chunks = [(*chunk[:2], True) for chunk in info.chunks]
            Image.fromarray(pixels).save(path, pnginfo=info)
        assert np.array_equal(load().train.images[0].numpy(), pixels.transpose(2, 0, 1))

    def test_orientation_is_applied_despite_long_text(self, pets: Path) -> None:
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", "x" * 2_000_000, zip=True)
        exif = Image.Exif()
        exif[0x0112] = 3
        Image.fromarray(noise()).save(pets / "train/cat/0.png", pnginfo=info, exif=exif)
        expected = noise()[::-1, ::-1].transpose(2, 0, 1)
        assert np.array_equal(load().train.images[0].numpy(), expected)

    def test_truncated_png_with_long_text_is_named(self, pets: Path) -> None:
        path = pets / "train/cat/0.png"
        info = PngImagePlugin.PngInfo()
        info.add_text("prompt", "x" * 2_000_000, zip=True)
        Image.fromarray(noise((64, 64, 3))).save(path, pnginfo=info)
        path.write_bytes(path.read_bytes()[:-4000])
        with pytest.raises(data.DatasetError, match=r"1 image\(s\) cannot be read: .*cat/0.png"):
            load()


_PEAK = """
import resource, sys
from pathlib import Path
from core.tasks.classification.data.decoding import decode_image
decode_image(Path(sys.argv[1]), 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
pixels = decode_image(Path(sys.argv[2]), 224).pixels
assert pixels.shape == (3, 224, 224)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, int(pixels.min()), int(pixels.max()))
"""


class TestSize:
    @pytest.mark.parametrize("size", [(60_000, 1), (1, 60_000), (30_000, 3)])
    def test_elongated_image_is_decoded_in_bounded_memory(self, pets: Path, size: tuple[int, int]) -> None:
        files.picture(pets / "thin.png", (77, 77, 77), size)
        command = [sys.executable, "-c", _PEAK, str(pets / "train/cat/0.png"), str(pets / "thin.png")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        megabytes, least, most = map(int, done.stdout.split())
        assert megabytes < 100
        assert (least, most) == (77, 77)

    def test_elongated_image_is_cropped_to_its_center(self, pets: Path) -> None:
        image = np.zeros((1, 60_001, 3), dtype=np.uint8)
        image[:, 30_000] = 200
        Image.fromarray(image).save(pets / "train/cat/0.png")
        assert load().train.images[0].float().mean() > 100

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_decompression_bomb_is_refused_with_its_reason(self, pets: Path) -> None:
        Image.new("1", (20_000, 20_000)).save(pets / "train/cat/0.png")
        with pytest.raises(data.DatasetError, match=r"cat/0.png \(DecompressionBombError: "):
            load()


class TestNotes:
    def test_unused_frames_are_logged(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        frames = [Image.new("RGB", (8, 8), (colour, 0, 0)) for colour in (10, 200)]
        for name in ("0.png", "1.gif", "2.tiff", "3.webp"):
            frames[0].save(pets / "train/cat" / name, save_all=True, append_images=frames[1:])
        dataset = load()
        assert abs(int(dataset.train.images[0, 0].float().mean()) - 10) < 3
        assert (
            "4 images have several frames, of which only the first is used (for example train/cat/0.png)" in caplog.text
        )
        caplog.clear()
        load()
        assert "4 images have several frames" in caplog.text

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
    def test_transparency_is_logged(self, pets: Path, mode: str, caplog: pytest.LogCaptureFixture) -> None:
        image = Image.fromarray(noise()).convert("P" if mode == "P" else mode)
        if mode == "P":
            image.save(pets / "train/cat/0.png", transparency=bytes(range(256)))
        else:
            image.putalpha(100)
            image.save(pets / "train/cat/0.png")
        load()
        assert "1 images are partly transparent" in caplog.text

    def test_opaque_alpha_channel_is_not_logged(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(pets / "train/cat/0.png")
        load()
        assert "transparent" not in caplog.text

    def test_twelve_bits_in_sixteen_are_logged(self, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
        Image.fromarray(np.full((8, 8), 4000, dtype=np.uint16)).save(pets / "train/cat/0.png")
        load()
        assert "1 images use at most 12 of their 16 bits" in caplog.text

    def test_sixteen_bit_pgm_is_decoded(self, pets: Path) -> None:
        (pets / "train/cat/0.png").unlink()
        (pets / "train/cat/0.pgm").write_bytes(b"P5 8 8 65535\n" + b"\x80\x00" * 64)
        assert set(load().train.images[0].flatten().tolist()) == {128}


@pytest.mark.parametrize(
    ("content", "description"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "a HEIC image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(40), "a HEIC image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL image"),
        (b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "an HTML page"),
        (b"<html><head></head></html>", "an HTML page"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG image"),
        (b'{"error": "not found"}', "a JSON document"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", r"a video \(MP4 or QuickTime\)"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a Git LFS pointer"),
    ],
)
def test_file_of_another_format_with_the_name_of_an_image_is_identified(
    pets: Path, content: bytes, description: str
) -> None:
    (pets / "train/cat/photo.jpg").write_bytes(content)
    with pytest.raises(data.DatasetError, match=rf"cat/photo\.jpg \(UnidentifiedImageError: it is {description}"):
        load()


def test_truncated_jpeg_is_not_reported_as_another_format(pets: Path) -> None:
    path = files.picture(pets / "train/cat/photo.jpg", (1, 2, 3), (64, 64))
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(data.DatasetError, match=r"cat/photo\.jpg \((?!.*it is )"):
        load()


def test_damaged_file_of_an_earlier_pack_is_named(pets: Path) -> None:
    load()
    TestPacksOfEarlierVersions().make_old(pets)
    path = pets / "train/cat/0.png"
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(data.DatasetError, match=r"1 image\(s\) cannot be read: .*cat/0.png"):
        load()
