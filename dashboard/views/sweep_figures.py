"""The figures of the Sweep page with their controls."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.protocol.public import RunSummary
from core.protocol.sweeps import Sweep
from dashboard import session
from dashboard.charts import chart_component
from dashboard.charts import sweep_figures as figures
from dashboard.curves.curve import Curve
from dashboard.markup import escape
from dashboard.sweeps import importance, settings
from dashboard.sweeps.settings import Point, Scale

_MAX_CURVES = 200
"""Greatest number of runs whose curves are drawn."""
_REQUESTS = 40
_FEW = 10
"""Importance of fewer settings per field than this is uncertain, which the page then says."""


def draw(tab: str, sweep: Sweep, method: int, found: Sequence[Point], axis: str) -> None:
    """Draw one kind of figure.

    Args:
        tab: Title of the kind.
        sweep: The sweep.
        method: Position of the method whose results are shown.
        found: The settings that the filter leaves.
        axis: Title of the result, with its unit.
    """
    scales = [Scale.of(field) for field in sweep.fields]
    if not scales:
        st.info("The specs of this sweep do not differ.", icon=":material/grid_view:")
        return
    if tab == "Curves":
        _curves(sweep, method, found, scales, axis)
        return
    complete = settings.with_results(found)
    if not complete:
        st.info("No setting has a result yet.", icon=":material/hourglass_empty:")
        return
    match tab:
        case "Heat map":
            _heat_map(complete, scales, axis, sweep.unit)
        case "Slices":
            _slices(complete, scales, axis, sweep.unit)
        case "Parallel coordinates":
            _parallel(complete, scales, axis, sweep.unit)
        case "Importance":
            _importance(complete, scales)


def _field(label: str, scales: Sequence[Scale], index: int, parameter: str) -> Scale:
    """Draw the choice of a field, which is in the address by its path."""
    by_path = {scale.field.path: scale for scale in scales}
    if st.session_state.get(parameter, scales[index].field.path) not in by_path:  # a field of another sweep
        del st.session_state[parameter]
    chosen = st.selectbox(escape(label), list(by_path), index=index, key=parameter, bind="query-params", width=300)
    return by_path[chosen]


def _heat_map(points: Sequence[Point], scales: Sequence[Scale], axis: str, unit: str) -> None:
    if len(scales) < 2:
        st.info("A heat map needs two fields that vary.", icon=":material/grid_view:")
        return
    with st.container(horizontal=True):
        across = _field("X axis", scales, 0, "across")
        down = _field("Y axis", scales, 1, "down")
    if across == down:
        st.info("Select two different fields.", icon=":material/grid_view:")
        return
    figure = figures.heat_map(points, across, down, axis, unit)
    if figure is not None:
        chart_component.chart(
            figure,
            key="sweep.heat",
            alt=f"{axis} by {across.field.path} and {down.field.path}",
            filename="heat-map",
        )
    if len(scales) > 2:
        st.caption("Each cell is the mean over the settings in it, which differ in the other fields.")


def _slices(points: Sequence[Point], scales: Sequence[Scale], axis: str, unit: str) -> None:
    columns: Sequence[DeltaGenerator] = ()
    for index, scale in enumerate(scales):
        if index % 2 == 0:
            columns = st.columns(2, gap="large")
        with columns[index % 2]:
            chart_component.chart(
                figures.slice_figure(points, scale, axis, unit),
                key=f"sweep.slice.{index}",
                alt=f"{axis} of each setting over {scale.field.path}",
                filename=f"slice {scale.field.path}",
            )
    st.caption("Each point is a setting, which a click opens; bars: ± one sample sd over its seeds.")


def _parallel(points: Sequence[Point], scales: Sequence[Scale], axis: str, unit: str) -> None:
    figure = figures.parallel_figure(points, scales, axis, unit)
    if figure is None:
        st.info("No setting has a value of every field.", icon=":material/grid_view:")
        return
    chart_component.chart(
        figure,
        key="sweep.parallel",
        alt=f"Each setting as a line through its values and its {axis}",
        filename="parallel",
    )
    st.caption(
        'Each line is a setting, which a click opens; its colour is its result. "Only" above leaves some of them.'
    )


@st.cache_data(max_entries=50, show_spinner="Computing the importance …")
def _cached_importance(key: str, _points: Sequence[Point], _scales: Sequence[Scale]) -> dict[str, float]:
    return importance.importances(_points, _scales)


def _importance(points: Sequence[Point], scales: Sequence[Scale]) -> None:
    if len(points) < importance.LEAST_SETTINGS:
        st.info(
            f"The importance needs at least {importance.LEAST_SETTINGS:d} settings with a result; there are "
            f"{len(points)}.",
            icon=":material/hourglass_empty:",
        )
        return
    key = repr([(point.setting.experiment_id, point.result.mean) for point in points])
    try:
        shares = _cached_importance(key, points, scales)
    except importance.NotInstalledError:
        st.info(
            "The importance is computed by Optuna and scikit-learn, which the dashboard does not have: "
            "`pip install 'dkd-lab[sweeps]'` on its machine.",
            icon=":material/extension_off:",
        )
        return
    if not shares:
        st.info("The results or the fields of these settings do not vary.", icon=":material/grid_view:")
        return
    chart_component.chart(
        figures.importance_figure(shares),
        key="sweep.importance",
        alt="Share of the variance that each field explains",
        filename="importance",
    )
    few = (
        f" With {len(points)} settings of {len(scales)} fields the shares are uncertain."
        if len(points) < _FEW * len(scales)
        else ""
    )
    st.caption(
        "Share of the variance of the mean result between these settings that a field explains alone (fANOVA of "
        f"Optuna, a forest of regression trees). It does not say which value is better.{few}"
    )


def _curves(sweep: Sweep, method: int, found: Sequence[Point], scales: Sequence[Scale], axis: str) -> None:
    scale = _field("Colour", scales, 0, "colour")
    labels = {point.setting.experiment_id: point.result.label for point in found}
    runs = _runs(sweep, labels)
    shown = runs[:_MAX_CURVES]
    stored = session.fetch(
        f"curves of sweep {sweep.name} {method}",
        lambda: session.curve_store().update_some(session.client(), shown, (sweep.metric,), _REQUESTS),
    ).value
    curves: dict[str, list[Curve]] = {}
    for run in shown:
        curve = stored[run.id].curves.get(sweep.metric) if run.id in stored else None
        if curve is not None and len(curve):
            curves.setdefault(run.experiment_id, []).append(curve)
    figure = figures.curves_figure(found, curves, scale, axis, sweep.unit)
    if figure is None:
        st.info("No run has finished an epoch yet.", icon=":material/hourglass_empty:")
        return
    chart_component.chart(
        figure, key="sweep.curves", alt=f"{axis} over epochs, coloured by {scale.field.path}", filename="curves"
    )
    missing = sum(1 for run in shown if run.step and not session.curve_store().get(run.id, (sweep.metric,)).cursor)
    parts = ["Line: mean over the seeds of a setting, which a click opens."]
    if len(runs) > len(shown):
        parts.append(f"The first {len(shown):,} of {len(runs):,} runs are drawn.")
    if missing:
        parts.append(f"{missing:,} runs are not loaded yet.")
        st.button("Load more", icon=":material/refresh:", key="sweep.more")
    st.caption(" ".join(parts))


def _runs(sweep: Sweep, labels: dict[str, str]) -> list[RunSummary]:
    """Return the runs of one method in these experiments, requested again when a run changes its state."""
    states = tuple((item.experiment_id, item.counts.model_dump_json()) for item in sweep.settings)
    kept: tuple[object, list[RunSummary]] | None = st.session_state.get("sweep.runs")
    key = (sweep.name, states)
    if kept is None or kept[0] != key:
        every: list[RunSummary] = list(session.client().all_runs(sweep=sweep.name, role="student", archived="include"))
        kept = (key, every)
        st.session_state["sweep.runs"] = kept
    return [run for run in kept[1] if labels.get(run.experiment_id) == run.label]
