"""The metric of the chart of the Compare page: those that the runs have measured, by the panels of the Run page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.protocol.public import Experiment, RunSummary
from dashboard import addresses, session
from dashboard.charts import panels

KEY = "metric"
"""Key of the control, and the name of its query parameter."""


def control(experiments: Sequence[Experiment], runs: Sequence[RunSummary], headline: str, *, disabled: bool) -> str:
    """Draw the selection of a metric and return its name.

    Args:
        experiments: The selected experiments; empty if single runs are selected.
        runs: The selected runs, or all runs of the experiments.
        headline: Metric by which results are judged.
        disabled: Whether it can be changed.
    """
    catalog = session.catalog().metrics
    found = measured([item.id for item in experiments], [] if experiments else [run.id for run in runs])
    titles = metric_titles(panels.with_undescribed(catalog, found))
    # An address contains the title, which was the one without a panel in former addresses.
    former = {metric["label"]: metric["name"] for metric in catalog}
    addresses.accept_former_labels(KEY, former)
    linked = st.query_params.get(KEY, "")
    needed = {headline, former.get(linked, ""), st.session_state.get(KEY, "")}
    needed |= {name for name, title in titles.items() if title == linked}
    # Before the first epoch nothing is measured, and any metric may come.
    options = [name for name in titles if name in needed or name in found or not found]
    selected: str = st.selectbox(
        "Metric",
        options,
        index=options.index(headline),
        format_func=titles.__getitem__,
        key=KEY,
        bind="query-params",
        disabled=disabled,
        width=300,
        help="Metrics that the selected runs have measured." if found else None,
    )
    return selected


def metric_titles(metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the title of each metric with its panel, by name, so that the metrics of a panel follow each other.

    Args:
        metrics: Entries of the catalog.
    """
    members: dict[str, list[Mapping[str, Any]]] = {}
    for metric in metrics:
        members.setdefault(panels.group_title(metric), []).append(metric)
    return {metric["name"]: f"{group} · {metric['label']}" for group, found in members.items() for metric in found}


def measured(experiments: list[str], runs: list[str]) -> list[str]:
    """Return the names of the metrics that the students of experiments, or single runs, have measured."""
    url = session.client().url
    return session.fetch(
        f"measured metrics of {experiments} {runs}", lambda: _cached_names(url, tuple(experiments), tuple(runs))
    ).value


@st.cache_data(ttl=30, show_spinner=False)
def _cached_names(url: str, experiments: tuple[str, ...], runs: tuple[str, ...]) -> list[str]:
    return session.client().comparisons.measured(experiments, runs=runs).names
