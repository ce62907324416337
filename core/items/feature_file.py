"""The Parquet file of a run's penultimate features: one row per network, epoch and image."""

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

from core.items.features import FINAL, MEASURES, FeatureImages, NetworkFeatures, RunFeatures, Snapshot
from core.items.file import DIGEST, file_content, read_table, with_digest
from core.items.table import ITEM, ItemsError

_METADATA, _VERSION = b"dkd_features", 1
_NETWORKS = ("student", "teacher")
_DIGITS = 6


def encode_features(found: RunFeatures) -> bytes:
    """Return the content of the file. Equal results give equal bytes under one version of pyarrow."""
    description = {
        "version": _VERSION,
        "data": found.data,
        "fingerprint": found.fingerprint,
        "classes": found.classes,
        "networks": {name: _describe(network) for name, network in found.networks.items()},
        **DIGEST,
    }
    rows = [
        (name, epoch, network.images, kept.values)
        for name, network in found.networks.items()
        for epoch, kept in sorted(network.snapshots.items())
    ]
    counts = [len(images.items) for _, _, images, _ in rows]
    lengths = np.concatenate([[0], *(np.full(len(values), values.shape[1]) for *_, values in rows)])
    flat = np.concatenate([np.zeros(0, np.float16), *(values.ravel() for *_, values in rows)])
    table = pa.table(
        {
            "network": pa.array(np.repeat([name for name, *_ in rows], counts).tolist(), pa.string()),
            "epoch": pa.array(np.repeat([epoch for _, epoch, *_ in rows], counts).astype(np.int32)),
            ITEM: pa.array(_joined([images.items for *_, images, _ in rows]), pa.int64()),
            "label": pa.array(_joined([images.labels for *_, images, _ in rows]), pa.int64()),
            "features": pa.ListArray.from_arrays(pa.array(np.cumsum(lengths), pa.int32()), pa.array(flat)),
        }
    ).replace_schema_metadata({_METADATA: json.dumps(description)})
    sink = io.BytesIO()
    dictionary = ["network", "epoch", "label", ITEM]
    pq.write_table(table, sink, compression="zstd", use_dictionary=dictionary, write_page_checksum=True)
    return with_digest(sink.getvalue())


def _describe(network: NetworkFeatures) -> dict[str, Any]:
    return {
        "classes": network.images.classes.tolist(),
        "measured": network.images.measured,
        "measured_classes": network.images.measured_classes,
        "snapshots": [
            {
                "epoch": epoch,
                "measures": {name: _number(kept.measures.get(name, np.nan), None) for name in MEASURES},
                "cosines": [_number(value, _DIGITS) for value in kept.cosines.tolist()],
            }
            for epoch, kept in sorted(network.snapshots.items())
        ],
    }


def _number(value: float, digits: int | None) -> float | None:
    """Return a number as JSON has it: null for one that is not finite."""
    if not np.isfinite(value):
        return None
    return float(value) if digits is None else round(float(value), digits)


def _joined(parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def read_features(path: Path) -> RunFeatures:
    """Return the features of a run.

    Raises:
        ItemsError: The file is missing, damaged, of another kind, or of a newer version.
    """
    return decode_features(file_content(path), path)


def decode_features(content: bytes, name: Path | str, most_bytes: int | None = None) -> RunFeatures:
    """Return the features from the content of a run's file.

    Args:
        content: The file.
        name: What errors call the file.
        most_bytes: Largest size of its columns in memory; None for no limit.

    Raises:
        ItemsError: The file is damaged, of another kind, of a newer version, or too large.
    """
    table, description = read_table(content, name, _METADATA, most_bytes)
    if description is None or not {"network", "epoch", ITEM, "label", "features"} <= set(table.column_names):
        raise ItemsError(f"{name}: a Parquet file, but not with the features of a run")
    if description.get("version") != _VERSION:
        raise ItemsError(f"{name}: format version {description.get('version')}, and this program reads {_VERSION}")
    classes = description.get("classes")
    try:
        networks = _networks(table, description["networks"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, pa.ArrowException) as error:
        raise ItemsError(f"{name}: its columns are not those of features") from error
    return RunFeatures(
        networks,
        str(description.get("data", "")),
        str(description.get("fingerprint", "")),
        tuple(map(str, classes)) if isinstance(classes, list) else (),
    )


def _networks(table: Any, described: Mapping[str, Any]) -> dict[str, NetworkFeatures]:
    """Return the features of each network from the rows of the table.

    Raises:
        ValueError: Description and rows do not fit together.
        KeyError, TypeError, AttributeError, pa.ArrowException: A value is missing, or of another kind.
    """
    names = np.array(table.column("network").to_pylist(), dtype=object)
    epochs, items, labels = (table.column(column).to_numpy() for column in ("epoch", ITEM, "label"))
    lists = table.column("features").combine_chunks()
    starts, flat = lists.offsets.to_numpy(), lists.values.to_numpy(zero_copy_only=False)
    if table.column("features").null_count or flat.dtype != np.float16 or epochs.dtype.kind not in "iu":
        raise ValueError("other types")
    found = {}
    for network in (network for network in _NETWORKS if network in described):
        snapshots: dict[int, Snapshot] = {}
        images: FeatureImages | None = None
        for entry in described[network]["snapshots"]:
            epoch = int(entry["epoch"])
            rows = np.flatnonzero((names == network) & (epochs == epoch))
            if not len(rows) or epoch < FINAL or rows[-1] - rows[0] + 1 != len(rows):
                raise ValueError("rows are missing")
            values = flat[starts[rows[0]] : starts[rows[-1] + 1]].reshape(len(rows), -1)
            images = images or _images(items[rows], labels[rows], described[network])
            if not (np.array_equal(items[rows], images.items) and np.array_equal(labels[rows], images.labels)):
                raise ValueError("other images")
            cosines = np.array([np.nan if value is None else value for value in entry["cosines"]], np.float16)
            size = len(images.classes)
            if len(cosines) != size * (size - 1) // 2 or not values.shape[1]:
                raise ValueError("other classes")
            measures = {str(key): float("nan" if value is None else value) for key, value in entry["measures"].items()}
            snapshots[epoch] = Snapshot(values, cosines, measures)
        if images:
            found[network] = NetworkFeatures(images, snapshots)
    if "student" not in found:
        raise ValueError("no features")
    return found


def _images(items: NDArray[Any], labels: NDArray[Any], described: Mapping[str, Any]) -> FeatureImages:
    classes = np.array(described["classes"], np.int64)
    if items.dtype.kind not in "iu" or labels.dtype.kind not in "iu" or not np.isin(labels, classes).all():
        raise ValueError("other classes")
    return FeatureImages(
        items.astype(np.int64),
        labels.astype(np.int64),
        classes,
        int(described["measured"]),
        int(described["measured_classes"]),
    )
