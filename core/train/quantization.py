"""The rounding of a teacher's outputs, the same for those that its network computes and those read from the disk.

The mean of a row is subtracted, the rest is rounded to float16, and the mean (float32) is added again. Subtracting the
mean first spends float16's digits on the differences, which are all that a softmax sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.distill.objective import Outputs

LOGITS = ""
"""The key of the logits where a network's outputs are in one table by name; a tap's name is not empty."""

MAX_DEVIATION = 256.0
MAX_ROUNDING_ERROR = 1 / 16
"""Half of float16's spacing below ``MAX_DEVIATION``: rows with numbers further from their mean are not rounded."""


@dataclass(frozen=True)
class QuantizedRows:
    """The logits of samples, or their vectors of one tap, as they are stored.

    Attributes:
        centred: (N, D) float16, each row with its mean subtracted.
        mean: (N,) float32, what was subtracted.
    """

    centred: Tensor
    mean: Tensor

    @staticmethod
    def zeros(samples: int, width: int, device: torch.device) -> QuantizedRows:
        """Return N rows of zeros."""
        return QuantizedRows(
            torch.zeros(samples, width, dtype=torch.float16, device=device), torch.zeros(samples, device=device)
        )

    def to(self, device: torch.device | str) -> QuantizedRows:
        """Return the rows on a device."""
        return QuantizedRows(self.centred.to(device), self.mean.to(device))

    def select(self, index: Tensor) -> QuantizedRows:
        """Return the rows of an index (B,)."""
        return QuantizedRows(self.centred[index], self.mean[index])

    def replace_rows(self, index: Tensor, rows: QuantizedRows) -> None:
        """Write other rows in the places of an index (B,)."""
        self.centred.index_copy_(0, index, rows.centred)
        self.mean.index_copy_(0, index, rows.mean)

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self.centred.nbytes + self.mean.nbytes


Table = dict[str, QuantizedRows]
"""Outputs of samples by name, the logits under ``LOGITS``."""


@dataclass(frozen=True)
class QuantizationResult:
    """The rows of a batch after the quantization.

    Attributes:
        stored: The rows as they are cached.
        values: (B, D) float32, as a run uses them: dequantized rows, or the original row if it does not fit.
        fits: (B,) bool, whether float16 holds the row well enough; a row with a NaN or an infinity does not fit.
    """

    stored: QuantizedRows
    values: Tensor
    fits: Tensor


def quantize(rows: Tensor) -> QuantizationResult:
    """Quantize rows (B, D)."""
    rows = rows.float()
    mean = rows.mean(1)
    deviation = rows - mean.unsqueeze(1)
    stored, fits = QuantizedRows(deviation.half(), mean), (deviation.abs() < MAX_DEVIATION).all(1)
    return QuantizationResult(stored, torch.where(fits.unsqueeze(1), dequantize(stored), rows), fits)


def dequantize(stored: QuantizedRows) -> Tensor:
    """Return rows (B, D) float32 from cached ones."""
    return stored.centred.float() + stored.mean.unsqueeze(1)


def quantize_outputs(outputs: Outputs) -> dict[str, QuantizationResult]:
    """Quantize the logits (B, C) and the taps that are vectors (B, D), by name; other taps are left out."""
    vectors = {name: tap for name, tap in outputs.taps.items() if tap.dim() == 2}
    return {name: quantize(rows) for name, rows in {LOGITS: outputs.logits, **vectors}.items()}


def outputs_of(values: Mapping[str, Tensor]) -> Outputs:
    """Return the outputs of a table, with the taps in its order."""
    return Outputs(values[LOGITS], {name: value for name, value in values.items() if name != LOGITS})
