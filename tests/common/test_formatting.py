"""Numbers as text: the number of digits follows the size of the effect."""

from __future__ import annotations

import math
import random

import pytest

from common import formatting
from core.protocol.comparisons import Interval


@pytest.mark.parametrize(
    ("difference", "low", "high", "text"),
    [
        (0.0033, 0.0024, 0.0043, "+0.0033 [+0.0024, +0.0043]"),
        (1.25, -1.9, 4.4, "+1.25 [−1.90, +4.40]"),
        (0.5, 0.001, 0.999, "+0.500 [+0.001, +0.999]"),
        (-3.3e-8, -4.3e-8, -2.4e-8, "−3.3e−08 [−4.3e−08, −2.4e−08]"),
        (0.0, -0.1, 0.1, "0.00 [−0.10, +0.10]"),
    ],
)
def test_difference_is_shown_with_the_digits_of_its_interval(
    difference: float, low: float, high: float, text: str
) -> None:
    assert formatting.difference_text(difference, Interval(low=low, high=high)) == text


def test_no_number_but_zero_is_shown_as_zero() -> None:
    generator = random.Random(0)
    for _ in range(2000):
        scale = 10 ** generator.uniform(-12, 6)
        centre, half = generator.gauss(0, 1) * scale, abs(generator.gauss(0, 1)) * scale
        text = formatting.difference_text(centre, Interval(low=centre - half, high=centre + half))
        shown = text.replace("−", "-").replace("[", "").replace("]", "").replace(",", "").split()
        assert all(float(number) != 0 for number in shown), text
        for number, value in zip(shown, (centre, centre - half, centre + half), strict=True):
            assert math.copysign(1, float(number)) == math.copysign(1, value)
            assert abs(float(number) - value) <= max(0.06 * 2 * half, 0.06 * abs(value)), text


@pytest.mark.parametrize(
    ("p", "text"), [(0.0312, "0.031"), (0.0499, "0.0499"), (0.0501, "0.0501"), (0.05, "0.05"), (1.0, "1"), (None, "–")]
)
def test_rounded_p_stays_on_its_side_of_the_level(p: float | None, text: str) -> None:
    assert formatting.p_text(p) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (math.nan, "not a number"), (math.inf, "infinite"), (-math.inf, "−infinite"), (93.2, "93.20 %")],
)
def test_nan_and_infinity_are_written_in_words(value: float | None, text: str) -> None:
    assert formatting.value_text(value, "%") == text


def test_percentages_have_two_decimals_unless_they_would_be_zero() -> None:
    shown = [formatting.value_text(value, "%") for value in (0.0, 0.0042, 4.06, 15.0, 100.0)]
    assert shown == ["0.00 %", "0.0042 %", "4.06 %", "15.00 %", "100.00 %"]


def test_means_are_shown_with_the_digits_of_their_spread() -> None:
    assert formatting.mean_text(93.2, 1.06) == "93.20 ± 1.06"
    assert formatting.mean_text(0.51, 0.0042) == "0.5100 ± 0.0042"
    assert formatting.mean_text(0.004213) == "0.004213"
    assert formatting.mean_text(None) == "–"
