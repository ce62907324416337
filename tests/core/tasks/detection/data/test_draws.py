"""Draws: uniform numbers that are a function of the image's key, the purpose and the position."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from core.tasks import hashing
from core.tasks.detection.data import HashedDraws
from core.tasks.detection.types import Draws
from tests.core.speed_runs import DEVICES

KEYS = torch.tensor([0, 7, -1, 2**63 - 1, -(2**63)])


def reference(key: int, purpose: str, count: int) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        start = hashing._mix(np.array([np.int64(key).view(np.uint64) ^ np.uint64(zlib.crc32(purpose.encode()))]))
        bits = hashing._mix(hashing._mix(np.arange(count, dtype=np.uint64)) ^ start)
    return (bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24)


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_are_those_of_the_hash_in_unsigned_integers(device: str) -> None:
    draws: Draws = HashedDraws(KEYS, torch.device(device))
    for image, key in enumerate(KEYS.tolist()):
        for purpose in ("rpn", "roi"):
            numbers = draws.uniform(image, purpose, 1000)
            assert numbers.device.type == device
            assert numbers.dtype == torch.float32
            assert np.array_equal(numbers.cpu().numpy(), reference(key, purpose, 1000))


def test_numbers_do_not_depend_on_how_many_are_drawn() -> None:
    draws = HashedDraws(KEYS, torch.device("cpu"))
    assert torch.equal(draws.uniform(1, "rpn", 10), draws.uniform(1, "rpn", 50)[:10])
    assert len(draws.uniform(1, "rpn", 0)) == 0


def test_numbers_are_uniform_and_not_correlated() -> None:
    draws = HashedDraws(KEYS, torch.device("cpu"))
    rows = torch.stack(
        [draws.uniform(image, purpose, 20_000) for image in range(len(KEYS)) for purpose in ("rpn", "roi")]
    )
    assert rows.min() >= 0
    assert rows.max() < 1
    counts = torch.stack([torch.histc(row, 10, 0, 1) for row in rows])
    assert (counts - 2000).abs().max() < 5 * 2000**0.5
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 0.04
    assert torch.corrcoef(torch.stack((rows[0, :-1], rows[0, 1:])))[0, 1].abs() < 0.04
