"""The per-item results of one run in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

ITEMS_NAME = "items.parquet"

ITEM = "item"
"""Column with the position of each sample in the test split."""


class ItemsError(Exception):
    """Per-item results cannot be read, or cannot be compared; the text gives the reason."""


@dataclass(frozen=True)
class Items:
    """What each test sample got in one run, in the order of the test split.

    Attributes:
        columns: (N,) arrays by name. ``item`` is always there; the other columns are the task's.
        task: Name of the task.
        images: What identifies the data, see ``core.events.IMAGES_KEY``.
        fingerprint: Fingerprint of the run's spec.
        classes: Class names in the order of the class numbers; empty if they are unknown.
    """

    columns: Mapping[str, NDArray[Any]]
    task: str = ""
    images: str = ""
    fingerprint: str = ""
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns[ITEM])

    def column(self, name: str) -> NDArray[Any]:
        """Return a column.

        Raises:
            ItemsError: The run has no such column.
        """
        try:
            return self.columns[name]
        except KeyError:
            present = ", ".join(self.columns)
            raise ItemsError(f"these per-item results have no column {name!r}, only {present}") from None
