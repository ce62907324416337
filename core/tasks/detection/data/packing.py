"""Packs: the decoded images of a detection set in one memory-mapped file per split, with their objects beside them.

Decoding photographs takes minutes to hours, and reading COCO's annotations half a minute; opening a pack takes as long
as reading the size and modification time of each file. A pack is a folder ``NAME-MINxMAX-KEY`` with ``train.bin`` and
``test.bin`` (bytes, each image as channels × height × width), ``train.npz`` and ``test.npz`` (sizes, paths and objects)
and ``pack.json``. It may be deleted at any time and is then created again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path

import numpy as np

from core.tasks.classification.data.decoding import UPRIGHT
from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.pack_files import (
    MAX_UNREADABLE,
    decode_all,
    file_status,
    map_bytes,
    unreadable_error,
    write_json,
)
from core.tasks.detection.data.annotations import AnnotatedImage, AnnotationFiles, note_shared_images, within_image
from core.tasks.detection.data.dataset import DetectionSplit
from core.tasks.detection.data.objects import Objects
from core.tasks.detection.data.photos import decode_photo, decoder_version
from core.tasks.detection.data.resizing import ResizeRule
from core.tasks.file_lock import locked
from core.undecodable import visible

FORMAT = 2
"""Incremented when the same files begin to give other packs; packs of earlier formats are not read."""

_REPORT_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pack:
    """The images and objects of both splits, mapped from the disk.

    Attributes:
        train: The training images.
        test: The test images.
        classes: The names of the classes 1 to K.
        category_ids: Their ids in the data set.
        key: Hash of the names, sizes and modification times of all files, of the decoder and of the size of the images.
        content_hash: SHA-256 of the files' bytes with their ids, objects and classes, equal for copies on other
            machines.
        notes: Notes about the images and their boxes.
    """

    train: DetectionSplit
    test: DetectionSplit
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    key: str
    content_hash: str
    notes: DecodingNotes = field(default_factory=DecodingNotes)


def load_or_pack(source: AnnotationFiles, rule: ResizeRule, pack_dir: Path) -> Pack:
    """Return the images and objects of a data set; read and decode the files only if there is no pack of them.

    Args:
        source: The annotations.
        rule: The size in which a network sees the images.
        pack_dir: The folder of the packs.

    Raises:
        DatasetError: The annotations are not valid, an image is missing or damaged (the message names it, and no pack
            is kept), or the pack cannot be written.
    """
    key = _annotations_key(source, rule)
    folder = pack_dir / f"{visible(source.name)}-{rule.min_size}x{rule.max_size}-{key[:20]}"
    pack = _open_pack(folder, key, source.root)
    if pack:
        return pack
    try:
        pack_dir.mkdir(parents=True, exist_ok=True)
        # Two trainings that start together need one pack: the second one waits for the first.
        with locked(folder.with_name(f"{folder.name}.lock")):
            return _open_pack(folder, key, source.root) or _create_pack(folder, key, source, rule)
    except OSError as error:
        raise DatasetError(
            f"{source.name} cannot be packed into {pack_dir}: {error}; DKD_PACK_DIR names another folder"
        ) from error


def decoder_description() -> str:
    """Return a text that identifies the decoder: packs of the same files may differ if it differs."""
    return f"detection format {FORMAT}, {decoder_version()}"


def _annotations_key(source: AnnotationFiles, rule: ResizeRule) -> str:
    """Return a hash of the annotation files and of all that decides what a pack of them contains."""
    settings = f"{decoder_description()} {astuple(rule)} {source.root.name} {source.layout}\n"
    digest = hashlib.sha256(settings.encode(errors="surrogateescape"))
    digest.update(_stamp(source.root, [str(path.relative_to(source.root)) for path in source.files]).encode())
    return digest.hexdigest()


def _stamp(root: Path, paths: Sequence[str]) -> str:
    """Return a hash of the paths, sizes and modification times of files.

    Raises:
        DatasetError: A file cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    for path in paths:
        status = file_status(root / path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _open_pack(folder: Path, key: str, root: Path) -> Pack | None:
    """Return the pack in a folder; None if it is missing or incomplete, or if an image has changed since.

    Raises:
        DatasetError: An image is missing.
    """
    try:
        metadata = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        train, test = (_read_split(folder, name) for name in ("train", "test"))
        stamp, content = str(metadata["images"]), str(metadata["content"])
        classes, category_ids = tuple(map(str, metadata["classes"])), tuple(map(int, metadata["category_ids"]))
        notes = DecodingNotes.from_json(metadata["notes"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    if _stamp(root, (*train.paths, *test.paths)) != stamp:
        return None
    whole_key = hashlib.sha256(f"{key} {stamp}".encode()).hexdigest()
    return Pack(train, test, classes, category_ids, whole_key, content, notes)


def _create_pack(folder: Path, key: str, source: AnnotationFiles, rule: ResizeRule) -> Pack:
    """Decode all images into a temporary folder, which gets its final name when it is complete."""
    annotations = source.read()
    for name, images in (("training", annotations.train), ("test", annotations.test)):
        if not images:
            raise DatasetError(f"{source.name}'s {name} split in {visible(str(source.root))} has no images")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process; the lock shows that no other process uses it
    partial.mkdir()
    total = len(annotations.train) + len(annotations.test)
    _log.info("packing %d images of %s into %s for this and later starts", total, source.name, partial.parent)
    try:
        start = time.monotonic()
        stamp = _stamp(source.root, [image.path for image in (*annotations.train, *annotations.test)])
        content = hashlib.sha256(json.dumps([annotations.classes, annotations.category_ids]).encode())
        notes = note_shared_images(annotations)
        for name, images in (("train", annotations.train), ("test", annotations.test)):
            notes += _write_split(partial, name, source, images, rule, content)
        metadata: dict[str, object] = {
            "name": visible(source.name),
            "classes": annotations.classes,
            "category_ids": annotations.category_ids,
            "content": content.hexdigest(),
            "images": stamp,
            "notes": notes.as_json(),
        }
        write_json(partial / "pack.json", metadata)
        shutil.rmtree(folder, ignore_errors=True)  # a damaged pack, or one of earlier images
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _log.info("packed %d images of %s in %.0f s", total, source.name, time.monotonic() - start)
    pack = _open_pack(folder, key, source.root)
    if pack is None:
        raise DatasetError(f"{folder} was written but cannot be read again; check its disk")
    return pack


def _write_split(
    folder: Path,
    name: str,
    source: AnnotationFiles,
    images: Sequence[AnnotatedImage],
    rule: ResizeRule,
    content: hashlib._Hash,
) -> DecodingNotes:
    """Decode the images of a split in order, and return notes about them.

    Args:
        folder: The folder of the pack.
        name: Name of the split.
        source: The data set.
        images: The images of the split.
        rule: The size in which a network sees them.
        content: Hash that is updated with the bytes, the id and the objects of each image.

    Raises:
        DatasetError: Some images cannot be read; the message names them.
        OSError: A file cannot be written.
    """
    content.update(f"{name} {len(images)}\n".encode())
    paths = [source.root / image.path for image in images]
    notes, unreadable = DecodingNotes(), list[str]()
    stored, originals, objects = list[tuple[int, ...]](), list[tuple[int, int]](), []
    reported = time.monotonic()
    with (folder / f"{name}.bin").open("wb") as out:
        photos = decode_all(paths, lambda number: decode_photo(paths[number], images[number].size, rule))
        for image, path, result in zip(images, paths, photos, strict=True):
            if isinstance(result, str):
                unreadable.append(f"{visible(str(path))} ({visible(result)})")
                if len(unreadable) == MAX_UNREADABLE:
                    break
            elif not unreadable:
                photo = result.image
                found, box_notes = within_image(image.objects, photo.original, image.path)
                notes += DecodingNotes.of(photo.notes, image.path) + box_notes
                out.write(photo.pixels.tobytes())
                content.update(f"{image.id} {result.digest}{' upright' * (UPRIGHT in photo.notes)}\n".encode())
                for column in fields(found):
                    content.update(getattr(found, column.name).tobytes())
                stored.append(photo.pixels.shape[1:])
                originals.append(photo.original)
                objects.append(found)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                _log.info("%s: %d of %d images of %s", source.name, len(stored), len(images), name)
        out.flush()
        os.fsync(out.fileno())
    if unreadable:
        raise unreadable_error(source.name, unreadable)
    all_objects = Objects.joined(objects)
    np.savez(
        folder / f"{name}.npz",
        stored=np.array(stored, dtype=np.int64),
        originals=np.array(originals, dtype=np.int64),
        ids=np.array([image.id for image in images], dtype=np.int64),
        paths=np.frombuffer("\0".join(image.path for image in images).encode(errors="surrogateescape"), np.uint8),
        **{column.name: getattr(all_objects, column.name) for column in fields(Objects)},
    )
    return notes


def _read_split(folder: Path, name: str) -> DetectionSplit:
    """Map the images of a split, and read its objects.

    Raises:
        OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile: The files are missing or damaged.
    """
    # NumPy leaves a damaged file open if it opens it itself.
    with (folder / f"{name}.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        columns = {key: arrays[key] for key in arrays.files}
    stored = columns["stored"]
    lengths = 3 * stored.prod(axis=1)
    return DetectionSplit(
        pixels=map_bytes(folder / f"{name}.bin", int(lengths.sum())),
        offsets=np.cumsum(lengths) - lengths,
        stored=stored,
        originals=columns["originals"],
        objects=Objects(**{column.name: columns[column.name] for column in fields(Objects)}),
        ids=columns["ids"],
        paths=tuple(columns["paths"].tobytes().decode(errors="surrogateescape").split("\0")),
    )
