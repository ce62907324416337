"""Small pictures of the test images that are worth a look: those on which networks disagree."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from core.items.picture_choice import MOST_THUMBNAILS, THUMBNAIL_SIDE
from core.tasks.classification.data import Split
from core.tasks.classification.diagnostics.inference import inference_batch_size
from core.tasks.hashing import permutation


def thumbnail_items(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None = None) -> list[int]:
    """Return of which test images a picture is kept, the most wanted first.

    First come images on which network and teacher predict different classes, then those that the network gets wrong.
    Two networks that differ on an image cannot both predict what the teacher does, so that one of them keeps its
    picture. Among images of one kind, the order is the same in every run, so that runs keep the same ones.

    Args:
        logits: (N, C).
        labels: (N,).
        teacher_logits: (N, C); None for a network without a teacher.
    """
    predicted = logits.argmax(1)
    wrong = predicted != labels
    differs = torch.zeros_like(wrong) if teacher_logits is None else predicted != teacher_logits.argmax(1)
    order = permutation(len(labels), seed=0, epoch=0)
    rank = np.where(differs.cpu().numpy(), 0, np.where(wrong.cpu().numpy(), 1, 2))[order]
    wanted = order[np.argsort(rank, kind="stable")][: int((rank < 2).sum())]
    chosen: list[int] = wanted[:MOST_THUMBNAILS].tolist()
    return chosen


def thumbnails(split: Split, items: list[int]) -> list[tuple[int, NDArray[np.uint8]]]:
    """Return images (height, width, 3) of a split by their numbers, with a side of at most ``THUMBNAIL_SIDE``."""
    pictures: list[tuple[int, NDArray[np.uint8]]] = []
    size = inference_batch_size(split.shown_size)
    for start in range(0, len(items), size):
        part = items[start : start + size]
        images = split.unaugmented(torch.tensor(part)).cpu()
        if images.shape[-1] > THUMBNAIL_SIDE:
            small = F.interpolate(images.float(), (THUMBNAIL_SIDE, THUMBNAIL_SIDE), mode="bilinear", antialias=True)
            images = small.round().clamp(0, 255).to(torch.uint8)
        if images.shape[1] != 3:
            images = images[:, :1].expand(-1, 3, -1, -1)
        pictures += zip(part, images.permute(0, 2, 3, 1).contiguous().numpy(), strict=True)
    return pictures
