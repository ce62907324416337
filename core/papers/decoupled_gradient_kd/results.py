"""The table of Decoupled Gradient Knowledge Distillation (2025): one run per cell, no repeats."""

from __future__ import annotations

from core.papers.paper import PublishedRow

SOURCE = "Decoupled Gradient Knowledge Distillation (2025), one run per cell"


def _row(dataset: str, teacher: str, student: str, align: float, dkd: float) -> PublishedRow:
    values = {"dkd_align": align, "dkd": dkd}
    repeats = dict.fromkeys(values, 1)
    return PublishedRow(SOURCE, dataset, teacher, student, values, params={"image_size": 224}, repeats=repeats)


_VIT = "timm:vit_small_patch16_224"
_SHUFFLENET = "shufflenet_v2_x1_0"

PUBLISHED: tuple[PublishedRow, ...] = (
    _row("cifar100", "resnet50", "resnet18", 62.01, 61.07),
    _row("cifar100", _VIT, "resnet18", 58.64, 57.31),
    _row("cifar100", "resnet18", "resnet18", 62.35, 61.53),
    _row("cifar100", "resnet50", "resnet50", 53.39, 54.31),
    _row("cifar100", "resnet101", "resnet101", 55.94, 48.99),
    # The paper prints the next two pairs in the reverse order; the larger network is taken as the teacher, as in every
    # other row.
    _row("cifar100", "resnet50", _SHUFFLENET, 55.49, 56.48),
    _row("cifar100", _VIT, _SHUFFLENET, 55.56, 55.84),
    _row("imagenet", "resnet50", "resnet18", 48.42, 45.48),
    _row("imagenet", "resnet50", _SHUFFLENET, 44.90, 45.59),
    _row("imagenet", _VIT, "resnet18", 41.81, 41.57),
    _row("imagenet", _VIT, _SHUFFLENET, 39.74, 39.42),
    _row("imagenet", "resnet101", "resnet101", 30.49, 0.50),
    _row("imagenet", "resnet50", "resnet50", 48.09, 48.06),
    _row("imagenet", "resnet18", "resnet18", 48.29, 46.40),
)
