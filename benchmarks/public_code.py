"""Distillation methods as the public repository mdistiller (megvii-research/mdistiller, 2023) trains them.

Its code is not part of this package: ``--mdistiller DIR`` names a checkout, which is only run and measured.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NAMES: Mapping[str, str] = {
    "kd": "KD",
    "dkd": "DKD",
    "fitnet": "FITNET",
    "at": "AT",
    "nst": "NST",
    "pkt": "PKT",
    "rkd": "RKD",
    "sp": "SP",
    "kdsvd": "KDSVD",
    "vid": "VID",
    "ofd": "OFD",
    "crd": "CRD",
    "reviewkd": "REVIEWKD",
}
"""Its name of each method that both have."""
NETWORKS: Mapping[str, str] = {
    "resnet8": "resnet8",
    "resnet20": "resnet20",
    "resnet8x4": "resnet8x4",
    "resnet32x4": "resnet32x4",
}
"""Its name of each network that is measured."""
_CHANNELS: Mapping[str, tuple[int, ...]] = {
    "resnet8": (16, 32, 64, 64),
    "resnet20": (16, 32, 64, 64),
    "resnet8x4": (64, 128, 256, 256),
    "resnet32x4": (64, 128, 256, 256),
}
"""Channels of the maps that ReviewKD reads: the three stages and the pooled features."""
NEGATIVES = 1024
"""CRD's K in both: the few images of a measurement have no 16,384, its default, of other classes."""
PARAMS: Mapping[str, Mapping[str, int]] = {"crd": {"negatives": NEGATIVES}}
"""This package's parameters of each method for which both do not have the defaults."""


class PublicCode:
    """A checkout of mdistiller.

    Args:
        folder: The checkout, which contains the package ``mdistiller``.

    Raises:
        SystemExit: The folder has no such package.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "mdistiller" / "distillers").is_dir():
            sys.exit(f"{folder} is not a checkout of mdistiller: it has no folder mdistiller/distillers")
        sys.path.insert(0, str(folder))
        self._distillers = importlib.import_module("mdistiller.distillers").distiller_dict
        self._networks = importlib.import_module("mdistiller.models.cifar").cifar_model_dict

    def network(self, name: str) -> nn.Module:
        """Return an untrained network of 100 classes by this package's name."""
        network: nn.Module = self._networks[NETWORKS[name]][0](num_classes=100)
        return network

    def distiller(self, method: str, student: str, teacher: str, samples: int) -> Any:
        """Return its distiller of a method, in training mode, for two untrained networks.

        Args:
            method: This package's name of the method.
            student: This package's name of the student.
            teacher: This package's name of the teacher.
            samples: The number of training samples, which CRD's memory has.
        """
        networks = self.network(student), self.network(teacher).requires_grad_(False)
        config = configuration(_CHANNELS[student], _CHANNELS[teacher])
        extra = (samples,) if method == "crd" else ()
        return self._distillers[NAMES[method]](*networks, config, *extra).train()


class WithNegatives(torch.utils.data.Dataset[tuple[Tensor, int, int, Tensor]]):
    """Samples with their number and, as CRD's data set draws them, the numbers of ``NEGATIVES`` of other classes.

    Args:
        samples: Yields an image and its label.
        labels: The labels of all samples.
    """

    def __init__(self, samples: torch.utils.data.Dataset[tuple[Tensor, int]], labels: Tensor) -> None:
        self._samples, self._labels = samples, labels.numpy()
        self._others = {label: np.flatnonzero(self._labels != label) for label in np.unique(self._labels)}

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, Tensor]:
        image, label = self._samples[index]
        others = self._others[label]
        drawn = np.random.choice(others, NEGATIVES, replace=len(others) < NEGATIVES)
        return image, label, index, torch.from_numpy(np.concatenate(([index], drawn)))


def configuration(
    student: tuple[int, ...],
    teacher: tuple[int, ...],
    negatives: int = NEGATIVES,
    heights: tuple[Sequence[int], Sequence[int]] = ((32, 16, 8, 1), (32, 16, 8, 1)),
) -> SimpleNamespace:
    """Return its default settings of all methods, see ``mdistiller/engine/cfg.py`` there.

    Args:
        student: Channels of the student's stages and of its pooled features.
        teacher: Channels of the teacher's.
        negatives: CRD's K.
        heights: Heights of the student's maps and of the teacher's, in the same order.
    """

    def plain(weight: float, **more: Any) -> SimpleNamespace:
        return SimpleNamespace(LOSS=SimpleNamespace(CE_WEIGHT=1.0, FEAT_WEIGHT=weight), **more)

    return SimpleNamespace(
        KD=SimpleNamespace(TEMPERATURE=4, LOSS=SimpleNamespace(CE_WEIGHT=0.1, KD_WEIGHT=0.9)),
        DKD=SimpleNamespace(CE_WEIGHT=1.0, ALPHA=1.0, BETA=8.0, T=4.0, WARMUP=20),
        AT=plain(1000.0, P=2),
        FITNET=plain(100.0, HINT_LAYER=2, INPUT_SIZE=(32, 32)),
        KDSVD=plain(1.0, K=1),
        NST=plain(50.0),
        PKT=plain(30_000.0),
        SP=plain(3000.0),
        OFD=plain(0.001, CONNECTOR=SimpleNamespace(KERNEL_SIZE=1)),
        VID=plain(1.0, EPS=1e-5, INIT_PRED_VAR=5.0, INPUT_SIZE=(32, 32)),
        RKD=plain(1.0, DISTANCE_WEIGHT=25, ANGLE_WEIGHT=50, PDIST=SimpleNamespace(EPSILON=1e-12, SQUARED=False)),
        CRD=plain(
            0.8,
            MODE="exact",
            FEAT=SimpleNamespace(DIM=128, STUDENT_DIM=student[-1], TEACHER_DIM=teacher[-1]),
            NCE=SimpleNamespace(K=negatives, MOMENTUM=0.5, TEMPERATURE=0.07),
        ),
        REVIEWKD=SimpleNamespace(
            CE_WEIGHT=1.0,
            REVIEWKD_WEIGHT=1.0,
            WARMUP_EPOCHS=20,
            SHAPES=[*reversed(heights[0])],
            OUT_SHAPES=[*reversed(heights[1])],
            IN_CHANNELS=[*student],
            OUT_CHANNELS=[*teacher],
            MAX_MID_CHANNEL=512,
            STU_PREACT=False,
        ),
    )
