"""Colours and markers of methods, and labels of states.

The palette is that of Okabe and Ito (2008), which colour-blind people can distinguish, without black and yellow: black
is invisible on a dark page and yellow on a light one. Many methods have more colours: each family has a range of hues.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product

from core.protocol.public import RunState
from dashboard.families import MANY, Kind, grouped
from dashboard.markup import escape

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY = "#E69F00", "#CC79A7", "#56B4E9"
PALETTE = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
# Lightness 0.47, 0.60 and 0.73 and two hues that are 22° apart, in Oklch; neighbours in a row differ in lightness.
FAMILY_PALETTES: Mapping[str, tuple[str, ...]] = {
    "labels": ("#957A65", "#6B523E", "#C1A58F"),
    "logits": ("#0087D1", "#2751B8", "#7FA4FE", "#006096", "#43B0FE", "#5078E5"),
    "decoupled": ("#CA5B10", "#814D00", "#E69206", "#933E00", "#F78445", "#B16F03"),
    "features": ("#48961A", "#006D40", "#0DC680", "#2E6C01", "#70BF4C", "#009861"),
    "relations": ("#9E59D7", "#8E2090", "#E676E1", "#772FAB", "#C685FF", "#BA4CB7"),
    "contrastive": ("#049392", "#026677", "#0EBBDB", "#016968", "#07C0BE", "#038FA8"),
    "two_stage": ("#957F07", "#576201", "#9EB436", "#6A5A02", "#C3A703", "#788B04"),
    "several_networks": ("#D44079", "#AB0228", "#FF7775", "#A60054", "#FF70A1", "#DA4147"),
    "boxes": ("#787F9C", "#535974", "#9FA6C5"),
}
"""Colours of many methods by family. A family that is not named has the general palette."""
_VARIANTS = 3
"""Largest number of variants of a method that share its colour."""
GREY = "#8A8A8A"
"""Colour of the teacher and of other elements that are not methods."""


@dataclass(frozen=True)
class Style:
    """Colour and marker of a method.

    Attributes:
        colour: Colour as ``#RRGGBB``.
        symbol: Plotly's name of the marker, which distinguishes methods if there are more methods than colours.
        dash: Plotly's style of the line, which distinguishes variants of a method among many methods.
    """

    colour: str
    symbol: str = SYMBOLS[0]
    dash: str = DASHES[0]


TEACHER = Style(GREY)


def _is_teacher(label: str) -> bool:
    """Return whether a label is that of a teacher's run: "teacher", "teacher 2" …"""
    return re.fullmatch(r"teacher( \d+)?", label) is not None


def styles(
    labels: Iterable[str], colours: Mapping[str, str] | None = None, kinds: Mapping[str, Kind] | None = None
) -> dict[str, Style]:
    """Return a style for each label of an experiment; up to 36 labels have distinct styles.

    A style depends only on the label, unless two labels would have the same style. So a method has the same style on
    every page and nearly always in every experiment. Labels of more than ``MANY`` methods have the colours of their
    families.

    Args:
        labels: Labels of methods.
        colours: Colours of labels in the catalog; the colour of any other label depends on its hash.
        kinds: Method and family of each label.
    """
    unique_labels = list(dict.fromkeys(labels))
    if kinds and len(unique_labels) > MANY:
        return _family_styles(unique_labels, kinds)
    result: dict[str, Style] = {}
    for label in unique_labels:
        style = Style((colours or {}).get(label, ""))
        if style.colour and style not in result.values():
            result[label] = style
    used = set(result.values())
    all_styles = [Style(colour, symbol) for symbol in SYMBOLS for colour in PALETTE]
    for label in unique_labels:
        if _is_teacher(label):
            result[label] = TEACHER
        elif label not in result:
            result[label] = _next_free(label, all_styles, used)
            used.add(result[label])
    return result


def _family_styles(labels: list[str], kinds: Mapping[str, Kind]) -> dict[str, Style]:
    """Return styles by family: a colour per method, and a dash per variant of a method with few variants."""
    methods = {label: kinds.get(label, Kind()).method or label for label in labels}
    variants = Counter(methods.values())
    result: dict[str, Style] = {}
    for family, members in grouped((label for label in labels if label != "teacher"), kinds).items():
        palette = FAMILY_PALETTES.get(family, PALETTE)
        coloured = {label: label if variants[methods[label]] > _VARIANTS else methods[label] for label in members}
        names = list(dict.fromkeys(coloured.values()))
        used: set[tuple[str, str]] = set()
        for label in members:
            block, index = divmod(names.index(coloured[label]), len(palette))
            own = [(palette[index], dash) for dash in (*DASHES[block:], *DASHES[:block])]
            free = (pair for pair in (*own, *product(palette, DASHES)) if pair not in used)
            colour, dash = next(free, own[0])
            used.add((colour, dash))
            result[label] = Style(colour, SYMBOLS[(len(used) - 1) % len(SYMBOLS)], dash)
    return result | {label: TEACHER for label in labels if _is_teacher(label)}


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
