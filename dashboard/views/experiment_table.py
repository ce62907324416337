"""The runs of an experiment on its page: a table with links, chosen columns and sparklines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from common.formatting import NOTHING
from core.protocol.public import Experiment, RunSummary
from dashboard import session
from dashboard.charts import panels
from dashboard.charts.counted_titles import counted_title
from dashboard.curves.curve import RunCurves
from dashboard.lists import experiment_runs
from dashboard.views import compare_metrics

_REQUESTS = 40
"""Requests for curves per refresh, so that an experiment of many runs does not keep the page waiting."""


@dataclass(frozen=True)
class Controls:
    """What the table shows.

    Attributes:
        columns: Chosen columns.
        metrics: The entry in the catalog of each chosen metric, by name.
        sparklines: Whether each metric has a column with its curve.
    """

    columns: tuple[str, ...]
    metrics: Mapping[str, panels.Described]
    sparklines: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The chosen metrics, and those that count their images."""
        return (*self.metrics, *sorted({metric["of"] for metric in self.metrics.values() if metric.get("of")}))

    def titles(self, experiment: Experiment, curves: Mapping[str, RunCurves]) -> dict[str, str]:
        """Return the title of each metric by name, with the number of images if it is a share of them."""
        of_runs, item = [stored.curves for stored in curves.values()], session.item(experiment.dataset)
        sizes = [run.test_size for run in experiment.runs]
        return {
            name: counted_title(metric["label"], metric, of_runs, sizes, item) for name, metric in self.metrics.items()
        }


def controls(experiment: Experiment) -> Controls:
    """Draw the choice of columns, which is kept in the address."""
    headline = session.headline_of([experiment], ())["name"]
    measured = compare_metrics.measured([experiment.id], [])
    described = panels.with_undescribed(session.catalog().metrics, measured)
    titles = compare_metrics.metric_titles(described)
    validation = (
        session.task(experiment.dataset).get("validation") if any(run.trial for run in experiment.runs) else None
    )
    default = [name for name in (headline, validation, "train/loss") if name in titles]
    options = [name for name in titles if name in measured or name in default]
    with st.popover("Columns of the table of runs", icon=":material/view_column:", width="content"):
        columns = st.multiselect(
            "Columns",
            experiment_runs.COLUMNS,
            default=list(experiment_runs.DEFAULT_COLUMNS),
            key="columns",
            bind="query-params",
        )
        metrics = st.multiselect(
            "Metrics",
            options,
            default=default,
            format_func=titles.__getitem__,
            key="metrics",
            bind="query-params",
            help="Metrics that the runs have measured.",
        )
        sparklines = st.toggle("Sparklines", value=True, key="sparklines", bind="query-params")
    entries = {metric["name"]: metric for metric in described}
    return Controls(tuple(columns), {name: entries[name] for name in metrics}, bool(sparklines))


def all_loaded(experiment: Experiment, chosen: Controls) -> bool:
    """Return whether the session stores curves of every run that has reported a step."""
    if not chosen.names:
        return True
    return all(session.curve_store().get(run.id, chosen.names).cursor or not run.step for run in experiment.runs)


def draw(experiment: Experiment, chosen: Controls) -> None:
    """Draw the table."""
    if not experiment.runs:
        st.caption("This experiment has no runs.")
        return
    curves = (
        session.fetch(
            f"curves of experiment {experiment.id} {chosen.names}",
            lambda: session.curve_store().update_some(session.client(), experiment.runs, chosen.names, _REQUESTS),
        ).value
        if chosen.names
        else {}
    )
    titles = chosen.titles(experiment, curves)
    rows = experiment_runs.rows(
        experiment.runs,
        curves,
        chosen.columns,
        titles,
        datetime.now(UTC),
        sparklines=chosen.sparklines,
    )
    st.dataframe(
        rows,
        hide_index=True,
        placeholder=NOTHING,
        height=min(36 * len(rows) + 40, 680),
        column_config=_configuration(experiment.runs, rows, {titles[name]: chosen.metrics[name] for name in titles}),
        key="experiment.runs",
    )
    st.caption("A click on a run's id opens the run.")


def _configuration(
    runs: list[RunSummary], rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, panels.Described]
) -> dict[str, Any]:
    column = st.column_config
    # As wide as the longest label, within bounds.
    width = min(max(80, 8 * max(len(run.label) for run in runs)), 240)
    formats = {
        title: experiment_runs.number_format(metric["unit"], [row[title] or 0.0 for row in rows])
        for title, metric in metrics.items()
    }
    return {
        "Run": column.LinkColumn(display_text=r"id=(.+)", width=150, pinned=True),
        "State": column.TextColumn(width=110),
        "Method": column.TextColumn(width=width),
        "Seed": column.NumberColumn(format="%d", width=60),
        "Progress": column.ProgressColumn(min_value=0, max_value=100, format="%d %%", width=120),
        "Epoch": column.NumberColumn(format="%.1f", width=70),
        "Started": column.DatetimeColumn(format="distance", width=120),
        "Ended": column.DatetimeColumn(format="distance", width=120),
        "Attempts": column.NumberColumn(format="%d", width=80),
        "Priority": column.NumberColumn(format="%d", width=70),
        "Reason": column.TextColumn(width=300),
        **{
            title: column.NumberColumn(format=shown, width=min(max(120, 8 * len(title)), 300))
            for title, shown in formats.items()
        },
        **{experiment_runs.sparkline_title(title): column.LineChartColumn(width=140) for title in metrics},
    }
