"""The section of the Compare page that draws accuracy against cost, from the output of ``dkd measure``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import streamlit as st

from client import costs
from client.costs import CostsError, Reference
from common.formatting import difference_unit
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.public import Experiment
from dashboard import session, theme, wording
from dashboard.charts import chart_component
from dashboard.charts.cost_chart import cost_figure
from dashboard.forms.widgets import table
from dashboard.markup import escape
from dashboard.views import comparison_results

_MEGABYTES = 5
"""Largest size of the uploaded file: a network takes about 1 kB."""
_REFERENCES: dict[Reference, str] = {"teacher": "the teacher", "best": "the best student"}


def section(experiments: Sequence[Experiment], options: ComparisonOptions | None) -> None:
    """Draw the section, if experiments of classification are compared: ``dkd measure`` knows no other networks.

    Args:
        experiments: The experiments; their students may be of several models.
        options: The options of the comparison; None if single runs are compared.
    """
    if not experiments or options is None:
        return
    if any(session.task(experiment.dataset).get("rows_are_regions") for experiment in experiments):
        return
    with st.expander("Accuracy against parameters, operations, memory and latency", icon=":material/speed:"):
        command = shlex.join(["dkd", "measure", *(experiment.name for experiment in experiments), "--json"])
        st.caption("This command measures the networks on the machine that they shall run on:")
        st.code(f"{command} > costs.json", language="sh", wrap_lines=True)
        file = st.file_uploader("Its output, costs.json", type="json", max_upload_size=_MEGABYTES, key="costs.file")
        if file is None:
            return
        try:
            measured = costs.read_costs(file.getvalue())
        except CostsError as error:
            st.error(escape(error), icon=":material/error:")
            return
        _draw(experiments, options, measured)


def _draw(experiments: Sequence[Experiment], options: ComparisonOptions, measured: costs.Costs) -> None:
    results = [comparison_results.comparison([experiment], options)[0] for experiment in experiments]
    comparisons = [result for result in results if result is not None]
    found, axes = costs.candidates(comparisons, measured), costs.axes(measured)
    if not found:
        st.info("No measured network belongs to a result of these experiments.", icon=":material/info:")
        return
    unit = difference_unit(found[0].unit)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        name = st.selectbox(
            "Cost",
            list(axes),
            format_func=lambda key: axes[key].label if key in axes else key,
            key="cost",
            bind="query-params",
            width=260,
        )
        reference: Reference = st.segmented_control(
            "Compared with",
            list(_REFERENCES),
            default="teacher",
            required=True,
            format_func=_REFERENCES.__getitem__,
            key="measured-against",
            bind="query-params",
        )
        margin = st.number_input(
            escape(f"Accepted difference ({unit})" if unit else "Accepted difference"),
            min_value=0.0,
            value=1.0,
            step=0.1,
            key="margin",
            bind="query-params",
            width=280,
        )
    axis = axes[name]
    title = f"{comparisons[0].title or comparisons[0].metric}"
    shown = f"{title} ({found[0].unit})" if found[0].unit else title
    chart_component.chart(
        cost_figure(found, axis, shown, theme.styles((item.label for item in found), session.method_colours())),
        key="compare.costs",
        alt=f"{shown} against {axis.label} of each network",
        filename=wording.file_stem([experiment.name for experiment in experiments], "accuracy-cost"),
    )
    first, *conditions = costs.choice_sentences(found, axis, float(margin), reference)
    st.markdown(f"**{escape(first)}** {escape(' '.join(conditions))}")
    table(costs.rows(found, measured))
    st.caption(escape(_caption(found, measured)))


def _caption(found: Sequence[costs.Candidate], measured: costs.Costs) -> str:
    """Return the explanation of the intervals, and the machine on which the costs were measured."""
    parts = [
        f"Measured on {measured.machine}.",
        "Accuracies are means over the runs with their 95 % t interval; that of the reference is taken as exact. "
        "Latencies are medians over the networks; their bars reach from the lowest first quartile to the highest third "
        "quartile of the rounds. The dotted line is the Pareto front of means and medians: no network that costs as "
        "much or less is more accurate than a network on it.",
    ]
    if left := costs.unused(found, measured):
        parts.append(f"{wording.counted(left, 'measured network')} of other runs left out.")
    return " ".join(parts)
