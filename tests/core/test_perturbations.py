"""Perturbations of test images against references in plain Python and NumPy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from core.catalog.metrics import ROBUSTNESS
from core.tasks.classification.diagnostics.perturbations import (
    NOISE_SIGMAS,
    gaussian_blur,
    gaussian_noise,
    patch_noise,
    perturbations,
    scramble_patches,
)
from core.tasks.hashing import hashed_bits


def photos(count: int = 6, channels: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, size, size), generator=random, dtype=torch.uint8)


def splitmix(state: int, steps: int) -> list[int]:
    """The published generator with Python integers."""
    words = []
    for _ in range(steps):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        word = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        words.append(word ^ (word >> 31))
    return words


class TestPerturbations:
    def test_catalog_lists_perturbations_and_the_stylised_folder(self) -> None:
        assert {*perturbations(), "stylised"} == set(ROBUSTNESS)

    @pytest.mark.parametrize("kind", list(perturbations()))
    @pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 16), (3, 15), (1, 4)])
    def test_shape_dtype_and_range_are_preserved(self, kind: str, channels: int, size: int) -> None:
        images = photos(4, channels, size)
        before = images.clone()
        for given in (images, images.float() / 255):
            perturbed = perturbations()[kind](given, np.arange(4), 0)
            assert (perturbed.shape, perturbed.dtype) == (given.shape, given.dtype)
            assert perturbed.max() <= (1 if given.is_floating_point() else 255)
            assert perturbed.min() >= 0
        assert torch.equal(images, before)

    @pytest.mark.parametrize("kind", [kind for kind in perturbations() if not kind.startswith("blur")])
    def test_perturbation_depends_only_on_sample_and_seed(self, kind: str) -> None:
        perturb, images = perturbations()[kind], photos(1).expand(6, -1, -1, -1)
        perturbed_together = perturb(images, np.arange(6), 0)
        assert torch.equal(perturb(images[:2], np.array([5, 3]), 0), perturbed_together[[5, 3]])
        assert not torch.equal(perturbed_together[0], perturbed_together[1])
        assert not torch.equal(perturb(images, np.arange(6), 1), perturbed_together)

    def test_bits_equal_those_of_the_published_generator(self) -> None:
        # A patch as large as allowed on a black image shows the bytes themselves.
        black = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
        number, seed = 7, 3
        key = int(hashed_bits(number + 1, seed, 0, "robustness patch noise")[number])
        place = splitmix(int(hashed_bits(number + 1, seed, 0, "robustness patch place")[number]), 1)[0]
        top, left = (place & 0xFFFF) * 2 >> 16, (place >> 16 & 0xFFFF) * 2 >> 16
        expected = torch.zeros(2, 2, dtype=torch.uint8)
        expected[top, left] = splitmix(key, 1)[0].to_bytes(8, "little")[2 * top + left]
        assert torch.equal(patch_noise(black, np.array([number]), seed)[0, 0], expected)

    def test_patch_noise_changes_a_quarter_of_the_image(self) -> None:
        images = torch.full((64, 3, 16, 16), 44, dtype=torch.uint8)
        changed = (patch_noise(images, np.arange(64), 0) != images).any(1)
        for image in changed:
            rows, columns = torch.nonzero(image.any(1)).squeeze(1), torch.nonzero(image.any(0)).squeeze(1)
            assert rows.max() - rows.min() < 8
            assert columns.max() - columns.min() < 8
            assert image.sum() > 60  # a byte in 256 equals the image's, three channels in a row never
        places = {tuple(torch.nonzero(image)[0].tolist()) for image in changed}
        assert len(places) > 30

    def test_scrambling_permutes_patches(self) -> None:
        images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
        perturbed = scramble_patches(images.expand(20, -1, -1, -1), np.arange(20), 0)
        corners = perturbed[:, 0, ::4, ::4]
        assert torch.equal(perturbed[:, 0], corners.repeat_interleave(4, 1).repeat_interleave(4, 2))
        assert torch.equal(corners.flatten(1).sort(1).values, torch.arange(16, dtype=torch.uint8).expand(20, -1))
        assert len({tuple(row.tolist()) for row in corners.flatten(1)}) == 20

    def test_scrambling_keeps_incomplete_border_patches(self) -> None:
        images = photos(3, size=15)
        perturbed = scramble_patches(images, np.arange(3), 0)
        for edge in (slice(0, 1), slice(13, 15)):  # 12 pixels are 4 patches of 3
            assert torch.equal(perturbed[:, :, edge], images[:, :, edge])
            assert torch.equal(perturbed[:, :, :, edge], images[:, :, :, edge])
        assert not torch.equal(perturbed, images)

    def test_noise_has_the_documented_deviation(self) -> None:
        grey = torch.full((20, 3, 32, 32), 0.5, dtype=torch.float64)
        for severity, sigma in enumerate(NOISE_SIGMAS[:3], start=1):  # stronger noise is clipped
            noise = gaussian_noise(grey, np.arange(20), 0, severity) - grey
            assert float(noise.std()) == pytest.approx(sigma, rel=0.02)
            assert abs(float(noise.mean())) < 0.01 * sigma * 3
            tails = float((noise.abs() > 2 * sigma).double().mean())
            assert tails == pytest.approx(0.0455, abs=0.004)

    def test_noise_pattern_is_scaled_by_severity(self) -> None:
        grey = torch.full((2, 1, 8, 8), 0.5)
        weak, strong = (gaussian_noise(grey, np.arange(2), 0, severity) - grey for severity in (1, 2))
        assert torch.allclose(strong, weak * NOISE_SIGMAS[1] / NOISE_SIGMAS[0], atol=1e-6)

    def test_blur_of_a_point_is_the_normal_density(self) -> None:
        point = torch.zeros(1, 2, 31, 31)
        point[:, 1, 15, 15] = 1
        offsets = np.arange(-15, 16)
        density = np.exp(-0.5 * offsets**2)  # σ is 1 pixel at severity 5
        density = density / density.sum()
        perturbed = gaussian_blur(point, 5)
        assert np.allclose(perturbed[0, 1].numpy(), np.outer(density, density), atol=1e-4)
        assert not perturbed[0, 0].any()

    def test_blur_keeps_flat_images_and_increases_with_severity(self) -> None:
        flat = torch.full((1, 3, 8, 8), 77, dtype=torch.uint8)
        assert all(torch.equal(gaussian_blur(flat, severity), flat) for severity in range(1, 6))
        spread = [float(gaussian_blur(photos(size=32), severity).float().std()) for severity in range(1, 6)]
        assert all(later < earlier for earlier, later in pairwise(spread))
