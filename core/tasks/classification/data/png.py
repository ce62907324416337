"""PNG files without text chunks and colour profiles."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# The chunks of pixels, transparency and orientation. "fdAT", the later frames of an animation, is not among them.
_PIXEL_CHUNKS = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_MAX_SMALL_CHUNK = 2**20
"""Largest palette, transparency or EXIF chunk in bytes; the formats allow 768, 256 and 64 KiB."""


def pixels_only(file: BinaryIO) -> io.BytesIO:
    """Return a PNG with the same pixels that consists only of the chunks that define them.

    Raises:
        ValueError: the file is not a PNG, is truncated, or one of these chunks has an impossible length.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("not a PNG file")
    out = io.BytesIO()
    out.write(SIGNATURE)
    name = b""
    while name != b"IEND":
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or file.tell() + length + 4 > size:
            raise ValueError("the PNG file is truncated")
        if name not in _PIXEL_CHUNKS:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if name != b"IDAT" and length > _MAX_SMALL_CHUNK:
            raise ValueError(f"the PNG file has a chunk {name.decode('latin-1')} of {length} bytes")
        out.write(head)
        out.write(file.read(length + 4))
    out.seek(0)
    return out
