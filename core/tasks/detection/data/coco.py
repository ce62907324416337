"""COCO 2017 (Lin et al. 2014), or any folder with images and COCO's JSON.

In addition to what ``core.tasks.detection.data`` says of every format:

- Classes 1 to K are the categories in the order of their ids, which may have holes and begin anywhere. Both splits must
  have the same categories.
- ``iscrowd`` and ``ignore`` make an object an ignored one. Its ``area``, that of the mask, decides its size; if it is
  negative, that of the box does.
- Two images with one id, or one file twice in a split, are an error. An annotation that repeats another one with the
  same id is left out; annotations that share an id and differ are all used, because no id of an annotation is used.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from core.catalog.detection_datasets import CocoParams
from core.settings import TrainingSettings
from core.tasks.classification.data.decoding_notes import DecodingNotes
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.layouts import candidate_folders, describe_folder, find_folder, not_found_error
from core.tasks.detection.data.annotations import REPEATED, SAME_ID, AnnotatedImage, AnnotationFiles, Annotations
from core.tasks.detection.data.dataset import DetectionData
from core.tasks.detection.data.files import check_contained, data_from_files
from core.tasks.detection.data.objects import ImageObjects
from core.tasks.detection.types import Size
from core.undecodable import visible

_FOLDERS = ("coco", "coco2017", "COCO", "COCO2017", "mscoco")
_MAX_NAMED = 5
_MAX_ID = 2**63 - 1


def load(params: CocoParams, settings: TrainingSettings) -> DetectionData:
    """Read COCO 2017, or the folder that the parameters name. COCO's val2017 is the test split, as is usual."""
    root = _find(params, settings)
    train, test = root / params.train_annotations, root / params.test_annotations
    images = root / params.train_images, root / params.test_images
    if params.path:
        check_contained((root, train, test, *images), settings)

    def read() -> Annotations:
        splits = _read(train, params.train_images), _read(test, params.test_images)
        return _joined(splits, (train, test))

    name = f"coco-{params.path.rpartition('/')[2][:60]}" if params.path else "coco"
    layout = json.dumps([params.train_images, params.test_images])
    return data_from_files(AnnotationFiles(name, root, (train, test), layout, read), params, settings)


def _find(params: CocoParams, settings: TrainingSettings) -> Path:
    """Return the folder of the data set.

    Raises:
        DatasetError: The data set is missing or incomplete.
    """
    parts = [params.train_annotations, params.test_annotations, params.train_images, params.test_images]
    if params.path:
        root = find_folder(params.path, settings.data_dir)
        missing = [part for part in parts if root is None or not (root / part).exists()]
        if root is None or missing:
            shown = visible(str(settings.data_dir / params.path))
            content = f" {shown} contains {describe_folder(root)}." if root else f" There is no folder {shown}."
            raise DatasetError(
                f"no data set in COCO's format at {shown}: {', '.join(missing)} missing. The parameters "
                "train_annotations and test_annotations name a JSON file each, and train_images and test_images the "
                f"folders of their images, all of them in path, which is relative to DATA_DIR.{content}"
            )
        return root
    for folder in candidate_folders(_FOLDERS, settings.data_dir):
        if all((folder / part).exists() for part in parts):
            return folder
    layouts = [
        f"coco/ with {parts[0]}, {parts[1]}, {parts[2]}/*.jpg and {parts[3]}/*.jpg, as its archives unpack",
        "any folder with images and COCO's JSON, which path and the other parameters name",
    ]
    raise not_found_error("coco", _FOLDERS, layouts, "https://cocodataset.org/#download", settings)


@dataclass(frozen=True)
class _Split:
    """One JSON: its categories by id in the order of the ids, its images and notes."""

    categories: dict[int, str]
    images: tuple[AnnotatedImage, ...]
    notes: DecodingNotes


def _joined(splits: tuple[_Split, _Split], paths: tuple[Path, Path]) -> Annotations:
    """Return the annotations of both splits.

    Raises:
        DatasetError: Their categories differ.
    """
    train, test = splits
    if train.categories != test.categories:
        ids = sorted({*train.categories.items()} ^ {*test.categories.items()})
        differing = ", ".join(f"{identity} {name!r}" for identity, name in ids[:_MAX_NAMED])
        raise DatasetError(
            f"the categories of the training and the test split differ: {differing} "
            f"{'and others ' if len(ids) > _MAX_NAMED else ''}are in one of {visible(str(paths[0]))} and "
            f"{visible(str(paths[1]))} only; give both the same list of ids and names"
        )
    return Annotations(
        tuple(train.categories.values()),
        tuple(train.categories),
        train.images,
        test.images,
        train.notes + test.notes,
    )


def _read(path: Path, folder: str) -> _Split:
    """Read a JSON file.

    Args:
        path: The file.
        folder: The folder of its images, relative to the root of the data set.

    Raises:
        DatasetError: The file is not in COCO's format; the message says what is missing.
    """
    shown = visible(str(path))
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{shown} is not JSON: {error}") from error
    try:
        return _parse(content, folder)
    except _FormatError as error:
        raise DatasetError(f"{shown} is not in COCO's format for detection: {error}") from None


class _FormatError(ValueError):
    """A JSON is not in COCO's format. The message does not name the file."""


def _parse(content: Any, folder: str) -> _Split:
    if not isinstance(content, Mapping):
        kind = "a list, as results are" if isinstance(content, list) else f"a {type(content).__name__}"
        raise _FormatError(f"it is {kind}, and not a mapping with images, annotations and categories")
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise _FormatError(f"it has no list {' and no list '.join(missing)}")
    categories = _categories(content["categories"])
    labels = {identity: number for number, identity in enumerate(categories, start=1)}
    rows, notes = _annotations(content["annotations"], labels)
    images = []
    for position, image in enumerate(content["images"]):
        identity, name = (
            _field(image, "id", int, "images", position),
            _field(image, "file_name", str, "images", position),
        )
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
            raise _FormatError(f"the file name {visible(name)!r} of image {identity} leads out of {folder}")
        images.append(AnnotatedImage(f"{folder}/{name}", _objects(rows.pop(identity, [])), identity, _size(image)))
    _check_unique([image.id for image in images], "images have the id")
    _check_unique([image.path for image in images], "images have the file")
    if rows:
        unknown = sorted(rows)
        raise _FormatError(f"annotations are of images that it does not list: image_id {_named(unknown)}")
    return _Split(categories, tuple(images), notes)


def _categories(items: Sequence[Any]) -> dict[int, str]:
    """Return the names of the categories by id, in the order of the ids."""
    pairs = [
        (_field(item, "id", int, "categories", position), _field(item, "name", str, "categories", position))
        for position, item in enumerate(items)
    ]
    if not pairs:
        raise _FormatError("it has no categories")
    _check_unique([identity for identity, _ in pairs], "categories have the id")
    _check_unique([name for _, name in pairs], "categories have the name")
    return dict(sorted(pairs))


_Row = tuple[tuple[float, ...], int, bool, bool, float]
"""Box as left, top, right and bottom; label; ignored; whether it is a crowd; area."""


def _annotations(items: Sequence[Any], labels: Mapping[int, int]) -> tuple[dict[int, list[_Row]], DecodingNotes]:
    """Return the objects by the id of their image, without repeated ones."""
    rows: dict[int, list[_Row]] = {}
    # Only ids that are used twice are looked at again: COCO has 860,000 annotations.
    counts = Counter(str(item.get("id")) for item in items if isinstance(item, Mapping))
    seen: dict[str, set[tuple[int, _Row]]] = {}
    notes = DecodingNotes()
    for position, item in enumerate(items):
        image = _field(item, "image_id", int, "annotations", position)
        category = _field(item, "category_id", int, "annotations", position)
        if category not in labels:
            raise _FormatError(f"annotations[{position}] has the category {category}, which it does not list")
        crowd, ignored = (_flag(item, key, position) for key in ("iscrowd", "ignore"))
        area = _as_float(item.get("area"))
        row = (_corners(item, position), labels[category], crowd or ignored, crowd, area if area >= 0 else math.nan)
        if item.get("id") is not None and counts[str(item["id"])] > 1:
            same = seen.setdefault(str(item["id"]), set())
            comparable = (image, (*row[:4], 0.0))
            if same:
                notes += DecodingNotes(((REPEATED if comparable in same else SAME_ID, 1, f"annotations[{position}]"),))
                if comparable in same:
                    continue
            same.add(comparable)
        rows.setdefault(image, []).append(row)
    return rows, notes


def _corners(item: Mapping[str, Any], position: int) -> tuple[float, ...]:
    """Return the box of an annotation, left, top, width and height, by its corners."""
    box = _field(item, "bbox", list, "annotations", position)
    if len(box) != 4 or not all(map(_is_number, box)):
        raise _FormatError(f"the bbox of annotations[{position}] is not four numbers: {str(box)[:80]}")
    left, top, width, height = map(_as_float, box)
    return left, top, left + width, top + height


def _flag(item: Mapping[str, Any], key: str, position: int) -> bool:
    """Return whether a flag is set, which is 0 or 1.

    Raises:
        _FormatError: It is something else, such as the text "0".
    """
    value = item.get(key)
    if not (value is None or isinstance(value, bool) or (_is_number(value) and value in (0, 1))):
        raise _FormatError(f"{key} of annotations[{position}] is not 0 or 1: {str(value)[:60]!r}")
    return bool(value)


def _objects(rows: Sequence[_Row]) -> ImageObjects:
    if not rows:
        return ImageObjects.none()
    boxes, labels, ignored, crowd, area = zip(*rows, strict=True)
    return ImageObjects(
        np.array(boxes, np.float32),
        np.array(labels, np.int64),
        np.array(ignored, bool),
        np.array(area, np.float32),
        np.array(crowd, bool),
    )


def _size(image: Mapping[str, Any]) -> Size | None:
    height, width = (_as_float(image.get(side)) for side in ("height", "width"))
    return (int(height), int(width)) if math.isfinite(height * width) and height and width else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _as_float(value: Any) -> float:
    """Return a number, which is infinite if it is too large; NaN for what is no number."""
    if not _is_number(value):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _field(item: Any, key: str, kind: type, where: str, position: int) -> Any:
    """Return a field of an entry of a list.

    Raises:
        _FormatError: The entry has no such field, or it is of another type.
    """
    if not isinstance(item, Mapping) or not isinstance(item.get(key), kind) or isinstance(item[key], bool):
        expected = {int: "whole number", str: "text", list: "list"}[kind]
        found = repr(item.get(key))[:60] if isinstance(item, Mapping) and key in item else "nothing"
        raise _FormatError(f"{where}[{position}] needs {key}, a {expected}, and has {found}")
    if kind is int and abs(item[key]) > _MAX_ID:
        raise _FormatError(f"{key} of {where}[{position}] has more than 64 bits: {str(item[key])[:60]}")
    if kind is str and not _is_encodable(item[key]):
        raise _FormatError(f"{key} of {where}[{position}] has a half of a character in it: {visible(item[key])[:60]}")
    return item[key]


def _is_encodable(text: str) -> bool:
    try:
        text.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def _check_unique(values: Sequence[int] | Sequence[str], text: str) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise _FormatError(f"two {text} {_named(repeated)}")


def _named(values: Sequence[object]) -> str:
    more = f" and {len(values) - _MAX_NAMED} more" if len(values) > _MAX_NAMED else ""
    return f"{', '.join(visible(str(value)) for value in values[:_MAX_NAMED])}{more}"
