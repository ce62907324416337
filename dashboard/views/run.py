"""The Run page, ``/run?id=…``: live curves, log tail, attempts, spec and environment of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import streamlit as st

from client import ApiError, BackendUnreachable
from core.wire.public import TERMINAL, LogLine, Run
from dashboard import charts, forms, panels, plot, session, tables, theme
from dashboard.live import RunCurves, seconds_left

_LOG_LINES = 200


def show() -> None:
    """Draw the page."""
    run_id = st.query_params.get("id")
    if not run_id:
        _choose()
        return
    known = session.ask(f"run {run_id}", lambda: session.client().run(run_id))
    run = known.value
    _head(run)
    _live(run_id, run)
    _details(run)


def _choose() -> None:
    st.title("Run")
    newest = session.ask("newest runs", lambda: session.client().runs(limit=10)).value.items
    if not newest:
        st.info("There are no runs yet. An experiment makes them.", icon=":material/science:")
        st.page_link(session.page("new"), label="Make the first experiment", icon=":material/add_circle:")
        return
    st.markdown("Choose a run; these are the newest.")
    for run in newest:
        st.page_link(
            session.page("run"),
            label=f"{theme.state_text(run.state)} · {tables.run_title(run)} · {run.experiment}",
            query_params={"id": run.id},
        )
    st.page_link(session.page("runs"), label="All runs", icon=":material/list:")


def _head(run: Run) -> None:
    """Title, links and buttons."""
    st.title(tables.run_title(run))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.page_link(
            session.page("compare"),
            label=run.experiment,
            icon=":material/stacked_line_chart:",
            query_params={"experiment": run.experiment_id},
        )
        if run.teacher_run_id:
            st.page_link(
                session.page("run"),
                label="Its teacher",
                icon=":material/school:",
                query_params={"id": run.teacher_run_id},
            )
        client = session.client()
        if run.state not in TERMINAL:
            st.button("Cancel", icon=":material/cancel:", on_click=_act, args=(client.cancel, run.id), key="run.cancel")
        elif run.state in ("failed", "cancelled"):
            st.button("Retry", icon=":material/replay:", on_click=_act, args=(client.retry, run.id), key="run.retry")
    said = st.session_state.pop("run.said", "")
    if said:
        st.error(said, icon=":material/error:")


def _act(action: Callable[[str], Run], run_id: str) -> None:
    try:
        action(run_id)
    except (ApiError, BackendUnreachable) as error:
        st.session_state["run.said"] = str(error)


def _live(run_id: str, drawn: Run) -> None:
    """What changes while the run goes on, drawn again every few seconds until it has ended."""

    @st.fragment(run_every=None if drawn.state in TERMINAL else session.REFRESH_SECONDS)
    def body() -> None:
        known = session.ask(f"run {run_id}", lambda: session.client().run(run_id))
        run = known.value
        if (run.state, run.attempt) != (drawn.state, drawn.attempt):
            st.rerun()  # the buttons above and the tables below change with the state
        held = session.ask(f"curves {run_id}", lambda: session.curves().update(session.client(), run)).value
        # Each part in a container of its own: a line that comes or goes would otherwise move the charts to other
        # places in the page's tree, where the browser draws them anew and forgets the zoom.
        with st.container():
            session.outage(known.lost)
        with st.container():
            _figures(run, held)
        with st.container():
            _charts(run, held)
        with st.container():
            _log(run)

    body()


def _figures(run: Run, held: RunCurves) -> None:
    st.markdown(
        f"{theme.badge(run.state)} {run.method} · {run.model} on {run.dataset} · run `{run.id}`"
        + (f" · on {run.worker}" if run.worker and run.state not in TERMINAL else "")
    )
    if run.state == "failed":
        st.error(f"Failed: {run.reason or 'no reason was given'}", icon=":material/error:")
    elif run.reason:
        st.info(run.reason[:1].upper() + run.reason[1:], icon=":material/info:")
    share = tables.progress(run)
    if run.state != "succeeded":
        st.progress(
            share, text=f"{share:.0%}".replace("%", " %") + f", epoch {run.epoch:.1f} of {run.total_epochs or '?'}"
        )
    now = datetime.now(UTC)
    newest = run.latest.get("train/loss")
    speed = held.curves.get("speed/images_per_second")
    figures = [
        ("Test accuracy", tables.percent(tables.latest_accuracy(run))),
        ("Training loss", f"{newest.value:.4g} nats" if newest else tables.NOTHING),
        ("Time left", tables.duration(seconds_left(run, held.curves.values())))
        if run.state not in TERMINAL
        else ("Took", tables.duration(tables.seconds_of(run, now))),
        ("Speed", f"{speed.value[-1]:,.0f} images/s" if speed and len(speed) else tables.NOTHING),
    ]
    with st.container(horizontal=True):
        for label, value in figures:
            st.metric(label, value, border=True)


def _charts(run: Run, held: RunCurves) -> None:
    metrics = session.catalog().metrics
    if not any(len(curve) for curve in held.curves.values()):
        text = {
            "waiting": "It waits for its teacher; curves appear when it trains.",
            "queued": "It waits for a free worker; curves appear when it trains.",
        }.get(run.state, "No metrics yet; the first come with the first epoch." if run.state not in TERMINAL else "")
        st.info(text or "This run ended before it had any metrics.", icon=":material/hourglass_empty:")
        return
    _grid(panels.usual_panels(metrics), held)
    once = panels.measured_once(held.curves, metrics)
    single = {name for name, curve in held.curves.items() if once and len(curve) == 1}
    several = RunCurves({name: curve for name, curve in held.curves.items() if name not in single})
    with st.expander("More measurements"):
        _grid(panels.more_panels(metrics), several)
        if once:
            st.table(once)


def _grid(listed: Sequence[panels.Panel], held: RunCurves) -> None:
    figures = [(panel, charts.run_figure(panel, held.curves)) for panel in listed]
    drawn = [(panel, figure) for panel, figure in figures if figure is not None]
    for start in range(0, len(drawn), 2):
        for column, (panel, figure) in zip(st.columns(2), drawn[start : start + 2], strict=False):
            with column:
                st.markdown(f"**{panel.title}**")
                plot.chart(
                    figure, key=f"run.{panel.key}", alt=f"{panel.title} of this run over epochs", filename=panel.key
                )


def _log(run: Run) -> None:
    st.subheader("Log")
    lines = session.ask(f"log {run.id}", lambda: _newest_lines(run)).value
    if run.state == "failed" and run.log_tail and not lines:
        st.code("\n".join(run.log_tail), language=None, wrap_lines=True)
    elif not lines:
        st.caption("Nothing has been logged yet." if run.state not in TERMINAL else "Nothing was logged.")
    else:
        with st.container(height=280, autoscroll=True):
            st.code("\n".join(map(_line, lines)), language=None, wrap_lines=True)


def _newest_lines(run: Run) -> list[LogLine]:
    """The log's tail: all of it at the first look, then only what follows the last line held."""
    key = f"run.log.{run.id}"
    held: list[LogLine] = st.session_state.get(key, [])
    client = session.client()
    reply = client.logs(run.id, after=held[-1].number) if held else client.logs(run.id, tail=_LOG_LINES)
    if reply.lines:
        held = [*held, *reply.lines][-_LOG_LINES:]
        st.session_state[key] = held
    return held


def _line(line: LogLine) -> str:
    level = "" if line.level == "info" else f"{line.level.upper()} "
    return f"{line.time:%H:%M:%S} {level}{line.message}"


def _details(run: Run) -> None:
    attempts, spec, environment = st.tabs([f"Attempts ({len(run.attempts)})", "Spec", "Environment"])
    with attempts:
        rows = tables.attempt_rows(run.attempts, datetime.now(UTC))
        if rows:
            st.table(rows)
        else:
            st.caption("No worker has taken it yet.")
    with spec:
        st.code(forms.yaml_of(run.spec), language="yaml", wrap_lines=True)
    with environment:
        facts = {
            "Trainable parameters": f"{run.parameters:,}" if run.parameters else "",
            "Training images": f"{run.train_size:,}" if run.train_size else "",
            "Test images": f"{run.test_size:,}" if run.test_size else "",
            "Created (UTC)": tables.moment(run.created_at),
            "Started (UTC)": tables.moment(run.started_at),
            "Ended (UTC)": tables.moment(run.ended_at),
            "Fingerprint": run.fingerprint,
            "Weights": run.weights,
            **run.environment,
        }
        st.table([{"What": name, "Value": value} for name, value in facts.items() if value])
