"""DKD: Zhao, Cui, Song, Qiu and Liang, *Decoupled Knowledge Distillation*, CVPR 2022 (arXiv 2203.08679)."""

from __future__ import annotations

from core.papers.paper import Paper, Preset, PublishedRow

SOURCE = "Zhao et al., CVPR 2022 (arXiv 2203.08679)"

_CIFAR100 = Preset(
    "DKD's recipe for CIFAR-100: 240 epochs, no validation split, the last epoch is the result.",
    {
        "dataset": {"name": "cifar100"},
        "methods": [
            {"name": "kd", "params": {"temperature": 4.0, "ce_weight": 0.1, "kd_weight": 0.9}},
            {
                "name": "dkd",
                "params": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "ramp_epochs": 20, "ramp_start": 1},
            },
        ],
        "seeds": [0, 1, 2, 3, 4],
        "training": {
            "epochs": 240,
            "batch_size": 64,
            "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4},
            "schedule": {"name": "step", "milestones": [150, 180, 210], "gamma": 0.1},
        },
    },
)

_IMAGENET = Preset(
    "DKD's recipe for ImageNet: 100 epochs, batch 512, resized crops, tested on the middle 224 of 256 px.",
    {
        "dataset": {"name": "imagenet"},
        "methods": [
            {"name": "kd", "params": {"temperature": 1.0, "ce_weight": 0.5, "kd_weight": 0.5}},
            {"name": "dkd", "params": {"temperature": 1.0, "alpha": 1.0, "beta": 0.5, "ramp_epochs": 1}},
        ],
        "seeds": [0, 1, 2],
        "training": {
            "epochs": 100,
            "batch_size": 512,
            "optimizer": {"name": "sgd", "lr": 0.2, "momentum": 0.9, "weight_decay": 1e-4},
            "schedule": {"name": "step", "milestones": [30, 60, 90], "gamma": 0.1},
        },
    },
)

_COCO_METHODS = [
    "ce",
    {"name": "kd", "params": {"temperature": 1.0, "ce_weight": 1.0, "kd_weight": 1.0}},
    {"name": "dkd", "params": {"temperature": 1.0, "alpha": 1.0, "beta": 0.25, "ramp_epochs": 0}},
]
_COCO_TRAINING = {
    "epochs": 12,
    "schedule": {"name": "step", "milestones": [8, 11], "gamma": 0.1, "warmup_steps": 1000},
}

_COCO_1X = Preset(
    "The usual short schedule for COCO: 12 epochs in batches of 16, a tenth of the rate after 8 and after 11.",
    {
        "dataset": {"name": "coco"},
        "methods": _COCO_METHODS,
        "seeds": [0, 1, 2],
        "training": _COCO_TRAINING
        | {"batch_size": 16, "optimizer": {"name": "sgd", "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-4}},
    },
)

_COCO = Preset(
    "DKD's recipe for COCO in whole epochs: 12, in batches of 8 (177,432 steps; the authors took 180,000).",
    {
        "dataset": {"name": "coco"},
        "methods": _COCO_METHODS,
        "seeds": [0, 1, 2],
        "training": _COCO_TRAINING
        | {"batch_size": 8, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}},
    },
)


def _cifar100(teacher: str, student: str, top1: float, ce: float, kd: float, dkd: float) -> PublishedRow:
    return PublishedRow(
        SOURCE,
        "cifar100",
        teacher,
        student,
        {"teacher": top1, "ce": ce, "kd": kd, "dkd": dkd},
        params={"image_size": 32},
        repeats={"dkd": 5},
        epoch={"dkd": "oracle"},
    )


def _imagenet(teacher: str, student: str, kd: float, dkd: float) -> PublishedRow:
    return PublishedRow(SOURCE, "imagenet", teacher, student, {"kd": kd, "dkd": dkd})


PAPER = Paper(
    name="decoupled-kd-2022",
    title="Decoupled Knowledge Distillation (2022)",
    presets={"dkd-cifar100": _CIFAR100, "dkd-imagenet": _IMAGENET, "dkd-coco": _COCO, "coco-1x": _COCO_1X},
    published=(
        _cifar100("resnet56", "resnet20", 72.34, 69.06, 70.66, 71.97),
        _cifar100("resnet110", "resnet32", 74.31, 71.14, 73.08, 74.11),
        _cifar100("resnet32x4", "resnet8x4", 79.42, 72.50, 73.33, 76.32),
        _cifar100("wrn_40_2", "wrn_16_2", 75.61, 73.26, 74.92, 76.24),
        _cifar100("wrn_40_2", "wrn_40_1", 75.61, 71.98, 73.54, 74.81),
        _cifar100("vgg13", "vgg8", 74.64, 70.36, 72.98, 74.68),
        _cifar100("resnet32x4", "shufflenet_v1", 79.42, 70.50, 74.07, 76.45),
        _cifar100("wrn_40_2", "shufflenet_v1", 75.61, 70.50, 74.83, 76.70),
        _cifar100("vgg13", "mobilenet_v2_half", 74.64, 64.60, 67.37, 69.71),
        _cifar100("resnet50_cifar", "mobilenet_v2_half", 79.34, 64.60, 67.35, 70.35),
        _cifar100("resnet32x4", "shufflenet_v2", 79.42, 71.82, 74.45, 77.07),
        _imagenet("resnet34", "resnet18", 71.03, 71.70),
        _imagenet("resnet50", "mobilenet_v1", 70.50, 72.05),
    ),
)
