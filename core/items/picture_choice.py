"""Which pictures a run keeps, free of the libraries that read and write them."""

from __future__ import annotations

PICTURES_NAME = "pictures.parquet"

MOST_PICTURES = 64
"""Test images of which a run of object detection keeps a picture: about a megabyte of photographs."""
MOST_THUMBNAILS = 512
"""Test images of which a run of classification keeps a picture: half a megabyte at 32 px, 2 MB of photographs."""
THUMBNAIL_SIDE = 96
"""Pixels of the side of a picture in classification at most."""
MOST_PICTURE_BYTES = 4 << 20
"""Bytes of a run's pictures at most."""


def chosen_items(images: int) -> list[int]:
    """Return the indices of the test images that have pictures: all, or ``MOST_PICTURES`` at equal distances."""
    if images <= MOST_PICTURES:
        return list(range(images))
    return [index * images // MOST_PICTURES for index in range(MOST_PICTURES)]
