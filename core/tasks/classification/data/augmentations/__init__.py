"""Augmentations of training images as pure functions of (data seed, epoch, sample).

The changes of a sample are drawn from integer hashes on the CPU, never from a random generator. So they are the same
for every method, batch size, device and rank, and after a resume. Two samples that are mixed share a batch, so a
mixture also depends on the batch size.

An entry of ``core.catalog.augmentations`` names in ``target``, by its stage:

- view: a function that returns which of the data set's own shifts, crops and flips are used.
- image, normalised: a class with the methods of ``ImageAugmentation``, made with the entry's parameters.
- mix: a class with the methods of ``MixAugmentation``, made with the entry's parameters.
"""

from core.tasks.classification.data.augmentations.pipeline import ImageAugmentation, MixAugmentation, Pipeline, build

__all__ = ["ImageAugmentation", "MixAugmentation", "Pipeline", "build"]
