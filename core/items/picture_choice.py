"""Which pictures a run keeps, free of the libraries that read and write them."""

from __future__ import annotations

PICTURES_NAME = "pictures.parquet"

MOST_PICTURES = 64
"""Test images of which a run keeps a picture: about a megabyte of photographs."""


def chosen_items(images: int) -> list[int]:
    """Return the indices of the test images that have pictures: all, or ``MOST_PICTURES`` at equal distances."""
    if images <= MOST_PICTURES:
        return list(range(images))
    return [index * images // MOST_PICTURES for index in range(MOST_PICTURES)]
