"""Read and check the header of a safetensors file, without loading or executing any of its content.

Source: the description of the format, https://github.com/huggingface/safetensors#format. The first eight bytes hold the
length of the header, little-endian. The header is JSON and maps the name of each tensor to its dtype, shape and byte
range in the data that follows; the ranges have no gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.input_bounds import BoundsError, JsonBounds, read_json

_MAX_HEADER = 16 * 1024 * 1024
_HEADER_BOUNDS = JsonBounds(depth=4, values=1_000_000, items=100_000)
_MAX_DIMENSIONS = 64
"""Dimensions of a tensor; torch supports no more."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class NotSafetensorsError(ValueError):
    """The file is not a valid safetensors file; the text gives the reason."""


@dataclass(frozen=True)
class Contents:
    """The content of a file.

    Attributes:
        tensors: Number of tensors.
        parameters: Number of elements of all tensors.
    """

    tensors: int
    parameters: int


def inspect(path: Path) -> Contents:
    """Check a file's header against its length.

    Raises:
        NotSafetensorsError: The file is not a valid safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise NotSafetensorsError("it does not begin with a safetensors header")
        raw = file.read(length)
    try:
        header = read_json(raw, _HEADER_BOUNDS)
    except BoundsError as error:
        raise NotSafetensorsError(f"its header is not valid: {error.message}") from None
    if not isinstance(header, dict):
        raise NotSafetensorsError("its header is not a JSON object")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise NotSafetensorsError("its __metadata__ does not map names to texts")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise NotSafetensorsError("it has no tensors")
    ranges = sorted(_byte_range(name, entry) for name, entry in tensors.items())
    end = 0
    for start, stop, _ in ranges:
        if start != end:
            raise NotSafetensorsError("its tensors overlap or leave gaps")
        end = stop
    if end != size - 8 - length:
        raise NotSafetensorsError(f"it has {size - 8 - length} bytes of tensors, but its header describes {end}")
    return Contents(len(tensors), sum(count for _, _, count in ranges))


def _byte_range(name: str, entry: Any) -> tuple[int, int, int]:
    """Return the start, the stop and the number of elements of one tensor."""
    try:
        bits, shape, (start, stop) = _BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
            raise NotSafetensorsError(f"the entry of {name[:100]!r} has more than {_MAX_DIMENSIONS} dimensions")
        numbers = [start, stop, *shape]
    except (KeyError, TypeError, ValueError):
        raise NotSafetensorsError(f"the entry of {name[:100]!r} does not describe a tensor") from None
    if any(not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**63 for number in numbers):
        raise NotSafetensorsError(f"the entry of {name[:100]!r} has a size that is not a whole number")
    count = _element_count(shape)
    if stop - start != count * bits // 8:
        raise NotSafetensorsError(f"{name[:100]!r} has {stop - start} bytes, but its shape needs {count * bits // 8}")
    return start, stop, count


def _element_count(shape: list[int]) -> int:
    """Return the number of elements of a tensor of this shape; at most 2⁶³, which no file reaches."""
    if 0 in shape:
        return 0
    count = 1
    for length in shape:
        count = min(count * length, 2**63)
    return count
