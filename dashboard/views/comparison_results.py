"""What the Compare page says below its curves: results, differences, convergence, the other metrics, downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import streamlit as st

from client import ApiError
from client.connection import Query
from client.resources import TextFormat
from common.formatting import NOTHING, difference_text, mean_text, p_text, spread_text
from core.protocol.comparisons import TIMING, WHICH, Overview, OverviewCell, Which
from core.protocol.public import Comparison, Convergence, Experiment
from dashboard import session
from dashboard.charts import chart_component, figures
from dashboard.charts.comparison_charts import forest_figure
from dashboard.forms.widgets import escape, table
from dashboard.lists import row_text

GROUPS = ("fidelity", "calibration", "collapse", "robustness", "test")
_FORMATS: dict[TextFormat, tuple[str, str, str]] = {
    "csv": ("CSV", "csv", "text/csv"),
    "latex": ("LaTeX", "tex", "application/x-tex"),
    "markdown": ("Markdown", "md", "text/markdown"),
}
"""Name, a file's ending and media type."""
EPOCHS: dict[Which, str] = {"last": "last", "best_val": "best validation", "oracle": "best test (oracle)"}
What = Literal["comparison", "overview", "claims", "table"]
_TEACHERS, _ABSOLUTE = "share of the teacher's", "accuracy"


@dataclass(frozen=True)
class Question:
    """What the backend is asked for about the experiments.

    Attributes:
        baseline: the method that the others are compared with; None for the spec's first.
        which: at which epoch.
        target: that convergence is measured to, in %.
        absolute: the target is an accuracy, not a share of the teacher's.
        difference: that a person wants to see, in points; None where none is named.
    """

    baseline: str | None
    which: Which
    target: int
    absolute: bool
    difference: float | None

    @property
    def compared(self) -> dict[str, Any]:
        """Arguments of the comparison, the claims apart."""
        target = {"target": float(self.target)} if self.absolute else {"target_share": self.target / 100}
        return self.overview | target | ({"difference": self.difference} if self.difference else {})

    @property
    def overview(self) -> dict[str, Any]:
        return {"which": self.which} | ({"baseline": self.baseline} if self.baseline else {})


def question(methods: Sequence[str], *, teacher: bool) -> Question:
    """The controls for it, kept in the address: the target in sight, what is changed less often behind a button.

    Args:
        methods: labels of those that can be the baseline.
        teacher: whether there is one, whose accuracy the target can be a share of.
    """
    place = st.container(width=230)
    with st.popover("Baseline, epoch, target", icon=":material/tune:", width="content"):
        baseline = st.selectbox(
            "Baseline",
            ["", *methods],
            format_func=lambda label: label or "the first one",
            key="against",
            bind="query-params",
            help="Every other method is tested against this one, seed by seed.",
        )
        which: Which = st.selectbox(
            "Result at epoch", list(EPOCHS), format_func=EPOCHS.__getitem__, key="at", bind="query-params"
        )
        kind = st.segmented_control(
            "Target",
            (_TEACHERS, _ABSOLUTE),
            default=_TEACHERS,
            required=True,
            key="goal",
            bind="query-params",
            disabled=not teacher,
            help=None if teacher else "Without a teacher it is an accuracy.",
        )
        difference = st.number_input(
            "Difference to see (points)",
            min_value=0.01,
            max_value=100.0,
            value=None,
            step=0.1,
            key="difference",
            bind="query-params",
            placeholder="none",
            help="How many seeds would it take to see a difference of this size? Said from 4 pairs on, as a range.",
        )
    absolute = kind == _ABSOLUTE or not teacher
    with place:
        hint = "Epochs to the target: the first of two consecutive epochs at or above it."
        if absolute:
            target = st.slider("Target accuracy (%)", 1, 100, 70, key="accuracy", bind="query-params", help=hint)
        else:
            target = st.slider("Target (% of teacher's)", 50, 105, 95, key="target", bind="query-params", help=hint)
    return Question(baseline or None, which, target, absolute, difference)


def comparison(experiments: Sequence[Experiment], asked: Question) -> tuple[Comparison | None, str]:
    """The backend's comparison, or why it makes none of these experiments together.

    Computed anew only when a run has changed its state: nothing else changes the result.
    """
    ids = [experiment.id for experiment in experiments]
    key = f"comparison {ids} {asked}"
    states = _states(experiments)
    held: tuple[object, Comparison] | None = st.session_state.get(key)
    if held and held[0] == states:
        return held[1], ""
    try:
        known = session.ask(key, lambda: session.client().comparison(ids, **asked.compared))
    except ApiError as error:
        if len(ids) > 1 and error.status == 422:
            return None, str(error)
        raise
    if known.lost is None:
        st.session_state[key] = (states, known.value)
    return known.value, ""


def _overview(experiments: Sequence[Experiment], asked: Question) -> Overview:
    ids = [experiment.id for experiment in experiments]
    key, states = f"overview {ids} {asked.overview}", _states(experiments)
    held: tuple[object, Overview] | None = st.session_state.get(key)
    if held and held[0] == states:
        return held[1]
    known = session.ask(key, lambda: session.client().overview(ids, groups=GROUPS, **asked.overview))
    if known.lost is None:
        st.session_state[key] = (states, known.value)
    return known.value


def _states(experiments: Sequence[Experiment]) -> tuple[tuple[str, str], ...]:
    return tuple((run.id, run.state) for experiment in experiments for run in experiment.runs)


def results(experiments: Sequence[Experiment], found: Comparison, asked: Question) -> None:
    """Every section, as far as there is something to say."""
    st.subheader("Result" if found.complete else "Result so far")
    if not any(group.n for group in found.groups):
        st.caption("No run of a method has succeeded yet.")
        return
    name = ".".join(experiment.id for experiment in experiments)
    table(row_text.result_rows(found))
    st.markdown("\n".join(f"- **{escape(pair.label)}:** {escape(pair.sentence)}" for pair in found.paired))
    st.caption(escape(holds_for(found)))
    for note in found.notes:
        st.caption(escape(note))
    _differences(found, name)
    _convergence(found)
    _others(experiments, asked)
    ids = [experiment.id for experiment in experiments]
    st.markdown("**Download these tables**")
    downloads("comparison", "Comparison", {"experiment": ids} | asked.compared)
    downloads("overview", "All metrics", {"experiment": ids} | asked.overview)


def _differences(found: Comparison, name: str) -> None:
    apart = "points" if found.unit == "%" else found.unit
    forest = forest_figure(found.paired, f"Difference to {found.baseline}" + (f" ({apart})" if apart else ""))
    seeds = figures.seeds_figure(found.groups, found.unit)
    left, right = st.columns(2, gap="large")
    if forest is not None:
        with left:
            st.markdown("**Paired differences**")
            chart_component.chart(
                forest,
                key=f"compare.forest.{name}",
                alt=f"Mean difference of each method to {found.baseline} with its interval",
                filename="dkd-lab-differences",
            )
            st.caption(
                "Method minus baseline over shared seeds (n pairs), with the 95 % t interval of each comparison alone: "
                "one over zero tells nothing, and whether another holds over all of them is said above."
            )
    if seeds is not None and any(group.n > 1 for group in found.groups):
        with right:
            st.markdown("**Seed by seed**")
            chart_component.chart(
                seeds,
                key=f"compare.seeds.{name}",
                alt=f"Test accuracy {WHICH[found.epoch]}, a point a seed, with mean and sd of each method",
                filename="dkd-lab-seeds",
            )
            st.caption("A point is a run; grey lines join runs of equal seed. Bar: mean ± one sample sd.")


def _convergence(found: Comparison) -> None:
    if found.target is None:
        return
    st.subheader(f"Epochs to {escape(found.target_words)}")
    paired = {pair.label: pair.convergence for pair in found.paired}
    rows, when = [], TIMING[found.timing]
    for group in found.groups:
        one, pair = group.convergence, paired.get(group.label)
        rows.append(
            {
                "Method": group.label,
                "Reached": f"{one.reached} of {one.of}" if one else NOTHING,
                "Median epochs": _median(one),
                f"Median time{when}": row_text.duration(one.median_seconds) if one else NOTHING,
                f"Median GPU time{when}": row_text.duration(one.median_gpu_seconds) if one else NOTHING,
                "Mean over the epochs (%)": mean_text(one.area, one.area_sd) if one else NOTHING,
                f"Against {found.baseline}": (
                    f"{pair.earlier} earlier, {pair.later} later, {pair.equal} equal" if pair else NOTHING
                ),
                "Sign test p (this comparison alone)": p_text(pair.sign_p if pair else None),
            }
        )
    table(rows)
    st.caption(
        "The first of two consecutive epochs at or above the target; a run that never got there is later than any."
    )


def _median(one: Convergence | None) -> str:
    if one is None or not one.of:
        return NOTHING
    return f"> {one.max_epochs}" if one.median_epochs is None else f"{one.median_epochs:g}"


def _others(experiments: Sequence[Experiment], asked: Question) -> None:
    found = _overview(experiments, asked)
    if not found.rows:
        return
    st.subheader("Fidelity, calibration, collapse, robustness")
    present = [name for name in GROUPS if any(row.metric.startswith(f"{name}/") for row in found.rows)]
    chosen = st.pills("Show", present, selection_mode="multi", default=present, key="groups", bind="query-params")
    rows = [
        {
            "Metric": row.title + (f" ({row.unit})" if row.unit else ""),
            "Better": row.better or NOTHING,
            **{cell.label: _cell(cell, baseline=cell.label == found.baseline) for cell in row.cells},
        }
        for row in found.rows
        if row.metric.partition("/")[0] in (chosen or present)
    ]
    table(rows)
    st.caption(
        f"Mean ± sd (n) {WHICH[found.epoch]}; then the paired difference to {escape(found.baseline)} with its "
        "95 % interval, and what holds over all comparisons of this table."
    )
    for note in found.notes:
        st.caption(escape(note))


def _cell(cell: OverviewCell, *, baseline: bool) -> str:
    if cell.mean is None:
        return NOTHING
    text = f"{mean_text(cell.mean, cell.sd)} ({cell.n})"
    if baseline or cell.mean_difference is None:
        return text
    verdict = f" {cell.verdict}" if cell.verdict else ""
    return f"{text}; {row_text.glued(difference_text(cell.mean_difference, cell.interval))}{verdict}"


def downloads(what: What, title: str, query: Query) -> None:
    """A button a format. The text is asked for only when one is pressed."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for kind, (label, ending, media) in _FORMATS.items():
            st.download_button(
                escape(f"{title}: {label}"),
                data=partial(session.client().comparison_text, what, kind, query),
                file_name=f"dkd-lab-{what}.{ending}",
                mime=media,
                on_click="ignore",
                key=f"download.{what}.{kind}",
                icon=":material/download:",
            )


def holds_for(found: Comparison) -> str:
    """What the numbers are of and what they hold for."""
    parts = []
    if found.test_size:
        one = f"; one image is {spread_text(found.resolution, '%')}" if found.resolution else ""
        parts.append(f"Test set: {found.test_size:,} images{one}.")
    if found.teacher_top1 is not None:
        target = f"; target {found.target_words}" if found.target_words else ""
        whose = "Teachers, on average" if len(found.teachers) > 1 else "Teacher"
        parts.append(f"{whose}: {row_text.percent(found.teacher_top1)}{target}.")
    parts.append(f"Accuracy {WHICH[found.epoch]}; sd is the sample standard deviation over n seeds.")
    if found.condition:
        parts.append(f"Holds for {found.condition}.")
    return " ".join(parts)
