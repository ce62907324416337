"""Pascal VOC 2007 and 2012 (Everingham et al. 2010), or any folder in this layout.

In addition to what ``core.tasks.detection.data`` says of every format:

- Classes 1 to K are the sorted names of the objects in the training split. A class that is only in the test split is an
  error.
- Coordinates count from 1 and include the last pixel, so a box (xmin, ymin, xmax, ymax) has the corners
  (xmin - 1, ymin - 1) and (xmax, ymax), as in detectron2.
- ``difficult`` makes an object an ignored one. The area of its box decides its size.
- Parts of an object, such as heads of persons, are not objects.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import torch

from core.catalog.detection_datasets import VocParams
from core.settings import TrainingSettings
from core.tasks.classification.data.errors import DatasetError
from core.tasks.classification.data.layouts import (
    candidate_folders,
    describe_folder,
    find_folder,
    not_found_error,
    unwrap_single_folder,
)
from core.tasks.classification.data.sniffing import EXTENSIONS
from core.tasks.classification.data.text_tables import read_lines
from core.tasks.detection.data.annotations import AnnotatedImage, AnnotationFiles, Annotations
from core.tasks.detection.data.dataset import DetectionData
from core.tasks.detection.data.files import check_contained, data_from_files
from core.tasks.detection.data.objects import ImageObjects
from core.tasks.detection.types import Size
from core.undecodable import visible

_FOLDERS = ("VOCdevkit", "voc", "VOC", "pascal_voc", "voc/VOCdevkit", "VOC/VOCdevkit", "")
_FLAGS = {"0": False, "false": False, "1": True, "true": True}
_USUAL = {"2007": ("trainval", "test"), "2012": ("train", "val")}


@dataclass(frozen=True)
class _Part:
    """One list of images in one folder of the layout.

    Attributes:
        folder: The folder, relative to the root of the data set; "" for the root.
        split: Name of the list.
    """

    folder: str
    split: str

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}" if self.folder else name


@dataclass(frozen=True)
class _Entry:
    """A listed image: the paths of the image and of its XML, relative to the root."""

    image: str
    xml: str


def load(params: VocParams, settings: TrainingSettings) -> DetectionData:
    """Read Pascal VOC, or the folder that the parameters name."""
    train, test = _parts(params)
    root = _find(params, (*train, *test), settings)
    if params.path:
        folders = (root / name for name in (params.annotations, params.images, params.lists))
        check_contained((root, *folders), settings)
    entries = [_entries(root, parts, params) for parts in (train, test)]
    lists = {root / part.path(f"{params.lists}/{part.split}.txt") for part in (*train, *test)}
    xml = {root / entry.xml for split in entries for entry in split}
    name = f"voc-{params.path.rpartition('/')[2][:60]}" if params.path else f"voc{params.year}"
    layout = json.dumps([[entry.image for entry in split] for split in entries])
    files = (*sorted(lists), *sorted(xml))
    source = AnnotationFiles(name, root, files, layout, lambda: _read(root, entries[0], entries[1]))
    return data_from_files(source, params, settings)


def _parts(params: VocParams) -> tuple[list[_Part], list[_Part]]:
    """Return the lists of the training and of the test split."""
    if params.year == "2007+2012":
        return [_Part("VOC2007", "trainval"), _Part("VOC2012", "trainval")], [_Part("VOC2007", "test")]
    folder = "" if params.path else f"VOC{params.year}"
    train, test = _USUAL["2007" if params.path else params.year]
    return [_Part(folder, params.train or train)], [_Part(folder, params.test or test)]


def _find(params: VocParams, parts: Sequence[_Part], settings: TrainingSettings) -> Path:
    """Return the root of the data set.

    Raises:
        DatasetError: The data set is missing or incomplete.
    """
    needed = [part.path(name) for part in parts for name in (params.annotations, params.images)]
    needed += [part.path(f"{params.lists}/{part.split}.txt") for part in parts]
    layout = f"{params.annotations}/*.xml, {params.images}/*.jpg and the lists {params.lists}/{{0}}.txt and {{1}}.txt"
    layout = layout.format(parts[0].split, parts[-1].split)
    if params.path:
        folder = find_folder(params.path, settings.data_dir)
        for root in unwrap_single_folder(folder) if folder else ():
            if all((root / part).exists() for part in needed):
                return root
        shown = visible(str(settings.data_dir / params.path))
        missing = [part for part in needed if folder is None or not (folder / part).exists()]
        content = f"{shown} contains {describe_folder(folder)}" if folder else f"there is no folder {shown}"
        raise DatasetError(
            f"no data set in VOC's layout at {shown}: {', '.join(dict.fromkeys(missing))} missing. It needs {layout}; "
            "the parameters annotations, images, lists, train and test name them otherwise, and path is relative to "
            f"DATA_DIR. Now {content}"
        )
    for root in candidate_folders(_FOLDERS, settings.data_dir):
        if all((root / part).exists() for part in needed):
            return root
    layouts = [
        f"VOCdevkit/ with {' and '.join(sorted({part.folder for part in parts}))}, each with {layout}, as the archives "
        "unpack",
        "any folder in the layout of one year, which path names",
    ]
    raise not_found_error("voc", _FOLDERS, layouts, "http://host.robots.ox.ac.uk/pascal/VOC", settings)


def _entries(root: Path, parts: Sequence[_Part], params: VocParams) -> list[_Entry]:
    """Return the images of a split in the order of its lists.

    Raises:
        DatasetError: A listed image has no file or no annotations, or is listed twice.
    """
    entries = []
    for part in parts:
        images = _files_by_stem(root / part.path(params.images))
        list_path = part.path(f"{params.lists}/{part.split}.txt")
        for stem in _stems(root / list_path):
            if stem not in images:
                shown = visible(str(root / part.path(params.images)))
                raise DatasetError(f"{visible(stem)} is listed in {list_path}, but {shown} has no image of this name")
            xml = part.path(f"{params.annotations}/{stem}.xml")
            if not (root / xml).is_file():
                raise DatasetError(
                    f"{visible(stem)} is listed in {list_path}, but there is no {visible(str(root / xml))}"
                )
            entries.append(_Entry(part.path(f"{params.images}/{images[stem]}"), xml))
    repeated = [image for image, count in Counter(entry.image for entry in entries).items() if count > 1]
    if repeated:
        raise DatasetError(f"{visible(repeated[0])} is listed twice in {' and '.join(part.split for part in parts)}")
    return entries


def _files_by_stem(folder: Path) -> dict[str, str]:
    """Return the names of the images in a folder by their names without the extension."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.lower().endswith(EXTENSIONS))
    return {name.rpartition(".")[0]: name for name in names}


def _stems(path: Path) -> list[str]:
    """Return the names in a list. Lists of one class have a second column, -1, 0 or 1, which is not read."""
    stems = []
    for line in read_lines(path):
        name, _, last = line.strip().rpartition(" ")
        stem = name.strip() if name and last in ("-1", "0", "1") else line.strip()
        if stem:
            stems.append(stem)
    return stems


def _read(root: Path, train: Sequence[_Entry], test: Sequence[_Entry]) -> Annotations:
    """Read the XML files.

    Raises:
        DatasetError: A file is not valid, or the test split has a class that the training split has not.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        parsed = [list(threads.map(lambda entry: _parse(root / entry.xml), split)) for split in (train, test)]
    names = [sorted({obj.name for image in split for obj in image.objects}) for split in parsed]
    if unknown := sorted(set(names[1]) - set(names[0])):
        example = next(
            entry.xml
            for entry, image in zip(test, parsed[1], strict=True)
            if any(obj.name in unknown for obj in image.objects)
        )
        raise DatasetError(
            f"the test split has classes that the training split has not: {', '.join(map(visible, unknown[:5]))} "
            f"(for example in {visible(str(root / example))}); the training split has "
            f"{', '.join(map(visible, names[0])) or 'none'}"
        )
    labels = {name: number for number, name in enumerate(names[0], start=1)}
    images = [
        tuple(
            AnnotatedImage(entry.image, _objects(image.objects, labels), number, image.size)
            for number, (entry, image) in enumerate(zip(entries, split, strict=True))
        )
        for entries, split in zip((train, test), parsed, strict=True)
    ]
    return Annotations(tuple(map(visible, labels)), tuple(labels.values()), train=images[0], test=images[1])


@dataclass(frozen=True)
class _Object:
    name: str
    box: tuple[float, ...]
    difficult: bool


@dataclass(frozen=True)
class _Image:
    size: Size | None
    objects: tuple[_Object, ...]


def _parse(path: Path) -> _Image:
    """Read the XML of one image.

    Raises:
        DatasetError: The file is not valid; the message names it.
    """
    try:
        tree: Any = ET.parse(path).getroot()
        width, height = (_number(tree, f"size/{side}", 0.0) for side in ("width", "height"))
        objects = []
        for item in tree.findall("object"):
            name = (item.findtext("name") or "").strip()
            if not name:
                raise ValueError("an object has no name")
            left, top, right, bottom = (_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
            difficult = _flag(item, "difficult")
            objects.append(_Object(name, (left - 1, top - 1, right, bottom), difficult))
        size = (int(height), int(width)) if width and height else None
    except (ET.ParseError, LookupError, OverflowError, ValueError) as error:
        # An encoding that is not known is a LookupError, and a size of "inf" an OverflowError.
        raise DatasetError(f"{visible(str(path))} is not an annotation in VOC's format: {error}") from error
    return _Image(size, tuple(objects))


def _flag(item: Any, path: str) -> bool:
    text = (item.findtext(path) or "0").strip().lower() or "0"
    if text not in _FLAGS:
        raise ValueError(f"{path} of an object is not 0 or 1: {text[:60]!r}")
    return _FLAGS[text]


def _number(item: Any, path: str, default: float | None = None) -> float:
    text = item.findtext(path)
    if text is None or not text.strip():
        if default is None:
            raise ValueError(f"an object has no {path}")
        return default
    return float(text)


def _objects(objects: Sequence[_Object], labels: Mapping[str, int]) -> ImageObjects:
    if not objects:
        return ImageObjects.none()
    return ImageObjects(
        np.array([obj.box for obj in objects], np.float32),
        np.array([labels[obj.name] for obj in objects], np.int64),
        np.array([obj.difficult for obj in objects], bool),
        np.full(len(objects), np.nan, np.float32),
        np.zeros(len(objects), bool),
    )
