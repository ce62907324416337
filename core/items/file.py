"""The Parquet file of a run's per-item results.

Parquet has checksums of its pages, but none of its footer. So this module writes a digest of both between the pages and
the footer, where programs that read Parquet ignore it. Files of earlier versions have no digest.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.items.table import ITEM, Items, ItemsError

SCHEMA_VERSION = 1
"""Incremented when a column gets another meaning. A new column does not change it."""

_METADATA = b"dkd_items"
_MARK = b"dkd-items-sha256"
DIGEST = {"digest": True}
"""The part of the footer's description that announces the digest."""
_END = 8
"""Bytes after the footer: its length, and Parquet's magic number."""


def encode_items(items: Items) -> bytes:
    """Return the content of the file. Equal results give equal bytes under one version of pyarrow."""
    description = {
        "version": SCHEMA_VERSION,
        "task": items.task,
        "images": items.images,
        "fingerprint": items.fingerprint,
        "classes": items.classes,
        **DIGEST,
    }
    table = pa.table(dict(items.columns))
    # Classes repeat, so that an index of a few bits replaces each of them. Probabilities do not repeat.
    classes = [name for name, values in items.columns.items() if values.dtype.kind in "iu" and name != ITEM]
    sink = io.BytesIO()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        use_dictionary=classes,
        column_encoding={ITEM: "DELTA_BINARY_PACKED"},
        # Statistics and a second copy of the schema take 1 kB, which is a fifth of the file for 360 images.
        write_statistics=False,
        store_schema=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table, row_group_size=max(len(items), 1))
        writer.add_key_value_metadata({_METADATA: json.dumps(description)})
    return with_digest(sink.getvalue())


def with_digest(content: bytes) -> bytes:
    """Return a Parquet file with a digest added, if its description contains ``DIGEST``, which announces it."""
    pages, footer = _parts(content)
    return pages + _MARK + hashlib.sha256(pages + footer).digest() + footer


def _digest_problem(content: bytes, *, expected: bool) -> str:
    """Return why the digest of a file shows damage; empty if it does not.

    Args:
        content: The file.
        expected: Whether the file has a digest according to its footer.
    """
    pages, footer = _parts(content)
    size = len(_MARK) + hashlib.sha256().digest_size
    written = pages[-size:]
    if not written.startswith(_MARK):
        return "its digest is missing" if expected else ""
    if not expected or written[len(_MARK) :] != hashlib.sha256(pages[:-size] + footer).digest():
        return "its content does not have the digest that was written with it"
    return ""


def _parts(content: bytes) -> tuple[bytes, bytes]:
    """Return the pages of a Parquet file, and its footer with what follows."""
    length = int.from_bytes(content[-_END:-4], "little")
    start = max(len(content) - _END - length, 0)
    return content[:start], content[start:]


def read_items(path: Path) -> Items:
    """Read the per-item results of a run.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return decode_items(file_content(path), path)


def decode_items(content: bytes, name: Path | str, most_bytes: int | None = None) -> Items:
    """Return the per-item results from the content of a run's file.

    Args:
        content: The file.
        name: What errors call the file.
        most_bytes: Largest size of its columns in memory; None for no limit.

    Raises:
        ItemsError: The file is damaged, of another kind, of a newer version, or too large.
    """
    table, description = read_table(content, name, _METADATA, most_bytes)
    if description is None or ITEM not in table.column_names:
        raise ItemsError(f"{name}: a Parquet file, but not with the per-item results of a run")
    version, classes = description.get("version"), description.get("classes")
    if version != SCHEMA_VERSION:
        raise ItemsError(f"{name}: format version {version}, and this program reads version {SCHEMA_VERSION}")
    return Items(
        {column: _array(name, column, table.column(column)) for column in table.column_names},
        task=str(description.get("task", "")),
        images=str(description.get("images", "")),
        fingerprint=str(description.get("fingerprint", "")),
        classes=tuple(map(str, classes)) if isinstance(classes, list) else (),
    )


def file_content(path: Path) -> bytes:
    """Return the bytes of a file.

    Raises:
        ItemsError: The file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise ItemsError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_table(
    content: bytes, name: Path | str, key: bytes, most_bytes: int | None = None
) -> tuple[Any, dict[str, Any] | None]:
    """Return a Parquet table, and the description under a key of its metadata; None if there is none.

    Args:
        content: The file.
        name: What errors call the file.
        key: The key.
        most_bytes: Largest size of its columns in memory, by its footer; None for no limit.

    Raises:
        ItemsError: The file is damaged, no Parquet file, or too large.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        size = sum(file.metadata.row_group(index).total_byte_size for index in range(file.metadata.num_row_groups))
        if most_bytes is not None and size > most_bytes:
            raise ItemsError(f"{name}: its columns take {size:,} bytes, and {most_bytes:,} is the limit here")
        table = file.read(use_threads=False)
        description = json.loads((table.schema.metadata or {}).get(key, "null"))
    # Arrow raises OSError for a damaged page, and deeply nested JSON a RecursionError.
    except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ItemsError(f"{name}: damaged, or not a Parquet file: {reason}") from error
    if not isinstance(description, dict):
        return table, None
    if problem := _digest_problem(content, expected=bool(description.get("digest"))):
        raise ItemsError(f"{name}: damaged: {problem}")
    return table, description


def _array(file: Path | str, name: str, column: Any) -> np.ndarray[Any, Any]:
    values: np.ndarray[Any, Any] = column.to_numpy()
    if column.null_count or values.dtype.kind not in "biuf":
        raise ItemsError(f"{file}: the column {name!r} has values that are no numbers")
    return values
