"""Sampling of anchors and regions from a step's own random numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from core.tasks.detection.models.sampling import DrawnSampler
from tests.core.tasks.detection.models.detector_inputs import KeyedDraws


def candidates(positive: int, negative: int, unused: int = 7) -> Tensor:
    labels = torch.cat([torch.full((positive,), 3), torch.zeros(negative), torch.full((unused,), -1)]).long()
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(positive))]


@pytest.mark.parametrize(("positive", "negative"), [(0, 0), (0, 90), (3, 90), (40, 90), (40, 2), (90, 0)], ids=str)
def test_numbers_of_samples_are_those_of_torchvision(positive: int, negative: int) -> None:
    labels = [candidates(positive, negative)]
    theirs = BalancedPositiveNegativeSampler(30, 0.3)(labels)
    ours = DrawnSampler(30, 0.3, KeyedDraws([1]), "rpn")(labels)
    for mine, reference, kind in zip(ours, theirs, (labels[0] >= 1, labels[0] == 0), strict=True):
        assert int(mine[0].sum()) == int(reference[0].sum())
        assert not mine[0][~kind].any()
        assert mine[0].dtype == reference[0].dtype


def test_equal_draws_give_equal_samples_in_any_order_of_images_and_leave_torchs_random_state() -> None:
    labels = [candidates(20, 200), candidates(50, 100), candidates(5, 300)]
    state = torch.get_rng_state()
    positive, negative = DrawnSampler(32, 0.5, KeyedDraws([5, 6, 7]), "rpn")(labels)
    again = DrawnSampler(32, 0.5, KeyedDraws([7, 5, 6]), "rpn")([labels[2], labels[0], labels[1]])
    for number, place in ((0, 1), (1, 2), (2, 0)):
        assert torch.equal(positive[number], again[0][place])
        assert torch.equal(negative[number], again[1][place])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("draws", [KeyedDraws([2]), KeyedDraws([1])])
def test_other_images_and_purposes_give_other_samples(draws: KeyedDraws) -> None:
    labels = [candidates(50, 500)]
    one = DrawnSampler(32, 0.5, KeyedDraws([1]), "rpn")(labels)
    other = DrawnSampler(32, 0.5, draws, "rpn" if draws.keys == (2,) else "roi")(labels)
    assert not torch.equal(one[0][0], other[0][0])
    assert not torch.equal(one[1][0], other[1][0])


def test_a_candidate_less_changes_no_choice_among_the_others() -> None:
    labels = candidates(10, 500)
    changed = labels.clone()
    changed[torch.where(labels == 0)[0][0]] = -1
    _, one = DrawnSampler(32, 0.5, KeyedDraws([1]), "rpn")([labels])
    _, other = DrawnSampler(32, 0.5, KeyedDraws([1]), "rpn")([changed])
    assert int((one[0] != other[0]).sum()) <= 2


def test_every_candidate_is_chosen_equally_often() -> None:
    labels = torch.tensor([1] * 10 + [0] * 30)
    chosen = torch.zeros(40)
    for key in range(400):
        positive, negative = DrawnSampler(20, 0.25, KeyedDraws([key]), "roi")([labels])
        chosen += positive[0] + negative[0]
    # Binomial with p = 1/2, of 400 draws: the standard deviation is 10.
    assert (chosen - 200).abs().max() < 45
