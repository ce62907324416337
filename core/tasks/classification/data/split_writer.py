"""Decoding of a split's image files into one file of raw pixels."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.tasks.classification.data.decoding import decode_image
from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.classification.data.image_files import ImageFile
from core.tasks.classification.data.pack_files import MAX_UNREADABLE, decode_all, unreadable_error
from core.tasks.classification.data.statistics import LevelCounts, Statistics
from core.undecodable import visible

_log = logging.getLogger(__name__)
CHANNELS = 3
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
    paths = [root / file.path for file in files]
    counts = LevelCounts(CHANNELS)
    unreadable: list[str] = []
    notes = DecodingNotes()
    treated = False
    reported = time.monotonic()
    with path.open("wb") as out:
        for number, result in enumerate(decode_all(paths, lambda number: decode_image(paths[number], image_size))):
            if isinstance(result, str):
                unreadable.append(f"{visible(str(paths[number]))} ({visible(result)})")
                if len(unreadable) == MAX_UNREADABLE:
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
        raise unreadable_error(name, unreadable)
    return SplitSummary(counts.statistics(), notes, treated)
