"""Figures as SVG: elements whose bytes depend on nothing but their arguments. Every text is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from common.terminal import printable

FONT = "system-ui, sans-serif"
FONT_SIZE = 13
GREY, INK = "#8a8a8a", "currentColor"
_NARROW, _WIDE = frozenset(" .,:;'()[]|/ijlftrI"), frozenset("mwMW%@→")


def number(value: float) -> str:
    """Return a coordinate with at most two decimals."""
    shown = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if shown == "-0" else shown


def text_width(text: str, size: float = FONT_SIZE) -> float:
    """Return about how wide a text is, in pixels."""
    return size * sum(0.3 if sign in _NARROW else 0.85 if sign in _WIDE else 0.56 for sign in text)


def shortened(text: str, width: float, size: float = FONT_SIZE) -> str:
    """Return the beginning of a text that fits into a width, with an ellipsis if it is not all of it."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(f"{text}…", size) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, width: float = 1, dash: str = "") -> str:
    """Return a straight line."""
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    ends = f'x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"'
    return f'<line {ends} stroke="{colour}" stroke-width="{number(width)}"{dashed}/>'


def polyline(points: Iterable[tuple[float, float]], colour: str = INK, width: float = 1, opacity: float = 1) -> str:
    """Return a line through points."""
    path = " ".join(f"{number(x)},{number(y)}" for x, y in points)
    faint = f' opacity="{number(opacity)}"' if opacity != 1 else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{number(width)}"{faint}/>'


def circle(x: float, y: float, radius: float, colour: str = INK, opacity: float = 1) -> str:
    """Return a filled circle."""
    faint = f' opacity="{number(opacity)}"' if opacity != 1 else ""
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(radius)}" fill="{colour}"{faint}/>'


def label(x: float, y: float, text: str, *, anchor: str = "start", size: float = FONT_SIZE, colour: str = INK) -> str:
    """Return a text; ``anchor`` is the part of it at x: start, middle or end."""
    at = f'x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"'
    return f'<text {at} font-size="{number(size)}" fill="{colour}">{escape(printable(text))}</text>'


def turned(x: float, y: float, text: str, *, size: float = 12) -> str:
    """Return a text that reads upwards, with its middle at a point."""
    at = f'x="{number(x)}" y="{number(y)}" text-anchor="middle" transform="rotate(-90 {number(x)} {number(y)})"'
    return f'<text {at} font-size="{number(size)}" fill="{INK}">{escape(printable(text))}</text>'


def titled(content: str, title: str) -> str:
    """Return content with a text that appears under the pointer."""
    return f"<g><title>{escape(printable(title))}</title>{content}</g>"


def figure(width: float, height: float, parts: Iterable[str], title: str, *, background: str = "") -> str:
    """Return a figure.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        parts: Its elements.
        title: What it shows, for people who do not see it.
        background: A colour; empty for none, so that the figure suits the page that it is on.
    """
    name = escape(printable(title))
    below = f'<rect width="100%" height="100%" fill="{background}"/>' if background else ""
    frame = f'viewBox="0 0 {number(width)} {number(height)}" width="{number(width)}" height="{number(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {frame} role="img" font-family="{FONT}" color="#202124">'
        f"<title>{name}</title>{below}{''.join(parts)}</svg>"
    )
