"""How much accuracy is left on perturbed test images, or on stylised ones. Nothing is trained on them."""

from __future__ import annotations

import logging
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.data import Dataset, Split
from core.data.decoding import load_upright_rgb
from core.data.paths import spec_path
from core.data.scanning import SkippedFiles, list_images, subfolders
from core.diagnostics.inference import eval_mode, inference_batch_size, to_floats
from core.diagnostics.perturbations import perturbations
from core.settings import TrainingSettings
from core.specs import Training
from core.undecodable import visible

_log = logging.getLogger("core.data")  # a training forwards it to its journal

SEED = 0
"""Of the perturbations. Not the run's own: every student and teacher is to be shown the same images."""

_IN_MEMORY = 2**28  # bytes of stylised images; ImageNet's would take 7.5 GB


@dataclass(frozen=True)
class RobustnessInputs:
    """What the final report measures robustness on.

    Attributes:
        test_images: the perturbations of the test images.
        stylised: a folder read by ``read_stylised``, or None.
    """

    test_images: bool = False
    stylised: Split | None = None


def robustness(
    student: nn.Module, teacher: nn.Module | None, dataset: Dataset, split: Split, seed: int = SEED
) -> dict[str, float]:
    """Accuracy on every perturbation of a split, %, and its drop from the clean images, percentage points.

    ``robustness/KIND`` and ``robustness/KIND_drop`` are the student's, with ``_teacher`` before ``_drop`` the
    teacher's; KIND is a key of ``core.diagnostics.perturbations.perturbations()``.
    """
    networks = _networks(student, teacher)
    hits = {f"{kind}{who}": _zero(dataset) for kind in ("clean", *perturbations()) for who in networks}
    size = inference_batch_size(dataset.image_size)
    first = 0
    with eval_mode(*networks.values()):
        for images in split.chunks(size):
            samples = np.arange(first, first + len(images))
            labels = split.labels[first : first + len(images)]
            first += len(images)
            shown = {"clean": images} | {kind: by(images, samples, seed) for kind, by in perturbations().items()}
            for kind, perturbed in shown.items():
                for who, network in networks.items():
                    hits[f"{kind}{who}"] += _hits(network, dataset, perturbed, labels)
    found = to_floats({name: 100 * count / len(split) for name, count in hits.items()})
    return {
        f"robustness/{kind}{who}{drop}": found[f"clean{who}"] - found[f"{kind}{who}"] if drop else found[f"{kind}{who}"]
        for kind in perturbations()
        for who in networks
        for drop in ("", "_drop")
    }


def stylised_accuracy(
    student: nn.Module, teacher: nn.Module | None, dataset: Dataset, stylised: Split
) -> dict[str, float]:
    """Accuracy on stylised images, %, and its drop from the clean test images, percentage points.

    ``robustness/stylised`` and its ``_drop``, ``_teacher`` and ``_teacher_drop``; the images need not be the test
    images in another style, nor as many.
    """
    networks = _networks(student, teacher)
    rates: dict[str, Tensor] = {}
    with eval_mode(*networks.values()):
        for name, split in (("clean", dataset.test), ("stylised", stylised)):
            for who, network in networks.items():
                hits, first = _zero(dataset), 0
                for images in split.chunks(inference_batch_size(dataset.image_size)):
                    hits += _hits(network, dataset, images, split.labels[first : first + len(images)])
                    first += len(images)
                rates[f"{name}{who}"] = 100 * hits / len(split)
    found = to_floats(rates)
    return {f"robustness/stylised{who}": found[f"stylised{who}"] for who in networks} | {
        f"robustness/stylised{who}_drop": found[f"clean{who}"] - found[f"stylised{who}"] for who in networks
    }


def robustness_inputs(training: Training, dataset: Dataset, settings: TrainingSettings) -> RobustnessInputs:
    """Read what the final report measures robustness on, before hours of training depend on it.

    Args:
        training: The training part of a run's spec.
        dataset: The data set of the run.
        settings: The folders of this machine.

    Returns:
        The inputs of ``core.diagnostics.report.final_report``.

    Raises:
        ValueError: The folder of stylised images cannot be used.
    """
    if not training.stylised:
        return RobustnessInputs(training.robustness)
    try:
        folder = spec_path(training.stylised, "folder", settings)
        return RobustnessInputs(training.robustness, read_stylised(folder, dataset, settings.pack_dir))
    except (ValueError, OSError) as error:
        raise ValueError(f"the stylised images: {error}") from error


def read_stylised(folder: Path, dataset: Dataset, scratch_dir: Path) -> Split:
    """Images of ``folder/<class>/*.png`` (or JPEG and the like), cut square and brought to the data set's size.

    Class folders in alphabetical order are the classes 0 to C−1, as the official labels of CIFAR-100 and ImageNet are.

    All are read at once, so that a damaged one is known before hours of training; many of them into a file, which
    memory need not hold.

    Raises ValueError where there is no such folder, where it does not hold one folder a class, or where an image
    cannot be read, which is then named; OSError where ``scratch_dir`` cannot hold many of them.
    """
    from PIL import ImageOps  # needed for nothing else in a training

    skipped = SkippedFiles()
    folders = subfolders(folder, skipped) if folder.is_dir() else []
    if len(folders) != dataset.num_classes:
        have = f"holds {len(folders)} class folders" if folder.is_dir() else "is no folder"
        raise ValueError(f"{folder} {have}; one for each of the {dataset.num_classes} classes is needed")
    files = [
        (label, folder / name / path)
        for label, name in enumerate(folders)
        for path in list_images(folder / name, skipped)
    ]
    for sentence in skipped.sentences():
        _log.warning("%s: %s", visible(str(folder)), sentence)
    if not files:
        raise ValueError(f"{folder} holds no images")
    side = dataset.image_size
    images = _allocate((len(files), dataset.channels, side, side), scratch_dir)
    for row, (_, path) in enumerate(files):
        try:
            image, _, _ = load_upright_rgb(path)
            fitted = ImageOps.fit(image.convert("L") if dataset.channels == 1 else image, (side, side))
        except Exception as error:  # a damaged file makes the decoders raise whatever they come upon
            raise ValueError(f"{visible(str(path))} cannot be read as an image: {error}") from error
        pixels = np.asarray(fitted, dtype=np.uint8)
        images[row] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    labels = torch.tensor([label for label, _ in files], device=dataset.device)
    return Split(torch.from_numpy(images), labels)


def _allocate(shape: tuple[int, ...], scratch_dir: Path) -> NDArray[np.uint8]:
    """Return bytes in memory, or if they are many, in a nameless file that disappears with the process."""
    if math.prod(shape) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch_dir) as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _networks(student: nn.Module, teacher: nn.Module | None) -> dict[str, nn.Module]:
    """By what stands behind a metric's name."""
    return {"": student} | ({"_teacher": teacher} if teacher else {})


def _zero(dataset: Dataset) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=dataset.device)


def _hits(network: nn.Module, dataset: Dataset, images: Tensor, labels: Tensor) -> Tensor:
    hits: Tensor = (network(dataset.normalise(images)).argmax(1) == labels).sum()
    return hits
