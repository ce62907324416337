"""Filters of the lists, as widgets whose values are kept in the address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, Literal, get_args

import streamlit as st

from core.protocol.public import RunState
from dashboard import addresses, session
from dashboard.markup import escape

ListKind = Literal["runs", "experiments"]
RUN_STATES: tuple[RunState, ...] = get_args(RunState)
EXPERIMENT_STATES = ("active", "finished", "failed", "cancelled")
SIZES = (50, 100, 200)
# Streamlit stores the visible label of an option in the address, so saved links contain these labels.
_RUN_SORTS = {
    "newest first": "-created",
    "oldest first": "created",
    "last started": "-started",
    "last ended": "-ended",
    "highest priority": "-priority",
    "best result": "-headline",
    "worst result": "headline",
}
_EXPERIMENT_SORTS = {"newest first": "-created", "oldest first": "created", "by name": "name"}
_ARCHIVED = {"hide": "exclude", "show": "include", "only archived": "only"}
_FORMER_ARCHIVED = {"left out": "hide", "shown too": "show", "only those": "only archived"}
_FORMER_RUN_SORTS = {
    "started last": "last started",
    "ended last": "last ended",
    "best accuracy": "best result",
    "worst accuracy": "worst result",
}
_MORE = ("method", "dataset", "model", "tag", "teacher", "made_from", "made_to", "archived", "size")


@st.cache_data(ttl=20, show_spinner=False)
def _suggestions(url: str) -> tuple[list[str], list[str]]:
    """Return names and tags of the newest experiments as options; other values can be typed."""
    items = session.client().experiments(limit=200, archived="include").items
    return [item.name for item in items], sorted({tag for item in items for tag in item.tags})


def draw(kind: ListKind) -> dict[str, Any]:
    """Draw the filters of a list and return the query for the backend, including order and page size."""
    addresses.accept_former_labels("archived", _FORMER_ARCHIVED)
    addresses.accept_former_labels("sort", _FORMER_RUN_SORTS)
    names, tags = _suggestions(session.client().url)
    bound: dict[str, Any] = {"bind": "query-params"}
    sorts = _RUN_SORTS if kind == "runs" else _EXPERIMENT_SORTS
    with st.container(horizontal=True, vertical_alignment="bottom", key="filters"):
        text = st.text_input(
            "Search",
            key="text",
            icon=":material/search:",
            placeholder="name, method, model, reason" if kind == "runs" else "name",
            width=230,
            **bound,
        )
        # The two lists have different keys, because their values differ.
        states = RUN_STATES if kind == "runs" else EXPERIMENT_STATES
        state = st.multiselect(
            "State", states, key="state" if kind == "runs" else "is", placeholder="any", width=230, **bound
        )
        experiment = None
        if kind == "runs":
            experiment = st.selectbox(
                "Experiment",
                names,
                index=None,
                key="experiment",
                placeholder="any",
                accept_new_options=True,
                width=260,
                **bound,
            )
        sort = st.selectbox("Order", [*sorts], key="sort" if kind == "runs" else "order", width=180, **bound)
        more = st.popover(_more_label(), icon=":material/filter_alt:")
    with more:
        query = _more_filters(kind, tags, bound)
    query |= {"text": _search_term(text), "state": state or None, "sort": sorts[sort]}
    if kind == "runs":
        query["experiment"] = _search_term(experiment)
    return {name: value for name, value in query.items() if value is not None}


def _more_label() -> str:
    used = sum(name in st.query_params for name in _MORE)
    return f"More filters ({used:d})" if used else "More filters"


def _more_filters(kind: ListKind, tags: Sequence[str], bound: Mapping[str, Any]) -> dict[str, Any]:
    catalog = session.catalog()
    query: dict[str, Any] = {}
    for name, label, options in (
        ("method", "Method", [item["name"] for item in catalog.methods]),
        ("dataset", "Data set", [item["name"] for item in catalog.datasets]),
        ("model", "Model", [item["name"] for item in catalog.models]),
        ("tag", "Tags (all must match)", tags),
    ):
        selected = st.multiselect(escape(label), options, key=name, placeholder="any", accept_new_options=True, **bound)
        query[name] = addresses.searchable(selected) or None
    if kind == "runs":
        teacher = st.text_input("Teacher (run id)", key="teacher", help="Only students of this teacher.", **bound)
        teacher = teacher.strip()
        query["teacher"] = addresses.validated(teacher, "teacher", "id") if teacher else None
    left, right = st.columns(2)
    with left:
        start = st.date_input("Created from (UTC)", value=None, key="made_from", **bound)
    with right:
        end = st.date_input("Created until (UTC)", value=None, key="made_to", **bound)
    query["created_after"] = _midnight(start, 0)
    query["created_before"] = _midnight(end, 1)
    query["archived"] = _ARCHIVED[st.selectbox("Archived", [*_ARCHIVED], key="archived", **bound)]
    query["limit"] = st.selectbox("Rows per page", SIZES, key="size", **bound)
    return query


def _search_term(text: str | None) -> str | None:
    return next(iter(addresses.searchable([text.strip()])), None) if text else None


def _midnight(day: Any, later: int) -> str | None:
    if day is None:
        return None
    return (datetime.combine(day, time(), UTC) + timedelta(days=later)).isoformat()


def is_filtered(query: Mapping[str, Any]) -> bool:
    """Return whether a query filters the list, beyond order and page."""
    unfiltered = {"sort", "limit", "cursor", "count"}
    return any(name not in unfiltered and (name, value) != ("archived", "exclude") for name, value in query.items())
