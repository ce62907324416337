"""A chart component that keeps its zoom when new points arrive.

``st.plotly_chart`` derives the id of a chart from its data (Streamlit 1.67, even with a key), so that every new point
creates a new chart in the browser and the zoom is lost. The key alone identifies this component, which updates the
existing chart.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from dashboard.server import plotly_assets

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ASSETS = Path(__file__).parents[1] / "assets"
_NAME = "dkd_chart"


def preload() -> None:
    """Make the browser load the component frontend early, with an invisible component.

    React 19, which Streamlit 1.67 uses, delays content that was loaded late by 0.3 s to prevent flicker. Without this
    call the first chart would be delayed.
    """
    with st.container(key="dkd-prepare"):
        _empty()(key="prepare")


def chart(figure: go.Figure, *, key: str, alt: str, filename: str = "dkd-lab") -> None:
    """Draw a figure over the full width, with the height of its layout.

    Two buttons in the chart's corner download the visible part as PNG and SVG, in dark colours on white.

    Args:
        figure: The figure. Its ``layout.height`` is in pixels; a constant ``uirevision`` keeps the zoom.
        key: Identifies the chart on its page. A figure with the same key replaces the previous figure.
        alt: Description for screen readers.
        filename: Name of a downloaded image, without its extension.
    """
    plotly_json = figure.to_plotly_json()
    # The browser applies the theme of the page, so Plotly's template would only make the message longer.
    plotly_json["layout"].pop("template", None)
    _component()(
        key=key,
        data={
            "figure": _to_json(plotly_json),
            "alt": alt,
            "filename": filename,
            "library": plotly_assets.bundle_for(trace["type"] for trace in plotly_json["data"]),
        },
        height="content",
    )


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
        js=(_ASSETS / "chart.js").read_text(encoding="utf-8"),
        css=(_ASSETS / "chart.css").read_text(encoding="utf-8"),
        isolate_styles=False,
    )


@cache
def _empty() -> Any:
    return st.components.v2.component("dkd_empty", js="export default () => {};")
