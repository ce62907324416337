"""The published pairs on CIFAR-100, and the trainings that reproduce one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.papers import PUBLISHED
from core.specs import PlannedRun, parse_experiment, read_experiment

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cifar100"

TEACHER = "teacher"
TITLES = {
    TEACHER: "teacher",
    "dkd": "DKD",
    "ce": "student alone (CE)",
    "kd": "KD",
    "align-batch": "DKD-Align, batch, ε = 6",
    "align-sample": "DKD-Align, sample, ε = 6",
    "align-log": "DKD-Align, log, 10 % of the gradient",
}
"""Titles of the trainings, in their order: the most interesting ones come first."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student with their published accuracies.

    Attributes:
        example: file of the spec with their recipe.
        published: top-1 accuracies in % by method: means of the best test epoch, except the teacher's, which is that of
            one checkpoint.
    """

    name: str
    example: Path
    published: Mapping[str, float]


def _pair(name: str, teacher: str, student: str) -> Pair:
    (row,) = (row for row in PUBLISHED if (row.dataset, row.teacher, row.student) == ("cifar100", teacher, student))
    file = f"{teacher}-{student}.yaml".replace("_", "-")
    return Pair(name, _EXAMPLES / file, row.values)


PAIRS: Mapping[str, Pair] = {
    pair.name: pair
    for pair in (
        _pair("res56-res20", "resnet56", "resnet20"),
        _pair("res110-res32", "resnet110", "resnet32"),
        _pair("res32x4-res8x4", "resnet32x4", "resnet8x4"),
        _pair("wrn40-2-wrn16-2", "wrn_40_2", "wrn_16_2"),
        _pair("wrn40-2-wrn40-1", "wrn_40_2", "wrn_40_1"),
        _pair("vgg13-vgg8", "vgg13", "vgg8"),
        _pair("res32x4-shufflev1", "resnet32x4", "shufflenet_v1"),
        _pair("wrn40-2-shufflev1", "wrn_40_2", "shufflenet_v1"),
        _pair("vgg13-mobilev2", "vgg13", "mobilenet_v2_half"),
        _pair("res50-mobilev2", "resnet50_cifar", "mobilenet_v2_half"),
        _pair("res32x4-shufflev2", "resnet32x4", "shufflenet_v2"),
    )
}


@dataclass(frozen=True)
class Setting:
    """The deviations of a run from the published recipe.

    Attributes:
        epochs: None for those of the recipe; if fewer, the milestones of the schedule and the ramp are scaled.
        train_images: number of training images, in equal shares of the classes; None for all.
        test_images: the same for test images.
    """

    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None

    @property
    def shortened(self) -> bool:
        """Whether the run deviates from the recipe, so that it is no reproduction."""
        return any(value is not None for value in (self.epochs, self.train_images, self.test_images))

    def sentence(self) -> str:
        """Return the deviations as text."""
        parts = [
            f"{self.epochs} epochs" if self.epochs is not None else "",
            f"{self.train_images:,} training images" if self.train_images is not None else "",
            f"{self.test_images:,} test images" if self.test_images is not None else "",
        ]
        return ", ".join(filter(None, parts))


def plan(pair: Pair, setting: Setting, methods: Sequence[str], seeds: Sequence[int]) -> list[PlannedRun]:
    """Return the trainings in the order of ``methods``, all seeds of a method together.

    Their labels are the keys of ``TITLES``.

    The teacher is the first one if a method needs it.
    """
    recipe = read_experiment(pair.example).model_dump(mode="json")
    full = int(recipe["training"]["epochs"])
    teacher_training = recipe["teacher"].get("training") or recipe["training"]
    data = recipe | {
        "dataset": _dataset(recipe["dataset"], setting),
        "methods": [_method(name, recipe["methods"], setting, full) for name in methods if name != TEACHER],
        "seeds": list(seeds),
        "teacher": recipe["teacher"] | {"training": _shortened(teacher_training, setting, full)},
        "training": _shortened(recipe["training"], setting, full),
    }
    if not data["methods"]:  # the teacher alone: planned through a student that needs it, which is then removed
        data["methods"] = [_method("dkd", recipe["methods"], setting, full)]
    planned = parse_experiment(data).plan()
    order = [TEACHER, *(name for name in methods if name != TEACHER)]
    return sorted((run for run in planned if run.label in order), key=lambda run: order.index(run.label))


def _dataset(choice: dict[str, Any], setting: Setting) -> dict[str, Any]:
    if setting.train_images is None and setting.test_images is None:
        return choice
    sizes = {"train_images": setting.train_images, "test_images": setting.test_images}
    return {"name": "part", "params": {"of": choice["name"], **sizes}}


def _method(name: str, recipes: list[dict[str, Any]], setting: Setting, full: int) -> dict[str, Any]:
    """Return a method of the table with the parameters of the recipe."""
    kind, _, reduction = name.partition("-")
    recipe = next(item for item in recipes if item["name"] == ("dkd_align" if kind == "align" else kind))
    params = dict(recipe["params"])
    if reduction:
        weight = {"epsilon": None, "epsilon_share": 0.1} if reduction == "log" else {"epsilon": 6.0}
        params |= {"reduction": reduction, "epsilon_share": None, **weight}
    if setting.epochs is not None and "ramp_epochs" in params:
        params["ramp_epochs"] = _scaled(params["ramp_epochs"], setting.epochs, full)
    return {"name": recipe["name"], "label": name, "params": params}


def _shortened(training: dict[str, Any], setting: Setting, full: int) -> dict[str, Any]:
    if setting.epochs is None:
        return training
    scaled = (_scaled(milestone, setting.epochs, full) for milestone in training["schedule"]["milestones"])
    milestones = sorted({milestone for milestone in scaled if milestone < setting.epochs})
    schedule = training["schedule"] | {"milestones": milestones}
    if training["schedule"]["name"] == "step" and not milestones:
        schedule = {"name": "constant"}
    return training | {"epochs": setting.epochs, "schedule": schedule}


def _scaled(epochs: int, shortened: int, full: int) -> int:
    return max(1, round(epochs * shortened / full))
