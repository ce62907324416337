"""One image file as bytes of a given size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The image (3, H, W) in RGB, its short side resized to ``image_size`` and the middle square cut out.

    The same pixels as torchvision's ``Resize`` (bilinear, antialiased) and ``CenterCrop`` on a PIL image; of images
    with 16 bits a channel the upper eight.

    Raises OSError, ValueError, SyntaxError or what else Pillow raises where the file is damaged.
    """
    from PIL import Image

    with Image.open(path) as opened:
        image = _rgb(opened)
    width, height = image.size
    short = min(width, height)
    if short != image_size:
        width, height = (int(image_size * side / short) if side > short else image_size for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if (width, height) != (image_size, image_size):
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _rgb(image: Image) -> Image:
    """In eight bits a channel. Raises ValueError where white is no known number."""
    from PIL.Image import fromarray

    # Pillow converts these by cutting off at 255, which makes an X-ray of 16 bits white all over.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        high = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
        return fromarray(high).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits, of which nobody says what is white; save it with 8 or 16")
    return image.convert("RGB")


def decoder_version() -> str:
    """What decides which bytes a file gives: Pillow, its JPEG library, and the way the image is resized."""
    import PIL
    from PIL import features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"pillow {PIL.__version__} jpeg {jpeg} bilinear short side, centre"
