"""The grid of charts on the Run page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.protocol.public import Run
from dashboard import session, wording
from dashboard.charts import chart_component, figures, panels
from dashboard.curves.curve import Curve
from dashboard.lists import row_text
from dashboard.markup import escape


def grid(run: Run, shown: Sequence[panels.Panel], curves: Mapping[str, Curve]) -> int:
    """Draw the panels that have data, two per row; return their number.

    Args:
        run: The run.
        shown: The panels.
        curves: The curves of the run by metric.
    """
    drawn = 0
    columns: Sequence[DeltaGenerator] = ()
    for panel in shown:
        figure = figures.run_figure(panel, curves, session.item(run.dataset))
        if figure is None:
            continue
        if drawn % 2 == 0:
            columns = st.columns(2)
        with columns[drawn % 2]:
            st.markdown(f"**{escape(panel.title)}**", help=escape(panel.help) or None)
            chart_component.chart(
                figure,
                key=f"run.{panel.key}",
                alt=f"{panel.title} of this run over epochs",
                filename=wording.file_stem([file_name(run)], panel.title),
            )
        drawn += 1
    return drawn


def file_name(run: Run) -> str:
    """Return the beginning of the names of downloaded figures of a run."""
    return f"{run.experiment[:40]} {row_text.run_title(run)}"
