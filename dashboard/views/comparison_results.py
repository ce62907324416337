"""The results on the Compare page: result table, differences, convergence, other metrics, downloads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import streamlit as st

from client import ApiError
from client.connection import Query
from client.resources import TextFormat
from common.durations import duration_text
from common.formatting import (
    NOTHING,
    difference_text,
    difference_unit,
    mean_text,
    median_epochs_text,
    p_text,
    spread_text,
    value_text,
)
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.comparisons import EPOCH_CHOICES, TIMING_TEXT, EpochChoice, Overview, OverviewCell, OverviewRow
from core.protocol.public import Comparison, Experiment
from dashboard import addresses, families, session, theme, wording
from dashboard.charts import chart_component, figures
from dashboard.charts.comparison_charts import forest_figure
from dashboard.forms.widgets import escape, table
from dashboard.lists import row_text
from dashboard.views import compare_methods, comparison_costs, comparison_looks
from dashboard.views.compare_methods import MethodView

T = TypeVar("T")

GROUPS = ("fidelity", "calibration", "errors", "collapse", "robustness", "test")
_FORMATS: dict[TextFormat, tuple[str, str, str]] = {
    "csv": ("CSV", "csv", "text/csv"),
    "latex": ("LaTeX", "tex", "application/x-tex"),
    "markdown": ("Markdown", "md", "text/markdown"),
}
"""Title, file extension and media type of each format."""
EPOCHS: dict[EpochChoice, str] = {"last": "last", "best_val": "best validation", "oracle": "best test (oracle)"}
DownloadKind = Literal["comparison", "overview", "claims", "table"]
_RELATIVE, _ABSOLUTE = "relative to teacher", "absolute"
_FORMER_TARGETS = {"share of the teacher's": _RELATIVE, "accuracy": _ABSOLUTE}


def option_controls(methods: Sequence[str], *, headline: Mapping[str, Any], teacher: bool) -> ComparisonOptions:
    """Draw the controls of a comparison, whose values are kept in the address.

    The target is always visible; the other controls are in a popover.

    Args:
        methods: Labels of the methods that can be the baseline.
        headline: Metric by which results are judged, as the catalog describes it.
        teacher: Whether there is a teacher, so that the target can be relative to the teacher's result.
    """
    addresses.accept_former_labels("goal", _FORMER_TARGETS)
    target_slot = st.container(width=230)
    points = difference_unit(headline["unit"])
    with st.popover("Baseline, epoch, target", icon=":material/tune:", width="content"):
        baseline = st.selectbox(
            "Baseline",
            ["", *methods],
            format_func=lambda label: label or "first method",
            key="against",
            bind="query-params",
            help="Every other method is tested against the baseline, paired by seed.",
        )
        which: EpochChoice = st.selectbox(
            "Epoch of the result", list(EPOCHS), format_func=EPOCHS.__getitem__, key="at", bind="query-params"
        )
        kind = st.segmented_control(
            "Target",
            (_RELATIVE, _ABSOLUTE),
            default=_RELATIVE,
            required=True,
            key="goal",
            bind="query-params",
            disabled=not teacher,
            help=None if teacher else "Without a teacher, the target is a value of the metric itself.",
        )
        difference = st.number_input(
            escape(f"Difference to detect{f' ({points})' if points else ''}"),
            min_value=0.01,
            max_value=100.0,
            value=None,
            step=0.1,
            key="difference",
            bind="query-params",
            placeholder="none",
            help="Estimates the range of seeds needed to detect a difference of this size. The estimate needs at least "
            "4 pairs.",
        )
    absolute = kind == _ABSOLUTE or not teacher
    with target_slot:
        hint = "A run reaches the target at the first of two consecutive epochs at or above it."
        if absolute:
            label = escape(f"Target: {headline['label']}")
            target = st.slider(label, 1, 100, 70, key="accuracy", bind="query-params", help=hint)
        else:
            target = st.slider("Target (% of teacher's)", 50, 105, 95, key="target", bind="query-params", help=hint)
    target_options: dict[str, Any] = {"target": float(target)} if absolute else {"target_share": target / 100}
    return ComparisonOptions(baseline=baseline or None, which=which, difference=difference or None, **target_options)


def _comparison_params(options: ComparisonOptions) -> dict[str, Any]:
    return options.model_dump(exclude_unset=True, exclude_none=True)


def _overview_params(options: ComparisonOptions) -> dict[str, Any]:
    return options.model_dump(include={"which", "baseline", "settings"}, exclude_none=True, exclude_defaults=True)


def comparison(experiments: Sequence[Experiment], options: ComparisonOptions) -> tuple[Comparison | None, str]:
    """Return the backend's comparison, or None and the reason why these experiments cannot be compared.

    The comparison is requested again only if a run has changed its state, because only this changes the result.

    Args:
        experiments: The experiments.
        options: How they are compared. With ``settings`` they may differ in more than seeds.
    """
    ids = [experiment.id for experiment in experiments]
    try:
        result = until_state_changes(
            f"comparison {ids} {options!r}",
            experiments,
            lambda: session.client().comparison(ids, **_comparison_params(options)),
        )
    except ApiError as error:
        if len(ids) > 1 and error.status == 422:
            return None, "; ".join(item.message for item in error.problem.errors) or str(error)
        raise
    return result, ""


def _overview(experiments: Sequence[Experiment], options: ComparisonOptions) -> Overview:
    ids = [experiment.id for experiment in experiments]
    return until_state_changes(
        f"overview {ids} {_overview_params(options)}",
        experiments,
        lambda: session.client().overview(ids, groups=GROUPS, **_overview_params(options)),
    )


def until_state_changes(key: str, experiments: Sequence[Experiment], request: Callable[[], T]) -> T:
    """Return a stored reply until an experiment, or a run of one, changes its state."""
    states = tuple(
        (experiment.state, tuple((run.id, run.state) for run in experiment.runs)) for experiment in experiments
    )
    stored: tuple[object, T] | None = st.session_state.get(key)
    if stored and stored[0] == states:
        return stored[1]
    reply = session.fetch(key, request)
    if reply.outage_since is None:
        st.session_state[key] = (states, reply.value)
    return reply.value


@dataclass(frozen=True)
class _Shown:
    """The methods that the sections show.

    Attributes:
        labels: Their labels, in the order of tables.
        groups: Title of the family of each row of a table; empty if rows are not grouped.
        styles: Styles of all labels.
    """

    labels: list[str]
    groups: list[str]
    styles: Mapping[str, theme.Style]

    @classmethod
    def of(cls, result: Comparison, methods_view: MethodView) -> _Shown:
        labels = [group.label for group in result.groups]
        kinds = compare_methods.kinds_of({group.label: group.method for group in result.groups})
        means = {group.label: group.mean for group in result.groups if group.mean is not None}
        shown = methods_view.arrange(labels, kinds, means, [result.baseline])
        styles = theme.styles(labels, session.method_colours(), kinds)
        return cls(shown, methods_view.groups(labels, kinds, shown), styles)

    @property
    def many(self) -> bool:
        return len(self.labels) > families.MANY

    def select(self, result: Comparison) -> Comparison:
        """Return the comparison of these methods in their order; its tests are still those of all methods."""
        groups = {group.label: group for group in result.groups}
        paired = {pair.label: pair for pair in result.paired}
        return result.model_copy(
            update={
                "groups": [groups[label] for label in self.labels],
                "paired": [paired[label] for label in self.labels if label in paired],
            }
        )


def results(
    experiments: Sequence[Experiment], result: Comparison, options: ComparisonOptions, methods_view: MethodView
) -> None:
    """Draw every section that has content."""
    st.subheader("Result" if result.complete else "Result so far")
    if not any(group.n for group in result.groups):
        st.caption("No run of a method has succeeded yet.")
        return
    name = ".".join(experiment.id for experiment in experiments)
    files = [experiment.name for experiment in experiments]
    shown = _Shown.of(result, methods_view)
    selected = shown.select(result)
    table(row_text.comparison_rows(selected), groups=shown.groups)
    sentences = "\n".join(f"- **{escape(pair.label)}:** {escape(pair.sentence)}" for pair in selected.paired)
    if shown.many:
        with st.expander("The differences in sentences"):
            st.markdown(sentences)
    else:
        st.markdown(sentences)
    st.caption(escape(caption(result, session.item(experiments[0].dataset))))
    for note in result.notes:
        st.caption(escape(note))
    comparison_looks.draw(result, name, shown.styles, files)
    _differences(selected, name, shown.styles, files)
    _convergence(selected, shown.groups)
    comparison_costs.draw(result.costs, shown.labels)
    _other_metrics(experiments, options, shown)
    ids = [experiment.id for experiment in experiments]
    st.markdown("**Download these tables**")
    downloads("comparison", "Comparison", {"experiment": ids} | _comparison_params(options), files)
    downloads("overview", "All metrics", {"experiment": ids} | _overview_params(options), files)


def _differences(result: Comparison, name: str, styles: Mapping[str, theme.Style], files: Sequence[str]) -> None:
    unit = difference_unit(result.unit)
    title = f"Difference to {result.baseline}" + (f" ({unit})" if unit else "")
    forest = forest_figure(result.paired, title, styles, unit)
    axis = f"{result.title} ({result.unit})" if result.unit else result.title
    seeds = figures.seeds_figure(result.groups, axis, styles, result.unit)
    joined = "" if len(result.groups) > families.MANY else "; grey lines connect runs with the same seed"
    left, right = st.columns(2, gap="large")
    if forest is not None:
        with left:
            st.markdown("**Paired differences**")
            chart_component.chart(
                forest,
                key=f"compare.forest.{name}",
                alt=f"Mean difference of each method to {result.baseline} with its interval",
                filename=wording.file_stem(files, "differences"),
            )
            st.caption(comparison_looks.forest_caption(result))
    if seeds is not None and any(group.n > 1 for group in result.groups):
        with right:
            st.markdown("**Seed by seed**")
            chart_component.chart(
                seeds,
                key=f"compare.seeds.{name}",
                alt=f"{result.title} {EPOCH_CHOICES[result.epoch]} of each seed, with mean and sd of each method",
                filename=wording.file_stem(files, "seeds"),
            )
            st.caption(f"Each point is a run, which a click opens{joined}. Bars: mean ± one sample sd.")


def _convergence(result: Comparison, groups: Sequence[str]) -> None:
    if result.target is None:
        return
    st.subheader(f"Epochs to {escape(result.target_words)}")
    paired = {pair.label: pair.convergence for pair in result.paired}
    rows, timing = [], TIMING_TEXT[result.timing]
    unit = f" ({result.unit})" if result.unit else ""
    for group in result.groups:
        convergence, pair = group.convergence, paired.get(group.label)
        rows.append(
            {
                "Method": group.label,
                "Reached": f"{convergence.reached} of {convergence.of}" if convergence else NOTHING,
                "Median epochs": median_epochs_text(convergence),
                f"Median time{timing}": duration_text(convergence.median_seconds) if convergence else NOTHING,
                f"Median GPU time{timing}": duration_text(convergence.median_gpu_seconds) if convergence else NOTHING,
                f"Mean over the epochs{unit}": mean_text(convergence.area, convergence.area_sd)
                if convergence
                else NOTHING,
                f"Against {result.baseline}": (
                    f"{pair.earlier} earlier, {pair.later} later, {pair.equal} equal" if pair else NOTHING
                ),
                "Sign test p (uncorrected)": p_text(pair.sign_p if pair else None),
            }
        )
    table(rows, groups=groups)
    st.caption(
        "A run reaches the target at the first of two consecutive epochs at or above it. A run that never reaches it "
        "counts as later than all others."
    )


def _other_metrics(experiments: Sequence[Experiment], options: ComparisonOptions, shown: _Shown) -> None:
    overview = _overview(experiments, options)
    if not overview.rows:
        return
    present = [name for name in GROUPS if any(row.metric.startswith(f"{name}/") for row in overview.rows)]
    st.subheader(escape(", ".join(present).capitalize()))
    selected = st.pills("Show", present, selection_mode="multi", default=present, key="groups", bind="query-params")
    metrics = [row for row in overview.rows if row.metric.partition("/")[0] in (selected or present)]
    if shown.many:
        table(_method_rows(metrics, shown.labels, overview.baseline), groups=shown.groups)
    else:
        table(_metric_rows(metrics, overview.baseline))
    st.caption(
        f"Mean ± sd (n) {EPOCH_CHOICES[overview.epoch]}, followed by the paired difference to "
        f"{escape(overview.baseline)} with its "
        "95 % interval and the verdict after correction over all comparisons in this table."
    )
    for note in overview.notes:
        st.caption(escape(note))


def _metric_rows(metrics: Sequence[OverviewRow], baseline: str) -> list[dict[str, str]]:
    """Return one row per metric and one column per method."""
    return [
        {
            "Metric": row.title + (f" ({row.unit})" if row.unit else ""),
            "Better": row.better or NOTHING,
            **{cell.label: _cell(cell, baseline=cell.label == baseline) for cell in row.cells},
        }
        for row in metrics
    ]


def _method_rows(metrics: Sequence[OverviewRow], labels: Sequence[str], baseline: str) -> list[dict[str, str]]:
    """Return one row per method and one column per metric, for more methods than columns that fit."""
    rows: dict[str, dict[str, str]] = {label: {"Method": label} for label in labels}
    for metric in metrics:
        details = ", ".join(filter(None, (metric.unit, f"{metric.better} is better" if metric.better else "")))
        title = metric.title + (f" ({details})" if details else "")
        cells = {cell.label: cell for cell in metric.cells}
        for label, row in rows.items():
            row[title] = _cell(cells[label], baseline=label == baseline) if label in cells else NOTHING
    return list(rows.values())


def _cell(cell: OverviewCell, *, baseline: bool) -> str:
    if cell.mean is None:
        return NOTHING
    text = f"{mean_text(cell.mean, cell.sd)} ({cell.n})"
    if baseline or cell.mean_difference is None:
        return text
    verdict = f" {cell.verdict}" if cell.verdict else ""
    return f"{text}; {row_text.no_break(difference_text(cell.mean_difference, cell.interval))}{verdict}"


def downloads(report: DownloadKind, title: str, query: Query, names: Sequence[str] = ()) -> None:
    """Draw a download button per format. The text is requested only when a person presses a button.

    Args:
        report: The report.
        title: Its title.
        query: What the backend is asked for.
        names: Names of the experiments, which the file's name begins with.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for kind, (label, ending, media) in _FORMATS.items():
            st.download_button(
                escape(f"{title}: {label}"),
                data=partial(session.client().comparison_text, report, kind, query),
                file_name=f"{wording.file_stem(names, report)}.{ending}",
                mime=media,
                on_click="ignore",
                key=f"download.{report}.{kind}",
                icon=":material/download:",
            )


def caption(result: Comparison, item: str = "image") -> str:
    """Return sentences about the test set, the teacher, the epoch and the conditions of the numbers.

    Args:
        result: The comparison.
        item: What an item of the test set is called.
    """
    parts = []
    if result.test_size:
        resolution = f" (one {item} is {spread_text(result.resolution, '%')})" if result.resolution else ""
        parts.append(f"Test set: {wording.counted(result.test_size, item)}{resolution}.")
    if result.teacher_top1 is not None:
        target = f"; target {result.target_words}" if result.target_words else ""
        subject = "Mean of the teachers" if len(result.teachers) > 1 else "Teacher"
        parts.append(f"{subject}: {value_text(result.teacher_top1, result.headline_unit, 2)}{target}.")
    parts.append(f"{result.title} {EPOCH_CHOICES[result.epoch]}; sd is the sample standard deviation over n seeds.")
    if result.condition:
        parts.append(f"Valid for {result.condition}.")
    return " ".join(parts)
