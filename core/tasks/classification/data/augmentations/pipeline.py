"""The augmentations of one epoch: their tables, and what they do with a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.catalog.augmentations import Stage
from core.distill.mixed_labels import MixedLabels
from core.specs import AugmentationRef
from core.tasks.classification.data.augmentations.views import Augmentation
from core.tasks.classification.data.transfer import upload
from core.tasks.hashing import hashed_randint

Table = NDArray[np.int64]


class _Drawn(Protocol):
    def table(self, size: int, side: int, data_seed: int, epoch: int) -> Table:
        """Return (size, columns): for each sample what happens to it in an epoch.

        Args:
            size: number of samples.
            side: side in pixels of the images that are changed.
            data_seed: seed of the draws.
            epoch: counts from 0.
        """
        ...


class ImageAugmentation(_Drawn, Protocol):
    """Changes images one by one."""

    def apply(self, images: Tensor, rows: Table) -> Tensor:
        """Return changed images of the same shape and dtype.

        Args:
            images: (B, channels, side, side), uint8 or normalised by the stage; it may be overwritten.
            rows: (B, columns), the images' rows of the table, on the CPU.
        """
        ...


class MixAugmentation(_Drawn, Protocol):
    """Mixes each image with a partner."""

    def weights(self, rows: Table, side: int) -> NDArray[np.float32]:
        """Return (B,): λ, the weight of each image's own label; 1 − λ is that of its partner's."""
        ...

    def mix(self, images: Tensor, partners: Tensor, rows: Table, weights: Tensor) -> Tensor:
        """Return the mixtures (B, channels, side, side) of normalised images.

        Args:
            images: the images.
            partners: the partner of each image.
            rows: (B, columns), the images' rows of the table, on the CPU.
            weights: (B,), λ on the images' device.
        """
        ...


Kind = TypeVar("Kind", bound=_Drawn)


@dataclass(frozen=True)
class Pipeline:
    """Augmentations by their stage.

    Attributes:
        view: what is used of the data set's own augmentation.
        image: operations on uint8 images, one after the other.
        normalised: operations on normalised images, one after the other.
        mix: mixtures, of which each sample gets one.
    """

    view: Augmentation
    image: Sequence[ImageAugmentation] = ()
    normalised: Sequence[ImageAugmentation] = ()
    mix: Sequence[MixAugmentation] = ()

    def draw(self, size: int, sides: tuple[int, int], data_seed: int, epoch: int) -> EpochPipeline:
        """Return the pipeline with its tables of an epoch.

        Args:
            size: number of samples.
            sides: sides in pixels of the uint8 images and of the normalised ones.
            data_seed: seed of the draws.
            epoch: counts from 0.
        """

        def drawn(kinds: Sequence[Kind], side: int) -> list[tuple[Kind, Table]]:
            return [(kind, kind.table(size, side, data_seed, epoch)) for kind in kinds]

        shown, side = sides
        chosen = hashed_randint(len(self.mix), size, data_seed, epoch, "mixture") if len(self.mix) > 1 else None
        return EpochPipeline(
            drawn(self.image, shown), drawn(self.normalised, side), drawn(self.mix, side), chosen, side
        )


@dataclass(frozen=True)
class EpochPipeline:
    """Augmentations with their tables of one epoch.

    Attributes:
        image, normalised, mix: as in ``Pipeline``, each with its table.
        chosen: (N,), the index in ``mix`` of each sample's mixture; None if there are fewer than two.
        side: side in pixels of normalised images.
    """

    image: Sequence[tuple[ImageAugmentation, Table]] = ()
    normalised: Sequence[tuple[ImageAugmentation, Table]] = ()
    mix: Sequence[tuple[MixAugmentation, Table]] = ()
    chosen: NDArray[np.int64] | None = field(default=None, repr=False)
    side: int = 0

    def change_images(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the changed uint8 images of the samples ``index`` (B,), which are on the CPU."""
        for augmentation, table in self.image:
            images = augmentation.apply(images, table[index.numpy()])
        return images

    def change_normalised(self, images: Tensor, index: Tensor) -> Tensor:
        """Return the changed normalised images of the samples ``index`` (B,), which are on the CPU."""
        for augmentation, table in self.normalised:
            images = augmentation.apply(images, table[index.numpy()])
        return images

    def mix_batch(
        self, images: Tensor, partners: Tensor, index: Tensor, labels: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, MixedLabels]:
        """Mix normalised images.

        Args:
            images: the images of the samples ``index``.
            partners: the partner of each.
            index: (B,), the samples, on the CPU.
            labels: (B,) each, the labels of the images and of the partners.
        """
        results, samples = [], index.numpy()
        for augmentation, table in self.mix:
            rows = table[samples]
            lam = upload(augmentation.weights(rows, self.side), images.device)
            results.append((augmentation.mix(images, partners, rows, lam), lam))
        mixed, lam = results[0]
        if self.chosen is not None:
            chosen = upload(self.chosen[samples], images.device)
            for number, (others, other_lam) in enumerate(results[1:], start=1):
                mixed = torch.where((chosen == number).view(-1, 1, 1, 1), others, mixed)
                lam = torch.where(chosen == number, other_lam, lam)
        return mixed, MixedLabels(*labels, lam)


def build(refs: Sequence[AugmentationRef], augmentation: Augmentation) -> Pipeline:
    """Return the pipeline that a spec names.

    Args:
        refs: the augmentations of the spec, the view first.
        augmentation: the data set's own augmentation.
    """
    (view, *rest) = refs
    made = [(ref.entry.stage, ref.entry.load()(ref.parsed_params)) for ref in rest]
    image, normalised, mix = (
        tuple(one for stage, one in made if stage is wanted) for wanted in (Stage.IMAGE, Stage.NORMALISED, Stage.MIX)
    )
    return Pipeline(view.entry.load()(augmentation), image, normalised, mix)
