"""One image file as bytes of a given size."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.data.png import SIGNATURE, pixels_only
from core.data.sniffing import readable_formats

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # of EXIF
_MOST_RESIZED = 2**24
"""Pixels of a whole resized image; of a thinner one only the square that is kept is made."""
_DARK = 4096
"""Levels of 65,536: below it the upper eight bits tell sixteen levels apart."""

_MAY_TURN = (b"Exif", b"EXIF", b"eXIf", b"exif", b"Orientation", b"XML:com.adobe.xmp", b"ftypavif", b"ftypmif1")
"""Found in every file whose EXIF or XMP says how to turn it."""

FRAMES, ALPHA, DARK, UPRIGHT = "frames", "alpha", "dark", "upright"


@dataclass(frozen=True)
class DecodedImage:
    """An image and what was done to it.

    Attributes:
        pixels: (3, H, W).
        treated: what a version before ``DECODING_VERSION`` did not do, and so gave other pixels; empty if they
            are the same.
        notes: what a person should know, of ``FRAMES``, ``ALPHA``, ``DARK`` and ``UPRIGHT``.
    """

    pixels: NDArray[np.uint8]
    treated: str = ""
    notes: frozenset[str] = frozenset()


DECODING_VERSION = 3
"""Raised when some files begin to give other pixels. 3: images are turned as their EXIF orientation says."""


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The pixels that ``decode_image`` gives."""
    return decode_image(path, image_size).pixels


def load_upright_rgb(path: Path) -> tuple[Image, str, set[str]]:
    """The whole image in RGB; ``treated`` and ``notes`` as in ``DecodedImage``. Raises as ``decode_image``."""
    with path.open("rb") as file:
        image, several = _read(file)
        notes = {FRAMES} if several else set()
        orientation = _orientation(image)
        rgb = _rgb(image, notes)
    if orientation == 1:
        return rgb, "", notes
    return _upright(rgb, orientation), f"exif {orientation}", notes | {UPRIGHT}


def decode_image(path: Path, image_size: int) -> DecodedImage:
    """The image (3, H, W) in RGB, upright, its short side resized to ``image_size`` and the middle square cut out.

    The same pixels as torchvision's ``Resize`` (bilinear, antialiased) and ``CenterCrop`` on a PIL image; of images
    with 16 bits a channel the upper eight, of several frames the first, of transparent pixels their colour, as
    torchvision's loaders have it. Memory is bounded by the image's own size, whatever its shape.

    Raises OSError, ValueError, SyntaxError or what else Pillow raises if the file is damaged or too large.
    """
    rgb, treated, notes = load_upright_rgb(path)
    square, thin = _square(rgb, image_size)
    treated = " ".join(filter(None, (treated, "thin" if thin else "")))
    return DecodedImage(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), treated, frozenset(notes))


def _read(file: BinaryIO) -> tuple[Image, bool]:
    """An image with its pixels, and whether it has several frames; texts that Pillow refuses are passed over."""
    try:
        return _loaded(file)
    except ValueError:
        file.seek(0)
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise
        return _loaded(pixels_only(file))


def _loaded(file: BinaryIO) -> tuple[Image, bool]:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file, formats=readable_formats())
    except UnidentifiedImageError:
        raise UnidentifiedImageError("no image of a format that can be read here, or damaged") from None
    # A photograph's second frame in the MPO format is its preview; PSD counts its layers.
    frames = image.format not in ("MPO", "PSD") and bool(getattr(image, "is_animated", False))
    image.load()
    return image, frames


def _orientation(image: Image) -> int:
    """1 to 8, of a loaded image; 1 if it has none that can be read. TIFF files are turned as they are loaded."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (damaged EXIF makes the parsers raise whatever they come upon; the pixels are whole)
        return 1
    return int(found) if found in range(1, 9) else 1


def decodes_differently(path: Path, image_size: int) -> bool:
    """Whether a version before ``DECODING_VERSION`` gave other pixels of a file that it could read.

    Most files hold nothing that could turn them, and are not decoded for it.
    """
    from PIL import Image

    content = path.read_bytes()
    if any(mark in content for mark in _MAY_TURN):
        return bool(decode_image(path, image_size).treated)
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        return is_elongated(*image.size, image_size)


def _upright(image: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation])


def is_elongated(width: int, height: int, image_size: int) -> bool:
    """Whether the whole image, its short side resized to ``image_size``, would be too large to make."""
    width, height = _resized(width, height, image_size)
    return width * height > max(_MOST_RESIZED, 4 * image_size**2)


def _resized(width: int, height: int, image_size: int) -> tuple[int, int]:
    short = min(width, height)
    wide, high = (int(image_size * side / short) if side > short else image_size for side in (width, height))
    return wide, high


def _square(image: Image, image_size: int) -> tuple[Image, bool]:
    """The middle square, and whether it was made without the rest."""
    from PIL.Image import Resampling

    thin = is_elongated(*image.size, image_size)
    if thin:
        # A square of the short side in the middle, and as much around it as the filter reaches.
        width, height = image.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        return image.resize((image_size, image_size), Resampling.BILINEAR, box=box), thin
    if min(image.size) != image_size:
        image = image.resize(_resized(*image.size, image_size), Resampling.BILINEAR)
    width, height = image.size
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if (width, height) != (image_size, image_size):
        image = image.crop((left, top, left + image_size, top + image_size))
    return image, thin


def _rgb(image: Image, notes: set[str]) -> Image:
    """In eight bits a channel. Raises ValueError if white is no known number."""
    from PIL.Image import fromarray

    # Pillow converts these by cutting off at 255, which makes an X-ray of 16 bits white all over.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.int64)
        if 0 < levels.max() < _DARK:
            notes.add(DARK)
        return fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, of which nobody says what is white; save it with 8 or 16")
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        # Its colours are the same in RGBA, which Pillow prefers for a palette with transparency.
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        least, _ = image.getchannel(len(image.getbands()) - 1).getextrema()
        if least != 255:
            notes.add(ALPHA)
    return image.convert("RGB")


def decoder_version() -> str:
    """What decides which bytes a file gives: Pillow, its JPEG library, and the way the image is resized."""
    import PIL
    from PIL import features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"pillow {PIL.__version__} jpeg {jpeg} bilinear short side, centre"
