"""Colours that tell methods apart, also for the colour-blind, and the words and signs for states.

The palette is Okabe and Ito's (2008) without black and yellow: the one is lost on a dark page, the other on a light
one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from core.protocol.public import RunState
from dashboard.markup import escape

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
GREY = "#8A8A8A"
"""The teacher's, and that of whatever is not a method."""

# The usual labels are given the colours that are furthest apart; any other takes what its name hashes to.
_USUAL = {
    "dkd": BLUE,
    "dkd_align (sample)": VERMILLION,
    "dkd_align (log)": GREEN,
    "dkd_align (batch)": ORANGE,
    "kd": PURPLE,
    "ce": SKY,
}


@dataclass(frozen=True)
class Style:
    """How a method is drawn.

    Attributes:
        colour: as ``#RRGGBB``.
        symbol: Plotly's name of the marker; tells methods apart where there are more of them than colours.
    """

    colour: str
    symbol: str = SYMBOLS[0]


TEACHER = Style(GREY)


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A style for each label of an experiment, no two alike up to 36 labels.

    It depends on the label first and on the other labels only where two would collide, so that a method looks the same
    on every page and, nearly always, in every experiment.
    """
    wanted = list(dict.fromkeys(labels))
    found: dict[str, Style] = {label: Style(_USUAL[label]) for label in wanted if label in _USUAL}
    taken = set(found.values())
    free = [Style(colour, symbol) for symbol in SYMBOLS for colour in PALETTE]
    for label in wanted:
        if label == "teacher":
            found[label] = TEACHER
        elif label not in found:
            found[label] = _next_free(label, free, taken)
            taken.add(found[label])
    return found


def _next_free(label: str, free: list[Style], taken: set[Style]) -> Style:
    # crc32 and not hash(): the latter changes with every start of the interpreter.
    first = zlib.crc32(label.encode()) % len(PALETTE)
    for block in range(len(SYMBOLS)):
        for step in range(len(PALETTE)):
            style = free[block * len(PALETTE) + (first + step) % len(PALETTE)]
            if style not in taken:
                return style
    return free[zlib.crc32(label.encode()) % len(free)]


def translucent(colour: str, opacity: float) -> str:
    """A ``#RRGGBB`` colour as rgba, for a band that lets the grid shine through on light and dark pages."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity:g})"


_SIGNS: dict[RunState, str] = {
    "waiting": "◌",
    "queued": "○",
    "paused": "‖",
    "running": "▶",
    "cancelling": "◐",
    "succeeded": "✓",
    "failed": "✕",
    "cancelled": "⊘",
}
_BADGE_COLOURS: dict[str, str] = {
    "running": "blue",
    "active": "blue",
    "succeeded": "green",
    "finished": "green",
    "failed": "red",
    "cancelling": "orange",
    "cancelled": "orange",
}


def state_text(state: RunState) -> str:
    """A state as a table shows it: a sign of its own before the word, so that it does not rest on colour."""
    return f"{_SIGNS[state]} {state}"


def badge(state: str) -> str:
    """A state as a coloured badge in Markdown."""
    return f":{_BADGE_COLOURS.get(state, 'gray')}-badge[{escape(state)}]"
