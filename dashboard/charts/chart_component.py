"""A chart component that keeps its zoom when new points arrive.

``st.plotly_chart`` derives the id of a chart from its data (Streamlit 1.67, even with a key), so that every new point
creates a new chart in the browser and the zoom is lost. The key alone identifies this component, which updates the
existing chart.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard import wording
from dashboard.server import plotly_assets

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ASSETS = Path(__file__).parents[1] / "assets"
_SCRIPTS = ("chart_print.js", "chart_board.js", "chart.js")
_NAME = "dkd_chart"
_HEIGHT = 450
"""Height in px that Plotly gives a figure without one."""
_AROUND_AXIS = 100
"""Pixels of a figure's height that its legend and its other axis need."""
_TITLE_SIZE, _CHARACTER_WIDTH = 14, 0.52
"""Size in px of the title of an axis, and mean width of a character relative to the size."""
_opened: ContextVar[str] = ContextVar("opened", default="")
_named_after: ContextVar[tuple[str, ...]] = ContextVar("named_after", default=())


def preload() -> None:
    """Make the browser load the component frontend early, with an invisible component.

    React 19, which Streamlit 1.67 uses, delays content that was loaded late by 0.3 s to prevent flicker. Without this
    call the first chart would be delayed.
    """
    with st.container(key="dkd-prepare"):
        _empty()(key="prepare")


@contextmanager
def files_named_after(names: Sequence[str]) -> Iterator[None]:
    """Let the names of downloaded images of all charts within begin with those of experiments.

    Args:
        names: Names of the experiments, or of a run.
    """
    token = _named_after.set(tuple(names))
    try:
        yield
    finally:
        _named_after.reset(token)


@contextmanager
def points_open(address: str) -> Iterator[None]:
    """Let a click on a point of any chart within open an address, unless the point has one of its own.

    Args:
        address: The address, relative to any page; empty for none.
    """
    token = _opened.set(address)
    try:
        yield
    finally:
        _opened.reset(token)


def chart(figure: go.Figure, *, key: str, alt: str, filename: str = "dkd-lab") -> None:
    """Draw a figure over the full width, with the height of its layout.

    Buttons in the chart's corner download the visible part in dark colours on white: as PNG and SVG in the size of the
    page, and as SVG in the size of one and of two columns of a paper, with markers that survive grey print.

    Args:
        figure: The figure. Its ``layout.height`` is in pixels; a constant ``uirevision`` keeps the zoom.
        key: Identifies the chart on its page. A figure with the same key replaces the previous figure.
        alt: Description for screen readers.
        filename: Name of a downloaded image, without its extension; within ``files_named_after`` its end.
    """
    names = _named_after.get()
    plotly_json = figure.to_plotly_json()
    # The browser applies the theme of the page, so Plotly's template would only make the message longer.
    plotly_json["layout"].pop("template", None)
    _wrap_side_titles(plotly_json["layout"])
    if address := _opened.get():
        _link(plotly_json["data"], address)
    _component()(
        key=key,
        data={
            "figure": _to_json(plotly_json),
            "alt": alt,
            "filename": wording.file_stem(names, filename) if names else filename,
            "library": plotly_assets.bundle_for(trace["type"] for trace in plotly_json["data"]),
        },
        height="content",
    )


def _link(traces: list[dict[str, Any]], address: str) -> None:
    """Give every trace that has points to show, and no link, this one."""
    for trace in traces:
        meta = trace.get("meta") or {}
        if trace.get("hoverinfo") != "skip" and not {"link", "links"} & meta.keys():
            trace["meta"] = {**meta, "link": address}


def _wrap_side_titles(layout: dict[str, Any]) -> None:
    """Break titles of vertical axes that are longer than their axis into lines: Plotly would cut them off."""
    for axis in (value for name, value in layout.items() if name.startswith("yaxis")):
        title = axis.get("title", {})
        low, high = axis.get("domain", (0, 1))
        length = (high - low) * (layout.get("height", _HEIGHT) - _AROUND_AXIS)
        characters = length / (_CHARACTER_WIDTH * title.get("font", {}).get("size", _TITLE_SIZE))
        if text := title.get("text"):
            title["text"] = "<br>".join(_lines(text, max(int(characters), 1)))


def _lines(text: str, most: int) -> list[str]:
    """Break a text into lines of at most this number of characters, which are about equally long."""
    wrap = partial(textwrap.wrap, text, break_long_words=False, break_on_hyphens=False)
    number = len(wrap(most))
    widths = range(-(-len(text) // number), most)
    return wrap(next((width for width in widths if len(wrap(width)) == number), most))


def _to_json(figure: dict[str, Any]) -> str:
    """Serialize a figure. The browser compares the text with the drawn figure's text before it parses it."""
    import plotly.io

    # No validation: the figure was validated when it was created.
    text: str = plotly.io.to_json(figure, validate=False)
    return text


@cache
def _component() -> Any:
    return st.components.v2.component(
        _NAME,
        # One module: a component has no address from which it could import another file.
        js="\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in _SCRIPTS),
        css=(_ASSETS / "chart.css").read_text(encoding="utf-8"),
        isolate_styles=False,
    )


@cache
def _empty() -> Any:
    return st.components.v2.component("dkd_empty", js="export default () => {};")
