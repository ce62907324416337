"""The Parquet file with the detections of a run on its test images."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from core.items.detection_table import ALL_KINDS, SOURCES, DetectionTable
from core.items.file import DIGEST, file_content, read_table, with_digest
from core.items.table import ItemsError

SCHEMA_VERSION = 1
"""Incremented when a column gets another meaning. A new column does not change it."""

_METADATA = b"dkd_detections"
_CORNERS = ("x1", "y1", "x2", "y2")
_COLUMNS = ("item", "source", "label", "score", *_CORNERS, "area", "kind", "matched")


def encode_detections(table: DetectionTable) -> bytes:
    """Return the content of the file. Equal results give equal bytes under one version of pyarrow."""
    description = {
        "version": SCHEMA_VERSION,
        "task": table.task,
        "images": table.data,
        "fingerprint": table.fingerprint,
        "classes": table.classes,
        "count": table.images,
        "ids": table.ids.tolist(),
        "names": table.names,
        "sizes": None if table.sizes is None else table.sizes.tolist(),
        "scores": {source: dict(scores) for source, scores in table.scores.items()},
        **DIGEST,
    }
    columns = {
        "item": _small(table.item),
        "source": _words(table.source, SOURCES),
        "label": _small(table.label),
        "score": table.score,
        **{name: table.boxes[:, at] for at, name in enumerate(_CORNERS)},
        "area": table.area,
        "kind": _words(table.kind, ALL_KINDS),
        "matched": table.matched.astype(np.int32),
    }
    content = pa.table(columns)
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        content.schema,
        compression="zstd",
        use_dictionary=["source", "label", "kind"],
        column_encoding=dict.fromkeys(("score", *_CORNERS, "area"), "BYTE_STREAM_SPLIT")
        | dict.fromkeys(("item", "matched"), "DELTA_BINARY_PACKED"),
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(content, row_group_size=max(len(table), 1))
        writer.add_key_value_metadata({_METADATA: json.dumps(description)})
    return with_digest(sink.getvalue())


def read_detections(path: Path) -> DetectionTable:
    """Read the detections of a run.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return decode_detections(file_content(path), path)


def decode_detections(content: bytes, name: Path | str, most_bytes: int | None = None) -> DetectionTable:
    """Return the detections of a run from the content of its file.

    Args:
        content: The file.
        name: What errors call the file.
        most_bytes: Largest size of its columns in memory; None for no limit.

    Raises:
        ItemsError: The file is damaged, of another kind, of a newer version, or too large.
    """
    columns, description = read_table(content, name, _METADATA, most_bytes)
    if description is None or not set(_COLUMNS) <= set(columns.column_names):
        raise ItemsError(f"{name}: a Parquet file, but not with the detections of a run")
    if description.get("version") != SCHEMA_VERSION:
        version = description.get("version")
        raise ItemsError(f"{name}: format version {version}, and this program reads version {SCHEMA_VERSION}")
    try:
        table = _table(columns, description)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise ItemsError(f"{name}: its columns or its description are not those of detections: {error}") from error
    if problem := _problem(table):
        raise ItemsError(f"{name}: {problem}")
    return table


def _table(content: Any, description: Mapping[str, Any]) -> DetectionTable:
    """Return the table from a file's columns and its description."""

    def column(name: str, dtype: Any) -> NDArray[Any]:
        values: NDArray[Any] = content.column(name).to_numpy()
        if content.column(name).null_count or values.dtype.kind not in "iuf":
            raise ValueError(f"the column {name!r} has values that are no numbers")
        return values.astype(dtype)

    sizes = description["sizes"]
    return DetectionTable(
        column("item", np.int64),
        _codes(content.column("source"), SOURCES),
        column("label", np.int64),
        column("score", np.float32),
        np.stack([column(name, np.float32) for name in _CORNERS], 1),
        column("area", np.float32),
        _codes(content.column("kind"), ALL_KINDS),
        column("matched", np.int64),
        int(description["count"]),
        task=str(description["task"]),
        data=str(description["images"]),
        fingerprint=str(description["fingerprint"]),
        classes=tuple(map(str, description["classes"])),
        ids=np.array(description["ids"], np.int64),
        names=tuple(map(str, description["names"])),
        sizes=None if sizes is None else np.array(sizes, np.int64).reshape(-1, 2),
        scores={
            str(source): {str(name): float(value) for name, value in scores.items()}
            for source, scores in description["scores"].items()
        },
    )


def _problem(table: DetectionTable) -> str:
    """Return the first property of the table that makes it unusable; "" if it is usable."""
    rows, images = len(table), table.images
    outside = rows and (table.item.min() < 0 or table.item.max() >= images or (np.diff(table.item) < 0).any())
    if outside or images < 0:
        return f"its rows are not ordered by image, or not of the {images} images that it describes"
    if rows and (table.label.min() < 1 or table.label.max() > len(table.classes)):
        return f"a row has a class that is none of its {len(table.classes)} classes"
    if not np.isfinite(table.boxes).all() or not np.isfinite(table.score[table.source > 0]).all():
        return "a box or a score is not finite"
    if rows and (table.matched.min() < -1 or table.matched.max() >= rows):
        return "a detection is matched with a row that does not exist"
    if len(table.ids) != images or len(table.names) not in (0, images):
        return "it does not describe each of its images"
    if table.sizes is not None and len(table.sizes) != images:
        return "it does not describe each of its images"
    return ""


def _small(values: NDArray[np.int64]) -> NDArray[Any]:
    """Return numbers from 0 on in the smallest unsigned type."""
    return values.astype(np.min_scalar_type(int(values.max(initial=0))))


def _words(codes: NDArray[np.uint8], words: tuple[str, ...]) -> Any:
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), pa.array(words)).cast(pa.string())


def _codes(column: Any, words: tuple[str, ...]) -> NDArray[np.uint8]:
    encoded = column.combine_chunks().dictionary_encode()
    known = np.array([words.index(word) for word in encoded.dictionary.to_pylist()], np.uint8)
    codes: NDArray[np.uint8] = known[encoded.indices.to_numpy()] if len(encoded) else np.zeros(0, np.uint8)
    return codes
