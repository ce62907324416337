"""The tab "Features" of the Run page: penultimate features of the run and its teacher over the epochs."""

from __future__ import annotations

import streamlit as st

from core.protocol.public import TERMINAL, Run
from dashboard import session, theme
from dashboard.markup import escape
from dashboard.views import feature_panels
from dashboard.views.run_predictions import STYLES, optional


def show(run: Run) -> None:
    """Draw the tab."""
    with session.error_boundary():
        _show(run)


def _show(run: Run) -> None:
    item = session.item(run.dataset)
    if run.state != "succeeded":
        ended = "This run ended before it wrote its features."
        until = f"Features of test {escape(item)}s appear when the run has succeeded."
        st.info(
            ended if run.state in TERMINAL else until,
            icon=":material/scatter_plot:",
        )
        return
    found, problem = optional(lambda: feature_panels.summary_of(session.client().url, run.id))
    if found is None:
        st.info(escape(problem), icon=":material/scatter_plot:")
        return
    panels = []
    if "teacher" in found.networks:
        panels.append(
            feature_panels.Panel("teacher", run.id, "teacher", found.networks["teacher"], theme.TEACHER, moves=False)
        )
    name = f"this {run.label}" if run.label == "teacher" and panels else run.label
    panels.append(feature_panels.Panel(name, run.id, "run", found.networks["run"], STYLES["run"]))
    feature_panels.draw(panels, found, item, key="run.features")
