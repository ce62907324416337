"""ImageNet-1k (Russakovsky et al., 2015; ILSVRC 2012)."""

from __future__ import annotations

import csv
from pathlib import Path

from core.catalog.datasets import CroppedParams
from core.data.dataset import Dataset
from core.data.errors import DatasetError
from core.data.image_files import ImageFile, Listing, class_folders, find_tree, images_below, list_tree
from core.data.images import from_listing, photo_augmentation
from core.data.places import first_with, missing
from core.data.statistics import Statistics

_FOLDERS = ("imagenet", "ImageNet", "ILSVRC2012", "imagenet/ILSVRC/Data/CLS-LOC")
_TABLE = "LOC_val_solution.csv"
# torchvision's reference values, which its pretrained networks expect.
_STATISTICS = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(params: CroppedParams) -> Dataset:
    """The validation images are the test split, as everywhere. Classes are numbered as their WordNet ids are sorted,
    which is torchvision's and timm's order too."""
    tree = find_tree(_FOLDERS, ("val", "test"))
    kaggle = first_with(("imagenet",), "ILSVRC/Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/val", _TABLE)
    if tree:
        listing = list_tree(*tree)
    elif kaggle:
        listing = _listing(kaggle)
    else:
        layouts = [
            "imagenet/train/<id>/*.JPEG and imagenet/val/<id>/*.JPEG, 1000 WordNet ids",
            f"imagenet/ILSVRC/Data/CLS-LOC/train, …/val and imagenet/{_TABLE}, as Kaggle's archive unpacks",
        ]
        raise missing("imagenet", layouts, "https://www.image-net.org/download.php, which asks for a registration")
    augmentation = photo_augmentation(params)
    return from_listing("imagenet", listing, params.image_size, augmentation, _STATISTICS)


def _listing(root: Path) -> Listing:
    """Kaggle's form: the validation images in one folder, their classes in a table (``ImageId,"id x y w h …"``)."""
    folder = root / "ILSVRC/Data/CLS-LOC"
    classes = class_folders(folder / "train")
    number = {name: label for label, name in enumerate(classes)}
    train = [
        ImageFile(f"train/{name}/{path}", number[name])
        for name in classes
        for path in images_below(folder / "train" / name)
    ]
    with (root / _TABLE).open(newline="") as file:
        try:
            of_image = {row["ImageId"]: row["PredictionString"].partition(" ")[0] for row in csv.DictReader(file)}
        except (KeyError, AttributeError) as error:
            raise DatasetError(f"{root / _TABLE} lacks a column ImageId or PredictionString, or an entry") from error
    test = []
    for path in images_below(folder / "val"):
        name = of_image.get(Path(path).stem)
        if name not in number:
            raise DatasetError(f"{root / _TABLE} gives {path} no class that is trained on")
        test.append(ImageFile(f"val/{path}", number[name]))
    return Listing(folder, tuple(classes), tuple(train), tuple(test))
