"""Colours and markers of methods, and labels of states.

The palette is that of Okabe and Ito (2008), which colour-blind people can distinguish, without black and yellow: black
is invisible on a dark page and yellow on a light one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from core.protocol.public import RunState
from dashboard.markup import escape

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
GREY = "#8A8A8A"
"""Colour of the teacher and of other elements that are not methods."""


@dataclass(frozen=True)
class Style:
    """Colour and marker of a method.

    Attributes:
        colour: Colour as ``#RRGGBB``.
        symbol: Plotly's name of the marker, which distinguishes methods if there are more methods than colours.
    """

    colour: str
    symbol: str = SYMBOLS[0]


TEACHER = Style(GREY)


def styles(labels: Iterable[str], colours: Mapping[str, str] | None = None) -> dict[str, Style]:
    """Return a style for each label of an experiment; up to 36 labels have distinct styles.

    A style depends only on the label, unless two labels would have the same style. So a method has the same style on
    every page and nearly always in every experiment.

    Args:
        labels: Labels of methods.
        colours: Colours of labels in the catalog; the colour of any other label depends on its hash.
    """
    unique_labels = list(dict.fromkeys(labels))
    result: dict[str, Style] = {}
    for label in unique_labels:
        style = Style((colours or {}).get(label, ""))
        if style.colour and style not in result.values():
            result[label] = style
    used = set(result.values())
    all_styles = [Style(colour, symbol) for symbol in SYMBOLS for colour in PALETTE]
    for label in unique_labels:
        if label == "teacher":
            result[label] = TEACHER
        elif label not in result:
            result[label] = _next_free(label, all_styles, used)
            used.add(result[label])
    return result


def _next_free(label: str, all_styles: list[Style], used: set[Style]) -> Style:
    # crc32 is used because the values of hash() change with every start of the interpreter.
    first = zlib.crc32(label.encode()) % len(PALETTE)
    for block in range(len(SYMBOLS)):
        for step in range(len(PALETTE)):
            style = all_styles[block * len(PALETTE) + (first + step) % len(PALETTE)]
            if style not in used:
                return style
    return all_styles[zlib.crc32(label.encode()) % len(all_styles)]


def translucent(colour: str, opacity: float) -> str:
    """Return a ``#RRGGBB`` colour as rgba with this opacity, for bands through which the grid stays visible."""
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
    """Return a state with a symbol before the word, so that states can be distinguished without colour."""
    return f"{_SIGNS[state]} {state}"


def badge(state: str) -> str:
    """Return a state as a coloured badge in Markdown."""
    return f":{_BADGE_COLOURS.get(state, 'gray')}-badge[{escape(state)}]"
