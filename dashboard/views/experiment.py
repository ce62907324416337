"""The Experiment page, ``/experiment?id=…``: state, time left, actions, notes, runs, lineage and spec."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import streamlit as st

from client import ApiError
from common.durations import duration_text
from common.formatting import NOTHING
from core.protocol.public import Experiment, ExperimentSummary, TimeLeft
from dashboard import addresses, projects, session, theme, wording
from dashboard.forms import spec_draft, spec_yaml
from dashboard.forms.widgets import empty_state
from dashboard.lists import bulk, row_text
from dashboard.markup import code, escape
from dashboard.views import (
    experiment_actions,
    experiment_choice,
    experiment_diff,
    experiment_lineage,
    experiment_notes,
    experiment_table,
)

_TABS = ("Runs", "Lineage", "Spec", "Differences")
_MAX_COPIES = 10


def show() -> None:
    """Draw the page. Without an id, it lists the newest experiments."""
    try:
        key = addresses.query_value("id", "name")
    except addresses.AddressError:
        st.title("Experiment")
        raise
    if not key:
        _list_newest()
        return
    try:
        reply = _fetch(key)
    except ApiError:
        st.title("Experiment")
        bulk.show_message()
        raise
    experiment = reply.value
    st.title(escape(experiment.name))
    bulk.show_message()
    _links(experiment)
    experiment_actions.draw(experiment)
    for warning in experiment.warnings:
        field = spec_draft.describe_path(warning.path, experiment.spec)
        st.caption(f":material/warning: {escape(f'{field}: {warning.message}')}")
    with st.container():
        experiment_notes.draw(experiment)
    controls = experiment_table.controls(experiment)
    _live(key, controls, reply)


def _fetch(key: str) -> session.Fetched[Experiment]:
    return session.fetch(f"experiment {key}", lambda: session.client().experiment(key))


def _list_newest() -> None:
    st.title("Experiment")
    newest = session.fetch("newest experiments", lambda: session.client().experiments(limit=10)).value.items
    if not newest:
        empty_state("There are no experiments yet.")
        return
    st.markdown("Select an experiment. These are the newest:")
    for item in newest:
        st.page_link(
            session.page("experiment"),
            label=f"{theme.badge(item.state)} {escape(item.name)}",
            query_params={"id": item.id},
        )
    st.page_link(
        session.page("runs"), label="All experiments", icon=":material/list:", query_params={"view": "Experiments"}
    )


def _links(experiment: Experiment) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        session.action_link("compare", "Compare", "stacked_line_chart", {"experiment": experiment.id})
        session.action_link("runs", "Runs", "list", {"experiment": experiment.name})
        session.action_link("new", "Clone", "content_copy", {"clone": experiment.id})
        if experiment.sweep:
            session.action_link("sweep", "Sweep", "grid_view", {"name": experiment.sweep})


def _live(key: str, controls: experiment_table.Controls, first: session.Fetched[Experiment]) -> None:
    """Draw the part that changes while runs train, repeatedly until the experiment has ended."""
    drawn = first.value
    unused: session.Fetched[Experiment] | None = first
    loaded = experiment_table.all_loaded(drawn, controls)

    @st.fragment(run_every=session.REFRESH_SECONDS if drawn.state == "active" or not loaded else None)
    def body() -> None:
        nonlocal unused
        with session.error_boundary():
            reply, unused = unused or _fetch(key), None
            experiment = reply.value
            if _actions_depend_on(experiment) != _actions_depend_on(drawn):
                st.rerun()  # the buttons above depend on the states
            with st.container():
                session.show_outage(reply.outage_since)
            with st.container():
                _figures(experiment)
            with st.container():
                experiment_choice.draw(experiment)
            tab = st.segmented_control(
                "Show",
                _TABS,
                default=_TABS[0],
                required=True,
                label_visibility="collapsed",
                key="section",
                bind="query-params",
            )
            named = () if tab == _TABS[0] else (str(tab),)
            session.tab_title(*named, experiment.name, "Experiment")
            with st.container(key=f"experiment.tab.{_TABS.index(str(tab))}"):
                _draw_tab(str(tab), experiment, controls)
            if not loaded and experiment_table.all_loaded(experiment, controls):
                st.rerun()  # the refresh may end

    body()


def _actions_depend_on(experiment: Experiment) -> tuple[object, ...]:
    counts = experiment.counts
    ended_badly, paused = bool(counts.failed or counts.cancelled), bool(counts.paused)
    return (experiment.state, ended_badly, paused, experiment.archived_at, experiment.notes, tuple(experiment.tags))


def _draw_tab(tab: str, experiment: Experiment, controls: experiment_table.Controls) -> None:
    match tab:
        case "Runs":
            experiment_table.draw(experiment, controls)
        case "Lineage":
            experiment_lineage.draw(experiment, _parent(experiment), _copies(experiment))
        case "Spec":
            st.caption(f"{code(f'dkd show {experiment.id}')} prints it too.")
            st.code(spec_yaml.yaml_of(experiment.spec), language="yaml", wrap_lines=True)
        case "Differences":
            experiment_diff.draw(experiment, _parent(experiment))


def _parent(experiment: Experiment) -> Experiment | None:
    """Return the experiment that this one was copied from; None if there is none, or if it was deleted."""
    if not experiment.parent:
        return None
    try:
        return _fetch(experiment.parent).value
    except ApiError as error:
        if error.status != 404:
            raise
        return None


def _copies(experiment: Experiment) -> Sequence[ExperimentSummary]:
    reply = session.fetch(
        f"copies of {experiment.id}",
        lambda: session.client().experiments(parent=experiment.id, archived="include", limit=_MAX_COPIES),
    )
    return reply.value.items


@st.cache_data(ttl=10, max_entries=100, show_spinner=False)
def _cached_time_left(url: str, experiment_id: str, states: str) -> TimeLeft:
    return session.client().experiments.time_left(experiment_id)


def _time_left(experiment: Experiment) -> TimeLeft | None:
    """Return the estimate of the backend, requested every ten seconds and when a run changes its state."""
    states = experiment.counts.model_dump_json()
    try:
        return session.fetch(
            f"time left of {experiment.id}",
            lambda: _cached_time_left(session.client().url, experiment.id, states),
        ).value
    except ApiError:  # an older backend has no estimate
        return None


def _figures(experiment: Experiment) -> None:
    counts = experiment.counts
    archived = " :gray-badge[archived]" if experiment.archived_at else ""
    models = " → ".join(filter(None, (experiment.teacher_model, experiment.student_model)))
    by = f" by {escape(experiment.submitted_by)}" if experiment.submitted_by else ""
    place = f" in the project {escape(experiment.project)}" if projects.is_shared() else ""
    st.markdown(
        f"{theme.badge(experiment.state)}{archived} {escape(f'{experiment.dataset} · {models}')} · "
        f"submitted {row_text.timestamp(experiment.created_at)} UTC{by}{place}"
    )
    estimate = _time_left(experiment) if experiment.state == "active" else None
    waits = counts.waiting + counts.queued + counts.paused
    ended = experiment.ended_at or datetime.now(UTC)
    spent = duration_text((ended - experiment.created_at).total_seconds())
    figures = [
        ("Runs done", f"{counts.succeeded:,} of {counts.total:,}", "Runs that have succeeded, including teachers."),
        ("Training", f"{counts.running + counts.cancelling:,}", "Runs that train now."),
        ("Waiting", f"{waits:,}", "Runs that wait for their teacher or for a slot, or that are paused."),
        ("Failed", f"{counts.failed:,}", "Runs that have failed; they can be retried."),
        ("Time left", left_text(estimate), "Estimated from the speed of runs of the same kind.")
        if experiment.state == "active"
        else ("From submission to end", spent, "Including the time in the queue."),
    ]
    with st.container(horizontal=True, key="figures"):
        for label, value, hint in figures:
            st.metric(label, value, border=True, help=hint)
    if experiment.state == "active":
        st.progress(min(max(experiment.progress, 0.0), 1.0))
        st.caption(escape(estimate_sentence(estimate)))


def left_text(estimate: TimeLeft | None) -> str:
    """Return the time left, which is a lower bound if some runs have no estimate."""
    if estimate is None or estimate.seconds is None:
        return NOTHING
    return f"{'> ' if estimate.unknown else ''}{duration_text(estimate.seconds)}"


def estimate_sentence(estimate: TimeLeft | None) -> str:
    """Return what the time left contains, assumes and leaves out."""
    if estimate is None or estimate.seconds is None:
        return "The time left is unknown until a run of this kind has trained for some steps."
    parts = []
    if estimate.teacher_seconds is not None:
        parts.append(f"the last teacher ends after {duration_text(estimate.teacher_seconds)}")
    at_once = f"{wording.counted(estimate.parallel, 'run')} at once"
    parts.append(f"this assumes {at_once} and no other experiment in the queue")
    if estimate.paused:
        parts.append(f"{wording.counted(estimate.paused, 'paused run')} counted as if resumed now")
    if estimate.following:
        parts.append(f"{wording.counted(estimate.following, 'run')} that follow the choice of settings counted")
    if estimate.unknown:
        parts.append(f"{wording.counted(estimate.unknown, 'run')} without an estimate not counted")
    return wording.sentence("; ".join(parts))
