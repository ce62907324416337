"""Decoding of a split's image files into one file of raw pixels."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from core.tasks.classification.data.decoding import DecodedImage, decode_image
from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.image_files import ImageFile
from core.tasks.classification.data.statistics import LevelCounts, Statistics
from core.undecodable import visible

_log = logging.getLogger(__name__)
CHANNELS = 3
_CHUNK = 512  # images submitted to the threads at once
_MAX_UNREADABLE = 10  # unreadable images after which decoding stops
_REPORT_SECONDS = 30.0


@dataclass(frozen=True)
class SplitSummary:
    """Properties of the images of one split.

    Attributes:
        statistics: mean and standard deviation per channel.
        notes: notes about the decoding.
        treated: whether an earlier decoding version gave other pixels of some images.
    """

    statistics: Statistics
    notes: DecodingNotes
    treated: bool


def write_split(
    path: Path, name: str, root: Path, files: Sequence[ImageFile], image_size: int, content: hashlib._Hash
) -> SplitSummary:
    """Decode the files in order into ``path`` (bytes, images × channels × height × width).

    Args:
        path: the file to write.
        name: name of the data set, for messages.
        root: folder to which the paths of the files are relative.
        files: the image files.
        image_size: side of the stored images in pixels.
        content: hash that is updated with the label and the bytes of each file.

    Raises:
        DatasetError: some images cannot be read; the message names them.
        OSError: the file cannot be written.
    """
    content.update(f"{path.stem} {len(files)}\n".encode())
    counts = LevelCounts(CHANNELS)
    unreadable: list[str] = []
    notes = DecodingNotes()
    treated = False
    reported = time.monotonic()
    with path.open("wb") as out:
        for number, result in enumerate(_decode_all(root, files, image_size)):
            if isinstance(result, str):
                unreadable.append(f"{visible(str(root / files[number].path))} ({visible(result)})")
                if len(unreadable) == _MAX_UNREADABLE:
                    break
            elif not unreadable:
                image = result.image
                counts.add(image.pixels[None])
                out.write(image.pixels.tobytes())
                treatment = f" {image.treatment}" if image.treatment else ""
                content.update(f"{files[number].label} {result.digest}{treatment}\n".encode())
                treated = treated or bool(treatment)
                notes += DecodingNotes.of(image.notes, files[number].path)
            if time.monotonic() - reported > _REPORT_SECONDS:
                reported = time.monotonic()
                _log.info("%s: %d of %d images of %s", name, number + 1, len(files), path.stem)
        out.flush()
        os.fsync(out.fileno())
    if unreadable:
        at_least = f"at least {_MAX_UNREADABLE} images" if len(unreadable) == _MAX_UNREADABLE else ""
        raise DatasetError(
            f"{name} is not packed: {at_least or f'{len(unreadable)} image(s)'} cannot be read: "
            f"{'; '.join(unreadable)}. Replace or remove these files."
        )
    return SplitSummary(counts.statistics(), notes, treated)


@dataclass(frozen=True)
class _HashedImage:
    """A decoded image and the SHA-256 of its file."""

    image: DecodedImage
    digest: str


def _decode_all(root: Path, files: Sequence[ImageFile], image_size: int) -> Iterator[_HashedImage | str]:
    """Yield for each file, in order, its image or the reason why it cannot be read."""

    def decode(file: ImageFile) -> _HashedImage | str:
        try:
            path = root / file.path
            with path.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return _HashedImage(decode_image(path, image_size), digest)
        except Exception as error:  # noqa: BLE001 (the decoders raise any exception for a damaged file)
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first in range(0, len(files), _CHUNK):
            yield from threads.map(decode, files[first : first + _CHUNK])
