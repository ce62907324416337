"""Example specs: the files of ``examples/``, which the package contains as data.

They are listed as they are written; the fields that a preset supplies are not filled in.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any

import yaml

_GROUPS = {
    "": "On one machine",
    "cifar100": "CIFAR-100 pairs",
    "detection": "Object detection",
    "decoupled-gradient-kd-2025": "Decoupled Gradient KD, 2025",
}
"""Folders with their titles, in the order of display."""
_TITLES = {
    "digits": "Digits demo",
    "quick": "Quick",
    "digits-align-seeds": "Digits, seven seeds",
    "digits-until-decided": "Digits, seeds until decided",
    "digits-cannot-tell": "Digits, too few seeds to decide",
    "digits-fair-audit": "Digits, settings chosen fairly",
    "cifar100-dkd-align": "DKD-Align's term, part of CIFAR-100",
    "cifar10-dkd-align": "DKD-Align's term, part of CIFAR-10",
    "tiny-imagenet-dkd-align": "DKD-Align's term, part of Tiny-ImageNet",
    "cifar100-fair-audit": "Settings chosen fairly, part of CIFAR-100",
    "cifar100-every-method": "Every method, part of CIFAR-100",
    "cifar100-teacher-assistant": "A teacher assistant, CIFAR-100",
    "cifar100-born-again": "Born-again generations, CIFAR-100",
    "digit-scenes": "Scenes of digits",
    "bccd": "Blood cells (BCCD)",
    "coco-resnet101-resnet18": "COCO: Faster R-CNN, ResNet-101 → ResNet-18",
    "coco-resnet101-resnet50": "COCO: Faster R-CNN, ResNet-101 → ResNet-50",
    "coco-resnet50-mobilenet-v2": "COCO: Faster R-CNN, ResNet-50 → MobileNet-V2",
    "cifar100-several-teachers": "Several teachers, CIFAR-100",
}


@cache
def describe_examples() -> list[dict[str, Any]]:
    """Return the examples as JSON: name, group, title, summary and spec. The result is cached; do not change it."""
    root = files("core") / "examples"
    examples: list[dict[str, Any]] = []
    for folder, group in _GROUPS.items():
        directory = root / folder if folder else root
        # A copy of ``core`` alone has links without targets; it works without examples.
        names = (
            sorted((item for item in directory.iterdir() if item.is_file()), key=_order) if directory.is_dir() else []
        )
        examples += [_example(item, group) for item in names if item.name.endswith(".yaml")]
    return examples


def _order(item: Traversable) -> tuple[int, str]:
    stem = item.name.removesuffix(".yaml")
    return (list(_TITLES).index(stem) if stem in _TITLES else len(_TITLES), stem)


def _example(file: Traversable, group: str) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    spec: dict[str, Any] = yaml.safe_load(text)
    first = text.partition("\n")[0]
    stem = file.name.removesuffix(".yaml")
    return {
        "name": spec["name"],
        "group": group,
        "title": _TITLES.get(stem) or _pair(stem, spec),
        "summary": first.removeprefix("#").strip() if first.startswith("#") else "",
        "spec": spec,
    }


def _pair(stem: str, spec: dict[str, Any]) -> str:
    """Return a title such as ``resnet56 → resnet20``, after number and data set if the file name has a number."""
    pair = f"{spec['teacher']['model']} → {spec['student']['model']}"
    number = stem.partition("-")[0]
    return f"{number} {spec['dataset']['name']}: {pair}" if number.isdecimal() else pair
