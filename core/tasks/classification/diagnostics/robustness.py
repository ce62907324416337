"""Accuracy on perturbed and on stylised test images, which are never used for training."""

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

from core.settings import TrainingSettings
from core.specs import Training
from core.tasks.classification.data import Dataset, Split
from core.tasks.classification.data.decoding import load_upright_rgb
from core.tasks.classification.data.paths import spec_path
from core.tasks.classification.data.scanning import SkippedFiles, list_images, subfolders
from core.tasks.classification.diagnostics.inference import eval_mode, inference_batch_size, to_floats
from core.tasks.classification.diagnostics.perturbations import perturbations
from core.undecodable import visible

_log = logging.getLogger("core.tasks.classification.data")  # a training forwards it to its journal

SEED = 0
"""Seed of the perturbations. It does not depend on the run, so that all networks receive the same images."""

_IN_MEMORY = 2**28  # bytes of stylised images; those of ImageNet would take 7.5 GB


@dataclass(frozen=True)
class RobustnessInputs:
    """The images of the robustness measurements in the final report.

    Attributes:
        test_images: whether perturbed test images are used.
        stylised: images read by ``read_stylised``, or None.
    """

    test_images: bool = False
    stylised: Split | None = None


def robustness(
    student: nn.Module, teacher: nn.Module | None, dataset: Dataset, split: Split, seed: int = SEED
) -> dict[str, float]:
    """Measure the accuracy on perturbed images in %, and its drop from the clean images in percentage points.

    ``robustness/KIND`` and ``robustness/KIND_drop`` are those of the student, ``robustness/KIND_teacher`` and
    ``robustness/KIND_teacher_drop`` those of the teacher. KIND is a key of
    ``core.tasks.classification.diagnostics.perturbations.perturbations()``.

    Args:
        student: the student.
        teacher: the teacher, or None.
        dataset: the data set, for the normalisation.
        split: the images to perturb.
        seed: seed of the perturbations.
    """
    networks = _networks(student, teacher)
    hits = {f"{kind}{suffix}": _zero(dataset) for kind in ("clean", *perturbations()) for suffix in networks}
    size = inference_batch_size(dataset.image_size)
    first = 0
    with eval_mode(*networks.values()):
        for images in split.chunks(size):
            samples = np.arange(first, first + len(images))
            labels = split.labels[first : first + len(images)]
            first += len(images)
            versions = {"clean": images} | {
                kind: perturb(images, samples, seed) for kind, perturb in perturbations().items()
            }
            for kind, perturbed in versions.items():
                for suffix, network in networks.items():
                    hits[f"{kind}{suffix}"] += _count_correct(network, dataset, perturbed, labels)
    rates = to_floats({name: 100 * count / len(split) for name, count in hits.items()})
    return {
        f"robustness/{kind}{suffix}{drop}": rates[f"clean{suffix}"] - rates[f"{kind}{suffix}"]
        if drop
        else rates[f"{kind}{suffix}"]
        for kind in perturbations()
        for suffix in networks
        for drop in ("", "_drop")
    }


def stylised_accuracy(
    student: nn.Module, teacher: nn.Module | None, dataset: Dataset, stylised: Split
) -> dict[str, float]:
    """Measure the accuracy on stylised images in %, and its drop from the clean test images in percentage points.

    The metrics are ``robustness/stylised`` and ``robustness/stylised_drop`` of the student, and the same with
    ``_teacher`` of the teacher. The stylised images need not correspond to the test images.
    """
    networks = _networks(student, teacher)
    measured: dict[str, Tensor] = {}
    with eval_mode(*networks.values()):
        for name, split in (("clean", dataset.test), ("stylised", stylised)):
            for suffix, network in networks.items():
                hits, first = _zero(dataset), 0
                for images in split.chunks(inference_batch_size(dataset.image_size)):
                    hits += _count_correct(network, dataset, images, split.labels[first : first + len(images)])
                    first += len(images)
                measured[f"{name}{suffix}"] = 100 * hits / len(split)
    rates = to_floats(measured)
    return {f"robustness/stylised{suffix}": rates[f"stylised{suffix}"] for suffix in networks} | {
        f"robustness/stylised{suffix}_drop": rates[f"clean{suffix}"] - rates[f"stylised{suffix}"] for suffix in networks
    }


def robustness_inputs(training: Training, dataset: Dataset, settings: TrainingSettings) -> RobustnessInputs:
    """Read the images of the robustness measurements, before hours of training depend on them.

    Args:
        training: the training section of a run's spec.
        dataset: the data set of the run.
        settings: the folders of this machine.

    Raises:
        ValueError: the folder of stylised images cannot be used.
    """
    if not training.stylised:
        return RobustnessInputs(training.robustness)
    try:
        folder = spec_path(training.stylised, "folder", settings)
        return RobustnessInputs(training.robustness, read_stylised(folder, dataset, settings.pack_dir))
    except (ValueError, OSError) as error:
        raise ValueError(f"the stylised images: {error}") from error


def read_stylised(folder: Path, dataset: Dataset, scratch_dir: Path) -> Split:
    """Read images of ``folder/<class>/*.png`` (or another format), cropped and resized to the data set's size.

    The class folders in alphabetical order are the classes 0 to C−1, like the official labels of CIFAR-100 and
    ImageNet. All images are read immediately, so that a damaged one is reported before hours of training. Large sets
    are stored in a temporary file instead of memory.

    Args:
        folder: the folder of the class folders.
        dataset: the data set whose classes and image size the images must have.
        scratch_dir: the folder of the temporary file.

    Raises:
        ValueError: there is no such folder, it does not have one folder per class, or an image cannot be read (the
            message names it).
        OSError: ``scratch_dir`` has no room for a large set.
    """
    from PIL import ImageOps  # not needed by other trainings

    skipped = SkippedFiles()
    folders = subfolders(folder, skipped) if folder.is_dir() else []
    if len(folders) != dataset.num_classes:
        problem = f"has {len(folders)} class folders" if folder.is_dir() else "is not a folder"
        raise ValueError(f"{folder} {problem}; a class folder is needed for each of the {dataset.num_classes} classes")
    files = [
        (label, folder / name / path)
        for label, name in enumerate(folders)
        for path in list_images(folder / name, skipped)
    ]
    for sentence in skipped.sentences():
        _log.warning("%s: %s", visible(str(folder)), sentence)
    if not files:
        raise ValueError(f"{folder} contains no images")
    side = dataset.image_size
    images = _allocate((len(files), dataset.channels, side, side), scratch_dir)
    for row, (_, path) in enumerate(files):
        try:
            image, _, _ = load_upright_rgb(path)
            fitted = ImageOps.fit(image.convert("L") if dataset.channels == 1 else image, (side, side))
        except Exception as error:  # the decoders raise any exception for a damaged file
            raise ValueError(f"{visible(str(path))} cannot be read as an image: {error}") from error
        pixels = np.asarray(fitted, dtype=np.uint8)
        images[row] = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    labels = torch.tensor([label for label, _ in files], device=dataset.device)
    return Split(torch.from_numpy(images), labels)


def _allocate(shape: tuple[int, ...], scratch_dir: Path) -> NDArray[np.uint8]:
    """Return an array in memory, or, if it is large, in an unnamed file in ``scratch_dir``."""
    if math.prod(shape) <= _IN_MEMORY:
        return np.empty(shape, dtype=np.uint8)
    scratch_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=scratch_dir) as file:
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _networks(student: nn.Module, teacher: nn.Module | None) -> dict[str, nn.Module]:
    """Return the networks by the suffix of their metric names."""
    return {"": student} | ({"_teacher": teacher} if teacher else {})


def _zero(dataset: Dataset) -> Tensor:
    return torch.zeros((), dtype=torch.int64, device=dataset.device)


def _count_correct(network: nn.Module, dataset: Dataset, images: Tensor, labels: Tensor) -> Tensor:
    hits: Tensor = (network(dataset.normalise(images)).argmax(1) == labels).sum()
    return hits
