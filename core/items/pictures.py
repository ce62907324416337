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
from PIL import Image

from core.items.file import DIGEST, read_table, with_digest
from core.items.table import ITEM, ItemsError

LONG_SIDE = 480
"""Pixels of the long side of a picture at most."""

_METADATA, _VERSION = b"dkd_pictures", 1
_JPEG = "jpeg"


def encode_pictures(images: Iterable[tuple[int, NDArray[np.uint8]]]) -> bytes:
    """Return the content of the file.

    Args:
        images: The number of a test image, and its pixels (height, width, 3).
    """
    numbers, pictures = [], []
    for number, pixels in images:
        numbers.append(number)
        pictures.append(_jpeg(pixels))
    table = pa.table({ITEM: pa.array(numbers, pa.int64()), _JPEG: pa.array(pictures, pa.binary())})
    table = table.replace_schema_metadata({_METADATA: json.dumps({"version": _VERSION, **DIGEST})})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="none", write_page_checksum=True)
    return with_digest(sink.getvalue())


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    return content.getvalue()


def read_pictures(path: Path) -> Mapping[int, bytes]:
    """Return the JPEG files of a run by the number of the test image.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    table, description = read_table(path, _METADATA)
    if description is None or not {ITEM, _JPEG} <= set(table.column_names):
        raise ItemsError(f"{path}: a Parquet file, but not with the pictures of a run")
    if description.get("version") != _VERSION:
        raise ItemsError(f"{path}: format version {description.get('version')}, and this program reads {_VERSION}")
    return dict(zip(table.column(ITEM).to_pylist(), table.column(_JPEG).to_pylist(), strict=True))
