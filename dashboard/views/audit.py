"""The page "Audit log", for admins: who changed what, when and from where."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, time
from typing import Any, Literal

import streamlit as st

from core.protocol.audit import AuditEntry, AuditPage
from dashboard import projects, session
from dashboard.forms.widgets import table
from dashboard.lists import paging
from dashboard.lists.row_text import timestamp

_SIZE = 100


def show() -> None:
    """Draw the page. Filters are in the address, as in ``/audit?who=anna&action=experiments.``."""
    st.title("Audit log")
    with session.error_boundary():
        if not projects.administers():
            st.info("This page needs the token of an admin of the lab.", icon=":material/key_off:")
            return
        filters = _filters()
        query = {**filters, "cursor": paging.page_cursor("audit", filters)}
        reply = session.fetch(f"audit {query}", lambda: session.lab_client().audit(**query, limit=_SIZE, count=True))
        session.show_outage(reply.outage_since)
        _entries(reply.value)
        paging.page_controls("audit", reply.value, _SIZE, "entry", "entries")
        _downloads(filters)


def _filters() -> dict[str, Any]:
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        bound: dict[str, Any] = {"bind": "query-params", "max_chars": 100, "width": 180}
        person = st.text_input("Person", key="who", placeholder="any", **bound)
        token = st.text_input("Token", key="token", placeholder="any", **bound)
        action = st.text_input("Action", key="action", placeholder="such as runs.", **bound)
        target = st.text_input("Object", key="object", placeholder="id or name", **bound)
        place = st.text_input("Project", key="place", placeholder="any", **bound)
        since = st.date_input("From", value=None, key="from", width=150, bind="query-params")
        until = st.date_input("To", value=None, key="to", width=150, bind="query-params")
        refused = st.checkbox("Only refused attempts", key="refused", bind="query-params")
    return {
        "person": person or None,
        "token": token or None,
        "action": action or None,
        "object": target or None,
        "project": place or None,
        "since": datetime.combine(since, time.min, UTC).isoformat() if since else None,
        "until": datetime.combine(until, time.max, UTC).isoformat() if until else None,
        "refused": refused or None,
    }


def _entries(page: AuditPage) -> None:
    if page.items:
        table([_row(item) for item in page.items], wrap=True)
    else:
        st.info("No entry matches these filters.", icon=":material/filter_alt_off:")
    st.caption("Reads, previews and the reports of workers are not recorded. Equal refused attempts are counted.")


def _row(item: AuditEntry) -> dict[str, str]:
    return {
        "Time (UTC)": timestamp(item.at),
        "Person": item.person,
        "Token": item.token or "none",
        "Action": item.action if item.status < 400 else f"{item.action} (refused, {item.status})",
        "Object": f"{item.kind} {item.object}".strip(),
        "Project": item.project,
        "From": item.address,
        "Details": item.details_text(),
    }


def _downloads(filters: dict[str, Any]) -> None:
    with st.container(horizontal=True):
        for kind, mime in (("csv", "text/csv"), ("jsonl", "application/x-ndjson")):
            st.download_button(
                f"All entries as {'CSV' if kind == 'csv' else 'JSON lines'}",
                _content("csv" if kind == "csv" else "jsonl", filters),
                file_name=f"audit-log.{kind}",
                mime=mime,
                icon=":material/download:",
                on_click="ignore",
                key=f"audit.{kind}",
            )


def _content(kind: Literal["csv", "jsonl"], filters: dict[str, Any]) -> Callable[[], str]:
    """Return a function that reads the entries; a download button calls it when a person presses the button."""
    client = session.lab_client()  # created here, since the download runs outside the session that holds the token
    return lambda: client.audit.text(kind, **filters)
