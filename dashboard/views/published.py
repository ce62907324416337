"""The published numbers on the Results page, beside the results measured here for the same networks and methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from core.protocol.result_tables import BesidePublished, PublishedSetting
from dashboard import session
from dashboard.lists import published_rows
from dashboard.markup import escape

_PAIR = "pair"


@st.cache_data(ttl=600, max_entries=50, show_spinner=False)
def _settings(url: str, tags: tuple[str, ...]) -> list[PublishedSetting]:
    # No network has this name, so the reply contains the settings without their numbers.
    return session.client().beside_published(tags=tags, student="-").settings


def show(tag_filter: Sequence[str], task: str) -> None:
    """Draw the section: the selection of a pair of networks and the table of its numbers.

    Args:
        tag_filter: Tags of the experiments whose results are shown.
        task: Name of the task of the numbers; empty for all.
    """
    st.subheader("Published numbers")
    tags = tuple(tag_filter)
    every = session.fetch(f"published {tags}", lambda: _settings(session.client().url, tags)).value
    settings = [item for item in every if not task or session.task(item.dataset).get("name") == task]
    if not settings:
        return
    titles = {published_rows.setting_title(item): item for item in settings}
    # A pair that was trained here is the most useful first view.
    first = max(titles, key=lambda title: titles[title].experiments)
    if any(values.get(_PAIR, first) not in titles for values in (st.query_params, st.session_state)):
        # It is of another task, or an old link has it.
        st.query_params.pop(_PAIR, None)
        st.session_state.pop(_PAIR, None)
    selected = st.selectbox(
        "Teacher → student",
        list(titles),
        index=list(titles).index(first),
        key=_PAIR,
        bind="query-params",
        width=420,
        help="Type to search. Only experiments with exactly these networks are beside the numbers.",
    )
    chosen = titles[selected]
    reply = session.fetch(
        f"published {tags} {selected}",
        lambda: session.client().beside_published(
            tags=tags, dataset=chosen.dataset, teacher=chosen.teacher, student=chosen.student
        ),
    ).value
    metrics = {item["name"]: item["label"] for item in session.catalog().metrics}
    named = ", ".join(metrics.get(name, name) for name in dict.fromkeys(item.metric for item in reply.items))
    st.caption(
        f"{escape(named)}, as printed. “Here” shows the mean ± sample sd (n seeds) of the same networks and the "
        "same method on the same data set, with any training settings; each value links to its runs. The difference is "
        "taken at the epoch that the authors state. A dash in a column means that they do not state it."
    )
    _table(reply, metrics)
    if any(not item.confirmed for item in reply.items):
        st.caption("Unconfirmed numbers were not compared with their source.")


def _table(reply: BesidePublished, metrics: Mapping[str, str]) -> None:
    catalog = session.catalog()
    titles = {entry["name"]: entry["title"] for entry in catalog.methods}
    st.table(published_rows.rows(reply.items, titles, session.families(), metrics))
    for source in dict.fromkeys(item.source for item in reply.items):
        if note := reply.sources.get(source):
            st.caption(f"{escape(source)}: {escape(note)}")
