"""Seeds that are added until the comparisons are decided, on the Compare page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from common.formatting import difference_unit
from core.protocol.public import Comparison
from dashboard import theme, wording
from dashboard.charts import chart_component
from dashboard.charts.look_charts import looks_figure
from dashboard.forms.widgets import escape


def draw(result: Comparison, name: str, styles: Mapping[str, theme.Style], files: Sequence[str]) -> None:
    """Draw the looks after each seed; nothing for listed seeds.

    Args:
        result: The comparison.
        name: End of the chart's key.
        styles: Styles of the labels.
        files: Names of the experiments, for the names of files.
    """
    sequential = result.sequential
    if sequential is None:
        return
    saved = sequential.most_runs - sequential.runs
    st.markdown(
        f"**Seeds until decided:** {sequential.seeds:,} of at most {sequential.most:,}"
        + ("" if sequential.open else f" · {saved:,} of {sequential.most_runs:,} runs saved")
    )
    # The looks are those at the metric of the task, whichever metric the page compares.
    unit = difference_unit(result.unit) if result.by_looks else ""
    title = f"Difference to {sequential.baseline}" + (f" ({unit})" if unit else "")
    figure = looks_figure(sequential, title, styles, unit)
    if figure is None:
        st.caption(f"The first look is after {sequential.first:,} seeds.")
        return
    chart_component.chart(
        figure,
        key=f"compare.looks.{name}",
        alt=f"Mean difference of each method to {sequential.baseline} after each seed, with its interval",
        filename=wording.file_stem(files, "looks"),
    )
    st.caption(
        escape(
            "A method is decided if its interval excludes 0 or lies between the dashed lines "
            f"(±{sequential.difference:g}), and the exact sign-flip test agrees. The error probability of "
            f"{100 * sequential.alpha:g} % is that of all looks and comparisons together."
        )
    )


def forest_caption(result: Comparison) -> str:
    """Return the explanation of the figure of paired differences."""
    if result.by_looks:
        return (
            "Method minus baseline over shared seeds (n pairs), with the interval of the last look, which accounts for "
            "all looks and comparisons."
        )
    return (
        "Method minus baseline over shared seeds (n pairs), with the uncorrected 95 % t interval of each comparison. "
        "An interval that contains 0 is inconclusive; the text above states which differences are significant after "
        "the correction for multiple comparisons."
    )
