"""Top-1 accuracies on CIFAR-100 that public repositories print in their READMEs: 632 numbers in ``numbers.csv``.

A row is one number as it was printed: source, method, teacher, student and top-1 in %. 619 of them were compared with
the tables of the READMEs by a program, at the revisions below, and the other 13 by eye. One cell is left out:
RepDistiller prints 0.00 for FSP with WRN-40-2 and WRN-40-1, whose stages do not fit together. One heading is corrected:
mdistiller prints MobileNet-V2 above the numbers of ResNet32x4 and ShuffleNet-V2.

The tables mix two conventions, the last epoch and the best test epoch, and most of them reprint numbers of others.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.papers.paper import TEACHER, PublishedEpoch, PublishedNumber

_FILE = Path(__file__).with_name("numbers.csv")
DATASET = "cifar100"


@dataclass(frozen=True)
class Source:
    """A repository whose README was read.

    Attributes:
        address: Address of the repository.
        revision: Commit of the README.
        note: What the authors say about epoch and runs, and where.
        epoch: Epoch of the numbers of each method, where the authors say it; "" stands for every other method.
        runs: Runs that each method's number is the mean of, where the authors say it.
    """

    address: str
    revision: str
    note: str
    epoch: Mapping[str, PublishedEpoch] = field(default_factory=dict)
    runs: Mapping[str, int] = field(default_factory=dict)


_STANDARDISED = ("KD+LS", "CTKD+LS", "DKD+LS", "MLKD+LS")

SOURCES: Mapping[str, Source] = {
    "RepDistiller README": Source(
        "https://github.com/HobbitLong/RepDistiller",
        "b84f547c5db6a35318d4671d7d5c4de74c822403",
        "Last epoch (comment at the end of train_student.py, issue 16). The number of runs is not in the README.",
        epoch={"": "last"},
    ),
    "mdistiller README": Source(
        "https://github.com/megvii-research/mdistiller",
        "a08d46f10d6102bd6e3f258ca5ac880b020ea259",
        "DKD: mean of 5 runs of the best test epoch (issues 30 and 42). KD+DOT: not said; the code keeps the best test "
        "epoch.",
        epoch={"DKD": "oracle"},
        runs={"DKD": 5},
    ),
    "NORM README": Source(
        "https://github.com/OSVAI/NORM",
        "c6dfc39eaf2fdaccf99ed07810da7a00b71b9144",
        "Means of a number of runs that is not said, like the epoch; the code writes the best test epoch. Methods "
        "other than NORM are reprinted from their papers.",
    ),
    "logit-standardization-KD README": Source(
        "https://github.com/sunshangquan/logit-standardization-KD",
        "f6e5aa5172bad618e801163c3385322eea673754",
        "With standardisation (LS): best test epoch (issue 23), mean of a number of runs that is not said. Methods "
        "without it are reprinted from their papers.",
        epoch=dict.fromkeys(_STANDARDISED, "oracle"),
    ),
    "DIST_KD README": Source(
        "https://github.com/hunto/DIST_KD",
        "2418f18b1fedd7c2646a7b1b9a27d5c674c2170b",
        "Means with standard deviations of 0.18 to 0.30; epoch and number of runs are not said.",
    ),
    "WKD repository": Source(
        "https://github.com/JiamingLv/WKD",
        "214cf8868c2b8e45781f238b8f0e47c2e4e38190",
        "Epoch and number of runs are not said; the code, a fork of mdistiller, keeps the best test epoch.",
    ),
}
"""The sources by the name that ``numbers.csv`` has for them."""

NETWORKS: Mapping[str, str] = {
    "R8x4": "resnet8x4",
    "R20": "resnet20",
    "R32": "resnet32",
    "R32x4": "resnet32x4",
    "R50": "resnet50_cifar",
    "R56": "resnet56",
    "R110": "resnet110",
    "WRN-16-2": "wrn_16_2",
    "WRN-40-1": "wrn_40_1",
    "WRN-40-2": "wrn_40_2",
    "VGG8": "vgg8",
    "VGG13": "vgg13",
    "MV2": "mobilenet_v2_half",
    "SV1": "shufflenet_v1",
    "SV2": "shufflenet_v2",
}
"""Names in the catalog by the short names of the tables."""

_METHODS: Mapping[str, tuple[str, Mapping[str, Any], tuple[str, ...]]] = {
    "Teacher": (TEACHER, {}, ()),
    **dict.fromkeys(
        (
            "Student",
            "Student(reported in CRD)",
            "Student (reported in CRD)",
            "Student(our reproduced)",
            "Student (our reproduced)",
        ),
        ("ce", {}, ()),
    ),
    **{
        name: (name.lower(), {}, ())
        for name in (
            *("AB", "AT", "CC", "CRD", "DIST", "FSP", "FT", "FitNet", "NORM", "NST", "PKT", "RKD", "ReviewKD", "SP"),
            *("SemCKD", "SimKD", "VID"),
        )
    },
    # The numbers are of SimKD's toolbox, which adds KD (scripts/run_distill.sh).
    "SRRL": ("srrl", {}, ("kd",)),
    **{name: (name.lower(), {"standardise": False}, ()) for name in ("KD", "DKD", "CTKD", "MLKD")},
    **{name: (name.removesuffix("+LS").lower(), {"standardise": True}, ()) for name in _STANDARDISED},
    "KD+DOT": ("dot", {}, ()),
    "NORM+KD": ("norm", {}, ("kd",)),
    "NORM+CRD": ("norm", {}, ("crd",)),
    "WKD-L": ("wkd_l", {}, ()),
    "WKD-F": ("wkd_f", {}, ()),
    "WKD-L+F": ("wkd_f", {}, ("wkd_l",)),
}
"""Name in the catalog, parameters and methods that it is combined with, by the name in the tables.

Numbers of other methods, and of students with another last layer, belong to no method of the catalog.
"""


def numbers() -> Iterator[PublishedNumber]:
    """Yield the numbers of the file, in its order."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            source, printed = SOURCES[row["source"]], row["method"]
            method, params, combined = _METHODS.get(printed, ("", {}, ()))
            yield PublishedNumber(
                source=row["source"],
                dataset=DATASET,
                teacher=NETWORKS[row["teacher"]],
                student=NETWORKS[row["student"]],
                printed=printed,
                value=float(row["top1"]),
                method=method,
                params=params,
                combined=combined,
                dataset_params={"image_size": 32},
                epoch=source.epoch.get(printed) or source.epoch.get(""),
                runs=source.runs.get(printed),
            )
