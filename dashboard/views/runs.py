"""The Runs page: every run, filtered and by pages; several can be chosen and cancelled, retried or opened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

import streamlit as st

from client import ApiError, BackendUnreachable
from core.wire.public import TERMINAL, Run, RunPage, RunState, RunSummary
from dashboard import session, tables

PAGE_SIZE = 50


def show() -> None:
    """Draw the page. Its filters live in the address: ``/runs?state=failed&experiment=NAME``."""
    st.title("Runs")
    _said()
    states, experiment = _filters()
    trail: list[str | None] = st.session_state.setdefault("runs.trail", [None])
    query = (tuple(states), experiment, trail[-1])
    if st.session_state.get("runs.query") != (states, experiment):
        # Another filter begins on its first page, with nothing chosen.
        trail[:] = [None]
        query = (tuple(states), experiment, None)
        st.session_state["runs.query"] = (states, experiment)
        _forget_choice()
    known = session.ask(f"runs {query}", lambda: _fetch(*query))
    page = known.value
    session.outage(known.lost)
    if not page.items and trail[-1] is None:
        _empty(bool(states or experiment))
    else:
        runs, newer = _settled(page.items)
        _actions(_chosen(runs))
        _table(runs)
        if newer:
            st.caption(f"{tables.counted(newer, 'newer run')} will appear when nothing is chosen.")
        _pages(trail, page)
    _watch(query, _signature(page), lost=known.lost is not None)


def _fetch(states: Sequence[str], experiment: str | None, cursor: str | None) -> RunPage:
    return session.client().runs(state=list(states) or None, experiment=experiment, cursor=cursor, limit=PAGE_SIZE)


def _filters() -> tuple[list[str], str | None]:
    params = st.query_params
    every = list(get_args(RunState))
    given = params.get("experiment")
    names = [
        item.name for item in session.ask("experiments", lambda: session.client().experiments(limit=200)).value.items
    ]
    if given and given not in names:
        names.insert(0, given)
    left, right = st.columns([3, 2])
    with left:
        states = st.multiselect(
            "State",
            every,
            default=[state for state in params.get_all("state") if state in every],
            placeholder="any state",
            key="runs.states",
        )
    with right:
        experiment = st.selectbox(
            "Experiment",
            names,
            index=names.index(given) if given else None,
            placeholder="any experiment",
            key="runs.experiment",
        )
    wanted: dict[str, Any] = {"state": states} if states else {}
    if experiment:
        wanted["experiment"] = experiment
    if {"state": params.get_all("state"), "experiment": given} != {"state": states, "experiment": experiment}:
        params.from_dict(wanted)
    return states, experiment


def _empty(filtered: bool) -> None:
    if filtered:
        st.info("No run matches these filters.", icon=":material/filter_alt_off:")
    else:
        st.info("There are no runs yet. An experiment makes them.", icon=":material/science:")
        st.page_link(session.page("new"), label="Make the first experiment", icon=":material/add_circle:")


def _settled(items: Sequence[RunSummary]) -> tuple[list[RunSummary], int]:
    """The rows to draw, and how many are held back so that a choice of rows stays on its runs."""
    shown: list[str] = st.session_state.get("runs.shown", [])
    runs = list(items)
    if _rows() and shown:
        held = tables.keep_order(shown, items)
        if len(held) == len(shown):  # one that has left the filter takes the choice with it
            return held, len(items) - len(held)
        _forget_choice()
    st.session_state["runs.shown"] = [run.id for run in runs]
    return runs, 0


def _table_key() -> str:
    return f"runs.table.{st.session_state.get('runs.generation', 0)}"


def _forget_choice() -> None:
    # The browser keeps the choice of a table for as long as the table has the same key.
    st.session_state["runs.generation"] = st.session_state.get("runs.generation", 0) + 1
    st.session_state.pop("runs.shown", None)


def _rows() -> list[int]:
    state = st.session_state.get(_table_key())
    return list(state["selection"]["rows"]) if state else []


def _chosen(runs: Sequence[RunSummary]) -> list[RunSummary]:
    return [runs[row] for row in _rows() if row < len(runs)]


def _actions(chosen: Sequence[RunSummary]) -> None:
    """What can be done with the chosen rows. Always drawn, so that the table does not jump."""
    to_cancel = [run for run in chosen if run.state not in TERMINAL]
    to_retry = [run for run in chosen if run.state in ("failed", "cancelled")]
    with st.container(horizontal=True, vertical_alignment="center"):
        if st.button("Open", icon=":material/show_chart:", disabled=len(chosen) != 1, key="runs.open"):
            st.switch_page(session.page("run"), query_params={"id": chosen[0].id})
        st.button(
            f"Cancel {len(to_cancel)}" if len(to_cancel) > 1 else "Cancel",
            icon=":material/cancel:",
            disabled=not to_cancel,
            on_click=_each,
            args=([run.id for run in to_cancel], "cancel"),
            key="runs.cancel",
        )
        st.button(
            f"Retry {len(to_retry)}" if len(to_retry) > 1 else "Retry",
            icon=":material/replay:",
            disabled=not to_retry,
            on_click=_each,
            args=([run.id for run in to_retry], "retry"),
            key="runs.retry",
        )
        names = ", ".join(tables.run_title(run) for run in chosen[:3]) + (" …" if len(chosen) > 3 else "")
        st.caption(f"Chosen: {names}" if chosen else "Choose rows at their left edge.")


def _each(run_ids: Sequence[str], action: str) -> None:
    calls: dict[str, Callable[[str], Run]] = {"cancel": session.client().cancel, "retry": session.client().retry}
    refused: list[str] = []
    for run_id in run_ids:
        try:
            calls[action](run_id)
        except (ApiError, BackendUnreachable) as error:
            refused.append(str(error))
    done = len(run_ids) - len(refused)
    word = {"cancel": "cancelled", "retry": "queued again"}[action]
    st.session_state["runs.said"] = (f"{tables.counted(done, 'run')} {word}." if done else "", refused)


def _said() -> None:
    """What the last action did."""
    done, refused = st.session_state.pop("runs.said", ("", []))
    if done:
        st.toast(done, icon=":material/check:")
    for text in refused:
        st.error(text, icon=":material/error:")


def _table(runs: Sequence[RunSummary]) -> None:
    column = st.column_config
    st.dataframe(
        tables.run_rows(runs, datetime.now(UTC)),
        key=_table_key(),
        on_select="rerun",
        selection_mode="multi-row",
        hide_index=True,
        placeholder=tables.NOTHING,
        height=min(36 * len(runs) + 40, 680),
        column_config={
            "State": column.TextColumn(width=110),
            "Method": column.TextColumn(width=160),
            "Seed": column.NumberColumn(format="%d", width=60),
            "Progress": column.ProgressColumn(min_value=0, max_value=100, format="%d %%", width=120),
            "Test accuracy (%)": column.NumberColumn(format="%.2f", width=130),
            "Experiment": column.TextColumn(width=210),
            "Model": column.TextColumn(width=100),
            "Dataset": column.TextColumn(width=90),
            "Started": column.DatetimeColumn(format="distance", width=120),
            "Duration": column.TextColumn(width=110),
            "Reason": column.TextColumn(width=300),
        },
    )


def _pages(trail: list[str | None], page: RunPage) -> None:
    if len(trail) == 1 and not page.next_cursor:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Newer", disabled=len(trail) == 1, on_click=_turn, args=(None,), key="runs.newer")
        st.button("Older", disabled=not page.next_cursor, on_click=_turn, args=(page.next_cursor,), key="runs.older")
        st.caption(f"Page {len(trail)}, {PAGE_SIZE} runs a page, newest first")


def _turn(cursor: str | None) -> None:
    trail: list[str | None] = st.session_state["runs.trail"]
    if cursor is None:
        trail.pop()
    else:
        trail.append(cursor)
    _forget_choice()


def _signature(page: RunPage) -> int:
    """Changes when something that the table shows has changed."""
    minute = datetime.now(UTC).minute if any(run.state not in TERMINAL for run in page.items) else 0
    return hash((minute, *((run.id, run.state, run.step, run.attempt, run.reason) for run in page.items)))


def _watch(query: tuple[tuple[str, ...], str | None, str | None], drawn: int, *, lost: bool) -> None:
    """Look for changes in the background, and draw the page anew only where there are some."""

    @st.fragment(run_every=session.REFRESH_SECONDS)
    def look(first: list[bool]) -> None:
        if first:
            first.clear()
            return
        known = session.ask(f"runs {query}", lambda: _fetch(*query))
        if (known.lost is not None) != lost or _signature(known.value) != drawn:
            st.rerun()

    look([True])
