"""plotly.js, which draws the charts in the browser: the whole of it, and the quarter that most charts need.

The whole lies in the plotly package: 4.8 MB, of which a browser makes 1.2 s of work before the first line is drawn.
``assets/plotly-basic.min.js`` is the same release with lines, bars and pies alone, as its makers publish it (npm:
``plotly.js-basic-dist-min``): a fifth of that work. Nothing is fetched from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

PREFIX = "drawing/"
"""Of the addresses, below the dashboard's root."""
_BASIC_TRACES = frozenset({"scatter", "bar", "pie"})


@cache
def files() -> dict[str, Path]:
    """Every file by its address, which names the version: what is at an address never changes."""
    import plotly

    assert plotly.__file__
    whole = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    basic = Path(__file__).parents[1] / "assets" / "plotly-basic.min.js"
    return {f"{PREFIX}{plotly.__version__}/{path.name}": path for path in (basic, whole)}


def basic_bundle() -> str:
    """Address of the small one, relative to any page."""
    return next(iter(files()))


def bundle_for(traces: Iterable[str]) -> str:
    """Of the smallest file that draws traces of these types, relative to any page."""
    small, whole = files()
    return small if _BASIC_TRACES.issuperset(traces) else whole
