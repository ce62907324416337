"""Files of packs: their identity, their memory maps, and how they are written."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from core.tasks.classification.data.errors import DatasetError
from core.undecodable import visible

MAX_UNREADABLE = 10
"""Unreadable images after which decoding stops."""
_CHUNK = 512  # images submitted to the threads at once
# Without this flag Linux reserves memory for a private map, and refuses a map larger than the machine's memory.
# Python has the constant from version 3.13.
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)

Image = TypeVar("Image")


def file_status(path: Path) -> os.stat_result:
    """Return the status of a regular file, which shows whether it has changed.

    Raises:
        DatasetError: the file cannot be read, or is not a regular file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DatasetError(f"{visible(str(path))} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block
        raise DatasetError(f"{visible(str(path))} is not a regular file")
    return status


def map_bytes(path: Path, count: int) -> Tensor:
    """Map the bytes (count,) of a file; count ≥ 1.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file has another length.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size != count:
            raise ValueError(f"{path} does not have {count} bytes")
        # Private and writable: a write to a tensor on read-only memory would end the process.
        flags = mmap.MAP_PRIVATE | _NO_RESERVE
        area = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(area, dtype=torch.uint8)


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write JSON, and wait until it is on the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True)
class HashedImage(Generic[Image]):
    """A decoded image and the SHA-256 of its file."""

    image: Image
    digest: str


def decode_all(paths: Sequence[Path], decode: Callable[[int], Image]) -> Iterator[HashedImage[Image] | str]:
    """Yield for each file, in order, its image or the reason why it cannot be read.

    Args:
        paths: the files.
        decode: returns the image of a file, given its number; it runs in several threads.
    """

    def hashed(number: int) -> HashedImage[Image] | str:
        try:
            with paths[number].open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            return HashedImage(decode(number), digest)
        except Exception as error:  # noqa: BLE001 (the decoders raise any exception for a damaged file)
            return f"{type(error).__name__}: {error}"

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        for first in range(0, len(paths), _CHUNK):
            yield from threads.map(hashed, range(first, min(first + _CHUNK, len(paths))))


def unreadable_error(name: str, unreadable: Sequence[str]) -> DatasetError:
    """Return the error for images that cannot be read.

    Args:
        name: name of the data set.
        unreadable: their paths with the reasons, at most ``MAX_UNREADABLE``.
    """
    at_least = f"at least {MAX_UNREADABLE} images" if len(unreadable) == MAX_UNREADABLE else ""
    return DatasetError(
        f"{name} is not packed: {at_least or f'{len(unreadable)} image(s)'} cannot be read: "
        f"{'; '.join(unreadable)}. Replace or remove these files."
    )
