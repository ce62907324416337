"""The browser's back button, where Streamlit's links to pages with a query leave an entry too many."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st


def mend() -> None:
    """Once on every page."""
    _script()(key="history", height=1)


@cache
def _script() -> Callable[..., Any]:
    script = Path(__file__).parent / "assets" / "history.js"
    return st.components.v2.component("dkd_history", js=script.read_text(encoding="utf-8"))
