"""One image file as bytes of a given size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def decode(path: Path, image_size: int) -> NDArray[np.uint8]:
    """The image (3, H, W) in RGB, its short side resized to ``image_size`` and the middle square cut out.

    The same pixels as torchvision's ``Resize`` (bilinear, antialiased) and ``CenterCrop`` on a PIL image.

    Raises OSError, ValueError, SyntaxError or what else Pillow raises where the file is damaged.
    """
    from PIL import Image

    with Image.open(path) as opened:
        image = opened.convert("RGB")
    width, height = image.size
    short = min(width, height)
    if short != image_size:
        width, height = (int(image_size * side / short) if side > short else image_size for side in (width, height))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - image_size) / 2), round((height - image_size) / 2)
    if (width, height) != (image_size, image_size):
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def decoder_version() -> str:
    """What decides which bytes a file gives: Pillow, its JPEG library, and the way the image is resized."""
    import PIL
    from PIL import features

    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"pillow {PIL.__version__} jpeg {jpeg} bilinear short side, centre"
