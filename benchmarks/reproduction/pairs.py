"""The published pairs on CIFAR-100, and the trainings that reproduce one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.papers import published_for
from core.specs import ExperimentSpec, PlannedRun, parse_experiment, read_experiment

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
"""What is trained, in the order in which it is: what a reader asks for first comes first."""


@dataclass(frozen=True)
class Pair:
    """A teacher and a student with what is published of them.

    Attributes:
        example: the spec with their recipe.
        published: top-1 accuracies in % by method, and the teacher's: means of the best test epoch, but for the
            teacher, which is one checkpoint.
    """

    name: str
    example: Path
    published: Mapping[str, float]


def _pair(name: str, teacher: str, student: str) -> Pair:
    (row,) = published_for("cifar100", {}, teacher, student)
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
    """How far a run departs from the published recipe.

    Attributes:
        epochs: None for the recipe's own. Fewer: the schedule's milestones and the ramp shrink with them.
        train_images, test_images: as many of each split, in equal shares of the classes; None for all.
    """

    epochs: int | None = None
    train_images: int | None = None
    test_images: int | None = None

    @property
    def shortened(self) -> bool:
        """Whether it is anything less than the recipe, and so no reproduction."""
        return any(value is not None for value in (self.epochs, self.train_images, self.test_images))

    def sentence(self) -> str:
        """What was left out, for people."""
        parts = [
            f"{self.epochs} epochs" if self.epochs is not None else "",
            f"{self.train_images:,} training images" if self.train_images is not None else "",
            f"{self.test_images:,} test images" if self.test_images is not None else "",
        ]
        return ", ".join(filter(None, parts))


def plan(pair: Pair, setting: Setting, methods: Sequence[str], seeds: Sequence[int]) -> list[PlannedRun]:
    """The trainings in the order of ``methods``, all seeds of one before the next, each labelled as in ``TITLES``.

    The teacher is there, first, where a method needs one.
    """
    recipe = read_experiment(pair.example).model_dump(mode="json")
    full = int(recipe["training"]["epochs"])
    of_teacher = recipe["teacher"].get("training") or recipe["training"]
    data = recipe | {
        "dataset": _dataset(recipe["dataset"], setting),
        "methods": [_method(name, recipe["methods"], setting, full) for name in methods if name != TEACHER],
        "seeds": list(seeds),
        "teacher": recipe["teacher"] | {"training": _shortened(of_teacher, setting, full)},
        "training": _shortened(recipe["training"], setting, full),
    }
    if not data["methods"]:  # the teacher alone: planned through a student that needs it, who is then left out
        data["methods"] = [_method("dkd", recipe["methods"], setting, full)]
    planned = _parsed(data).plan()
    order = [TEACHER, *(name for name in methods if name != TEACHER)]
    return sorted((run for run in planned if run.label in order), key=lambda run: order.index(run.label))


def _parsed(data: dict[str, Any]) -> ExperimentSpec:
    return parse_experiment(data)


def _dataset(choice: dict[str, Any], setting: Setting) -> dict[str, Any]:
    if setting.train_images is None and setting.test_images is None:
        return choice
    sizes = {"train_images": setting.train_images, "test_images": setting.test_images}
    return {"name": "part", "params": {"of": choice["name"], **sizes}}


def _method(name: str, recipes: list[dict[str, Any]], setting: Setting, full: int) -> dict[str, Any]:
    """A method of the table, with the recipe's own parameters."""
    kind, _, reduction = name.partition("-")
    of_recipe = next(each for each in recipes if each["name"] == ("dkd_align" if kind == "align" else kind))
    params = dict(of_recipe["params"])
    if reduction:
        weight = {"epsilon": None, "epsilon_share": 0.1} if reduction == "log" else {"epsilon": 6.0}
        params |= {"reduction": reduction, "epsilon_share": None, **weight}
    if setting.epochs is not None and "ramp_epochs" in params:
        params["ramp_epochs"] = _scaled(params["ramp_epochs"], setting.epochs, full)
    return {"name": of_recipe["name"], "label": name, "params": params}


def _shortened(training: dict[str, Any], setting: Setting, full: int) -> dict[str, Any]:
    if setting.epochs is None:
        return training
    scaled = (_scaled(milestone, setting.epochs, full) for milestone in training["schedule"]["milestones"])
    milestones = sorted({milestone for milestone in scaled if milestone < setting.epochs})
    schedule = training["schedule"] | {"milestones": milestones}
    if training["schedule"]["name"] == "step" and not milestones:
        schedule = {"name": "constant"}
    return training | {"epochs": setting.epochs, "schedule": schedule}


def _scaled(epochs: int, now: int, full: int) -> int:
    return max(1, round(epochs * now / full))
