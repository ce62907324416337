"""The two bundles of plotly.js, which draws the charts in the browser: the full bundle and a basic one.

The full bundle comes with the plotly package. It has 4.8 MB, and a browser needs 1.2 s to load it before it draws the
first line. ``assets/plotly-basic.min.js`` is the official bundle of the same release with only scatter, bar and pie
traces (npm: ``plotly.js-basic-dist-min``) and takes a fifth of that time. No bundle is loaded from other servers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

PREFIX = "drawing/"
"""Prefix of the bundles' addresses, relative to the dashboard's root."""
_BASIC_TRACES = frozenset({"scatter", "bar", "pie"})


@cache
def files() -> dict[str, Path]:
    """Return the bundles by address. An address contains the version, so its content never changes."""
    import plotly

    assert plotly.__file__
    full = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    basic = Path(__file__).parents[1] / "assets" / "plotly-basic.min.js"
    return {f"{PREFIX}{plotly.__version__}/{path.name}": path for path in (basic, full)}


def basic_bundle() -> str:
    """Return the address of the basic bundle, relative to any page."""
    return next(iter(files()))


def bundle_for(traces: Iterable[str]) -> str:
    """Return the address of the smallest bundle that can draw traces of these types, relative to any page."""
    basic, full = files()
    return basic if _BASIC_TRACES.issuperset(traces) else full
