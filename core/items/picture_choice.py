"""Which pictures a run keeps, free of the libraries that read and write them."""

from __future__ import annotations

PICTURES_NAME = "pictures.parquet"

MOST_PICTURES = 64
"""Test images of which a run keeps a picture: about a megabyte of photographs."""


def chosen_items(images: int) -> list[int]:
    """Return of which test images there are pictures: of all, or of ``MOST_PICTURES`` at equal distances."""
    if images <= MOST_PICTURES:
        return list(range(images))
    return [number * images // MOST_PICTURES for number in range(MOST_PICTURES)]
