"""Tiny ImageNet (Stanford CS231n): 200 of ImageNet's classes at 64 px, 500 training images each."""

from __future__ import annotations

from pathlib import Path

from core.catalog.datasets import ImageParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.image_files import ImageFile, Listing, class_folders, find_tree, images_below, list_tree
from core.data.images import from_listing, photo_augmentation
from core.data.places import first_with, missing
from core.data.statistics import Statistics

_FOLDERS = ("tiny-imagenet-200", "tiny_imagenet", "tiny_imagenet/tiny-imagenet-200")
# Of the training images at 64 px, scaled to 0–1, as commonly used.
_STATISTICS = Statistics((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))


def load(params: ImageParams) -> Dataset:
    """Its validation images are the test split, as everywhere: its test images have no labels.

    Classes are numbered as their WordNet ids are sorted.
    """
    folder = first_with(_FOLDERS, "train", "val/images", "val/val_annotations.txt")
    tree = find_tree(_FOLDERS, ("val", "test"))
    if folder:
        listing = _listing(folder)
    elif tree:
        listing = list_tree(*tree)
    else:
        layouts = [
            "tiny-imagenet-200/ with train/<id>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt, "
            "as the archive unpacks",
            "tiny_imagenet/train/<id>/*.JPEG and tiny_imagenet/val/<id>/*.JPEG",
        ]
        raise missing("tiny_imagenet", layouts, "http://cs231n.stanford.edu/tiny-imagenet-200.zip")
    augmentation = photo_augmentation(params)
    return from_listing("tiny_imagenet", listing, params.image_size, augmentation, _STATISTICS)


def _listing(folder: Path) -> Listing:
    """From the archive as it is: the classes of the validation images are in a table beside them."""
    classes = class_folders(folder / "train")
    number = {name: label for label, name in enumerate(classes)}
    train = [
        ImageFile(f"train/{name}/{path}", number[name])
        for name in classes
        for path in images_below(folder / "train" / name)
    ]
    table = folder / "val" / "val_annotations.txt"
    of_image = {fields[0]: fields[1] for line in table.read_text().splitlines() if len(fields := line.split("\t")) > 1}
    test = []
    for path in images_below(folder / "val" / "images"):
        if of_image.get(path) not in number:
            raise DatasetError(f"{table} gives {path} no class that is trained on")
        test.append(ImageFile(f"val/images/{path}", number[of_image[path]]))
    return Listing(folder, tuple(classes), tuple(train), tuple(test))
