"""Image files decoded once into one memory-mapped file a split, keyed by what they were decoded from.

Decoding 60,000 small files takes tens of seconds and ImageNet hours; mapping the pack takes as long as asking the
file system for each file's size and time. A pack is a folder ``NAME-SIZEpx-KEY`` with ``train.bin`` and ``test.bin``
(bytes, images × channels × height × width) and ``pack.json``; it may be deleted at any time and is then made again.

``pack.json`` says by which version the images were decoded. A pack of an earlier version is read if that version gave
the same pixels of all its images, which is looked up once in the files themselves. A pack in which some images differ
from what earlier versions made of them has a name and a key of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shutil
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.data.decoding import DECODING_VERSION, DecodedImage, decode_image, decoder_version, decodes_differently
from core.data.decoding_notes import DecodingNotes
from core.data.errors import DatasetError
from core.data.image_files import ImageFile, Listing
from core.data.paths import locked
from core.data.statistics import LevelCounts, Statistics
from core.undecodable import visible

FORMAT = 2
"""Raised when the same files begin to give other bytes; old packs are then not read."""

_log = logging.getLogger(__name__)
_CHANNELS = 3
_CHUNK = 512  # images handed to the threads at once
_NAMED = 10  # damaged images after which looking for more is no use
_REPORT_SECONDS = 30.0
# Without it Linux counts a private map as memory to be had, and refuses one that is larger than the machine's.
# Python names the flag from 3.13 on.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Pack:
    """Both splits' images (N, 3, H, W) uint8, mapped from the disk.

    Attributes:
        statistics: of the training images.
        key: of the files that it was made of and how: other images, another key.
        content_hash: SHA-256 of the files' bytes with their labels and the classes' names: the same wherever the same
            images are, whenever they were copied there. Of an image that earlier versions gave other pixels of, what was done
            to it is hashed too.
        notes: what a person should know of the images.
        decoding: the version by which they were decoded.
    """

    train: Tensor
    test: Tensor
    statistics: Statistics
    key: str = ""
    content_hash: str = ""
    notes: DecodingNotes = field(default_factory=DecodingNotes)
    decoding: int = DECODING_VERSION


def load_or_pack(name: str, listing: Listing, image_size: int, pack_dir: Path) -> Pack:
    """The images of a listing, resized and cropped to squares; decoded only where no pack of the same files is there.

    Raises DatasetError where an image is damaged (the message names it, and nothing is kept) or the pack cannot be
    written.
    """
    key = _key(listing, image_size)
    plain = pack_dir / f"{visible(name)}-{image_size}px-{key[:20]}"
    places = _Places(plain, plain.with_name(f"{plain.name}-v{DECODING_VERSION}"), key)
    pack = _find(places, listing, image_size)
    if pack is None:
        try:
            plain.parent.mkdir(parents=True, exist_ok=True)
            # Two trainings that start together need one pack; the second one waits for it.
            with locked(plain.with_name(f"{plain.name}.lock")):
                pack = (
                    _find(places, listing, image_size)
                    or _adopted(places, name, listing, image_size)
                    or _make(places, name, listing, image_size)
                )
        except OSError as error:
            needed = (len(listing.train) + len(listing.test)) * _CHANNELS * image_size**2 / 2**30
            raise DatasetError(
                f"{name} cannot be packed into {plain.parent}, which takes {needed:.2g} GiB: {error}; "
                "DKD_PACK_DIR names another folder"
            ) from error
    return pack


@dataclass(frozen=True)
class _Places:
    """Where a pack may lie.

    Attributes:
        plain: if every version gives the same pixels.
        treated: if this version's pixels are others than an earlier one's.
        key: of the first; the second has one that is derived from it.
    """

    plain: Path
    treated: Path
    key: str

    def key_of(self, folder: Path) -> str:
        return (
            self.key if folder == self.plain else hashlib.sha256(f"{self.key} {DECODING_VERSION}".encode()).hexdigest()
        )


def _find(places: _Places, listing: Listing, image_size: int) -> Pack | None:
    """A pack that is there, whole and decoded by this version."""
    for folder in (places.plain, places.treated):
        pack = _open(folder, listing, image_size)
        if pack and pack.decoding == DECODING_VERSION:
            return replace(pack, key=places.key_of(folder))
    return None


def _adopted(places: _Places, name: str, listing: Listing, image_size: int) -> Pack | None:
    """A pack of an earlier version, if this one would make the same of every file."""
    pack = _open(places.plain, listing, image_size)
    if pack is None:
        return None
    total = len(listing.train) + len(listing.test)
    _log.info("%s: looking through %d images for what the pack of an earlier version shows otherwise", name, total)
    paths = [listing.root / file.path for split in (listing.train, listing.test) for file in split]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        others = sum(threads.map(lambda path: _differs(path, image_size), paths))
    if others:
        _log.warning(
            "%s: %d images are shown otherwise than in the pack of an earlier version, which did not turn images as "
            "their EXIF orientation says; they are packed anew, and trainings on the earlier pack are not comparable",
            *(name, others),
        )
        return None
    written = json.loads((places.plain / "pack.json").read_text(encoding="utf-8")) | {"decoding": DECODING_VERSION}
    _write_json(places.plain / "pack.json.partial", written)
    (places.plain / "pack.json.partial").replace(places.plain / "pack.json")
    return replace(pack, key=places.key, decoding=DECODING_VERSION)


def _differs(path: Path, image_size: int) -> bool:
    """Whether a file has to be decoded again. One that cannot be read is: packing then says what is wrong with it."""
    try:
        return decodes_differently(path, image_size)
    except Exception:  # noqa: BLE001 (a damaged file makes the decoders raise whatever they come upon)
        return True


def decoder_description() -> str:
    """What turned files into the bytes of a pack: two packs of the same files may differ where this does."""
    return f"format {FORMAT}, {decoder_version()}"


def _key(listing: Listing, image_size: int) -> str:
    """Of every file's path, label, size and time of change, and of all that decides how they are decoded."""
    digest = hashlib.sha256(
        f"{FORMAT} {decoder_version()} {image_size} {listing.root.name}\n".encode(errors="surrogateescape")
    )
    for split in (listing.train, listing.test):
        for file in split:
            try:
                status = os.stat(listing.root / file.path)
            except OSError as error:
                where = visible(str(listing.root / file.path))
                raise DatasetError(f"{where} cannot be read: {error.strerror}") from error
            if not stat.S_ISREG(status.st_mode):  # to open a FIFO would wait for ever
                raise DatasetError(f"{visible(str(listing.root / file.path))} is no regular file")
            line = f"{file.path}\0{file.label}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _open(folder: Path, listing: Listing, image_size: int) -> Pack | None:
    """A pack that is there and whole."""
    try:
        written = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        statistics = Statistics(tuple(written["mean"]), tuple(written["std"]))
        train = _mapped(folder / "train.bin", len(listing.train), image_size)
        test = _mapped(folder / "test.bin", len(listing.test), image_size)
        content, notes = str(written["content"]), DecodingNotes.from_json(written.get("notes", {}))
        decoding = int(written.get("decoding", 2))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Pack(train, test, statistics, content_hash=content, notes=notes, decoding=decoding)


def _mapped(path: Path, count: int, image_size: int) -> Tensor:
    """Images (count, 3, H, W) mapped from a file. Raises OSError, or ValueError where the file has another length."""
    shape = (count, _CHANNELS, image_size, image_size)
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != np.prod(shape, dtype=np.int64):
            raise ValueError(f"{path} has not the length of {count} images")
        # Private and writable: a tensor on read-only memory would end the process at the first write.
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        area = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(area, dtype=torch.uint8).view(shape)


def _make(places: _Places, name: str, listing: Listing, image_size: int) -> Pack:
    """Decode everything into a folder beside, which gets its name only when it is whole."""
    partial = places.plain.with_name(f"{places.plain.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed; the lock says it is nobody's
    partial.mkdir()
    total = len(listing.train) + len(listing.test)
    _log.info("packing %d images of %s into %s; the next start finds them there", total, name, partial.parent)
    try:
        since = time.monotonic()
        content = hashlib.sha256(json.dumps(listing.classes).encode())
        train = _write(partial / "train.bin", name, listing.root, listing.train, image_size, content)
        test = _write(partial / "test.bin", name, listing.root, listing.test, image_size, content)
        notes = train.notes + test.notes
        written = {
            "name": visible(name),
            "classes": listing.classes,
            "content": content.hexdigest(),
            "decoding": DECODING_VERSION,
            "notes": notes.as_json(),
            **asdict(train.statistics),
        }
        _write_json(partial / "pack.json", written)
        folder = places.treated if train.treated or test.treated else places.plain
        shutil.rmtree(folder, ignore_errors=True)  # there, but damaged
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("packed %d images of %s in %.0f s", total, name, time.monotonic() - since)
    pack = _open(folder, listing, image_size)
    if pack is None:
        raise DatasetError(f"{folder} was written and cannot be read again; look at the disk it is on")
    return replace(pack, key=places.key_of(folder))


def _write_json(path: Path, content: dict[str, object]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class _Written:
    """What one split's images are.

    Attributes:
        treated: whether an earlier version gave other pixels of some of them.
    """

    statistics: Statistics
    notes: DecodingNotes
    treated: bool


def _write(
    path: Path, name: str, root: Path, files: Sequence[ImageFile], image_size: int, content: hashlib._Hash
) -> _Written:
    """Decode files one after another into ``path``, and add what they are to ``content``.

    Raises DatasetError that names the damaged ones.
    """
    content.update(f"{path.stem} {len(files)}\n".encode())
    counts = LevelCounts(_CHANNELS)
    damaged: list[str] = []
    notes = DecodingNotes()
    treated = False
    reported = time.monotonic()
    with path.open("wb") as out:
        for number, result in enumerate(_decoded(root, files, image_size)):
            if isinstance(result, str):
                damaged.append(f"{visible(str(root / files[number].path))} ({visible(result)})")
                if len(damaged) == _NAMED:
                    break
            elif not damaged:
                image = result.image
                counts.add(image.pixels[None])
                out.write(image.pixels.tobytes())
                done = f" {image.treated}" if image.treated else ""
                content.update(f"{files[number].label} {result.digest}{done}\n".encode())
                treated = treated or bool(done)
                notes += DecodingNotes.of(image.notes, files[number].path)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                _log.info("%s: %d of %d images of %s", name, number + 1, len(files), path.stem)
        out.flush()
        os.fsync(out.fileno())
    if damaged:
        count = f"at least {_NAMED} images" if len(damaged) == _NAMED else f"{len(damaged)} image(s)"
        raise DatasetError(
            f"{name} is not packed: {count} cannot be read: {'; '.join(damaged)}. Replace or remove what is damaged."
        )
    return _Written(counts.statistics(), notes, treated)


@dataclass(frozen=True)
class _Image:
    """A file's image, and the SHA-256 of the file."""

    image: DecodedImage
    digest: str


def _decoded(root: Path, files: Sequence[ImageFile], image_size: int) -> Iterator[_Image | str]:
    """Each file's image, or what is wrong with it, in order."""

    def one(file: ImageFile) -> _Image | str:
        try:
            path = root / file.path
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return _Image(decode_image(path, image_size), digest)
        except Exception as error:  # noqa: BLE001 (a damaged file makes the decoders raise whatever they come upon)
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first in range(0, len(files), _CHUNK):
            yield from threads.map(one, files[first : first + _CHUNK])
