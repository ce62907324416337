"""Charts that stand still while their data grow.

``st.plotly_chart`` makes a chart's id from its data (Streamlit 1.67, also where it has a key), so that a new point is
another chart to the browser and what a person has zoomed into is lost. This component is known by its key alone, and
draws new data into the chart that is there.
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
    """Have the browser load what every component needs, by one that shows nothing; before a page asks for its data.

    React (Streamlit 1.67 has 19) holds back what has loaded late for 0.3 s, so that a page does not flicker; the first
    chart would be held back.
    """
    with st.container(key="dkd-prepare"):
        _empty()(key="prepare")


def chart(figure: go.Figure, *, key: str, alt: str, filename: str = "dkd-lab") -> None:
    """Draw a figure, as wide as there is room and as high as its layout says.

    Two buttons at its corner download what is in sight as PNG and SVG, dark on white.

    Args:
        figure: its ``layout.height`` is in pixels; a constant ``uirevision`` keeps the zoom.
        key: names the chart on its page: the same key is the same chart, whatever is drawn.
        alt: what it shows, for those who cannot see it.
        filename: of a downloaded picture, without its ending.
    """
    drawn = figure.to_plotly_json()
    # The page's theme is laid over the figure in the browser, so Plotly's own would only make the message longer.
    drawn["layout"].pop("template", None)
    _component()(
        key=key,
        data={
            "figure": _compact(drawn),
            "alt": alt,
            "filename": filename,
            "library": plotly_assets.bundle_for(trace["type"] for trace in drawn["data"]),
        },
        height="content",
    )


def _compact(figure: dict[str, Any]) -> str:
    """As text, which the browser compares with what it has drawn before it parses it."""
    import plotly.io

    # validate: the figure has been validated when it was made.
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
