"""A data set, and the batches that are drawn from it.

Order and augmentation are pure functions of (data seed, epoch, sample), by integer hashes made on the CPU: two methods
with one data seed see the same views in the same order, on any device, and a resumed run sees what it would have seen.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.data.hashing import hashed_randint, permutation
from core.data.prefetch import prefetch
from core.data.random_resized_crop import center_crop, crop_and_resize, crop_table

Augment = Literal["standard", "flip", "none"]
"""As a spec says it: all of the data set's own augmentation, its flips alone, or nothing."""

AUGMENTATION_VERSION = 1
"""Raised when the same seeds begin to give other views, order or normalised pixels: what was kept of the old ones (a
teacher's logits) is then not read."""


@dataclass(frozen=True)
class Augmentation:
    """Random shifts by up to ``pad`` pixels, zeros moving in from the border, and left–right flips.

    Attributes:
        resized_crop: random resized crops instead of shifts (``core.data.random_resized_crop``).
    """

    pad: int = 0
    flip: bool = False
    resized_crop: bool = False


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (M, channels, H, W) uint8, in memory, on a device, or a memory map of a file.
        labels: (N,) int64, on the device that trains, wherever the images are.
        indices: (N,) int64, which of ``images`` belong to the split; None where all do, in their order. A training and
            a validation split share one ``images``, which may be larger than memory, so neither has a copy of its own.
        center_crop: side of the square in the middle that is shown unaugmented; None: the images are shown whole.
        memory_mapped: whether ``images`` are a file's bytes, which are read from the disk when they are asked for.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None = None
    center_crop: int | None = None
    memory_mapped: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shown_size(self) -> int:
        """Of the square that is shown unaugmented."""
        return self.center_crop or self.images.shape[-1]

    @property
    def needs_transfer(self) -> bool:
        """Whether a batch has to be fetched from a disk, or from memory that is not the device's."""
        return self.memory_mapped or self.images.device != self.labels.device

    def gather(self, index: Tensor) -> Tensor:
        """Whole images (B, channels, H, W) of the samples ``index`` (B,), on the device of the labels."""
        index = index.to(self.images.device)
        found = self.images[index if self.indices is None else self.indices[index]]
        return found.to(self.labels.device, non_blocking=True)

    def gather_pinned(self, index: Tensor) -> Tensor:
        """Whole images of the samples ``index`` (B,), in memory from which they go to a GPU without a wait.

        For a thread of its own: NumPy copies without Python's lock and without torch's threads, which would be as many
        again as those that train.
        """
        rows = index if self.indices is None else self.indices[index]
        found = torch.empty(
            (len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=self.labels.device.type == "cuda"
        )
        # Not "raise", which would go through a copy; the rows are the split's own and never out of bounds.
        np.take(self.images.numpy(), rows.numpy(), axis=0, out=found.numpy(), mode="clip")
        return found

    def chunks(self, size: int) -> Iterator[Tensor]:
        """All images as they are shown, in their order, at most ``size`` at a time, on the device of the labels."""
        for first in range(0, len(self), size):
            if self.indices is None:
                part = self.images[first : first + size].to(self.labels.device)
            else:
                part = self.gather(torch.arange(first, min(first + size, len(self))))
            yield center_crop(part, self.shown_size)


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set with what is needed to feed them to a network.

    Attributes:
        mean, std: per channel, of the training images scaled to 0–1.
        val: held out of the training images where that is asked for; never part of ``train``.
        enlarged_to: side that a network sees, where that is more than the stored images have; None: as they are.
        pack_key: key of the pack that the images are mapped from; "" where they were read into memory.
        classes: their names, where they were found and not laid down by the data set.
        content_hash: of a pack, see ``core.data.packing.Pack``; "" where the images were read into memory.
    """

    train: Split
    test: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    val: Split | None = None
    upscaled_size: int | None = None
    pack_key: str = ""
    classes: tuple[str, ...] = ()
    content_hash: str = ""

    @property
    def device(self) -> torch.device:
        """Where batches come out; the images themselves may have stayed elsewhere."""
        return self.train.labels.device

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the square that a network sees."""
        return self.upscaled_size or self.train.shown_size

    def to(self, device: torch.device) -> Dataset:
        """The same data set with its batches on a device, and its images too where they fit.

        Images that would take more than half of a GPU's free memory stay where they are and go over batch by batch.
        """
        splits = [split for split in (self.train, self.test, self.val) if split]
        storages = {id(split.images): split.images for split in splits}
        if sum(images.nbytes for images in storages.values()) <= _room(device):
            storages = {key: images.to(device) for key, images in storages.items()}

        def moved(split: Split) -> Split:
            images = storages[id(split.images)]
            rows = None if split.indices is None else split.indices.to(images.device)
            mapped = split.memory_mapped and images is split.images
            return replace(split, images=images, labels=split.labels.to(device), indices=rows, memory_mapped=mapped)

        return replace(
            self, train=moved(self.train), test=moved(self.test), val=None if self.val is None else moved(self.val)
        )

    @functools.cached_property
    def _moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """255, mean and standard deviation on the device: made anew a batch, they would make a GPU's host wait.

        255 is a tensor since CUDA divides by a number by multiplying with its inverse, which is not quite the same.
        """
        values = ((255.0,), self.mean, self.std)
        largest, mean, std = (torch.tensor(row, device=self.device).view(1, -1, 1, 1) for row in values)
        return largest, mean, std

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, channels, H, W) to float32 of ``image_size``, mean 0 and standard deviation 1 a channel."""
        largest, mean, std = self._moments
        scaled = images.to(torch.float32, copy=True).div_(largest)
        if self.upscaled_size and self.upscaled_size != images.shape[-1]:
            scaled = torch.nn.functional.interpolate(scaled, size=self.upscaled_size, mode="bilinear")
        return scaled.sub_(mean).div_(std)

    def batches(
        self,
        batch_size: int,
        data_seed: int,
        epoch: int,
        augment: Augment = "standard",
        start: int = 0,
        share: Callable[[int], slice] = slice,
    ) -> Generator[Batch]:
        """The training batches of one epoch, from batch ``start`` on; the last one holds what is left.

        Images that are not on the device are read ahead in a thread, which ends with the iterator.

        Args:
            share: which rows of a batch of so many are wanted; all where it is left out.
        """
        order = torch.from_numpy(permutation(len(self.train), data_seed, epoch))
        augmentation = {
            "standard": self.augmentation,
            "flip": Augmentation(flip=self.augmentation.flip),
            "none": Augmentation(),
        }[augment]
        stored, side = self.train.images.shape[-1], self.train.shown_size
        if augmentation.resized_crop:
            views = crop_table(len(self.train), stored, augmentation.flip, data_seed, epoch)
        else:
            views = augmentation_table(len(self.train), augmentation, data_seed, epoch)
        views_there, of_labels = torch.from_numpy(views).to(self.device), order.to(self.device)
        totals = [min(batch_size, len(order) - first) for first in range(0, len(order), batch_size)]
        shares = [range(total)[share(total)] for total in totals]
        parts = [slice(n * batch_size + own.start, n * batch_size + own.stop) for n, own in enumerate(shares)]
        totals, parts = totals[start:], parts[start:]
        with contextlib.closing(self._stored(order, parts)) as stored_images:
            for part, total, whole in zip(parts, totals, stored_images, strict=True):
                index = of_labels[part]
                if augmentation.resized_crop:
                    images = crop_and_resize(whole, views_there[index], side)
                else:
                    images = shift_and_flip(center_crop(whole, side), views_there[index], augmentation)
                yield Batch(self.normalise(images), self.train.labels[index], order[part], total)

    def _stored(self, order: Tensor, parts: list[slice]) -> Generator[Tensor]:
        """The training images of each part of an order (N,), on the device."""
        if not self.train.needs_transfer:
            order = order.to(self.train.images.device)
            for part in parts:
                yield self.train.gather(order[part])
            return
        fetched = prefetch(self.train.gather_pinned, (order[part] for part in parts))
        with contextlib.closing(fetched):
            for images in fetched:
                yield images.to(self.device, non_blocking=True)


def _room(device: torch.device) -> float:
    """Bytes that images may take on a device; the other half of a GPU is for the network and what it remembers."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf


@dataclass(frozen=True)
class Batch:
    """What one optimiser step sees.

    Attributes:
        images: (B, channels, H, W) float32, normalised.
        labels: (B,) int64.
        index: (B,) int64, which samples of the training split these are; on the CPU, so that looking something up by
            them waits for no device.
        total: images of the step on all ranks together; B where there is one.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    total: int


def augmentation_table(size: int, augmentation: Augmentation, data_seed: int, epoch: int) -> NDArray[np.int64]:
    """(size, 3): for each sample its top and left offset in the padded image, and whether it is flipped."""
    table = np.empty((size, 3), dtype=np.int64)
    table[:, 0] = hashed_randint(2 * augmentation.pad + 1, size, data_seed, epoch, "top")
    table[:, 1] = hashed_randint(2 * augmentation.pad + 1, size, data_seed, epoch, "left")
    table[:, 2] = hashed_randint(2, size, data_seed, epoch, "flip") if augmentation.flip else 0
    return table


def shift_and_flip(images: Tensor, views: Tensor, augmentation: Augmentation) -> Tensor:
    """Crop each image from its padded self at its own offset, and flip where asked: one gather for the batch.

    Args:
        images: (B, channels, H, W) uint8.
        views: (B, 3), rows of ``augmentation_table``; offsets count from the padded corner, so ``pad`` is no shift.
    """
    if augmentation == Augmentation():
        return images
    pad = augmentation.pad
    height, width = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    # (B, 2, channels, tops, lefts, H, W): every window of an image and of its mirror, without a copy.
    windows = torch.stack((padded, padded.flip(3)), 1).unfold(3, height, 1).unfold(4, width, 1)
    top, left, flipped = views.unbind(1)
    left = torch.where(flipped == 1, 2 * pad - left, left)
    return windows[torch.arange(len(images), device=images.device), flipped, :, top, left]
