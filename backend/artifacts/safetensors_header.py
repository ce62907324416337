"""The header of a safetensors file, read and checked without loading, let alone executing, anything of it.

Source: the format's description, https://github.com/huggingface/safetensors#format. Eight bytes, little-endian, say how
long the header is; it is JSON: by name each tensor's dtype, shape and place in what follows, without gaps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.input_bounds import BoundsError, JsonBounds, read_json

_MAX_HEADER = 16 * 1024 * 1024
_HEADER_BOUNDS = JsonBounds(depth=4, values=1_000_000, items=100_000)
_MAX_DIMENSIONS = 64
"""Of a tensor: torch itself has no operation on more."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


class NotSafetensorsError(ValueError):
    """The file is not what it should be; the text says in which way."""


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
        tensors: how many.
        parameters: numbers in all of them.
    """

    tensors: int
    parameters: int


def inspect(path: Path) -> Contents:
    """Check a file's header against its length. Raises NotSafetensorsError."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(_MAX_HEADER, size - 8):
            raise NotSafetensorsError("it does not begin with the header of a safetensors file")
        raw = file.read(length)
    try:
        header = read_json(raw, _HEADER_BOUNDS)
    except BoundsError as error:
        raise NotSafetensorsError(f"its header: {error.message}") from None
    if not isinstance(header, dict):
        raise NotSafetensorsError("its header is not a mapping of tensors")
    about = header.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(text, str) for text in about.values()):
        raise NotSafetensorsError("its __metadata__ is not texts by name")
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    if not tensors:
        raise NotSafetensorsError("it holds no tensor")
    places = sorted(_place(name, entry) for name, entry in tensors.items())
    end = 0
    for start, stop, _ in places:
        if start != end:
            raise NotSafetensorsError("its tensors overlap or leave gaps")
        end = stop
    if end != size - 8 - length:
        raise NotSafetensorsError(f"it is {size - 8 - length} bytes of tensors long where its header says {end}")
    return Contents(len(tensors), sum(count for _, _, count in places))


def _place(name: str, entry: Any) -> tuple[int, int, int]:
    """Start, stop and count of numbers of one tensor."""
    try:
        bits, shape, (start, stop) = _BITS[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
            raise NotSafetensorsError(f"the entry of {name[:100]!r} has more than {_MAX_DIMENSIONS} dimensions")
        whole = [start, stop, *shape]
    except (KeyError, TypeError, ValueError):
        raise NotSafetensorsError(f"the entry of {name[:100]!r} is none of a tensor") from None
    if any(not isinstance(part, int) or isinstance(part, bool) or not 0 <= part < 2**63 for part in whole):
        raise NotSafetensorsError(f"the entry of {name[:100]!r} has a size that is no whole number")
    count = _product(shape)
    if stop - start != count * bits // 8:
        raise NotSafetensorsError(
            f"{name[:100]!r} is {stop - start} bytes long where its shape needs {count * bits // 8}"
        )
    return start, stop, count


def _product(shape: list[int]) -> int:
    """Numbers in a tensor of this shape; at most 2⁶³, beyond which no file goes."""
    if 0 in shape:
        return 0
    count = 1
    for length in shape:
        count = min(count * length, 2**63)
    return count
