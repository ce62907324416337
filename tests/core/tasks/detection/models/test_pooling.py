"""The pooling of regions is torchvision's, in value and gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from core.tasks.detection.models.pooling import region_pool

STRIDES = {"p1": 2, "p2": 4, "p3": 8}


def boxes(seed: int, counts: tuple[int, ...] = (40, 0, 25), side: float = 96.0) -> list[Tensor]:
    """Return boxes of all sizes, some of them thinner than a pixel of the map and some at the border."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for count in counts:
        first, second = torch.rand(2, count, 2, generator=generator) * side
        part = torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)
        if count:
            part[0] = torch.tensor([0.0, 0.0, side, side])
            part[1] = torch.tensor([side - 1.0, side - 0.5, side, side])
            part[2, 2] = part[2, 0] + 0.01
            part[3] = torch.tensor([-9.0, -30.0, side + 9.0, side + 30.0])
        parts.append(part)
    return parts


def levels(dtype: torch.dtype, channels: int = 5, side: int = 96, batch: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(batch, channels, side // stride, side // stride, generator=generator)
        .to(dtype)
        .requires_grad_()
        for name, stride in STRIDES.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torchvision(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    ours = region_pool(STRIDES, 7, 112.0, aligned=False)
    theirs = MultiScaleRoIAlign(list(STRIDES), 7, 2, canonical_scale=112)
    maps = levels(dtype)
    used = {name: each.contiguous(memory_format=memory_format) for name, each in maps.items()}
    regions = [part.to(dtype) for part in boxes(0)]
    sizes = [(96, 96)] * 3
    pooled, expected = ours(used, regions, sizes), theirs(used, regions, sizes)
    assert pooled.shape == (65, 5, 7, 7)
    assert pooled.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(pooled, expected, rtol=0, atol=tolerance)
    outer = torch.randn(pooled.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    gradients = torch.autograd.grad(pooled, [*maps.values()], outer)
    wanted = torch.autograd.grad(expected, [*maps.values()], outer)
    for gradient, other in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, other, rtol=0, atol=30 * tolerance)


def test_no_regions() -> None:
    pooled = region_pool(STRIDES, 7, 112.0, aligned=False)(
        levels(torch.float32), [torch.zeros(0, 4)] * 3, [(96, 96)] * 3
    )
    assert pooled.shape == (0, 5, 7, 7)
    assert pooled.requires_grad


def test_half_precision_is_pooled_in_float32() -> None:
    maps = levels(torch.float32)
    pool = region_pool(STRIDES, 7, 112.0, aligned=False)
    half = pool({name: each.bfloat16() for name, each in maps.items()}, boxes(0), [(96, 96)] * 3)
    exact = pool({name: each.bfloat16().float() for name, each in maps.items()}, boxes(0), [(96, 96)] * 3)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, exact.bfloat16())


def test_one_level() -> None:
    maps = {"p2": levels(torch.float64)["p2"]}
    regions = [part.double() for part in boxes(3)]
    ours = region_pool({"p2": 4}, 5, 224.0, aligned=False)(maps, regions, [(96, 96)] * 3)
    theirs = MultiScaleRoIAlign(["p2"], 5, 2)(maps, regions, [(96, 96)] * 3)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
