"""Tiny data sets in the formats of the real ones."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def picture(path: Path, colour: tuple[int, int, int] | int, size: tuple[int, int] = (8, 8)) -> Path:
    """An image of one colour; ``size`` is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(path)
    return path


def tree(root: Path, classes: Sequence[str], per_class: int = 2, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """``root/<split>/<class>/<number>.png``; red is the class's place in ``classes``, green the number."""
    for split in splits:
        for label, name in enumerate(classes):
            for number in range(per_class):
                picture(root / split / name / f"{number}.png", (label, number, 100))
    return root


def idx(path: Path, array: NDArray[np.uint8], compress: bool = False) -> None:
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if compress else content)


def mnist(folder: Path, compress: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Write the four files; return the training images and labels."""
    random = np.random.default_rng(0)
    made = []
    for split, size in (("train", 40), ("t10k", 20)):
        images = random.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        labels = (np.arange(size) % 10).astype(np.uint8)
        suffix = ".gz" if compress else ""
        idx(folder / f"{split}-images-idx3-ubyte{suffix}", images, compress)
        idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels, compress)
        made.append((images, labels))
    return made[0]


def cifar_pickle(path: Path, label_key: str, labels: list[int], seed: int = 0) -> NDArray[np.uint8]:
    """Write one of the official files; return its images (N, 3, 32, 32)."""
    images = np.random.default_rng(seed).integers(0, 256, (len(labels), 3, 32, 32), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({"data": images.reshape(len(labels), -1), label_key: labels}, protocol=2))
    return images
