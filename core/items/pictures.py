"""Small pictures of some test images, so that results can be looked at where the data are not."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.items.file import DIGEST, file_content, read_table, with_digest
from core.items.table import ITEM, ItemsError

LONG_SIDE = 480
"""Pixels of the long side of a picture at most."""

_METADATA, _VERSION = b"dkd_pictures", 1
_JPEG = "jpeg"


def encode_pictures(images: Iterable[tuple[int, NDArray[np.uint8]]], most_bytes: int | None = None) -> bytes:
    """Return the content of the file, in which the images have the order of their indices.

    Args:
        images: The index of a test image, and its pixels (height, width, 3).
        most_bytes: Bytes of all pictures; the first ones that fit are kept. None for no limit.
    """
    kept: dict[int, bytes] = {}
    size = 0
    for number, pixels in images:
        picture = _jpeg(pixels)
        size += len(picture)
        if most_bytes is not None and size > most_bytes:
            break
        kept[number] = picture
    numbers = sorted(kept)
    pictures = [kept[number] for number in numbers]
    table = pa.table({ITEM: pa.array(numbers, pa.int64()), _JPEG: pa.array(pictures, pa.binary())})
    table = table.replace_schema_metadata({_METADATA: json.dumps({"version": _VERSION, **DIGEST})})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    return with_digest(sink.getvalue())


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    # Imported here, because a backend that only reads pictures has no Pillow.
    from PIL import Image

    picture = Image.fromarray(pixels)
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def read_pictures(path: Path) -> Mapping[int, bytes]:
    """Return the JPEG files of a run by the index of the test image.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return decode_pictures(file_content(path), path)


def decode_pictures(content: bytes, name: Path | str, most_bytes: int | None = None) -> Mapping[int, bytes]:
    """Return the JPEG files by the index of the test image, from the content of a run's file.

    Args:
        content: The file.
        name: What errors call the file.
        most_bytes: Largest size of the pictures; None for no limit.

    Raises:
        ItemsError: The file is damaged, of another kind, of a newer version, or too large.
    """
    table, description = read_table(content, name, _METADATA, most_bytes)
    if description is None or not {ITEM, _JPEG} <= set(table.column_names):
        raise ItemsError(f"{name}: a Parquet file, but not with the pictures of a run")
    if description.get("version") != _VERSION:
        raise ItemsError(f"{name}: format version {description.get('version')}, and this program reads {_VERSION}")
    numbers, pictures = table.column(ITEM).to_pylist(), table.column(_JPEG).to_pylist()
    if not all(isinstance(number, int) for number in numbers) or not all(isinstance(one, bytes) for one in pictures):
        raise ItemsError(f"{name}: its columns are not those of pictures")
    return dict(zip(numbers, pictures, strict=True))
