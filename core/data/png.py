"""A PNG file without its texts and colour profile, whatever their length."""

from __future__ import annotations

import io
import os
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# What decides pixels, transparency and orientation; "fdAT" would be the later frames of an animation.
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"})
_MOST_SMALL = 2**20
"""Bytes of a palette, a transparency or an EXIF chunk; the formats allow 768, 256 and 64 KiB."""


def pixels_only(file: BinaryIO) -> io.BytesIO:
    """A PNG of the same pixels: only the chunks that they are made of are read, the others are passed over.

    Raises ValueError if it is no PNG, is cut off, or one of the kept chunks has an impossible length.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(SIGNATURE)) != SIGNATURE:
        raise ValueError("no PNG file")
    out = io.BytesIO()
    out.write(SIGNATURE)
    name = b""
    while name != b"IEND":
        head = file.read(8)
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8 or file.tell() + length + 4 > size:
            raise ValueError("the PNG file is cut off")
        if name not in _KEPT:
            file.seek(length + 4, os.SEEK_CUR)
            continue
        if name != b"IDAT" and length > _MOST_SMALL:
            raise ValueError(f"a chunk {name.decode('latin-1')} of {length} bytes")
        out.write(head)
        out.write(file.read(length + 4))
    out.seek(0)
    return out
