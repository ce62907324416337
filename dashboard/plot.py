"""Charts that stand still while their data grow.

``st.plotly_chart`` makes a chart's id from its data (Streamlit 1.67, also where it has a key), so that a new point is
another chart to the browser and what a person has zoomed into is lost. This component is known by its key alone, and
draws new data into the chart that is there. The drawing library is the one that lies in the plotly package: nothing is
fetched from elsewhere.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.components.v1 import declare_component

if TYPE_CHECKING:
    import plotly.graph_objects as go

_ASSETS = Path(__file__).parent / "assets"
_NAME = "dkd_chart"


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
        data={"figure": _compact(drawn), "alt": alt, "filename": filename, "library": _library()},
        height="content",
    )


def _compact(figure: dict[str, Any]) -> str:
    """As text, which the browser compares with what it has drawn before it parses it."""
    import plotly.io

    # validate: the figure has been validated when it was made.
    text: str = plotly.io.to_json(figure, validate=False)
    return text


def _library() -> str:
    """Where the browser finds plotly.js on this server. It is a file of the installed package, sent with an ETag."""
    base = str(st.get_option("server.baseUrlPath") or "").strip("/")
    return f"/{base + '/' if base else ''}component/{_served()}/plotly.min.js"


@cache
def _served() -> str:
    import plotly

    assert plotly.__file__
    folder = Path(plotly.__file__).parent / "package_data"
    name: str = declare_component("plotly", path=folder).name
    return name


@cache
def _component() -> Any:
    return st.components.v2.component(
        _NAME,
        js=(_ASSETS / "chart.js").read_text(encoding="utf-8"),
        css=(_ASSETS / "chart.css").read_text(encoding="utf-8"),
        isolate_styles=False,
    )
