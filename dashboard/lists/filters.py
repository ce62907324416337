"""What the lists are kept by, as widgets whose values live in the address."""

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
# What a person reads is also what the address says: Streamlit writes there what it shows.
_RUN_SORTS = {
    "newest first": "-created",
    "oldest first": "created",
    "started last": "-started",
    "ended last": "-ended",
    "highest priority": "-priority",
    "best accuracy": "-top1",
    "worst accuracy": "top1",
}
_EXPERIMENT_SORTS = {"newest first": "-created", "oldest first": "created", "by name": "name"}
_ARCHIVED = {"left out": "exclude", "shown too": "include", "only those": "only"}
_MORE = ("method", "dataset", "model", "tag", "teacher", "made_from", "made_to", "archived", "size")


@st.cache_data(ttl=20, show_spinner=False)
def _suggestions(url: str) -> tuple[list[str], list[str]]:
    """Names and tags of the newest experiments, to choose from; others may be typed."""
    items = session.client().experiments(limit=200, archived="include").items
    return [item.name for item in items], sorted({tag for item in items for tag in item.tags})


def draw(kind: ListKind) -> dict[str, Any]:
    """Draw the filters of one of the lists; returns what to ask the backend for, order and page size included."""
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
        # Keys of their own: a value of one list means nothing in the other.
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
        query = _rest(kind, tags, bound)
    query |= {"text": _word(text), "state": state or None, "sort": sorts[sort]}
    if kind == "runs":
        query["experiment"] = _word(experiment)
    return {name: value for name, value in query.items() if value is not None}


def _more_label() -> str:
    used = sum(name in st.query_params for name in _MORE)
    return f"More filters ({used:d})" if used else "More filters"


def _rest(kind: ListKind, tags: Sequence[str], bound: Mapping[str, Any]) -> dict[str, Any]:
    catalog = session.catalog()
    found: dict[str, Any] = {}
    for name, label, options in (
        ("method", "Method", [item["name"] for item in catalog.methods]),
        ("dataset", "Data set", [item["name"] for item in catalog.datasets]),
        ("model", "Model", [item["name"] for item in catalog.models]),
        ("tag", "Tags, all of them", tags),
    ):
        chosen = st.multiselect(escape(label), options, key=name, placeholder="any", accept_new_options=True, **bound)
        found[name] = addresses.searchable(chosen) or None
    if kind == "runs":
        teacher = st.text_input("Students of the teacher with this run id", key="teacher", **bound).strip()
        found["teacher"] = addresses.validated(teacher, "teacher", "id") if teacher else None
    left, right = st.columns(2)
    with left:
        start = st.date_input("Made from (UTC)", value=None, key="made_from", **bound)
    with right:
        end = st.date_input("Made until (UTC)", value=None, key="made_to", **bound)
    found["created_after"] = _midnight(start, 0)
    found["created_before"] = _midnight(end, 1)
    found["archived"] = _ARCHIVED[st.selectbox("Archived", [*_ARCHIVED], key="archived", **bound)]
    found["limit"] = st.selectbox("Rows a page", SIZES, key="size", **bound)
    return found


def _word(text: str | None) -> str | None:
    return next(iter(addresses.searchable([text.strip()])), None) if text else None


def _midnight(day: Any, later: int) -> str | None:
    if day is None:
        return None
    return (datetime.combine(day, time(), UTC) + timedelta(days=later)).isoformat()


def is_filtered(query: Mapping[str, Any]) -> bool:
    """Whether anything but the order and the page is asked for."""
    usual = {"sort", "limit", "cursor", "count"}
    return any(name not in usual and (name, value) != ("archived", "exclude") for name, value in query.items())
