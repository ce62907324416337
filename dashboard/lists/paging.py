"""Pages of a list that the backend hands out by cursors, and the look for changes in what is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import streamlit as st

from core.protocol.public import ExperimentPage, RunPage
from dashboard import addresses, session, wording


def page_cursor(name: str, query: Mapping[str, Any]) -> str | None:
    """Where the page begins. Another filter or order begins at the start."""
    key = f"{name}.asked"
    if st.session_state.get(key, query) != query:
        st.query_params.pop("cursor", None)
    st.session_state[key] = dict(query)
    return addresses.query_value("cursor", "cursor") or None


def page_controls(name: str, page: RunPage | ExperimentPage, size: int, noun: str) -> None:
    """Buttons to the next page and back, with how many there are. The page's place is in the address."""
    trail: list[str] = st.session_state.setdefault(f"{name}.trail", [])
    cursor = st.query_params.get("cursor", "")
    if not cursor:
        trail.clear()
    number = trail.index(cursor) + 2 if cursor in trail else None
    total = wording.counted(page.total or len(page.items), noun)
    if not cursor and not page.next_cursor:
        st.caption(total)
        return
    pages = -(-(page.total or 0) // size)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("First", disabled=not cursor, on_click=_turn, args=("",), key=f"{name}.first")
        before = "" if number in (None, 2) else trail[number - 3]
        st.button("Previous", disabled=not cursor, on_click=_turn, args=(before,), key=f"{name}.previous")
        st.button(
            "Next",
            disabled=not page.next_cursor,
            on_click=_turn,
            args=(page.next_cursor or "", trail, cursor),
            key=f"{name}.next",
        )
        where = f"Page {number or 1:,} of {pages:,}, " if number or not cursor else ""
        st.caption(f"{where}{total}")


def _turn(cursor: str, trail: list[str] | None = None, here: str = "") -> None:
    if trail is not None:
        # A page reached by a link has no known way back but to the first.
        trail[:] = [*(trail[: trail.index(here) + 1] if here in trail else ()), cursor]
    if cursor:
        st.query_params["cursor"] = cursor
    else:
        st.query_params.pop("cursor", None)


def rerun_on_change(
    key: str,
    fetch: Callable[[], Any],
    signature: Callable[[Any], int],
    drawn: Any,
    *,
    outage_since: datetime | None,
    every: float = session.REFRESH_SECONDS,
) -> None:
    """Look for changes in the background, and draw the page anew only where there are some."""
    before = signature(drawn)

    @st.fragment(run_every=every)
    def look(first: list[bool]) -> None:
        if first:
            first.clear()
            return
        known = session.fetch(f"{key} watched", fetch)
        if (known.outage_since is None) != (outage_since is None) or (
            known.outage_since is None and signature(known.value) != before
        ):
            st.rerun()

    look([True])
