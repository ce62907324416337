"""The Compare page, ``/compare?experiment=…``: an experiment's methods side by side, over epochs and in a table."""

from __future__ import annotations

import streamlit as st

from core.wire.public import Comparison, Experiment
from dashboard import charts, plot, session, tables, theme
from dashboard.live import Curve, RunCurves
from dashboard.widgets import escape

_METRICS = ("test/top1", "grad/similarity")
# Requests for curves in one tick, so that an experiment of many runs does not keep the page waiting.
_BUDGET = 40

_BANDS = {"range": "least to greatest", "sd": "± 1 sd"}


def show() -> None:
    """Draw the page."""
    st.title("Compare")
    left, right = st.columns([5, 3], vertical_alignment="bottom")
    with left:
        chosen = _choose()
    if chosen is None:
        st.info("There is nothing to compare yet. An experiment trains the methods.", icon=":material/science:")
        st.page_link(session.page("new"), label="Make the first experiment", icon=":material/add_circle:")
        return
    experiment = _experiment(chosen).value
    with right, st.container(horizontal=True, vertical_alignment="bottom"):
        band = st.segmented_control(
            "Band over seeds",
            list(_BANDS),
            default="range",
            format_func=_BANDS.__getitem__,
            key="compare.band",
            help="Around the mean of a method's seeds: least to greatest value, or one sample standard deviation.",
        )
    _live(chosen, experiment, band or "range")


def _experiment(id_or_name: str) -> session.Known[Experiment]:
    return session.ask(f"experiment {id_or_name}", lambda: session.client().experiment(id_or_name))


def _choose() -> str | None:
    """The experiment in the address, else the newest; a list to choose another from."""
    given = st.query_params.get("experiment")
    found: dict[str, str] = {
        item.id: item.name
        for item in session.ask("experiments", lambda: session.client().experiments(limit=200)).value.items
    }
    if given and given not in found:  # a name, or one that is older than the list
        item = _experiment(given).value
        found.setdefault(item.id, item.name)
        given = item.id
    if not found:
        return None
    options = list(found)
    chosen = st.selectbox(
        "Experiment",
        options,
        index=options.index(given) if given else 0,
        format_func=lambda key: found.get(key, key),
        # The address decides where it names one; a key of its own a link keeps an older choice from winning.
        key=f"compare.choice.{given or ''}",
    )
    if chosen and chosen != given:
        st.query_params["experiment"] = chosen
    return chosen


def _live(experiment_id: str, drawn: Experiment, band: str) -> None:
    ended = drawn.state != "active"
    held = _all_held(drawn)

    @st.fragment(run_every=None if ended and held else session.REFRESH_SECONDS)
    def body() -> None:
        known = _experiment(experiment_id)
        experiment = known.value
        curves = session.ask(
            f"curves of {experiment_id}",
            lambda: session.curves().update_some(session.client(), experiment.runs, _METRICS, _BUDGET),
        ).value
        comparison = _comparison(experiment)
        # In containers, so that a line that comes or goes above a chart does not make the browser draw it anew.
        with st.container():
            session.outage(known.lost)
        with st.container():
            _summary(experiment, comparison)
        with st.container():
            _figure(experiment, comparison, curves, band)
        with st.container():
            _results(experiment, comparison)
        if experiment.state != drawn.state or (ended and not held and _all_held(experiment)):
            st.rerun()  # what is above changes with the state, and one that has ended is not asked about again

    body()


def _comparison(experiment: Experiment) -> Comparison:
    """Computed anew by the backend only when a run has changed its state: nothing else changes the result."""
    states = tuple((run.id, run.state) for run in experiment.runs)
    held: tuple[object, Comparison] | None = st.session_state.get(f"compare.held.{experiment.id}")
    if held and held[0] == states:
        return held[1]
    known = session.ask(f"comparison {experiment.id}", lambda: session.client().comparison(experiment.id))
    if known.lost is None:
        st.session_state[f"compare.held.{experiment.id}"] = (states, known.value)
    return known.value


def _all_held(experiment: Experiment) -> bool:
    """Whether the curves of every run that has any are here already."""
    return all(session.curves().of(run.id, _METRICS).cursor or not run.step for run in experiment.runs)


def _summary(experiment: Experiment, comparison: Comparison) -> None:
    counts = experiment.counts
    parts = [
        theme.badge(experiment.state),
        f"**{counts.succeeded} of {counts.total}** runs done",
        *(f"{count} {state}" for state, count in counts.model_dump().items() if count and state != "succeeded"),
        f"{experiment.student_model} on {experiment.dataset}",
    ]
    if experiment.teacher_model:
        accuracy = f" ({tables.percent(comparison.teacher_top1)})" if comparison.teacher_top1 is not None else ""
        parts.append(f"teacher {experiment.teacher_model}{accuracy}")
    st.markdown(" · ".join(parts))
    if experiment.state == "active":
        st.progress(min(max(experiment.progress, 0.0), 1.0))
    for warning in experiment.warnings:
        st.caption(f":material/warning: {warning.path}: {warning.message}")


def _figure(experiment: Experiment, comparison: Comparison, curves: dict[str, RunCurves], band: str) -> None:
    by_label = {label: [run for run in experiment.runs if run.label == label] for label in experiment.methods}

    def of(label: str, metric: str) -> list[Curve]:
        held = (curves[run.id].curves.get(metric) for run in by_label[label] if run.id in curves)
        return [curve for curve in held if curve is not None and len(curve)]

    methods = [charts.MethodCurves(label, of(label, _METRICS[0]), of(label, _METRICS[1])) for label in by_label]
    if not any(method.accuracy for method in methods):
        st.info("No student has finished an epoch yet; curves appear by themselves.", icon=":material/hourglass_empty:")
        return
    seeds = len(experiment.spec["seeds"])
    figure = charts.comparison_figure(
        methods, band=band, teacher=comparison.teacher_top1, epochs=experiment.spec["training"]["epochs"]
    )
    plot.chart(
        figure,
        key=f"compare.{experiment.id}",
        alt="Test accuracy of each method over epochs, with gradient similarity on the right axis",
    )
    words = {"range": "from the least to the greatest value", "sd": "one sample standard deviation to each side"}
    st.caption(
        f"Line: mean over seeds (n = {seeds} when all are there; the tooltip gives n at each epoch). "
        f"Band: {words[band]}. Dashed, right axis: mean cosine of the TCKD and NCKD gradients."
    )


def _results(experiment: Experiment, comparison: Comparison) -> None:
    st.subheader("Result" if comparison.complete else "Result so far")
    if any(group.n for group in comparison.groups):
        st.table(tables.result_rows(comparison))
        st.markdown("\n".join(f"- **{escape(pair.label)}:** {escape(pair.sentence)}" for pair in comparison.paired))
        st.caption(_holds_for(comparison))
        figure = charts.seeds_figure(comparison.groups, comparison.unit)
        if figure is not None and any(group.n > 1 for group in comparison.groups):
            plot.chart(
                figure,
                key=f"compare.seeds.{experiment.id}",
                alt="Test accuracy after the last epoch, a point a seed, with mean and sd of each method",
            )
            st.caption("A point is a run; grey lines join runs of equal seed. Bar: mean ± one sample sd.")
    else:
        st.caption("No run of a method has succeeded yet.")
    st.subheader("Runs")
    st.table(tables.state_rows(experiment))
    st.page_link(
        session.page("runs"),
        label="All runs of this experiment",
        icon=":material/list:",
        query_params={"experiment": experiment.name},
    )


def _holds_for(comparison: Comparison) -> str:
    parts = []
    if comparison.test_size:
        one = f"; one image is {comparison.resolution:.2g} %" if comparison.resolution else ""
        parts.append(f"Test set: {comparison.test_size:,} images{one}.")
    if comparison.teacher_top1 is not None:
        target = f"; target {tables.percent(comparison.target)}" if comparison.target is not None else ""
        parts.append(f"Teacher: {tables.percent(comparison.teacher_top1)}{target}.")
    parts.append("Accuracy after the last epoch; sd is the sample standard deviation over n seeds.")
    if comparison.condition:
        parts.append(f"Holds for {comparison.condition}.")
    return " ".join(parts)
