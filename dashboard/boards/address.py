"""The figures of a board in the address of the page, as pure functions: ``pin=METRIC|RIGHT|log``, once per figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote

from core.protocol.layouts import MAX_FIGURES, BoardFigure
from dashboard.addresses import AddressError, validated

PIN = "pin"
"""The query parameter, which is repeated."""
_LOG = "log"
_PARTS = 3


def texts(figures: Iterable[BoardFigure]) -> list[str]:
    """Return the values of the query parameter; one empty value for a board without figures."""
    return [_text(figure) for figure in figures] or [""]


def _text(figure: BoardFigure) -> str:
    parts = [_quoted(figure.metric), _quoted(figure.right), _LOG if figure.log else ""]
    return "|".join(parts).rstrip("|")


def _quoted(name: str) -> str:
    return quote(name, safe="/ ")


def figures(values: Sequence[str]) -> tuple[BoardFigure, ...] | None:
    """Return the figures of an address, each metric once; None if the address has none.

    Args:
        values: The values of the query parameter.

    Raises:
        AddressError: A value is no figure, or there are too many values.
    """
    if not values:
        return None
    found: dict[str, BoardFigure] = {}
    for value in values:
        if value:
            figure = _figure(value)
            found.setdefault(figure.metric, figure)
    if len(found) > MAX_FIGURES:
        raise AddressError(f"The link has {len(found):,} figures; a board has at most {MAX_FIGURES:,}.")
    return tuple(found.values())


def _figure(value: str) -> BoardFigure:
    parts = value.split("|")
    if len(parts) > _PARTS or (len(parts) == _PARTS and parts[2] != _LOG):
        raise AddressError(f"{value[:60]!r} in the link ({PIN}) is not METRIC, METRIC|RIGHT or METRIC|RIGHT|log.")
    metric = validated(unquote(parts[0]), PIN, "name")
    right = validated(unquote(parts[1]), PIN, "name") if len(parts) > 1 and parts[1] else ""
    try:
        return BoardFigure(metric=metric, right=right, log=len(parts) == _PARTS)
    except ValueError:  # a character that is not shown
        raise AddressError(f"{value[:60]!r} in the link ({PIN}) names no metric.") from None
