"""The Compare page, ``/compare?experiment=…`` or ``/compare?run=…&run=…``: methods side by side.

Several experiments that differ in their seeds alone are read as one. Of others, and of single runs, the curves are
drawn and nothing is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from common.formatting import counted
from core.protocol.public import TERMINAL, Comparison, Experiment, Run, RunSummary
from dashboard import addresses, session, theme, wording
from dashboard.charts import chart_component
from dashboard.charts.comparison_charts import (
    X_AXIS_TITLES,
    Band,
    ChartSettings,
    MethodCurves,
    XAxis,
    curves_figure,
    subtract_teacher_time,
)
from dashboard.curves.curve import Curve, RunCurves
from dashboard.forms import schema_fields
from dashboard.forms.widgets import empty_state, escape, table
from dashboard.lists import row_text
from dashboard.views import comparison_results

_ACCURACY, _SIMILARITY = "test/top1", "grad/similarity"
_SPENT = "speed/teacher_seconds"
_AXES = ("metric", "author's two axes")
# Requests for curves in one tick, so that an experiment of many runs does not keep the page waiting.
_BUDGET = 40
_BANDS: dict[Band, str] = {"range": "least to greatest", "sd": "± 1 sd"}
_BAND_WORDS: dict[Band, str] = {
    "range": "from the least to the greatest value",
    "sd": "one sample standard deviation to each side",
}


@dataclass(frozen=True)
class _Drawing:
    """What the chart shows: metrics of the two axes with their titles, and how."""

    metrics: tuple[str, str]
    titles: tuple[str, str]
    view: ChartSettings


def show() -> None:
    """Draw the page."""
    st.title("Compare")
    runs = addresses.query_values("run", "id")
    chosen = [] if runs else _choose()
    if chosen is None:
        empty_state("There is nothing to compare yet. An experiment trains the methods.")
        return
    if not chosen and not runs:
        st.info("Choose an experiment, or several that differ in their seeds.", icon=":material/stacked_line_chart:")
        return
    if runs:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{wording.counted(len(runs), 'run')}** chosen by the address")
            st.page_link(session.page("compare"), label="Compare experiments instead", icon=":material/science:")
    read = _read(chosen, runs)
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    drawing = _controls(read.experiments, row)
    with row:
        taught = any(experiment.teacher_model for experiment in read.experiments)
        query = comparison_results.query_controls(_methods(read.experiments), teacher=taught) if chosen else None
    _live(chosen, runs, drawing, query, read)


def _experiment(id_or_name: str) -> session.Fetched[Experiment]:
    return session.fetch(f"experiment {id_or_name}", lambda: session.client().experiment(id_or_name))


def _choose() -> list[str] | None:
    """The experiments in the address, else the newest; a list to choose others from. None where there are none."""
    given = addresses.query_values("experiment", "name")
    found: dict[str, str] = {
        item.id: item.name
        for item in session.fetch("experiments", lambda: session.client().experiments(limit=200)).value.items
    }
    for at, name in enumerate(given):
        if name not in found:  # a name, or one that is older than the list
            item = _experiment(name).value
            found.setdefault(item.id, item.name)
            given[at] = item.id
    if not found:
        return None
    chosen = st.multiselect(
        "Experiments",
        list(found),
        default=given or [next(iter(found))],
        format_func=lambda key: found.get(key, key),
        # The address decides where it names some; a key of its own a link keeps an older choice from winning.
        key=f"compare.choice.{','.join(given)}",
        help="Several that differ in their seeds alone are read as one.",
    )
    if chosen and chosen != given:
        st.query_params["experiment"] = chosen
    return chosen


def _controls(experiments: list[Experiment], row: DeltaGenerator) -> _Drawing:
    titles = {metric["name"]: metric["label"] for metric in session.catalog().metrics}
    with row:
        axes = st.segmented_control(
            "Figure",
            _AXES,
            default=_AXES[0],
            required=True,
            key="figure",
            bind="query-params",
            help="The author's: left, the mean cosine similarity of the TCKD and NCKD gradients, solid; right, test "
            "accuracy, dashed.",
        )
        metric = st.selectbox(
            "Metric",
            list(titles),
            index=list(titles).index(_ACCURACY),
            format_func=titles.__getitem__,
            key="metric",
            bind="query-params",
            disabled=axes != _AXES[0],
            width=260,
        )
        x: XAxis = st.segmented_control(
            "Over", list(X_AXIS_TITLES), default="epochs", required=True, key="x", bind="query-params"
        )
        band: Band = st.segmented_control(
            "Band over seeds",
            list(_BANDS),
            default="range",
            required=True,
            format_func=_BANDS.__getitem__,
            key="band",
            bind="query-params",
            help="Around the mean of a method's seeds: least to greatest value, or one sample standard deviation.",
        )
        smoothing = st.slider(
            "Smoothing",
            0.0,
            0.95,
            0.0,
            0.05,
            key="smoothing",
            bind="query-params",
            width=170,
            help="Of each run's moving average, how much of the past stays from point to point. 0: none.",
        )
        log = st.toggle("Log scale", key="log", bind="query-params")
    gpus = _gpus(experiments) if x == "GPU-seconds" else 1
    if gpus is None:
        st.info(
            "These runs did not ask for GPUs and have no GPU-seconds. Training time is drawn.",
            icon=":material/memory:",
        )
        x = "time"
    view = ChartSettings(x=x, band=band, smoothing=smoothing, log=bool(log), gpus=gpus or 1)
    if axes == _AXES[1]:
        return _Drawing((_SIMILARITY, _ACCURACY), ("Gradient similarity (cosine)", "Test accuracy (%), dashed"), view)
    second = _SIMILARITY if metric == _ACCURACY else ""
    return _Drawing((metric, second), (titles[metric], "Gradient similarity (cosine, dashed)"), view)


def _gpus(experiments: list[Experiment]) -> int | None:
    """GPUs that each run requested; None if they requested none, or are chosen one by one."""
    query = {
        resources.get("gpus", 1) if resources.get("device") == "gpu" else 0
        for resources in (experiment.spec.get("resources", {}) for experiment in experiments)
    }
    return query.pop() or None if len(query) == 1 else None


def _methods(experiments: list[Experiment]) -> list[str]:
    """Labels of the methods that every experiment has, in the first one's order."""
    labels = [experiment.methods for experiment in experiments]
    return [label for label in labels[0] if all(label in others for others in labels)]


def _live(
    chosen: list[str],
    run_ids: list[str],
    drawing: _Drawing,
    query: comparison_results.ComparisonQuery | None,
    first_read: _Read,
) -> None:
    beside = (_SPENT if _over_time(drawing) else "", _count_of(drawing))
    names = tuple(name for name in (*drawing.metrics, *beside) if name)

    def look(read: _Read | None = None) -> tuple[_Read, dict[str, RunCurves]]:
        read = read or _read(chosen, run_ids)
        curves = session.fetch(
            f"curves of {chosen} {run_ids} {names}",
            lambda: session.curve_store().update_some(session.client(), read.runs, names, _BUDGET),
        )
        return read, curves.value

    first = look(first_read)
    ended, held = _ended(first[0].runs), _all_held(first[0].runs, names)
    fresh: tuple[_Read, dict[str, RunCurves]] | None = first  # what the page has just query for is drawn first

    @st.fragment(run_every=session.REFRESH_SECONDS if not (ended and held) else None)
    def body() -> None:
        nonlocal fresh
        with session.error_boundary():
            (read, curves), fresh = fresh or look(), None
            # In containers, so that a line that comes or goes above a chart does not make the browser draw it anew.
            with st.container():
                session.show_outage(read.outage_since)
            comparison, refused = comparison_results.comparison(read.experiments, query) if query else (None, "")
            with st.container():
                for experiment in read.experiments:
                    _summary(experiment, comparison)
            with st.container():
                others = _other_data(read, comparison, query)
                _figure(read, comparison, curves, drawing, others, apart=bool(refused) or not query)
            with st.container():
                if comparison and query:
                    comparison_results.results(read.experiments, comparison, query)
                elif refused:
                    st.info(f"These are not tested against each other: {escape(refused)}", icon=":material/balance:")
                _states(read)
            if _ended(read.runs) != ended or (ended and not held and _all_held(read.runs, names)):
                st.rerun()  # what is above changes with the state, and one that has ended is not query about again

    body()


@dataclass(frozen=True)
class _Read:
    experiments: list[Experiment]
    runs: list[RunSummary]
    outage_since: datetime | None


def _read(chosen: list[str], run_ids: list[str]) -> _Read:
    """The students' runs, of experiments or by their ids."""
    known = [_experiment(item) for item in chosen]
    single = [session.fetch(f"run {item}", partial(session.client().run, item)) for item in run_ids]
    runs: list[RunSummary] = [run for item in known for run in item.value.runs]
    runs += [item.value for item in single]
    outage_since = next(
        (since for since in (*(item.outage_since for item in known), *(item.outage_since for item in single)) if since),
        None,
    )
    return _Read([item.value for item in known], list({run.id: run for run in runs}.values()), outage_since)


def _ended(runs: list[RunSummary]) -> bool:
    return all(run.state in TERMINAL for run in runs)


def _all_held(runs: list[RunSummary], names: tuple[str, ...]) -> bool:
    """Whether the curves of every run that has any are here already."""
    return all(session.curve_store().get(run.id, names).cursor or not run.step for run in runs)


def _summary(experiment: Experiment, comparison: Comparison | None) -> None:
    counts = experiment.counts
    parts = [
        theme.badge(experiment.state),
        f"**{counts.succeeded:,} of {counts.total:,}** runs done",
        *(
            f"{count:,} {escape(state)}"
            for state, count in counts.model_dump().items()
            if count and state != "succeeded"
        ),
        escape(f"{experiment.student_model} on {experiment.dataset}"),
    ]
    if experiment.teacher_model:
        top1 = comparison.teacher_top1 if comparison else None
        accuracy = f" ({row_text.percent(top1)})" if top1 is not None else ""
        parts.append(f"teacher {escape(experiment.teacher_model)}{accuracy}")
    st.markdown(" · ".join(parts))
    if experiment.state == "active":
        st.progress(min(max(experiment.progress, 0.0), 1.0))
    for warning in experiment.warnings:
        where = schema_fields.describe_path(warning.path, experiment.spec)
        st.caption(f":material/warning: {escape(f'{where}: {warning.message}')}")


def _figure(
    read: _Read,
    comparison: Comparison | None,
    curves: dict[str, RunCurves],
    drawing: _Drawing,
    others: Mapping[str, str],
    *,
    apart: bool,
) -> None:
    apart = apart and len({run.experiment_id for run in read.runs}) > 1
    students: dict[str, list[RunSummary]] = {}
    wanted = {label for experiment in read.experiments for label in experiment.methods}
    for run in read.runs:
        # A teacher is drawn where it was chosen itself; an older one's students may bear its label.
        if not read.experiments or (run.role == "student" and run.label in wanted):
            label = f"{run.label} · {run.experiment}" if apart else run.label
            label += f" · {others[run.id]}" if run.id in others else ""
            students.setdefault(label, []).append(run)

    own_time = _over_time(drawing) and comparison is not None and comparison.timing == "student"

    def of(label: str, metric: str) -> list[Curve]:
        found = []
        for run in students[label]:
            held = curves[run.id].curves if run.id in curves else {}
            curve = held.get(metric)
            if curve is not None and len(curve):
                found.append(subtract_teacher_time(curve, held.get(_SPENT)) if own_time else curve)
        return found

    methods = [MethodCurves(label, *(of(label, metric) for metric in drawing.metrics)) for label in students]
    if not any(method.main for method in methods):
        _nothing_drawn(read, drawing)
        return
    accuracy = drawing.metrics[0] == _ACCURACY
    figure = curves_figure(
        methods,
        drawing.titles,
        drawing.view,
        teacher=comparison.teacher_top1 if comparison and accuracy else None,
        epochs=max((run.total_epochs for run in read.runs if run.role == "student"), default=0),
    )
    chart_component.chart(
        figure,
        key=f"compare.{'.'.join(experiment.id for experiment in read.experiments) or 'runs'}",
        alt=f"{drawing.titles[0]} of each method over {drawing.view.x}",
        filename="dkd-lab-compare",
    )
    about = _about(drawing, max(len(runs) for runs in students.values()), comparison)
    st.caption(escape(about + _about_images(drawing, curves)))


def _other_data(
    read: _Read, comparison: Comparison | None, query: comparison_results.ComparisonQuery | None
) -> dict[str, str]:
    """What tells runs from others of their label that were trained on other images, by id: they are not averaged."""
    if query:
        # Experiments that are not compared with each other are drawn apart, and each may be of several data sets.
        alone = (
            [comparison_results.comparison([item], query)[0] for item in read.experiments] if comparison is None else []
        )
        return {run: data for found in (comparison, *alone) if found for run, data in found.set_aside_data.items()}
    names = {run.id: _data_of(run) for run in read.runs if isinstance(run, Run) and run.test_size}
    return names if len(set(names.values())) > 1 else {}


def _data_of(run: Run) -> str:
    counts = f"{run.train_size:,} for training and {run.test_size:,} for the test"
    return f"images {run.images[:8]}" if run.images else f"images not recorded, {counts}"


def _nothing_drawn(read: _Read, drawing: _Drawing) -> None:
    if drawing.metrics[0] == _ACCURACY or not any(run.step for run in read.runs if run.role == "student"):
        st.info("No student has finished an epoch yet; curves appear by themselves.", icon=":material/hourglass_empty:")
    else:
        st.info(f"No run has reported this: {escape(drawing.titles[0])}.", icon=":material/query_stats:")


def _about(drawing: _Drawing, n: int, comparison: Comparison | None) -> str:
    view = drawing.view
    parts = [
        f"Line: mean over seeds (n = {n} when all are there; the tooltip gives n at each epoch). "
        f"Band: {_BAND_WORDS[view.band]}."
    ]
    if drawing.metrics[1]:
        parts.append(f"Dashed, right axis: {drawing.titles[1].removesuffix(', dashed')}.".replace(", dashed)", ")"))
    if view.x in ("time", "GPU-seconds"):
        parts.append("Each epoch stands at the mean time of its seeds, evaluation included.")
        parts.append(_about_time(comparison))
    if view.smoothing:
        parts.append(f"Smoothed: each run's moving average, weight {view.smoothing:g}. Numbers below are not.")
    return " ".join(parts)


def _count_of(drawing: _Drawing) -> str:
    """The metric that says of how many images the one on the left axis is; empty where it is of all."""
    known = {metric["name"]: metric.get("of", "") for metric in session.catalog().metrics}
    return str(known.get(drawing.metrics[0], ""))


def _about_images(drawing: _Drawing, curves: Mapping[str, RunCurves]) -> str:
    name = _count_of(drawing)
    if not name:
        return ""
    drawn = [held.curves for held in curves.values() if len(held.curves.get(drawing.metrics[0], ()))]
    found = [held[name].value[-1] if name in held and len(held[name]) else None for held in drawn]
    return f" {counted('Each point', found)}." if found else ""


def _over_time(drawing: _Drawing) -> bool:
    return drawing.view.x in ("time", "GPU-seconds")


def _about_time(comparison: Comparison | None) -> str:
    """Whether methods may be compared along an axis of time."""
    # While runs go on, what they spend on the teacher is not in the comparison yet.
    if comparison is None or (comparison.timing == "whole" and not comparison.complete):
        return (
            "Whole times: one run of a seed computes the teacher's logits and the others may read them from the disk, "
            "so a difference in time need not be the method's."
        )
    of = {
        "whole": "Whole times.",
        "student": "Times are without what was spent on the teacher's logits, which some runs computed and others "
        "read from the disk.",
        "unlike": "Not comparable between methods: some runs computed the teacher's logits and others read them "
        "from the disk, and how long that took was not recorded.",
    }
    return of[comparison.timing]


def _states(read: _Read) -> None:
    st.subheader("Runs")
    for experiment in read.experiments:
        if len(read.experiments) > 1:
            st.markdown(f"**{escape(experiment.name)}**")
        table(row_text.state_rows(experiment))
        st.page_link(
            session.page("runs"),
            label="All runs of this experiment",
            icon=":material/list:",
            query_params={"experiment": experiment.name},
        )
    if not read.experiments:
        for run in read.runs:
            st.page_link(
                session.page("run"),
                label=escape(f"{row_text.run_title(run)} · {run.experiment}")
                + f" · {row_text.percent(row_text.latest_accuracy(run))}",
                icon=":material/show_chart:",
                query_params={"id": run.id},
            )
