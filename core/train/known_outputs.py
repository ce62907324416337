"""The outputs of a teacher in one epoch, as far as they are known: to a run alone, or to all runs of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core.train.quantization import QuantizationResult, Table
from core.turns import in_group


@dataclass
class KnownOutputs:
    """The outputs of one epoch.

    Runs of a group that see the same views have one object together, so that the teacher's network runs once for each
    batch. On a GPU they compute on streams of their own: what one of them wrote is read after an event.

    Attributes:
        table: The rows as they are cached; None if an epoch takes too much memory or is not cached.
        from_disk: Whether the table was read.
        images: Images whose rows were computed here.
        written: Whether a run has begun to write the table to the disk.
    """

    table: Table | None = None
    from_disk: bool = False
    images: int = 0
    written: bool = False
    _all_fit: Tensor | None = None
    _batches: dict[tuple[int, int], tuple[Mapping[str, Tensor], torch.cuda.Event | None]] = field(default_factory=dict)
    _last: torch.cuda.Event | None = None

    def add(self, index: Tensor, results: Mapping[str, QuantizationResult]) -> None:
        """Add what the network gave for a batch.

        Args:
            index: (B,), the samples, on the CPU.
            results: The outputs by name, after the quantization.
        """
        if self.table is None:
            return
        _wait(self._last)
        device = next(iter(self.table.values())).mean.device
        places = index.to(device, non_blocking=True)
        for name, rows in self.table.items():
            rows.replace_rows(places, results[name].stored)
            fit = results[name].fits.all()
            self._all_fit = fit if self._all_fit is None else self._all_fit & fit
        self.images += len(index)
        if in_group():
            self._last = _event(device)
            self._batches[_key(index)] = {name: result.values for name, result in results.items()}, self._last

    def batch(self, index: Tensor) -> Mapping[str, Tensor] | None:
        """Return the outputs of a batch that another run of the group has computed; None if none has.

        Args:
            index: (B,), the samples, on the CPU.
        """
        if not self._batches or (found := self._batches.get(_key(index))) is None:
            return None
        values, event = found
        _wait(event)
        return values

    def all_fit(self) -> bool:
        """Return whether the quantization keeps every row that was computed. The host waits for the device."""
        _wait(self._last)
        return self._all_fit is not None and bool(self._all_fit)


def _key(index: Tensor) -> tuple[int, int]:
    """Return what identifies a batch of an epoch, in which each sample is once: its first sample and its size."""
    return int(index[0]), len(index)


def _event(device: torch.device) -> torch.cuda.Event | None:
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _wait(event: torch.cuda.Event | None) -> None:
    if event is not None:
        event.wait()
