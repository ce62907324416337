import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.items.picture_choice import MOST_PICTURES, chosen_items
from core.items.pictures import LONG_SIDE, encode_pictures, read_pictures
from core.items.table import ItemsError


def test_pictures_are_read_back_and_small(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    wide = np.zeros((300, 960, 3), np.uint8)
    wide[:, :480] = (255, 0, 0)
    path.write_bytes(encode_pictures([(3, wide), (8, np.full((20, 10, 3), 128, np.uint8))]))
    pictures = read_pictures(path)
    assert list(pictures) == [3, 8]
    with Image.open(io.BytesIO(pictures[3])) as picture:
        assert picture.size == (LONG_SIDE, 150)
        red, black = np.asarray(picture)[75, 100], np.asarray(picture)[75, 400]
    assert red[0] > 240
    assert black.max() < 15
    with Image.open(io.BytesIO(pictures[8])) as picture:
        assert picture.size == (10, 20)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pictures.parquet"
    with pytest.raises(ItemsError, match="cannot be read"):
        read_pictures(path)
    content = encode_pictures([(0, np.zeros((8, 8, 3), np.uint8))])
    path.write_bytes(content[:-20])
    with pytest.raises(ItemsError, match="damaged"):
        read_pictures(path)


@pytest.mark.parametrize("images", [1, MOST_PICTURES, MOST_PICTURES + 1, 5000])
def test_chosen_items_are_different_and_in_the_split(images: int) -> None:
    chosen = chosen_items(images)
    assert len(set(chosen)) == len(chosen) == min(images, MOST_PICTURES)
    assert all(0 <= number < images for number in chosen)
