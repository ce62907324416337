"""The board of the Compare page, ``/compare?as=board&pin=…``: small figures of pinned metrics over one x axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import streamlit as st

from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.layouts import BoardFigure, BoardLayout, BoardSize, BoardSpread, BoardX
from core.protocol.public import TERMINAL, Comparison, Experiment, RunSummary
from dashboard import session, theme, wording
from dashboard.boards import address, choices
from dashboard.charts import board_figures, chart_component, figures, panels
from dashboard.charts.board_figures import BoardAxes, BoardMethod, BoardRun
from dashboard.charts.comparison_charts import X_AXIS_TITLES, ChartSettings, subtract_teacher_time
from dashboard.charts.counted_titles import with_count
from dashboard.curves.curve import Curve, RunCurves
from dashboard.families import MANY
from dashboard.markup import escape
from dashboard.views import (
    board_header,
    board_layouts,
    compare_curves,
    compare_methods,
    compare_metrics,
    comparison_results,
    curve_captions,
    teacher_progress,
)
from dashboard.views.compare_methods import MethodView

_REQUESTS = 40
"""Requests for curves per refresh, so that an experiment of many runs does not keep the page waiting."""
_SPREADS: Mapping[BoardSpread, str] = {"range": "min to max", "sd": "± 1 sd", "runs": "every run"}
_SIZES: tuple[BoardSize, ...] = ("small", "medium", "large")
_CAPTIONS: Mapping[BoardSpread, str] = {
    "range": "Line: mean over seeds; band: minimum to maximum. A click on a point opens its run or, of several runs, "
    "their experiment.",
    "sd": "Line: mean over seeds; band: ± one sample standard deviation. A click on a point opens its run or, of "
    "several runs, their experiment.",
    "runs": "A line per run. A click on a point opens its run.",
}


class Shown(Protocol):
    """The selected experiments and runs at one refresh."""

    @property
    def experiments(self) -> list[Experiment]: ...
    @property
    def runs(self) -> list[RunSummary]: ...
    @property
    def outage_since(self) -> datetime | None: ...
    @property
    def ended(self) -> bool: ...


@dataclass(frozen=True)
class _Board:
    """What the board shows at one refresh.

    Attributes:
        layout: Its figures and settings.
        descriptions: Descriptions of all metrics by name.
        measured: Names of the metrics that were measured.
        headline: Metric by which results are judged.
    """

    layout: BoardLayout
    descriptions: Mapping[str, panels.Described]
    measured: list[str]
    headline: str

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics to load."""
        wanted = choices.metrics_of(self.layout.figures)
        counts = {str(self.descriptions[name].get("of", "")) for name in wanted if name in self.descriptions}
        times = {compare_curves.TEACHER_SECONDS} if self.layout.x in ("time", "GPU-seconds") else set()
        return tuple(sorted({*wanted, *counts, *times} - {""}))

    def label(self, name: str) -> str:
        """Return the title of a metric with its unit."""
        return str(self.descriptions[name]["label"]) if name in self.descriptions else name

    def unit(self, name: str) -> str:
        return str(self.descriptions[name]["unit"]) if name in self.descriptions else ""


def show(first: Shown, refetch: Callable[[], Shown], key: str) -> None:
    """Draw the board, repeatedly until all runs have ended and all curves are loaded.

    Args:
        first: The selected experiments and runs.
        refetch: Requests them again.
        key: Identifies the selection.
    """
    settings = _controls(first)
    methods_view = compare_methods.controls(first.runs, tables=False)
    board = _board(first, settings)

    def load(shown: Shown, board: _Board) -> dict[str, RunCurves]:
        runs = _drawn_runs(shown, board)
        return session.fetch(
            f"board {key} {board.names}",
            lambda: session.curve_store().update_some(session.client(), runs, board.names, _REQUESTS),
        ).value

    unused: tuple[Shown, dict[str, RunCurves]] | None = (first, load(first, board))
    ended, loaded = first.ended, _all_loaded(first, board)

    @st.fragment(run_every=None if ended and loaded else session.REFRESH_SECONDS)
    def body() -> None:
        nonlocal unused
        with session.error_boundary():
            if unused:  # the page has just requested this data
                (current, curves), unused = unused, None
                board = _board(current, settings)
            else:
                current = refetch()
                board = _board(current, settings)
                curves = load(current, board)
            _draw(current, board, curves, methods_view, key)
            if current.ended != ended or (ended and loaded != _all_loaded(current, board)):
                st.rerun()  # the refresh begins or ends

    body()


def _controls(shown: Shown) -> BoardLayout:
    """Draw the settings of all figures, which are in the address, and the stored layouts."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        x: BoardX = st.segmented_control(
            "X axis", list(X_AXIS_TITLES), default="epochs", required=True, key="over", bind="query-params"
        )
        spread: BoardSpread = st.segmented_control(
            "Runs of a method",
            list(_SPREADS),
            default="range",
            required=True,
            format_func=_SPREADS.__getitem__,
            key="spread",
            bind="query-params",
            help="The mean over seeds with a band, or a line per run.",
        )
        size: BoardSize = st.segmented_control(
            "Figures", _SIZES, default="medium", required=True, key="width", bind="query-params"
        )
        smoothing = st.slider(
            "Smoothing",
            0.0,
            0.95,
            0.0,
            0.05,
            key="smooth",
            bind="query-params",
            width=170,
            help="Weight of earlier values in the exponential moving average of each run; 0 for no smoothing.",
        )
        teachers = st.toggle(
            "Teacher's curves",
            key="teachers",
            bind="query-params",
            disabled=not any(run.role == "teacher" for run in shown.runs),
            help="In grey. They are of another network, and perhaps of other epochs.",
        )
        settings = BoardLayout(figures=(), x=x, spread=spread, smoothing=smoothing, size=size, teachers=bool(teachers))
        board_layouts.draw(lambda: _board(shown, settings).layout)
    return settings


def _board(shown: Shown, settings: BoardLayout) -> _Board:
    teachers = [run.id for run in shown.runs if run.role == "teacher"] if settings.teachers else []
    single = [] if shown.experiments else [run.id for run in shown.runs]
    measured = compare_metrics.measured([item.id for item in shown.experiments], list(dict.fromkeys(single + teachers)))
    described = panels.with_undescribed(session.catalog().metrics, measured)
    headline = session.headline_of(shown.experiments, shown.runs)["name"]
    pinned = address.figures(st.query_params.get_all(address.PIN))
    if pinned is None:
        pinned = choices.first_figures(described, measured, headline)
    layout = settings.model_copy(update={"figures": pinned})
    return _Board(layout, {metric["name"]: metric for metric in described}, measured, headline)


def _drawn_runs(shown: Shown, board: _Board) -> list[RunSummary]:
    """Return the runs whose curves are drawn: those of teachers only if they are wanted, or were selected as runs."""
    every = board.layout.teachers or not shown.experiments
    return [run for run in shown.runs if every or run.role == "student"] if board.names else []


def _all_loaded(shown: Shown, board: _Board) -> bool:
    runs = _drawn_runs(shown, board)
    return all(session.curve_store().get(run.id, board.names).cursor or not run.step for run in runs)


def _draw(shown: Shown, board: _Board, curves: Mapping[str, RunCurves], methods_view: MethodView, key: str) -> None:
    # Each part has its own container: a line that appears above a chart would make the browser redraw the chart.
    with st.container():
        session.show_outage(shown.outage_since)
        teacher_progress.draw(shown.runs)
    options = ComparisonOptions()
    comparison, refusal = comparison_results.comparison(shown.experiments, options) if shown.experiments else (None, "")
    labelled = _labelled(shown, board, comparison, by_experiment=bool(refusal) or not shown.experiments)
    kinds = compare_methods.kinds_of({label: runs[0].method for label, runs in labelled.items()})
    styles = theme.styles(labelled, session.method_colours(), kinds)
    results = compare_methods.mean_results((label, run) for label, runs in labelled.items() for run in runs)
    labels = methods_view.arrange(list(labelled), kinds, results, [comparison.baseline] if comparison else [])
    students_time = comparison is not None and comparison.timing == "student"

    def curve(run: RunSummary, metric: str) -> Curve | None:
        by_metric = curves[run.id].curves if metric and run.id in curves else {}
        found = by_metric.get(metric)
        if found is None or not len(found) or not students_time:
            return found
        return subtract_teacher_time(found, by_metric.get(compare_curves.TEACHER_SECONDS))

    def methods(figure: BoardFigure) -> list[BoardMethod]:
        return [
            BoardMethod(
                label,
                [BoardRun(run.id, run.seed, curve(run, figure.metric), curve(run, figure.right)) for run in runs],
                kinds[label].family,
                figures.curve_address(runs),
            )
            for label in labels
            for runs in (labelled[label],)
        ]

    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        board_header.picker(
            board.layout.figures, choices.offered([*board.descriptions.values()], board.measured, board.layout.figures)
        )
        if labels:
            st.html(board_figures.legend_html(labels, styles), width="content")
    if not board.layout.figures:
        _nothing(shown, board)
        return
    gpus = compare_curves.requested_gpus(shown.experiments) if board.layout.x == "GPU-seconds" else 1
    settings = _settings(board.layout, gpus)
    drawn = [(figure, methods(figure)) for figure in board.layout.figures]
    every_curve = [item for _, found in drawn for method in found for item in (*method.main, *method.second)]
    total = max((run.total_epochs for run in _drawn_runs(shown, board)), default=0)
    end = board_figures.axis_end(every_curve, settings, total, live=not shown.ended)
    files = list(dict.fromkeys(run.experiment for run in shown.runs if run.role == "student")) or [key]
    with st.container(key=f"dkd-board-{board.layout.size}"):
        for figure, found in drawn:
            with st.container(key=f"board.cell.{figure.metric}"):
                board_header.heading(figure, board.layout.figures, _titles(board))
                if not board_figures.has_points(found):
                    _empty(figure, shown, board)
                    continue
                axes = BoardAxes(
                    (
                        _title(figure.metric, shown, board, curves),
                        f"{_title(figure.right, shown, board, curves)}, dashed" if figure.right else "",
                    ),
                    (board.unit(figure.metric), board.unit(figure.right)),
                    f"{key}.{settings.x}",
                    end,
                    comparison.teacher_top1 if comparison and figure.metric == board.headline else None,
                )
                own = ChartSettings(settings.x, settings.band, settings.smoothing, figure.log, settings.gpus)
                chart_component.chart(
                    board_figures.board_figure(found, axes, own, styles, every_run=board.layout.spread == "runs"),
                    key=f"board.{key}.{figure.metric}",
                    alt=f"{axes.titles[0]} of each method over {settings.x}",
                    filename=wording.file_stem(files, figure.metric),
                )
    _captions(board, settings, gpus, comparison, len(labels), len(labelled))


def _labelled(
    shown: Shown, board: _Board, comparison: Comparison | None, *, by_experiment: bool
) -> dict[str, list[RunSummary]]:
    """Return the runs of each curve by its label; those of teachers last, if they are shown."""
    options = ComparisonOptions() if shown.experiments else None
    other_data = compare_curves.other_data(shown.experiments, shown.runs, comparison, options)
    labelled = compare_curves.runs_by_label(shown.experiments, shown.runs, other_data, by_experiment=by_experiment)
    if board.layout.teachers and shown.experiments:
        teachers = {run.id: run for run in shown.runs if run.role == "teacher"}.values()
        for number, run in enumerate(teachers, 1):
            labelled[f"teacher {number}" if len(teachers) > 1 else "teacher"] = [run]
    return labelled


def _settings(layout: BoardLayout, gpus: int | None) -> ChartSettings:
    """Return the settings of the curves. Runs without GPUs have a time instead of GPU-seconds."""
    return ChartSettings(
        x="time" if gpus is None else layout.x,
        band="sd" if layout.spread == "sd" else "range",
        smoothing=layout.smoothing,
        gpus=gpus or 1,
    )


def _titles(board: _Board) -> dict[str, str]:
    """Return the titles of the metrics that were measured, with their groups, and of those that are pinned."""
    titles = compare_metrics.metric_titles([*board.descriptions.values()])
    pinned = choices.metrics_of(board.layout.figures)
    known = {name: titles[name] for name in titles if name in board.measured or name in pinned}
    return known | {name: name for name in pinned if name not in known}


def _nothing(shown: Shown, board: _Board) -> None:
    if board.measured:
        st.info('No metric is pinned. Search one in "Add a figure".', icon=":material/push_pin:")
    elif shown.ended:
        st.info("No run has measured anything.", icon=":material/query_stats:")
    else:
        st.info(
            "No student has measured anything yet. Figures appear here automatically.",
            icon=":material/hourglass_empty:",
        )


def _empty(figure: BoardFigure, shown: Shown, board: _Board) -> None:
    if figure.metric not in board.measured:
        text = "No shown run has measured this metric" + ("." if shown.ended else " so far.")
    elif any(run.state not in TERMINAL or run.step for run in shown.runs):
        text = "The curves are being loaded, or the shown methods have no values of this metric."
    else:
        text = "No shown method has values of this metric."
    st.info(text, icon=":material/query_stats:")


def _title(metric: str, shown: Shown, board: _Board, curves: Mapping[str, RunCurves]) -> str:
    """Return the title of an axis, with the number of images that a share is of."""
    described: Mapping[str, Any] = board.descriptions.get(metric, {})
    title, count_metric = board.label(metric), str(described.get("of", ""))
    if not count_metric or not shown.runs:
        return title
    of_runs = [stored.curves for stored in curves.values()]
    return with_count(title, metric, count_metric, of_runs, session.item(shown.runs[0].dataset))


def _captions(
    board: _Board, settings: ChartSettings, gpus: int | None, comparison: Comparison | None, shown: int, every: int
) -> None:
    layout = board.layout
    parts = [_CAPTIONS[layout.spread]]
    if any(figure.right for figure in layout.figures):
        parts.append("Dashed: right axis.")
    if gpus is None:
        parts.append("These runs did not request GPUs, so there are no GPU-seconds; the axis is the training time.")
    if settings.x in ("time", "GPU-seconds"):
        parts.append(curve_captions.time_caption(comparison))
    if layout.smoothing:
        parts.append(f"Smoothed with an exponential moving average (weight {layout.smoothing:g}).")
    if every > MANY:
        parts.append(f"{shown:,} of {every:,} methods are shown.")
    st.caption(escape(" ".join(parts)))
