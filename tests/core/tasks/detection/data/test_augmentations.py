"""Augmentations of images with boxes: what is drawn, and what it does to an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from core.catalog.detection_augmentations import ColourJitterParams, MultiScaleParams, ScaleJitterParams
from core.tasks.detection.data.augmentations import ColourJitter, MultiScale, ScaleJitter
from core.tasks.detection.data.resizing import ResizeRule

ORIGINALS = np.tile(np.array([(480, 640), (500, 333)]), (500, 1))


def test_multi_scale_gives_each_image_one_of_its_short_sides() -> None:
    rule = ResizeRule(800, 1000)
    placement = MultiScale(MultiScaleParams()).place(ORIGINALS, rule, 0, 0)
    assert set(placement.resized[::2].min(axis=1)) == {640, 672, 704, 736, 750}, "the long side has at most 1000 px"
    assert set(placement.resized[1::2].min(axis=1)) <= {640, 666}
    assert placement.resized.max() <= 1000
    assert (placement.shown == placement.resized).all()


def test_scale_jitter_draws_scales_and_crops_evenly() -> None:
    placement = ScaleJitter(ScaleJitterParams(size=512)).place(ORIGINALS, ResizeRule(800, 1333), 0, 0)
    long = placement.resized.max(axis=1) / 512
    assert 0.1 <= long.min() < 0.13
    assert 1.97 < long.max() <= 2.01
    assert abs(np.median(long) - 1.05) < 0.1
    ratio = placement.resized[:, 0] / placement.resized[:, 1]
    assert np.abs(ratio / (ORIGINALS[:, 0] / ORIGINALS[:, 1]) - 1).max() < 0.05
    assert (placement.shown == np.minimum(placement.resized, 512)).all()
    free = placement.resized - placement.shown
    assert ((placement.corner >= 0) & (placement.corner <= free)).all()
    cropped = free > 100
    assert abs((placement.corner[cropped] / free[cropped]).mean() - 0.5) < 0.05


def jittered(image: torch.Tensor, row: list[int], **params: Any) -> torch.Tensor:
    off = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    return ColourJitter(ColourJitterParams(**(off | params))).apply(image, np.array(row))


def test_colours_change_by_the_factors_that_are_drawn() -> None:
    image = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(0)) * 0.5
    middle, least, greatest = 2**15, 0, 2**16
    assert torch.equal(jittered(image, [least, least, least, least]), image), "every parameter is 0"
    torch.testing.assert_close(jittered(image, [middle] * 4, brightness=0.4, contrast=0.4), image)
    torch.testing.assert_close(jittered(image, [least, 0, 0, 0], brightness=0.4), 0.6 * image)
    torch.testing.assert_close(jittered(image, [greatest, 0, 0, 0], brightness=0.4), 1.4 * image)
    grey = jittered(image, [0, 0, least, 0], saturation=1.0)
    torch.testing.assert_close(grey[0], grey[1])
    flat = jittered(image, [0, least, 0, 0], contrast=1.0)
    assert flat.std() < 1e-6
    turned = jittered(image, [0, 0, 0, greatest], hue=0.5)
    assert (turned - image).abs().max() > 0.1
    torch.testing.assert_close(turned.amax(0), image.amax(0))


def test_the_table_of_colours_covers_its_range() -> None:
    table = ColourJitter(ColourJitterParams()).table(2000, 0, 0)
    assert table.shape == (2000, 4)
    assert (table.min(axis=0) < 200).all()
    assert (table.max(axis=0) > 2**16 - 200).all()
    assert np.abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.1
