"""A data set and the batches drawn from it.

Order and augmentation are pure functions of (data seed, epoch, sample), computed from integer hashes on the CPU. Two
methods with the same data seed therefore train on the same augmented images in the same order, on any device, and a
resumed run continues with the batches that the interrupted run would have drawn.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from core.catalog.augmentations import STANDARD
from core.distill.mixed_labels import MixedLabels
from core.specs.augment import Augment
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.prefetch import prefetch
from core.tasks.classification.data.random_resized_crop import center_crop
from core.tasks.classification.data.views import SECOND_VIEW, View
from core.tasks.hashing import permutation

AUGMENTATION_VERSION = 1
"""Incremented when the same seeds begin to give other augmented images, another order or other normalised pixels.

Cached results of the earlier images (the logits of a teacher) are then no longer read.
"""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    Attributes:
        images: (M, channels, H, W) uint8, in memory, on a device, or a memory map of a file.
        labels: (N,) int64, on the training device even if the images are not.
        indices: (N,) int64, the rows of ``images`` that belong to the split; None if all do, in their order. A training
            and a validation split share one ``images``, which may be larger than memory, so neither is a copy.
        center_crop: side in pixels of the central square that is used without augmentation; None for whole images.
        memory_mapped: whether ``images`` maps a file, from which each access may read.
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
        """Side in pixels of the square that is used without augmentation."""
        return self.center_crop or self.images.shape[-1]

    @property
    def needs_transfer(self) -> bool:
        """Whether a batch has to be read from a disk or copied to the training device."""
        return self.memory_mapped or self.images.device != self.labels.device

    def gather(self, index: Tensor) -> Tensor:
        """Return the uncropped images (B, channels, H, W) of the samples ``index`` (B,), on the labels' device."""
        index = index.to(self.images.device)
        images = self.images[index if self.indices is None else self.indices[index]]
        return images.to(self.labels.device, non_blocking=True)

    def unaugmented(self, index: Tensor) -> Tensor:
        """Return the images of the samples ``index`` (B,) as they are shown without augmentation."""
        return center_crop(self.gather(index), self.shown_size)

    def gather_pinned(self, index: Tensor) -> Tensor:
        """Return the uncropped images of the samples ``index`` (B,), in pinned memory if the training device is a GPU.

        It is meant for a background thread: NumPy copies without Python's lock and without torch's threads, which
        would come in addition to the training threads.
        """
        rows = index if self.indices is None else self.indices[index]
        images = torch.empty(
            (len(rows), *self.images.shape[1:]), dtype=torch.uint8, pin_memory=self.labels.device.type == "cuda"
        )
        # Mode "raise" would copy through a buffer; the rows are those of the split and never out of bounds.
        np.take(self.images.numpy(), rows.numpy(), axis=0, out=images.numpy(), mode="clip")
        return images

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Yield all images, unaugmented and in order, at most ``size`` at a time, on the device of the labels."""
        for first in range(0, len(self), size):
            if self.indices is None:
                chunk = self.images[first : first + size].to(self.labels.device)
            else:
                chunk = self.gather(torch.arange(first, min(first + size, len(self))))
            yield center_crop(chunk, self.shown_size)


@dataclass(frozen=True)
class Dataset:
    """The splits of a data set and their normalisation.

    Attributes:
        train: training images.
        test: test images.
        num_classes: number of classes C; labels are in [0, C).
        mean: per channel, of the training images scaled to 0–1.
        std: standard deviation per channel, of the training images scaled to 0–1.
        augmentation: the random augmentation of training images.
        val: validation images held out of the training images if the spec requests it; never part of ``train``.
        upscaled_size: side in pixels of the images that a network receives, if it differs from the stored size.
        pack_key: key of the pack that the images are mapped from; "" if they were read into memory.
        classes: class names, if they were read from the files and are not fixed by the data set.
        content_hash: see ``core.tasks.classification.data.packing.Pack``; "" if the images were read into memory.
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
        """The device of the batches; the stored images may be on another one."""
        return self.train.labels.device

    @property
    def channels(self) -> int:
        return self.train.images.shape[1]

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that a network receives."""
        return self.upscaled_size or self.train.shown_size

    def to(self, device: torch.device) -> Dataset:
        """Return the data set with its batches on a device, and its images too if they fit.

        Images that would take more than half of a GPU's free memory stay where they are and are copied batch by batch.
        """
        splits = [split for split in (self.train, self.test, self.val) if split]
        storages = {id(split.images): split.images for split in splits}
        if sum(images.nbytes for images in storages.values()) <= _memory_for_images(device):
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
        """255, mean and standard deviation on the device, cached because creating them per batch would synchronise.

        255 is a tensor because CUDA divides by a Python number by multiplying with its inverse, which rounds
        differently.
        """
        values = ((255.0,), self.mean, self.std)
        largest, mean, std = (torch.tensor(row, device=self.device).view(1, -1, 1, 1) for row in values)
        return largest, mean, std

    def normalise(self, images: Tensor) -> Tensor:
        """Convert uint8 images (N, channels, H, W) to float32 of ``image_size`` with mean 0 and std 1 per channel."""
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
        augment: Augment = STANDARD,
        start: int = 0,
        share: Callable[[int], slice] = slice,
        strong: Augment | None = None,
    ) -> Generator[Batch]:
        """Yield the training batches of one epoch; the last one may be smaller.

        Images that are not on the device are read ahead by a thread, which ends with the iterator.

        Args:
            batch_size: samples per batch over all ranks.
            data_seed: seed of order and augmentation.
            epoch: counts from 0.
            augment: the augmentations that are applied, as a validated spec has them.
            start: index of the first batch to yield.
            share: maps the size of a batch to the slice of it that this rank trains on; by default the whole batch.
            strong: the augmentations of a second view of the same images; None for no second view.

        Raises:
            ValueError: there is a second view, and the images of one of them are mixtures.
        """
        order = torch.from_numpy(permutation(len(self.train), data_seed, epoch))
        weak = View(self, augment, data_seed, epoch)
        second = None if strong is None else View(self, strong, data_seed | SECOND_VIEW, epoch)
        drawn, device_order = weak.drawn, order.to(self.device)
        if second and (drawn.mix or second.drawn.mix):
            raise ValueError("a mixture of two images has no second view")
        totals = [min(batch_size, len(order) - first) for first in range(0, len(order), batch_size)]
        parts = [_Part.of(n * batch_size, total, share(total)) for n, total in enumerate(totals)]
        parts = [part if drawn.mix else replace(part, partner=None) for part in parts[start:]]
        with contextlib.closing(self._uncropped_images(order, parts)) as stored_images:
            for part, uncropped in zip(parts, stored_images, strict=True):
                index, samples = part.take(device_order), part.take(order)
                # An augmentation may overwrite what it is given, and the second view begins with the same images.
                again = second.show(uncropped.clone(), index, samples) if second else None
                images, labels = weak.show(uncropped, index, samples), self.train.labels[index]
                if drawn.mix:
                    partners = part.partners(images), part.partners(labels)
                    count = len(partners[0])
                    images, labels, samples = images[:count], labels[:count], samples[:count]
                    images, mixed = drawn.mix_batch(images, partners[0], samples, (labels, partners[1]))
                    yield Batch(images, labels, samples, part.total, mixed)
                else:
                    yield Batch(images, labels, samples, part.total, strong=again)

    def _uncropped_images(self, order: Tensor, parts: Sequence[_Part]) -> Generator[Tensor]:
        """Yield the uncropped training images of each part of an order (N,), on the device."""
        if not self.train.needs_transfer:
            order = order.to(self.train.images.device)
            for part in parts:
                yield self.train.gather(part.take(order))
            return
        fetched = prefetch(self.train.gather_pinned, (part.take(order) for part in parts))
        with contextlib.closing(fetched):
            for images in fetched:
                yield images.to(self.device, non_blocking=True)


@dataclass(frozen=True)
class _Part:
    """The rows of one batch that a rank trains on, as positions in the order of the epoch.

    The partner of a row, with which it may be mixed, is the next row of the batch; that of the last row is the first.

    Attributes:
        rows: the positions.
        total: number of rows of the batch on all ranks.
        partner: position of the partner of the last row, if another rank has it; else None.
    """

    rows: slice
    total: int
    partner: int | None

    @classmethod
    def of(cls, first: int, total: int, share: slice) -> _Part:
        """Return a share of the batch of ``total`` rows that begins at a position."""
        start, stop, _ = share.indices(total)
        elsewhere = 0 < stop - start < total
        partner = first + stop % total if elsewhere else None
        return cls(slice(first + start, first + stop), total, partner)

    def take(self, order: Tensor) -> Tensor:
        """Return the entries (B,) of an order (N,) at the positions, then that of the partner if there is one."""
        rows = order[self.rows]
        return rows if self.partner is None else torch.cat((rows, order[self.partner : self.partner + 1]))

    def partners(self, values: Tensor) -> Tensor:
        """Return the values (B, …) of the rows' partners from those of ``take``."""
        return values.roll(-1, 0) if self.partner is None else values[1:]


def _memory_for_images(device: torch.device) -> float:
    """Return the bytes that images may take on a device: half of a GPU, whose rest is for network and activations."""
    return torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else math.inf


@dataclass(frozen=True)
class Batch:
    """The input of one optimiser step.

    Attributes:
        images: (B, channels, H, W) float32, normalised.
        labels: (B,) int64.
        index: (B,) int64, the samples' indices in the training split; on the CPU, so that lookups need no
            synchronisation.
        total: number of images of the step on all ranks; B if there is one rank.
        mixed: both labels of each image, if the images are mixtures; ``labels`` are then those of the first.
        strong: a second view of the same images, in the shape of ``images``; None if there is none.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    total: int
    mixed: MixedLabels | None = None
    strong: Tensor | None = None

    @property
    def copies(self) -> int:
        """How often each image is in the rows."""
        return 2 if self.mixed else 1

    def part(self, samples: slice) -> Batch:
        """Return some of the images with their labels."""
        return replace(
            self,
            images=self.images[samples],
            labels=self.labels[samples],
            index=self.index[samples],
            mixed=self.mixed.part(samples) if self.mixed else None,
            strong=None if self.strong is None else self.strong[samples],
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Return images and labels, then the partners' labels and λ if the images are mixtures, then a second view."""
        mixture = (self.mixed.partner_target, self.mixed.lam) if self.mixed else ()
        return (self.images, self.labels, *mixture, *(() if self.strong is None else (self.strong,)))

    def with_tensors(self, *tensors: Tensor) -> Batch:
        """Return the same batch with other images and labels."""
        images, labels, *others = tensors
        strong = None if self.strong is None else others.pop()
        mixed = MixedLabels(labels, *others) if others else None
        return replace(self, images=images, labels=labels, mixed=mixed, strong=strong)

    def to_memory_format(self, memory_format: torch.memory_format) -> Batch:
        """Return the batch with its images stored in a memory format."""
        strong = None if self.strong is None else self.strong.contiguous(memory_format=memory_format)
        return replace(self, images=self.images.contiguous(memory_format=memory_format), strong=strong)
