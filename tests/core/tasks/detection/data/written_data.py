"""Tiny detection sets in the formats of COCO and Pascal VOC."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.settings import TrainingSettings
from core.specs import DatasetRef
from core.tasks.detection.data import DetectionData, load

Box = tuple[float, float, float, float]
CATEGORIES = {2: "cat", 7: "dog", 90: "bird"}
SIZES = ((40, 30), (60, 20), (32, 48), (25, 25), (90, 70))
"""Widths and heights, which are repeated."""
SMALL = {"min_size": 32, "max_size": 64}


def loaded(name: str, data_dir: Path, **params: Any) -> DetectionData:
    """Read a data set; that of COCO in the folder ``coco``, because the usual folders must have all of its classes."""
    folder = {"path": "coco"} if name == "coco" else {}
    return load(DatasetRef(name=name, params=SMALL | folder | params), TrainingSettings(data_dir=data_dir))


def photo(path: Path, size: tuple[int, int], box: Sequence[float] = (), orientation: int = 1) -> Path:
    """A black image of (width, height), white inside a box (left, top, right, bottom)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    if len(box):
        left, top, right, bottom = map(int, box)
        pixels[top:bottom, left:right] = 255
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif) if orientation != 1 else image.save(path)
    return path


def annotation(number: int, image: int, box: Sequence[float], category: int = 2, **fields: Any) -> dict[str, Any]:
    """An annotation of COCO; the box is left, top, width and height."""
    row = {"id": number, "image_id": image, "category_id": category, "bbox": list(box), "iscrowd": 0}
    return row | fields


def coco_split(
    folder: Path, count: int, rows: Sequence[Mapping[str, Any]] | None = None, first_id: int = 10
) -> dict[str, Any]:
    """Write the images of a split, and return its JSON. By default every image but the last has one object."""
    images = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        photo(folder / f"{number}.png", (width, height), (4, 5, 20, 15))
        images.append({"id": first_id + number, "file_name": f"{number}.png", "width": width, "height": height})
    if rows is None:
        ids = list(CATEGORIES)
        rows = [
            annotation(number, first_id + number, (4, 5, 16, 10), ids[number % 3], area=100.5)
            for number in range(count - 1)
        ]
    categories = [{"id": identity, "name": name} for identity, name in reversed(CATEGORIES.items())]
    return {"images": images, "annotations": list(rows), "categories": categories}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def coco(root: Path, train: Sequence[Mapping[str, Any]] | None = None, **changes: Any) -> Path:
    """Write COCO 2017's folders with six and four images; ``changes`` replace keys of the training JSON."""
    write(root / "annotations/instances_train2017.json", coco_split(root / "train2017", 6, train) | changes)
    write(root / "annotations/instances_val2017.json", coco_split(root / "val2017", 4, first_id=50))
    return root


def xml(
    objects: Sequence[tuple[str, Box]], size: tuple[int, int] | None = (40, 30), difficult: Sequence[int] = ()
) -> str:
    """The annotation of an image; boxes are xmin, ymin, xmax and ymax."""
    items = []
    for number, (name, (xmin, ymin, xmax, ymax)) in enumerate(objects):
        box = f"<xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax>"
        part = f"<part><name>head</name><bndbox>{box}</bndbox></part>"
        flag = f"<difficult>{int(number in difficult)}</difficult>"
        items.append(f"<object><name>{name}</name>{flag}<bndbox>{box}</bndbox>{part}</object>")
    sizes = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation>{sizes}{''.join(items)}</annotation>"


def voc(root: Path, splits: Mapping[str, int], prefix: str = "", classes: Sequence[str] = ("dog", "cat")) -> Path:
    """Write VOC's folders: for each split a list, and images with one object each."""
    for split, count in splits.items():
        names = [f"{prefix}{split}_{number}" for number in range(count)]
        for number, name in enumerate(names):
            photo(root / "JPEGImages" / f"{name}.jpg", (40, 30), (4, 5, 20, 15))
            (root / "Annotations").mkdir(exist_ok=True)
            text = xml([(classes[number % len(classes)], (5, 6, 20, 15))])
            (root / "Annotations" / f"{name}.xml").write_text(text)
        (root / "ImageSets/Main").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return root
