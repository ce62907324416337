"""Pages of a list that the backend returns by cursor, and a periodic check for changes of the shown page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import streamlit as st

from core.protocol.audit import AuditPage
from core.protocol.detections import DetectionImages
from core.protocol.predictions import PredictedImages
from core.protocol.public import ExperimentPage, RunPage
from dashboard import addresses, session, wording


def page_cursor(name: str, query: Mapping[str, Any]) -> str | None:
    """Return the cursor at which the page starts; None for the first page, also after a change of filter or order."""
    key = f"{name}.query"
    if st.session_state.get(key, query) != query:
        st.query_params.pop("cursor", None)
    st.session_state[key] = dict(query)
    return addresses.query_value("cursor", "cursor") or None


def page_controls(
    name: str,
    page: RunPage | ExperimentPage | DetectionImages | PredictedImages | AuditPage,
    size: int,
    noun: str,
    plural: str | None = None,
) -> None:
    """Draw the buttons to other pages and the total. The cursor of the page is kept in the address."""
    trail: list[str] = st.session_state.setdefault(f"{name}.trail", [])
    cursor = st.query_params.get("cursor", "")
    if not cursor:
        trail.clear()
    number = trail.index(cursor) + 2 if cursor in trail else None
    total = wording.counted(page.total or len(page.items), noun, plural)
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
        position = f"Page {number or 1:,} of {pages:,}, " if number or not cursor else ""
        st.caption(f"{position}{total}")


def _turn(cursor: str, trail: list[str] | None = None, current: str = "") -> None:
    if trail is not None:
        # The pages before a page that was opened by a link are unknown; only the first page can be opened from there.
        trail[:] = [*(trail[: trail.index(current) + 1] if current in trail else ()), cursor]
    if cursor:
        st.query_params["cursor"] = cursor
    else:
        st.query_params.pop("cursor", None)


def rerun_on_change(
    key: str,
    request: Callable[[], Any],
    signature: Callable[[Any], int],
    drawn: Any,
    *,
    outage_since: datetime | None,
    every: float = session.REFRESH_SECONDS,
) -> None:
    """Request the data repeatedly in the background, and draw the page again only if they have changed.

    Args:
        key: Identifies the request in this session.
        request: Requests the data.
        signature: Returns a hash of the data that changes whenever the page would look different.
        drawn: The data that the page shows.
        outage_since: Start of an outage at the time when the page was drawn; None if there was none. The page is also
            redrawn when an outage begins or ends.
        every: Interval in seconds.
    """
    before = signature(drawn)

    @st.fragment(run_every=every)
    def check(first_run: list[bool]) -> None:
        if first_run:
            first_run.clear()
            return
        with session.error_boundary():
            newest = session.fetch(f"{key} watched", request)
            if (newest.outage_since is None) != (outage_since is None) or (
                newest.outage_since is None and signature(newest.value) != before
            ):
                st.rerun()

    check([True])
