"""Colours: distinct within an experiment, and the same for a method on every page."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import get_args

from core.catalog import METHODS
from core.protocol.public import RunState
from dashboard import theme

COLOURS = {
    label: colour for entry in METHODS for label, colour in {entry.name: entry.color, **entry.label_colors}.items()
}
USUAL = ["dkd", "dkd_align (sample)", "dkd_align (log)", "dkd_align (batch)", "kd", "ce"]


def test_method_keeps_its_colour_in_every_comparison() -> None:
    alone = theme.styles(["dkd_align (log)"], COLOURS)["dkd_align (log)"]
    assert alone.colour == METHODS["dkd_align"].label_colors["dkd_align (log)"]
    assert theme.styles(USUAL, COLOURS)["dkd_align (log)"] == alone
    assert theme.styles(["my own", "dkd_align (log)", "dkd"], COLOURS)["dkd_align (log)"] == alone
    assert theme.styles(["my own"])["my own"] == theme.styles(["my own", "teacher"])["my own"]


def test_methods_of_an_experiment_have_distinct_colours() -> None:
    labels = [*USUAL, *(f"variant {number}" for number in range(30))]
    styles = theme.styles(labels, COLOURS)
    assert len({styles[label] for label in labels}) == 36
    assert len(theme.styles([*labels, "one too many"], COLOURS)) == 37


def test_two_methods_of_one_colour_are_told_apart() -> None:
    same = {"first": theme.GREEN, "second": theme.GREEN}
    styles = theme.styles(same, same)
    assert styles["first"].colour == theme.GREEN
    assert styles["second"] != styles["first"]


def test_colours_are_readable_on_white_and_on_dark() -> None:
    for colour in {*theme.PALETTE, theme.GREY, *filter(None, COLOURS.values())}:
        for page in ("#FFFFFF", "#0E1117"):
            assert contrast(colour, page) > 2.0, f"{colour} on {page}"


def test_the_teacher_is_grey() -> None:
    assert theme.styles(["teacher", "dkd"])["teacher"].colour == theme.GREY


def test_a_faint_colour_is_the_colour_with_an_opacity() -> None:
    assert theme.translucent("#0072B2", 0.18) == "rgba(0, 114, 178, 0.18)"


def test_every_state_has_a_distinct_icon_and_a_badge() -> None:
    states = get_args(RunState)
    signs = sorted(theme.state_text(state).split()[0] for state in states)
    assert all(left != right for left, right in pairwise(signs))
    assert all(re.fullmatch(rf":\w+-badge\[{state}\]", theme.badge(state)) for state in states)


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of WCAG 2."""
    bright, dark = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
