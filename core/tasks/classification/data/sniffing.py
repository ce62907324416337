"""Recognition of files by their first bytes, whatever their names are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")
"""A file with such a name is taken as an image without opening it; packing names it if it is damaged.

A data set of a million such files is therefore listed without opening each of them.
"""

_FORMATS = (
    *("BMP", "GIF", "JPEG", "PPM", "PNG", "WEBP", "AVIF", "TIFF", "JPEG2000", "DIB", "ICO", "ICNS"),
    *("PCX", "PSD", "SGI", "QOI", "DDS", "SUN", "MSP", "XBM", "XPM", "TGA"),
)
"""Formats that Pillow may read. The others run a program (EPS), contain no pixels, or are data sets (HDF5)."""

HEAD_BYTES = 256
"""Bytes at the beginning of a file that are enough to recognise it."""


@dataclass(frozen=True)
class _Signature:
    """Bytes that identify a file format.

    Attributes:
        description: what such a file is, with an article, for messages.
        magic: the bytes.
        offset: their position in the file.
        readable: whether it is an image format that Pillow reads.
        image_format: name of an image format that Pillow does not read; else "".
    """

    description: str
    magic: bytes
    offset: int = 0
    readable: bool = False
    image_format: str = ""

    def matches(self, head: bytes) -> bool:
        return head.startswith(self.magic, self.offset)


def _readable(description: str, *magics: bytes, offset: int = 0) -> list[_Signature]:
    return [_Signature(description, magic, offset, readable=True) for magic in magics]


def _unreadable(image_format: str, *magics: bytes, offset: int = 0) -> list[_Signature]:
    return [_Signature(f"a {image_format} image", magic, offset, image_format=image_format) for magic in magics]


_AVIF = _Signature("an AVIF image", b"ftypavif", offset=4, readable=True)
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")

_SIGNATURES = (
    *_readable("a JPEG image", b"\xff\xd8\xff"),
    *_readable("a PNG image", b"\x89PNG\r\n\x1a\n"),
    *_readable("a GIF image", b"GIF87a", b"GIF89a"),
    *_readable("a TIFF image", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # the last two are BigTIFF
    *_readable("a JPEG 2000 image", b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"),
    *_readable("a QOI image", b"qoif"),
    *_readable("a Photoshop image", b"8BPS"),
    _AVIF,
    *_readable("an AVIF image", b"ftypavis", offset=4),
    *_unreadable("HEIC", *(b"ftyp" + brand for brand in _HEIC_BRANDS), offset=4),
    *_unreadable("JPEG XL", b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    _Signature("a video (MP4 or QuickTime)", b"ftyp", 4),
    _Signature("a PDF document", b"%PDF-"),
    _Signature("a PostScript file", b"%!PS"),
    _Signature("a zip archive", b"PK\x03\x04"),
    _Signature("a gzip file", b"\x1f\x8b"),
    _Signature("a RAR archive", b"Rar!\x1a\x07"),
    _Signature("a 7z archive", b"7z\xbc\xaf\x27\x1c"),
    _Signature("a Git LFS pointer (`git lfs pull` fetches the file)", b"version https://git-lfs"),
)
"""The first signature that matches counts. Formats that need more than fixed bytes have functions below."""

_TEXT_SIGNATURES = (
    ("an HTML page", (b"<!doctype html", b"<html", b"<head", b"<body")),
    ("an SVG image", (b"<svg",)),
    ("an XML document", (b"<?xml",)),
    ("a JSON document", (b'{"', b"[{", b"{\n", b"{\r\n")),
)
"""Beginnings of text files in lower case, after white space."""

_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_FORMAT_OF_EXTENSION = {
    **{".tga": "TGA", ".pcx": "PCX", ".ico": "ICO", ".icns": "ICNS", ".sgi": "SGI", ".dds": "DDS"},
    **dict.fromkeys((".xbm", ".xpm", ".ras", ".sun"), ""),
}
"""Formats without a signature, by file extension; "" for any format that Pillow reads."""


@cache
def readable_formats() -> tuple[str, ...]:
    """Return those of the allowed formats that the installed Pillow reads."""
    from PIL import Image

    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def identify(path: Path, extension: str) -> tuple[bool, str]:
    """Return whether a regular file is a readable image, and the format of an image that is not readable.

    Args:
        path: the file.
        extension: of its name, in lower case, with the dot.

    Raises:
        OSError: the file cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    signature = _signature(head)
    if signature and (signature.readable or signature.image_format):
        return signature.readable, signature.image_format
    if _is_bmp(head) or _is_netpbm(head) or _is_webp(head):
        return True, ""
    return extension in _FORMAT_OF_EXTENSION and _opens_in_pillow(path, _FORMAT_OF_EXTENSION[extension]), ""


def unsupported_content(head: bytes) -> str:
    """Return the kind of a file that is no readable image, with an article, by its first bytes; "" if unknown.

    Args:
        head: the first ``HEAD_BYTES`` bytes of the file.
    """
    if signature := _signature(head):
        return "" if signature.readable else signature.description
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((name for name, beginnings in _TEXT_SIGNATURES if text.startswith(beginnings)), "")


def _signature(head: bytes) -> _Signature | None:
    match = next((signature for signature in _SIGNATURES if signature.matches(head)), None)
    # "mif1" is also the first brand of some AVIF files; their other brands follow.
    if match and match.image_format == "HEIC" and b"avif" in head[:32]:
        return _AVIF
    return match


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def _is_netpbm(head: bytes) -> bool:
    return len(head) > 3 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#"


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _opens_in_pillow(path: Path, image_format: str) -> bool:
    """Return whether Pillow opens a file of a format without a signature; ``image_format`` "" allows any format."""
    from PIL import Image

    formats = [image_format] if image_format else readable_formats()
    try:
        with path.open("rb") as file, Image.open(file, formats=formats):
            return True
    except Image.DecompressionBombError:
        return True  # an image; decoding reports that it is too large
    except Exception:  # noqa: BLE001 (the parsers raise any exception for a file that is not such an image)
        return False
