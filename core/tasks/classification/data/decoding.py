"""Decoding of one image file to pixels of a given size."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from core.tasks.classification.data.png import SIGNATURE, pixels_only
from core.tasks.classification.data.sniffing import HEAD_BYTES, readable_formats, unsupported_content

if TYPE_CHECKING:
    from PIL.Image import Image

_EXIF_ORIENTATION = 0x0112
_MAX_RESIZED_PIXELS = 2**24
"""Largest resized image; of a more elongated one only the central square is computed."""
_DARK_BELOW = 4096
"""Level of 65,536 below which the upper eight bits distinguish only sixteen levels."""

_ORIENTATION_MARKERS = (
    b"Exif",
    b"EXIF",
    b"eXIf",
    b"exif",
    b"Orientation",
    b"XML:com.adobe.xmp",
    b"ftypavif",
    b"ftypmif1",
)
"""Every file whose EXIF or XMP has an orientation contains one of these."""

FRAMES, ALPHA, DARK, UPRIGHT, AS_STORED = "frames", "alpha", "dark", "upright", "as stored"


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image.

    Attributes:
        pixels: (3, H, W).
        treatment: the steps that versions before ``DECODING_VERSION`` did not apply, so that they gave other pixels;
            empty if the pixels are the same.
        notes: properties to report, of ``FRAMES``, ``ALPHA``, ``DARK``, ``UPRIGHT`` and ``AS_STORED``.
    """

    pixels: NDArray[np.uint8]
    treatment: str = ""
    notes: frozenset[str] = frozenset()


DECODING_VERSION = 3
"""Incremented when some files begin to give other pixels. Version 3 applies the EXIF orientation."""


def load_rgb(path: Path) -> tuple[Image, int, set[str]]:
    """Return the whole image in RGB as it is stored, its EXIF orientation (1: upright), and ``notes``.

    Raises:
        Exception: see ``decode_image``.
    """
    with path.open("rb") as file:
        image, has_frames = _read(file)
        notes = {FRAMES} if has_frames else set()
        orientation = _orientation(image)
        return _rgb(image, notes), orientation, notes


def load_upright_rgb(path: Path) -> tuple[Image, str, set[str]]:
    """Return the whole upright image in RGB, with ``treatment`` and ``notes`` as in ``DecodedImage``.

    Raises:
        Exception: see ``decode_image``.
    """
    rgb, orientation, notes = load_rgb(path)
    if orientation == 1:
        return rgb, "", notes
    return turned_upright(rgb, orientation), f"exif {orientation}", notes | {UPRIGHT}


def decode_image(path: Path, image_size: int) -> DecodedImage:
    """Decode an image file to RGB pixels of a central square.

    The image is rotated upright, its short side is resized to ``image_size``, and the central square is cropped.
    The pixels equal those of torchvision's ``Resize`` (bilinear, antialiased) and ``CenterCrop`` on a PIL image. As in
    torchvision's loaders, only the upper eight of 16 bits per channel are used, only the first of several frames, and
    the colour of transparent pixels. Memory is bounded by the size of the image, whatever its aspect ratio.

    Raises:
        OSError: the file cannot be read, or is not an image; ValueError, SyntaxError and other exceptions of Pillow if
            it is damaged or too large.
    """
    rgb, treatment, notes = load_upright_rgb(path)
    square, elongated = _central_square(rgb, image_size)
    treatment = " ".join(filter(None, (treatment, "thin" if elongated else "")))
    return DecodedImage(np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1)), treatment, frozenset(notes))


def _read(file: BinaryIO) -> tuple[Image, bool]:
    """Return an image with its pixels loaded, and whether it has several frames.

    Text chunks of a PNG that Pillow refuses are ignored.
    """
    try:
        return _load(file)
    except ValueError:
        file.seek(0)
        if file.read(len(SIGNATURE)) != SIGNATURE:
            raise
        return _load(pixels_only(file))


def _load(file: BinaryIO) -> tuple[Image, bool]:
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file, formats=readable_formats())
    except Exception as error:
        file.seek(0)
        if content := unsupported_content(file.read(HEAD_BYTES)):
            raise UnidentifiedImageError(f"it is {content}, which is not read here") from error
        if isinstance(error, UnidentifiedImageError):
            raise UnidentifiedImageError("not an image in a supported format, or damaged") from None
        raise
    # A photograph's second frame in the MPO format is its preview; PSD counts its layers.
    frames = image.format not in ("MPO", "PSD") and bool(getattr(image, "is_animated", False))
    image.load()
    return image, frames


def _orientation(image: Image) -> int:
    """Return the EXIF orientation of a loaded image, 1 to 8; 1 if it has none. Pillow rotates TIFF files itself."""
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # noqa: BLE001 (damaged EXIF makes the parsers raise any exception; the pixels are intact)
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def decodes_differently(path: Path, image_size: int) -> bool:
    """Return whether a version before ``DECODING_VERSION`` decoded a readable file to other pixels.

    Most files have no orientation, and are not decoded for this check.
    """
    from PIL import Image

    content = path.read_bytes()
    if any(marker in content for marker in _ORIENTATION_MARKERS):
        return bool(decode_image(path, image_size).treatment)
    with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
        return is_elongated(*image.size, image_size)


def turned_upright(image: Image, orientation: int) -> Image:
    """Return an image as its EXIF orientation, 2 to 8, says that it is to be shown."""
    from PIL.Image import Transpose

    transpositions = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(transpositions[orientation])


def is_elongated(width: int, height: int, image_size: int) -> bool:
    """Return whether the whole image, with its short side resized to ``image_size``, would be too large."""
    width, height = _resized_shape(width, height, image_size)
    return width * height > max(_MAX_RESIZED_PIXELS, 4 * image_size**2)


def _resized_shape(width: int, height: int, image_size: int) -> tuple[int, int]:
    short = min(width, height)
    wide, high = (int(image_size * side / short) if side > short else image_size for side in (width, height))
    return wide, high


def _central_square(image: Image, image_size: int) -> tuple[Image, bool]:
    """Return the central square, and whether it was computed without the rest of the image."""
    from PIL.Image import Resampling

    elongated = is_elongated(*image.size, image_size)
    if elongated:
        # ``resize`` reads only the box and the surroundings that the filter covers.
        width, height = image.size
        short = min(width, height)
        left, top = (width - short) / 2, (height - short) / 2
        box = (left, top, left + short, top + short)
        return image.resize((image_size, image_size), Resampling.BILINEAR, box=box), elongated
    if min(image.size) != image_size:
        image = image.resize(_resized_shape(*image.size, image_size), Resampling.BILINEAR)
    width, height = image.size
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if (width, height) != (image_size, image_size):
        image = image.crop((left, top, left + image_size, top + image_size))
    return image, elongated


def _rgb(image: Image, notes: set[str]) -> Image:
    """Convert an image to RGB with eight bits per channel.

    Raises:
        ValueError: the pixels have 32 bits, so that the level of white is unknown.
    """
    from PIL.Image import fromarray

    # Pillow would clip these at 255, which makes a 16-bit X-ray image white.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.int64)
        if 0 < levels.max() < _DARK_BELOW:
            notes.add(DARK)
        return fromarray((levels >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(
            "the pixels have 32 bits, so that the level of white is unknown; save the image with 8 or 16 bits"
        )
    if "transparency" in image.info and image.mode in ("1", "L", "P", "RGB"):
        # The colours in RGBA are the same, and Pillow warns about other conversions of a palette with transparency.
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        lowest, _ = image.getchannel(len(image.getbands()) - 1).getextrema()
        if lowest != 255:
            notes.add(ALPHA)
    return image.convert("RGB")


def decoder_version() -> str:
    """Return the versions that determine the pixels of a file: of Pillow, its JPEG library, and the resizing."""
    return f"{library_versions()} bilinear short side, centre"


def library_versions() -> str:
    """Return the versions of Pillow and of its JPEG library."""
    import PIL
    from PIL import features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"pillow {PIL.__version__} jpeg {jpeg}"
