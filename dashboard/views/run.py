"""The Run page, ``/run?id=…``: state, curves, log, attempts, spec and files of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import streamlit as st

from client import ApiError, BackendUnreachable
from common.durations import duration_text
from common.formatting import NOTHING, share_text, value_text
from core.protocol.public import TERMINAL, Run
from dashboard import addresses, session, theme
from dashboard.charts import chart_component, panels
from dashboard.curves.curve import RunCurves, seconds_left
from dashboard.curves.feed import RunFeed
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import row_text
from dashboard.markup import code, escape
from dashboard.views import (
    run_charts,
    run_details,
    run_detections,
    run_features,
    run_log,
    run_machine,
    run_predictions,
)

REFRESH_SECONDS = 1.0
"""Interval between two refreshes. A reply without new data has about 300 bytes; a metric appears within two seconds."""
_TAIL = 8  # number of log lines below the curves
_CURVES = "Curves"
_DETECTIONS = "Detections"
_PREDICTIONS = "Predictions"
_FEATURES = "Features"
_TABS = (
    *(_CURVES, _PREDICTIONS, _DETECTIONS, _FEATURES, "More measurements", "Machine", "Log", "Attempts", "Spec"),
    *("Environment", "Files"),
)


def show() -> None:
    """Draw the page."""
    try:
        run_id = addresses.query_value("id", "id")
    except addresses.AddressError:
        st.title("Run")
        raise
    if not run_id:
        _list_newest()
        return
    feed = _feed(run_id)
    try:
        first = _fetch(feed)
    except ApiError:
        st.title("Run")
        raise
    _header(feed.run)
    _live(feed, first)


def _fetch(feed: RunFeed) -> session.Fetched[RunFeed]:
    return session.fetch(f"run {feed.run_id}", lambda: feed.update(session.client()))


def _feed(run_id: str) -> RunFeed:
    """Return the session's feed of this run. The curves of the run that was shown before are discarded."""
    feed: RunFeed | None = st.session_state.get("run.feed")
    if feed is None or feed.run_id != run_id:
        store = session.curve_store()
        if feed is not None:
            store.drop(feed.run_id)
        feed = RunFeed(run_id, store)
        st.session_state["run.feed"] = feed
    return feed


def _list_newest() -> None:
    """Draw links to the newest runs, for an address without a run id."""
    st.title("Run")
    newest = session.fetch("newest runs", lambda: session.client().runs(limit=10)).value.items
    if not newest:
        empty_state("There are no runs yet. Create an experiment to start some.")
        return
    st.markdown("Select a run. These are the newest:")
    for run in newest:
        st.page_link(
            session.page("run"),
            label=f"{theme.state_text(run.state)} · {escape(f'{row_text.run_title(run)} · {run.experiment}')}",
            query_params={"id": run.id},
        )
    st.page_link(session.page("runs"), label="All runs", icon=":material/list:")


def _header(run: Run) -> None:
    """Draw the title, the links and the buttons."""
    st.title(escape(row_text.run_title(run)))
    with st.container(horizontal=True, vertical_alignment="center"):
        if run.experiment_id:
            _link("experiment", escape(run.experiment), "science", id=run.experiment_id)
            _link("compare", "Compare", "stacked_line_chart", experiment=run.experiment_id)
            _link("new", "Clone experiment", "content_copy", clone=run.experiment_id)
        if run.teacher_run_id:
            _link("run", "Teacher", "school", id=run.teacher_run_id)
        client = session.action_client()
        if run.state in ("waiting", "queued", "running") and not run.pausing:
            _button("Pause", "pause", client.pause, run.id)
        if (run.state == "paused" or run.pausing) and not run.archived:
            _button("Resume", "play_arrow", client.resume, run.id)
        if run.state not in TERMINAL and run.state != "cancelling":
            _button("Cancel", "cancel", client.cancel, run.id)
        if run.state in ("failed", "cancelled") and not run.archived:
            _button("Retry", "replay", client.retry, run.id)
    for warning in run.warnings:
        st.caption(f":material/warning: {escape(warning.message)}")
    message = st.session_state.pop("run.message", "")
    if message:
        st.error(escape(message), icon=":material/error:")


def _link(page: str, label: str, icon: str, **query: str) -> None:
    st.page_link(session.page(page), label=label, icon=f":material/{icon}:", query_params=query)


def _button(label: str, icon: str, action: Callable[[str], Run], run_id: str) -> None:
    key = f"run.{label.lower()}"
    st.button(label, icon=f":material/{icon}:", on_click=_perform, args=(action, run_id), key=key)


def _perform(action: Callable[[str], Run], run_id: str) -> None:
    """Request an action from the backend; keep an error message for the next redraw of the page."""
    try:
        action(run_id)
    except (ApiError, BackendUnreachable) as error:
        st.session_state["run.message"] = str(error)


def _live(feed: RunFeed, first: session.Fetched[RunFeed]) -> None:
    """Draw the part of the page that changes while the run trains; redraw it every second until the run has ended."""
    drawn = feed.run
    unused: session.Fetched[RunFeed] | None = first  # the first drawing uses the reply that the page has just received

    @st.fragment(run_every=None if feed.ended else REFRESH_SECONDS)
    def body() -> None:
        nonlocal unused
        with session.error_boundary():
            reply, unused = unused or _fetch(feed), None
            run = feed.run
            if (run.state, run.attempt, run.pausing) != (drawn.state, drawn.attempt, drawn.pausing):
                st.rerun()  # the buttons above the fragment depend on the state
            # Each part has its own container. Without it, a line that appears or disappears would move the charts to
            # other positions in the page's tree, and the browser would redraw them without their zoom.
            with st.container():
                session.show_outage(reply.outage_since)
            with st.container():
                _figures(run, feed.curves)
            tab = st.segmented_control(
                "Show",
                _tabs(run),
                default=_CURVES,
                required=True,
                label_visibility="collapsed",
                key="part",
                bind="query-params",
            )
            named = () if tab == _CURVES else (str(tab),)
            session.tab_title(*named, row_text.run_title(run), run.experiment or run.model)
            with st.container(key=f"run.tab.{_TABS.index(str(tab))}"):
                _draw_tab(str(tab), feed)

    body()


def _tabs(run: Run) -> list[str]:
    """Return the tabs of a run.

    A run whose rows are regions of images has detections; any other one has predictions and features.
    """
    regions = session.task(run.dataset).get("rows_are_regions")
    others = (_PREDICTIONS, _FEATURES) if regions else (_DETECTIONS,)
    return [tab for tab in _TABS if tab not in others]


def _draw_tab(tab: str, feed: RunFeed) -> None:
    run, metrics = feed.run, panels.with_undescribed(session.catalog().metrics, feed.curves.curves)
    match tab:
        case "Curves":
            _curves(run, feed.curves, metrics)
            if feed.lines or run.log_tail:
                st.markdown("**Log**")
                run_log.draw_tail(run, feed.lines[-_TAIL:])
        case "More measurements":
            _more_measurements(run, feed.curves, metrics)
        case "Machine":
            run_machine.draw(run, feed.curves.curves, metrics)
        case "Predictions":
            with chart_component.files_named_after([run_charts.file_name(run)]):
                run_predictions.show(run)
        case "Features":
            with chart_component.files_named_after([run_charts.file_name(run)]):
                run_features.show(run)
        case "Detections":
            with chart_component.files_named_after([run_charts.file_name(run)]):
                run_detections.show(run, feed.curves)
        case "Log":
            run_log.draw(run, feed.lines)
        case "Attempts":
            run_details.attempts(run)
        case "Spec":
            run_details.spec(run)
        case "Environment":
            run_details.environment(run)
        case "Files":
            run_details.files(run)


def _figures(run: Run, stored: RunCurves) -> None:
    pausing = f" {theme.badge('pausing')}" if run.pausing else ""
    training = escape(f"{run.method} · {run.model} on {run.dataset}")
    st.markdown(
        f"{theme.badge(run.state)}{pausing} {training} · run {code(run.id)}"
        + (f" · on {escape(run.worker)}" if run.worker and run.state not in TERMINAL else "")
    )
    if run.state == "failed":
        st.error(f"Failed: {escape(run.reason or 'no reason was reported')}", icon=":material/error:")
    elif run.reason:
        st.info(escape(run.reason[:1].upper() + run.reason[1:]), icon=":material/info:")
    share = row_text.progress(run)
    if run.state != "succeeded":
        st.progress(
            share,
            text=share_text(share) + f", epoch {run.epoch:.1f} of {escape(run.total_epochs or '?')}",
        )
    now = datetime.now(UTC)
    newest, headline = run.latest.get("train/loss"), session.headline_of_run(run)
    speed, item = stored.curves.get("speed/images_per_second"), escape(session.item(run.dataset))
    figures = [
        (headline["title"], value_text(row_text.latest_headline(run), headline["unit"], 2)),
        ("Training loss", value_text(newest.value if newest else None, "nats")),
        ("Training time left", duration_text(seconds_left(run, stored.curves.values())))
        if run.state not in TERMINAL
        else ("Duration", duration_text(row_text.elapsed_seconds(run, now))),
        ("Speed", f"{speed.value[-1]:,.0f} {item}s/s" if speed and len(speed) else NOTHING),
    ]
    with st.container(horizontal=True):
        for label, value in figures:
            st.metric(escape(label), value, border=True)
    with st.container():
        run_machine.show(run)


def _curves(run: Run, stored: RunCurves, metrics: Sequence[panels.Described]) -> None:
    if not any(len(curve) for curve in stored.curves.values()):
        text = {
            "waiting": "This run waits for its teacher. Curves appear when training starts.",
            "queued": "This run waits for a free worker. Curves appear when training starts.",
            "paused": "This run is paused. Curves appear when training starts.",
        }.get(run.state, "No metrics yet. They appear after the first epoch." if run.state not in TERMINAL else "")
        st.info(text or "This run ended before it reported any metrics.", icon=":material/hourglass_empty:")
        return
    run_charts.grid(run, panels.standard_panels(metrics), stored.curves)


def _more_measurements(run: Run, stored: RunCurves, metrics: Sequence[panels.Described]) -> None:
    final = panels.final_measurements(stored.curves, metrics, run.test_size, session.item(run.dataset))
    single = {name for name, curve in stored.curves.items() if final and len(curve) == 1}
    curves = {name: curve for name, curve in stored.curves.items() if name not in single}
    drawn = run_charts.grid(run, panels.additional_panels(metrics), curves)
    if final:
        table(final)
    if not drawn and not final:
        st.info("There are no other measurements yet.", icon=":material/hourglass_empty:")
