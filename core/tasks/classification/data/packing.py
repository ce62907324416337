"""Packs: the decoded images of a data set in one memory-mapped file per split.

Decoding 60,000 small files takes tens of seconds and ImageNet hours; opening a pack takes as long as reading the size
and modification time of each file. A pack is a folder ``NAME-SIZEpx-KEY`` with ``train.bin`` and ``test.bin`` (bytes,
images × channels × height × width) and ``pack.json``. It may be deleted at any time and is then created again.

``pack.json`` stores the decoding version. A pack of an earlier version is used if that version gave the same pixels of
all its images, which is checked once in the files themselves. A pack in which the pixels of some images differ from
those of earlier versions has another name and another key.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from core.tasks.classification.data.decoding import DECODING_VERSION, decoder_version, decodes_differently
from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import Listing
from core.tasks.classification.data.pack_files import file_status, map_bytes, write_json
from core.tasks.classification.data.split_writer import CHANNELS, write_split
from core.tasks.classification.data.statistics import Statistics
from core.tasks.file_lock import locked
from core.undecodable import visible

FORMAT = 2
"""Incremented when the same files begin to give other bytes; packs of earlier formats are not read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """The images of both splits (N, 3, H, W) uint8, mapped from the disk.

    Attributes:
        train: training images.
        test: test images.
        statistics: mean and standard deviation of the training images.
        key: hash of the names, sizes and modification times of the files and of the decoder.
        content_hash: SHA-256 of the files' bytes with their labels and the class names, equal for copies of the images
            on other machines. For an image that earlier versions decoded to other pixels, its treatment is hashed too.
        notes: notes about the decoding.
        decoding: the decoding version.
    """

    train: Tensor
    test: Tensor
    statistics: Statistics
    key: str = ""
    content_hash: str = ""
    notes: DecodingNotes = field(default_factory=DecodingNotes)
    decoding: int = DECODING_VERSION


def load_or_pack(name: str, listing: Listing, image_size: int, pack_dir: Path) -> Pack:
    """Return the images of a listing, resized and cropped to squares; decode them only if there is no pack of them.

    Args:
        name: name of the data set, used in the name of the pack.
        listing: the image files.
        image_size: side of the stored images in pixels.

    Raises:
        DatasetError: an image is damaged (the message names it, and no pack is kept), or the pack cannot be written.
    """
    key = _pack_key(listing, image_size)
    plain = pack_dir / f"{visible(name)}-{image_size}px-{key[:20]}"
    folders = _PackFolders(plain, plain.with_name(f"{plain.name}-v{DECODING_VERSION}"), key)
    pack = _find_current_pack(folders, listing, image_size)
    if pack is None:
        try:
            plain.parent.mkdir(parents=True, exist_ok=True)
            # Two trainings that start together need one pack: the second one waits for the first.
            with locked(plain.with_name(f"{plain.name}.lock")):
                pack = (
                    _find_current_pack(folders, listing, image_size)
                    or _adopt_earlier_pack(folders, name, listing, image_size)
                    or _create_pack(folders, name, listing, image_size)
                )
        except OSError as error:
            needed = (len(listing.train) + len(listing.test)) * CHANNELS * image_size**2 / 2**30
            raise DatasetError(
                f"{name} cannot be packed into {plain.parent}, which takes {needed:.2g} GiB: {error}; "
                "DKD_PACK_DIR names another folder"
            ) from error
    return pack


def decoder_description() -> str:
    """Return a text that identifies the decoder: packs of the same files may differ if it differs."""
    return f"format {FORMAT}, {decoder_version()}"


@dataclass(frozen=True)
class _PackFolders:
    """The possible folders of a pack.

    Attributes:
        plain: The folder if all decoding versions give the same pixels.
        versioned: The folder if the pixels of this version differ from those of an earlier one.
        key: The key of ``plain``; that of ``versioned`` is derived from it.
    """

    plain: Path
    versioned: Path
    key: str

    def key_of(self, folder: Path) -> str:
        if folder == self.plain:
            return self.key
        return hashlib.sha256(f"{self.key} {DECODING_VERSION}".encode()).hexdigest()


def _find_current_pack(folders: _PackFolders, listing: Listing, image_size: int) -> Pack | None:
    """Return a complete pack of this decoding version, if there is one."""
    for folder in (folders.plain, folders.versioned):
        pack = _open_pack(folder, listing, image_size)
        if pack and pack.decoding == DECODING_VERSION:
            return replace(pack, key=folders.key_of(folder))
    return None


def _adopt_earlier_pack(folders: _PackFolders, name: str, listing: Listing, image_size: int) -> Pack | None:
    """Return a pack of an earlier version, marked as current, if this version decodes every file to the same pixels."""
    pack = _open_pack(folders.plain, listing, image_size)
    if pack is None:
        return None
    total = len(listing.train) + len(listing.test)
    _log.info("%s: checking whether this version decodes the %d images of an earlier pack differently", name, total)
    paths = [listing.root / file.path for split in (listing.train, listing.test) for file in split]
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        differing = sum(threads.map(lambda path: _must_decode_again(path, image_size), paths))
    if differing:
        _log.warning(
            "%s: %d images differ from those in the pack of an earlier version, which ignored the EXIF orientation; "
            "they are packed again, and trainings on the earlier pack are not comparable",
            *(name, differing),
        )
        return None
    metadata = json.loads((folders.plain / "pack.json").read_text(encoding="utf-8")) | {"decoding": DECODING_VERSION}
    write_json(folders.plain / "pack.json.partial", metadata)
    (folders.plain / "pack.json.partial").replace(folders.plain / "pack.json")
    return replace(pack, key=folders.key, decoding=DECODING_VERSION)


def _must_decode_again(path: Path, image_size: int) -> bool:
    """Return whether a file has to be decoded again; True for an unreadable file, so that packing reports it."""
    try:
        return decodes_differently(path, image_size)
    except Exception:  # noqa: BLE001 (the decoders raise any exception for a damaged file)
        return True


def _pack_key(listing: Listing, image_size: int) -> str:
    """Return a hash of every file's path, label, size and modification time, and of the decoder and its settings.

    Raises:
        DatasetError: a file cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256(
        f"{FORMAT} {decoder_version()} {image_size} {listing.root.name}\n".encode(errors="surrogateescape")
    )
    for split in (listing.train, listing.test):
        for file in split:
            status = file_status(listing.root / file.path)
            line = f"{file.path}\0{file.label}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def _open_pack(folder: Path, listing: Listing, image_size: int) -> Pack | None:
    """Return the pack in a folder; None if it is missing or incomplete."""
    try:
        metadata = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        statistics = Statistics(tuple(metadata["mean"]), tuple(metadata["std"]))
        train = _map_images(folder / "train.bin", len(listing.train), image_size)
        test = _map_images(folder / "test.bin", len(listing.test), image_size)
        content_hash, notes = str(metadata["content"]), DecodingNotes.from_json(metadata.get("notes", {}))
        decoding = int(metadata.get("decoding", 2))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return Pack(train, test, statistics, content_hash=content_hash, notes=notes, decoding=decoding)


def _map_images(path: Path, count: int, image_size: int) -> Tensor:
    """Map images (count, 3, H, W) from a file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file has another length.
    """
    shape = (count, CHANNELS, image_size, image_size)
    return map_bytes(path, math.prod(shape)).view(shape)


def _create_pack(folders: _PackFolders, name: str, listing: Listing, image_size: int) -> Pack:
    """Decode all images into a temporary folder, which gets its final name when it is complete."""
    partial = folders.plain.with_name(f"{folders.plain.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process; the lock shows that no other process uses it
    partial.mkdir()
    total = len(listing.train) + len(listing.test)
    _log.info("packing %d images of %s into %s for this and later starts", total, name, partial.parent)
    try:
        start = time.monotonic()
        content = hashlib.sha256(json.dumps(listing.classes).encode())
        train = write_split(partial / "train.bin", name, listing.root, listing.train, image_size, content)
        test = write_split(partial / "test.bin", name, listing.root, listing.test, image_size, content)
        notes = train.notes + test.notes
        metadata = {
            "name": visible(name),
            "classes": listing.classes,
            "content": content.hexdigest(),
            "decoding": DECODING_VERSION,
            "notes": notes.as_json(),
            **asdict(train.statistics),
        }
        write_json(partial / "pack.json", metadata)
        folder = folders.versioned if train.treated or test.treated else folders.plain
        shutil.rmtree(folder, ignore_errors=True)  # a damaged pack
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("packed %d images of %s in %.0f s", total, name, time.monotonic() - start)
    pack = _open_pack(folder, listing, image_size)
    if pack is None:
        raise DatasetError(f"{folder} was written but cannot be read again; check its disk")
    return replace(pack, key=folders.key_of(folder))
