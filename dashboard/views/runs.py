"""The Runs page: every run, or every experiment, filtered and ordered by the backend and fetched by pages.

Everything it shows is in the address: ``/runs?state=failed&sort=best accuracy``, ``/runs?view=Experiments``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from common.formatting import NOTHING
from core.protocol.public import TERMINAL, Run, RunPage, RunSummary
from dashboard import session, wording
from dashboard.forms.widgets import empty_state
from dashboard.lists import bulk, filters, paging, row_text
from dashboard.lists.row_selection import RowSelection
from dashboard.markup import escape
from dashboard.views import experiment_list

_MOST_CHOSEN = 1000
_ASK_FIRST = 10
"""So many runs are not cancelled by a slip of the hand."""
_FRESH_SECONDS = 1.0


def show() -> None:
    """Draw the page."""
    st.title("Runs")
    bulk.show_message()
    view = st.segmented_control(
        "Of",
        ["Runs", "Experiments"],
        default="Runs",
        required=True,
        label_visibility="collapsed",
        key="view",
        bind="query-params",
    )
    if view == "Experiments":
        experiment_list.show()
        return
    query = filters.draw("runs")
    query["cursor"] = paging.page_cursor("runs", query)
    known = session.fetch(f"runs {query}", lambda: _page(query))
    page = known.value
    session.show_outage(known.outage_since)
    selection = RowSelection("runs")
    if not page.items and not query["cursor"]:
        _empty(query)
        _remember(selection, page.items)
        _actions(selection, page)
    else:
        runs, newer = _settled(selection, page.items, query)
        _remember(selection, runs)
        _actions(selection, page, query)
        _table(selection, runs)
        _below(selection, page, newer, query)
    paging.rerun_on_change("runs", lambda: _watched(query), _signature, page, outage_since=known.outage_since)


def _page(query: Mapping[str, Any]) -> RunPage:
    """The page asked for. What the watch has just fetched, and drawn the page anew for, is not fetched again."""
    kept: tuple[Mapping[str, Any], RunPage, float] | None = st.session_state.pop("runs.fresh", None)
    if kept and kept[0] == query and time.monotonic() - kept[2] < _FRESH_SECONDS:
        return kept[1]
    return session.client().runs(**query, count="true")


def _watched(query: Mapping[str, Any]) -> RunPage:
    page = session.client().runs(**query, count="true")
    st.session_state["runs.fresh"] = (dict(query), page, time.monotonic())
    return page


def _empty(query: Mapping[str, Any]) -> None:
    if filters.is_filtered(query):
        st.info("No run matches these filters.", icon=":material/filter_alt_off:")
        st.page_link(session.page("runs"), label="All runs", icon=":material/list:")
    else:
        empty_state("There are no runs yet. An experiment makes them.")


def _settled(selection: RowSelection, items: Sequence[RunSummary], query: object) -> tuple[list[RunSummary], int]:
    """The rows to draw, and how many wait because the page holds still."""
    runs, newer = list(items), 0
    held = selection.frozen_ids(query)
    if held:
        by_id = {run.id: run for run in items}
        gone = [run_id for run_id in held if run_id not in by_id]
        if gone:  # as one that has ended, where only those that run are shown
            asked = session.fetch(
                f"runs {gone}", lambda: session.client().runs(id=gone, archived="include", limit=len(gone))
            )
            by_id |= {run.id: run for run in asked.value.items}
        newer = len([run for run in items if run.id not in set(held)])
        runs = [by_id[run_id] for run_id in held if run_id in by_id]
    selection.set_rows([run.id for run in runs], query)
    return runs, newer


def _remember(selection: RowSelection, runs: Sequence[RunSummary]) -> None:
    """What is known of the chosen runs, also of those on other pages."""
    known: dict[str, RunSummary] = st.session_state.setdefault("runs.known", {})
    chosen = set(selection.ids)
    known |= {run.id: run for run in runs if run.id in chosen}
    for run_id in [run_id for run_id in known if run_id not in chosen]:
        del known[run_id]


def _actions(selection: RowSelection, page: RunPage, query: Mapping[str, Any] | None = None) -> None:
    """What can be done with the chosen runs. Always drawn, so that the table does not jump."""
    known: dict[str, RunSummary] = st.session_state["runs.known"]
    chosen = [known[run_id] for run_id in selection.ids if run_id in known]
    client = session.client()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        session.action_link("run", "Open", "show_chart", {"id": chosen[0].id} if len(chosen) == 1 else None)
        live = [run.id for run in chosen if run.state not in TERMINAL and run.state != "cancelling"]
        if st.button(_label("Cancel", live), icon=":material/cancel:", disabled=not live, key="runs.cancel"):
            _cancel(live)
        for name, icon, done, action, ids in (
            (
                "Retry",
                "replay",
                "queued again",
                client.retry,
                [run.id for run in chosen if run.state in ("failed", "cancelled")],
            ),
            (
                "Pause",
                "pause",
                "paused",
                client.pause,
                [run.id for run in chosen if run.state in ("waiting", "queued", "running") and not run.pausing],
            ),
            (
                "Resume",
                "play_arrow",
                "resumed",
                client.resume,
                [run.id for run in chosen if run.state == "paused" or run.pausing],
            ),
        ):
            st.button(
                _label(name, ids),
                icon=f":material/{icon}:",
                disabled=not ids,
                on_click=_do,
                args=(ids, action, done),
                key=f"runs.{name.lower()}",
            )
        with st.popover("More", icon=":material/more_horiz:", disabled=not chosen):
            _more(chosen)
        _chosen_line(selection, chosen, page, query)


def _label(name: str, ids: Sequence[str]) -> str:
    return escape(f"{name} {len(ids):,}" if len(ids) > 1 else name)


def _do(ids: Sequence[str], action: Callable[[str], Run], done: str) -> None:
    known: dict[str, RunSummary] = st.session_state["runs.known"]
    # Also those of other pages, which no refresh brings.
    known |= {run.id: run for run in bulk.run_each(ids, action, "run", done)}


def _cancel(ids: Sequence[str]) -> None:
    if len(ids) <= _ASK_FIRST:
        _do(ids, session.client().cancel, "cancelled")
        st.rerun()

    @st.dialog("Cancel so many runs?")
    def ask() -> None:
        st.markdown(
            f"{wording.counted(len(ids), 'run')} will be cancelled. Those that train write a checkpoint first, "
            "and each can be retried."
        )
        if st.button(
            f"Cancel {len(ids):,} runs",
            type="primary",
            on_click=_do,
            args=(ids, session.client().cancel, "cancelled"),
            key="runs.cancel.sure",
        ):
            st.rerun()

    ask()


def _more(chosen: Sequence[RunSummary]) -> None:
    live = [run.id for run in chosen if run.state not in TERMINAL and run.role == "student"]
    priority = st.number_input(
        "Priority",
        -100,
        100,
        value=max((run.priority for run in chosen), default=0),
        help="Higher ones first. A teacher has the highest of its students.",
        key="runs.priority",
    )
    st.button(
        f"Set it for {wording.counted(len(live), 'run')}",
        icon=":material/low_priority:",
        disabled=not live,
        on_click=_do,
        args=(live, lambda run_id: session.client().prioritise(run_id, priority), f"have priority {priority}"),
        key="runs.prioritise",
    )
    names = list(dict.fromkeys(run.experiment for run in chosen if run.experiment))
    st.markdown(
        f"Tags and the archive belong to experiments: **{wording.counted(len(names), 'experiment')}** of the chosen."
    )
    experiment_list.tag_and_archive(list(dict.fromkeys(run.experiment_id for run in chosen if run.experiment_id)))


def _chosen_line(
    selection: RowSelection, chosen: Sequence[RunSummary], page: RunPage, query: Mapping[str, Any] | None
) -> None:
    names = ", ".join(row_text.run_title(run) for run in chosen[:3]) + (" …" if len(chosen) > 3 else "")
    if not chosen:
        st.caption("Choose rows at their left edge.")
    else:
        count = f"{len(chosen):,} chosen: " if len(chosen) > 1 else "Chosen: "
        st.caption(f"{count}{escape(names)}")
        st.button("Clear", on_click=selection.clear, type="tertiary", icon=":material/close:", key="runs.clear")
    total = page.total or 0
    if query is not None and len(page.items) < total <= _MOST_CHOSEN and len(chosen) < total:
        st.button(
            f"Choose all {total:,}",
            on_click=_choose_all,
            args=(selection, query),
            type="tertiary",
            icon=":material/select_all:",
            key="runs.all",
        )


def _choose_all(selection: RowSelection, query: Mapping[str, Any]) -> None:
    kept = {name: value for name, value in query.items() if name not in ("cursor", "limit")}
    runs = {run.id: run for run in session.client().all_runs(**kept)}
    selection.replace(list(runs))
    st.session_state["runs.known"] = runs


def _table(selection: RowSelection, runs: Sequence[RunSummary]) -> None:
    column = st.column_config
    selection.table(
        row_text.run_rows(runs, datetime.now(UTC)),
        placeholder=NOTHING,
        height=min(36 * len(runs) + 40, 680),
        column_config={
            "State": column.TextColumn(width=110),
            "Method": column.TextColumn(width=160),
            "Seed": column.NumberColumn(format="%d", width=60),
            "Progress": column.ProgressColumn(min_value=0, max_value=100, format="%d %%", width=120),
            "Test accuracy (%)": column.NumberColumn(format="%.2f", width=130),
            "Priority": column.NumberColumn(format="%d", width=70),
            "Experiment": column.TextColumn(width=210),
            "Model": column.TextColumn(width=100),
            "Data set": column.TextColumn(width=90),
            "Started": column.DatetimeColumn(format="distance", width=120),
            "Duration": column.TextColumn(width=110),
            "Reason": column.TextColumn(width=300),
        },
    )


def _below(selection: RowSelection, page: RunPage, newer: int, query: Mapping[str, Any]) -> None:
    if newer:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{wording.counted(newer, 'newer run')} will appear when nothing is chosen.")
            st.button("Show them now", on_click=selection.release, type="tertiary", key="runs.release")
    paging.page_controls("runs", page, query["limit"], "run")


def _signature(page: RunPage) -> int:
    """Changes when something that the table shows has changed."""
    minute = datetime.now(UTC).minute if any(run.state not in TERMINAL for run in page.items) else 0
    shown = ((run.id, run.state, run.step, run.attempt, run.priority, run.reason) for run in page.items)
    return hash((minute, page.total, *shown))
