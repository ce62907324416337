"""The fields in which an experiment differs from its parent or from any other, on its page."""

from __future__ import annotations

import streamlit as st

from client import ApiError
from core.protocol.public import Experiment, ExperimentSummary
from dashboard import addresses, session
from dashboard.forms import spec_diff
from dashboard.forms.widgets import table
from dashboard.markup import escape


def draw(experiment: Experiment, parent: Experiment | None) -> None:
    """Draw the choice of the other experiment, and the differences. The choice is kept in the address as ``other``."""
    linked = addresses.query_value("other", "name")
    names = {parent.id: _title(parent, "the parent")} if parent else {}
    newest = session.fetch(
        "experiments to compare with", lambda: session.client().experiments(limit=200, archived="include")
    ).value.items
    names |= {item.id: _title(item) for item in newest if item.id not in (experiment.id, *names)}
    if linked and linked not in names:
        try:
            found = _fetch(linked)
            linked = found.id
            names.setdefault(found.id, _title(found))
        except ApiError as error:
            if error.status != 404:
                raise
            st.caption(f"There is no experiment {escape(linked)}; it may have been deleted.")
            linked = ""
    if experiment.parent and not parent:
        st.caption("The experiment that this one was copied from has been deleted.")
    options = list(names)
    first = linked or (parent.id if parent else "")
    chosen = st.selectbox(
        "Compared with",
        options,
        index=options.index(first) if first in options else None,
        format_func=lambda key: names.get(key, key),
        placeholder="select one of the newest 200, or enter a name",
        accept_new_options=True,
        key=f"experiment.other.{experiment.id}.{linked}",
    )
    if not chosen:
        st.caption("Select an experiment to see in which fields the two specs differ.")
        return
    if chosen != first:
        st.query_params["other"] = chosen
        if chosen not in names:  # a name, or an experiment that is older than the list
            st.rerun()
    other = _fetch(chosen)
    rows = spec_diff.difference_rows(other.spec, experiment.spec, (other.name, f"{experiment.name} (this)"))
    if not rows:
        st.caption("The specs are equal, except for names, notes and tags.")
        return
    table(rows, wrap=True)
    session.action_link(
        "compare", "Compare their results", "stacked_line_chart", {"experiment": [other.id, experiment.id]}
    )


def _title(item: ExperimentSummary, *more: str) -> str:
    """Return the name of an experiment, and in brackets what else is to be said of it."""
    notes = [*more, *(["archived"] if item.archived_at else [])]
    return f"{item.name} ({', '.join(notes)})" if notes else item.name


def _fetch(key: str) -> Experiment:
    return session.fetch(f"experiment {key}", lambda: session.client().experiment(key)).value
