"""Reads what finished runs say of their test images from the artifact store, and keeps the last files in memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from backend.artifacts.run_files import Store
from core.items.correlations import CORRELATIONS_NAME, Correlations
from core.items.detection_table import DETECTIONS_NAME, DetectionTable
from core.items.features import FEATURES_NAME, RunFeatures
from core.items.picture_choice import PICTURES_NAME
from core.items.table import ITEMS_NAME, Items, ItemsError

MOST_FILE_BYTES = 64 << 20
"""Size of a file that is read; 5,000 images with 100 detections of two networks take 20 MB."""
_MOST_BYTES = 256 << 20
"""Size of a file's columns in memory."""
_KEPT_BYTES = 128 << 20
"""Bytes of all that is kept; the last file is kept whatever its size."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Kept:
    value: object
    size: int


class RunResults:
    """Per-item results, correlations, features, detections and pictures by run.

    A run that has succeeded has one attempt whose files do not change.

    One file is read at a time, so that the memory that reading takes does not grow with the number of requests.

    Args:
        store: The artifact store.
        kept_bytes: Bytes of what is kept in memory.
    """

    def __init__(self, store: Store, kept_bytes: int = _KEPT_BYTES) -> None:
        self._store = store
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[tuple[str, int, str], _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def items(self, run_id: str, attempt: int) -> Items | None:
        """Return the per-item results of a run; None if its attempt has written none.

        Raises:
            ItemsError: The file is damaged or too large.
        """
        return self._read(run_id, attempt, ITEMS_NAME, _decoded_items, _item_bytes)

    def correlations(self, run_id: str, attempt: int) -> Correlations | None:
        """Return the correlations of a run's logits; None if its attempt has written none.

        Raises:
            ItemsError: The file is damaged or too large.
        """
        return self._read(run_id, attempt, CORRELATIONS_NAME, _decoded_correlations, _correlation_bytes)

    def features(self, run_id: str, attempt: int) -> RunFeatures | None:
        """Return the penultimate features of a run; None if its attempt has written none.

        Raises:
            ItemsError: The file is damaged or too large.
        """
        return self._read(run_id, attempt, FEATURES_NAME, _decoded_features, _feature_bytes)

    def table(self, run_id: str, attempt: int) -> DetectionTable | None:
        """Return the detections of a run; None if its attempt has written none.

        Raises:
            ItemsError: The file is damaged or too large.
        """
        return self._read(run_id, attempt, DETECTIONS_NAME, _decoded_table, _table_bytes)

    def pictures(self, run_id: str, attempt: int) -> Mapping[int, bytes]:
        """Return the JPEG files of a run by the index of the test image; none if its attempt has written none.

        Raises:
            ItemsError: The file is damaged or too large.
        """
        return self._read(run_id, attempt, PICTURES_NAME, _decoded_pictures, _picture_bytes) or {}

    def _read(
        self, run_id: str, attempt: int, name: str, decode: Callable[[bytes], T], size_of: Callable[[T], int]
    ) -> T | None:
        """Return the decoded file of an attempt, from memory if it is kept there; None if there is no such file."""
        key = (run_id, attempt, name)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key].value  # type: ignore[return-value]  # the name determines the type
            file = next((file for file in self._store.files(run_id, [attempt]) if file.name == name), None)
            if file is None:
                return None
            if file.size > MOST_FILE_BYTES:
                raise ItemsError(f"{name}: it has {file.size:,} bytes, and {MOST_FILE_BYTES:,} is the limit here")
            value = decode(b"".join(self._store.blocks(file, 0, file.size)))
            self._kept[key] = _Kept(value, size_of(value))
            while len(self._kept) > 1 and sum(kept.size for kept in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
            return value


def _decoded_items(content: bytes) -> Items:
    # Imported here and below, because pyarrow takes half a second, which a backend that nobody asks does not need.
    from core.items.file import decode_items

    return decode_items(content, ITEMS_NAME, _MOST_BYTES)


def _item_bytes(items: Items) -> int:
    return sum(column.nbytes for column in items.columns.values())


def _decoded_correlations(content: bytes) -> Correlations:
    from core.items.correlation_file import decode_correlations

    return decode_correlations(content, CORRELATIONS_NAME, _MOST_BYTES)


def _correlation_bytes(found: Correlations) -> int:
    return sum(values.nbytes for values in found.networks.values())


def _decoded_features(content: bytes) -> RunFeatures:
    from core.items.feature_file import decode_features

    return decode_features(content, FEATURES_NAME, _MOST_BYTES)


def _feature_bytes(found: RunFeatures) -> int:
    return found.nbytes


def _decoded_table(content: bytes) -> DetectionTable:
    from core.items.detection_file import decode_detections

    return decode_detections(content, DETECTIONS_NAME, _MOST_BYTES)


def _table_bytes(table: DetectionTable) -> int:
    arrays = (table.item, table.source, table.label, table.score, table.boxes, table.area, table.kind, table.matched)
    return sum(array.nbytes for array in arrays) + sum(map(len, table.names))


def _decoded_pictures(content: bytes) -> Mapping[int, bytes]:
    from core.items.pictures import decode_pictures

    return decode_pictures(content, PICTURES_NAME, _MOST_BYTES)


def _picture_bytes(pictures: Mapping[int, bytes]) -> int:
    return sum(map(len, pictures.values()))
