"""The Parquet file of the correlations of a run's logits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.items.correlations import MOST_CLASSES, Correlations
from core.items.file import DIGEST, file_content, read_table, with_digest
from core.items.table import ItemsError

_METADATA, _VERSION = b"dkd_correlations", 1
_NETWORKS = ("student", "teacher")


def encode_correlations(found: Correlations) -> bytes:
    """Return the content of the file. Equal results give equal bytes under one version of pyarrow."""
    description = {
        "version": _VERSION,
        "images": found.images,
        "fingerprint": found.fingerprint,
        "classes": found.classes,
        **DIGEST,
    }
    table = pa.table({name: pa.array(found.networks[name]) for name in _NETWORKS if name in found.networks})
    table = table.replace_schema_metadata({_METADATA: json.dumps(description)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return with_digest(sink.getvalue())


def read_correlations(path: Path) -> Correlations:
    """Return the correlations of a run.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return decode_correlations(file_content(path), path)


def decode_correlations(content: bytes, name: Path | str, most_bytes: int | None = None) -> Correlations:
    """Return the correlations from the content of a run's file.

    Args:
        content: The file.
        name: What errors call the file.
        most_bytes: Largest size of its columns in memory; None for no limit.

    Raises:
        ItemsError: The file is damaged, of another kind, of a newer version, or too large.
    """
    table, description = read_table(content, name, _METADATA, most_bytes)
    if description is None or "student" not in table.column_names:
        raise ItemsError(f"{name}: a Parquet file, but not with the correlations of a run")
    if description.get("version") != _VERSION:
        raise ItemsError(f"{name}: format version {description.get('version')}, and this program reads {_VERSION}")
    networks = {}
    for network in (network for network in _NETWORKS if network in table.column_names):
        column = table.column(network)
        values = column.to_numpy()
        if column.null_count or values.dtype.kind != "f":
            raise ItemsError(f"{name}: its columns are not those of correlations")
        networks[network] = values.astype(np.float16)
    classes = description.get("classes")
    found = Correlations(
        networks,
        str(description.get("images", "")),
        str(description.get("fingerprint", "")),
        tuple(map(str, classes)) if isinstance(classes, list) else (),
    )
    size = found.size
    if size > MOST_CLASSES or size * (size - 1) // 2 != table.num_rows or found.classes[size:]:
        raise ItemsError(f"{name}: it has {table.num_rows:,} correlations, which are not those of its classes")
    return found
