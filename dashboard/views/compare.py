"""The Compare page, ``/compare?experiment=…`` or ``/compare?run=…&run=…``: methods side by side.

Several experiments that differ only in their seeds are combined. For other experiments and for single runs, the page
draws the curves without any tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import streamlit as st

from client import ApiError
from common.formatting import value_text
from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.public import TERMINAL, Comparison, Experiment, RunSummary
from dashboard import addresses, session, theme, wording
from dashboard.charts import chart_component, figures
from dashboard.curves.curve import RunCurves
from dashboard.forms import spec_draft
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import row_text
from dashboard.markup import escape
from dashboard.views import (
    accuracy_cost,
    compare_board,
    compare_curves,
    compare_features,
    compare_methods,
    compare_over_images,
    compare_predictions,
    comparison_results,
    teacher_progress,
)
from dashboard.views.compare_methods import MethodView

# Requests for curves per refresh, so that an experiment of many runs does not keep the page waiting.
_CURVE_REQUESTS = 40
_RESULTS, _BOARD = "results", "board"
_TITLE_CHARACTERS = 60  # of the experiments' names in the tab's title


@dataclass(frozen=True)
class _Selected:
    """The selected experiments and runs at one refresh.

    Attributes:
        experiments: The selected experiments; empty if single runs are selected.
        runs: The selected runs, or all runs of the experiments.
        outage_since: Time at which the backend stopped answering; None while it answers.
    """

    experiments: list[Experiment]
    runs: list[RunSummary]
    outage_since: datetime | None

    @property
    def ended(self) -> bool:
        # Between two seeds that are added, all runs have ended, but not the experiment.
        growing = any(experiment.state == "active" for experiment in self.experiments)
        return not growing and all(run.state in TERMINAL for run in self.runs)


def show() -> None:
    """Draw the page."""
    st.title("Compare")
    run_ids = addresses.query_values("run", "id")
    experiment_ids = [] if run_ids else _select_experiments()
    if experiment_ids is None:
        empty_state("There is nothing to compare yet. Create an experiment to train and compare methods.")
        return
    if not experiment_ids and not run_ids:
        st.info(
            "Select an experiment, or several that differ only in their seeds.", icon=":material/stacked_line_chart:"
        )
        return
    if run_ids:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"Comparing **{wording.counted(len(run_ids), 'run')}** selected by the link")
            st.page_link(session.page("compare"), label="Compare experiments instead", icon=":material/science:")
    selected = _fetch_selected(experiment_ids, run_ids)
    title = ", ".join(dict.fromkeys(run.experiment for run in selected.runs))[:_TITLE_CHARACTERS]
    session.tab_title(title, "Compare")
    if refusal := _several_tasks(selected):
        st.info(escape(refusal), icon=":material/balance:")
        _states(selected)
        return
    view = st.segmented_control(
        "Show", (_RESULTS, _BOARD), default=_RESULTS, required=True, key="as", bind="query-params", width="content"
    )
    if view == _BOARD:
        session.tab_title("Board", title, "Compare")
        key = ".".join(experiment_ids or run_ids)
        compare_board.show(selected, lambda: _fetch_selected(experiment_ids, run_ids), key)
        return
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    chart = compare_curves.chart_controls(selected.experiments, selected.runs, row)
    with row:
        has_teacher = any(experiment.teacher_model for experiment in selected.experiments)
        methods = _common_methods(selected.experiments)
        headline = session.headline_of(selected.experiments, selected.runs)
        options = (
            comparison_results.option_controls(methods, headline=headline, teacher=has_teacher)
            if experiment_ids
            else None
        )
    methods_view = compare_methods.controls(selected.runs)
    _live(experiment_ids, run_ids, chart, options, methods_view, selected)
    with chart_component.files_named_after([experiment.name for experiment in selected.experiments]):
        compare_over_images.section(selected.experiments, options)
        compare_predictions.section(selected.experiments, options)
        compare_features.section(selected.experiments, options)
    with chart_component.points_open(_only_experiment(selected.experiments)):
        accuracy_cost.section(selected.experiments, options)


def _several_tasks(selected: _Selected) -> str:
    """Return why the selected experiments or runs are not compared, if they are of several tasks; else empty."""
    experiments = [(item.name, item.dataset) for item in selected.experiments]
    runs = [(f"{row_text.run_title(run)} of {run.experiment}", run.dataset) for run in selected.runs]
    return session.several_tasks(experiments or runs)


def _fetch_experiment(id_or_name: str) -> session.Fetched[Experiment]:
    return session.fetch(f"experiment {id_or_name}", lambda: session.client().experiment(id_or_name))


def _select_experiments() -> list[str] | None:
    """Draw the selection of experiments; return their ids, None if there are no experiments.

    The initial selection is the one in the address, or else the newest experiment.
    """
    linked = addresses.query_values("experiment", "name")
    newest = session.fetch("experiments", lambda: session.client().experiments(limit=200)).value.items
    names: dict[str, str] = {item.id: item.name for item in newest}
    for index, name in enumerate(linked):
        if name not in names:  # it is a name, or the experiment is older than the list
            try:
                experiment = _fetch_experiment(name).value
            except ApiError as error:
                if error.status != 404:
                    raise
                st.caption(f"There is no experiment {escape(name)}; it may have been deleted.")
                linked[index] = ""
                continue
            names.setdefault(experiment.id, experiment.name)
            linked[index] = experiment.id
    initial = [key for key in linked if key] if linked else [*names][:1]
    if not names:
        return None
    selected = st.multiselect(
        "Experiments",
        list(names),
        default=initial,
        format_func=lambda key: names.get(key, key),
        # The key depends on the link, so that an older selection does not take precedence over the link's.
        key=f"compare.choice.{','.join(linked)}",
        help="The newest 200 experiments; the name of any other can be entered. Experiments that differ only in their "
        "seeds are combined.",
        accept_new_options=True,
    )
    if selected and selected != linked:
        st.query_params["experiment"] = selected
        if not names.keys() >= {*selected}:
            st.rerun()
    return selected


def _common_methods(experiments: list[Experiment]) -> list[str]:
    """Return the labels of the methods that every experiment has, in the order of the first."""
    if not experiments:
        return []
    labels = [experiment.methods for experiment in experiments]
    return [label for label in labels[0] if all(label in others for others in labels)]


def _fetch_selected(experiment_ids: list[str], run_ids: list[str]) -> _Selected:
    experiments = [_fetch_experiment(item) for item in experiment_ids]
    single = [session.fetch(f"run {item}", partial(session.client().run, item)) for item in run_ids]
    runs: list[RunSummary] = [run for item in experiments for run in item.value.results]
    runs += [item.value for item in single]
    outages = (*(item.outage_since for item in experiments), *(item.outage_since for item in single))
    return _Selected(
        [item.value for item in experiments],
        list({run.id: run for run in runs}.values()),
        next(filter(None, outages), None),
    )


def _all_loaded(runs: list[RunSummary], names: tuple[str, ...]) -> bool:
    """Return whether the session stores curves for every run that has reported a step."""
    return all(session.curve_store().get(run.id, names).cursor or not run.step for run in runs)


def _live(
    experiment_ids: list[str],
    run_ids: list[str],
    chart: compare_curves.ComparisonChart,
    options: ComparisonOptions | None,
    methods_view: MethodView,
    selected: _Selected,
) -> None:
    """Draw everything below the controls, repeatedly until all runs have ended and all curves are loaded."""
    names = chart.metrics_to_load()

    def load_curves(runs: list[RunSummary]) -> dict[str, RunCurves]:
        return session.fetch(
            f"curves of {experiment_ids} {run_ids} {names}",
            lambda: session.curve_store().update_some(session.client(), runs, names, _CURVE_REQUESTS),
        ).value

    first: tuple[_Selected, dict[str, RunCurves]] | None = (selected, load_curves(selected.runs))
    ended, loaded = selected.ended, _all_loaded(selected.runs, names)

    @st.fragment(run_every=session.REFRESH_SECONDS if not (ended and loaded) else None)
    def body() -> None:
        nonlocal first
        with session.error_boundary():
            if first:  # the page has just requested this data
                (current, curves), first = first, None
            else:
                current = _fetch_selected(experiment_ids, run_ids)
                curves = load_curves(current.runs)
            _draw(current, curves, chart, options, methods_view)
            if current.ended != ended or (ended and not loaded and _all_loaded(current.runs, names)):
                st.rerun()  # the part above the fragment depends on the state, and the refresh may end

    body()


def _draw(
    selected: _Selected,
    curves: dict[str, RunCurves],
    chart: compare_curves.ComparisonChart,
    options: ComparisonOptions | None,
    methods_view: MethodView,
) -> None:
    # Each part has its own container: a line that appears above a chart would make the browser redraw the chart.
    with st.container():
        session.show_outage(selected.outage_since)
    comparison, refusal = comparison_results.comparison(selected.experiments, options) if options else (None, "")
    if refusal and options:  # they differ in more than seeds: each is a setting of its own
        options = options.model_copy(update={"settings": True})
        comparison, _ = comparison_results.comparison(selected.experiments, options)
    with st.container():
        for experiment in selected.experiments:
            _summary(experiment, comparison)
    with st.container():
        other_data = compare_curves.other_data(selected.experiments, selected.runs, comparison, options)
        labelled = compare_curves.runs_by_label(
            selected.experiments, selected.runs, other_data, by_experiment=bool(refusal) or not options
        )
        compare_curves.draw(
            chart,
            labelled,
            curves,
            comparison,
            methods_view,
            key=".".join(item.id for item in selected.experiments) or "runs",
        )
    with st.container():
        if comparison and options:
            if refusal:
                st.info(f"Compared as settings: {escape(refusal)}.", icon=":material/balance:")
            with chart_component.points_open(_only_experiment(selected.experiments)):
                comparison_results.results(selected.experiments, comparison, options, methods_view)
        elif refusal:
            st.info(f"These experiments cannot be tested together: {escape(refusal)}", icon=":material/balance:")
        _states(selected)


def _only_experiment(experiments: list[Experiment]) -> str:
    """Return the address that a click on a mean opens: that of the experiment; of several there is none."""
    return figures.experiment_address(experiments[0].id) if len(experiments) == 1 else ""


def _summary(experiment: Experiment, comparison: Comparison | None) -> None:
    counts = experiment.counts
    st.page_link(
        session.page("experiment"),
        label=f"Experiment **{escape(experiment.name)}**",
        icon=":material/science:",
        query_params={"id": experiment.id},
    )
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
        unit = session.headline_of([experiment], ())["unit"]
        result = f" ({value_text(top1, unit, 2)})" if top1 is not None else ""
        parts.append(f"teacher {escape(experiment.teacher_model)}{result}")
    st.markdown(" · ".join(parts))
    if experiment.state == "active":
        st.progress(min(max(experiment.progress, 0.0), 1.0))
        teacher_progress.draw(experiment.runs)
    for warning in experiment.warnings:
        field = spec_draft.describe_path(warning.path, experiment.spec)
        st.caption(f":material/warning: {escape(f'{field}: {warning.message}')}")


def _states(selected: _Selected) -> None:
    st.subheader("Runs")
    for experiment in selected.experiments:
        if len(selected.experiments) > 1:
            st.markdown(f"**{escape(experiment.name)}**")
        table(row_text.state_rows(experiment))
        st.page_link(
            session.page("runs"),
            label="All runs of this experiment",
            icon=":material/list:",
            query_params={"experiment": experiment.name},
        )
    if not selected.experiments:
        for run in selected.runs:
            st.page_link(
                session.page("run"),
                label=escape(f"{row_text.run_title(run)} · {run.experiment}")
                + f" · {value_text(row_text.latest_headline(run), session.headline_of_run(run)['unit'], 2)}",
                icon=":material/show_chart:",
                query_params={"id": run.id},
            )
