"""Whether a file is an image, told by its content and not by its name."""

from __future__ import annotations

from functools import cache
from pathlib import Path

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""A file that is named so is meant to be an image: it is not looked into here, and packing names it if it is damaged.

So a data set of a million such files is listed without opening each of them.
"""

_FORMATS = (
    *("BMP", "GIF", "JPEG", "PPM", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "DIB", "ICO", "ICNS"),
    *("PCX", "PSD", "SGI", "QOI", "DDS", "SUN", "MSP", "XBM", "XPM", "TGA"),
)
"""What Pillow may read. The others run a program (EPS), describe no pixels of their own, or are data sets (HDF5)."""

_HEAD_BYTES = 32
_SIGNATURES = (
    b"\xff\xd8\xff",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF87a",
    b"GIF89a",
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF and BigTIFF
    b"\0\0\0\x0cjP  \r\n\x87\n",  # JPEG 2000
    b"\xff\x4f\xff\x51",  # its bare code stream
    b"qoif",
    b"8BPS",
)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_UNREADABLE = {
    **dict.fromkeys((b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "HEIC"),
    **dict.fromkeys((b"avif", b"avis"), ""),
}
_BY_NAME = {".tga": "TGA", ".pcx": "PCX", ".ico": "ICO", ".icns": "ICNS", ".sgi": "SGI", ".dds": "DDS"} | dict.fromkeys(
    (".xbm", ".xpm", ".ras", ".sun"), ""
)


@cache
def readable_formats() -> tuple[str, ...]:
    """Those of the formats that this Pillow has."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def identify(path: Path, ending: str) -> tuple[bool, str]:
    """Whether a regular file is an image that can be read here, and if it is one that cannot, its format.

    Args:
        ending: of its name, in lower case, with the dot.

    Raises OSError if it cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_SIGNATURES) or _is_bmp(head) or _is_netpbm(head):
        return True, ""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True, ""
    if head[4:8] == b"ftyp" and head[8:12] in _UNREADABLE:
        # "mif1" is also what an AVIF file may call itself first; its other brands follow.
        other = "" if b"avif" in head else _UNREADABLE[head[8:12]]
        return not other, other
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")):
        return False, "JPEG XL"
    return ending in _BY_NAME and _pillow_knows(path, _BY_NAME[ending]), ""


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _is_netpbm(head: bytes) -> bool:
    return len(head) > 3 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#"


def _pillow_knows(path: Path, form: str) -> bool:
    """For formats without a signature, which a name has to vouch for."""
    from PIL import Image

    try:
        with path.open("rb") as file, Image.open(file, formats=[form] if form else readable_formats()):
            return True
    except Image.DecompressionBombError:
        return True  # an image: that it is too large is said when it is read
    except Exception:  # noqa: BLE001 (what is no such image makes the parsers raise whatever they come upon)
        return False
