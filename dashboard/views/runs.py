"""The Runs page: all runs or all experiments, filtered, ordered and paged by the backend.

The address contains the filters: ``/runs?state=failed&sort=best result``, ``/runs?view=Experiments``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import streamlit as st

from client import Client
from common.formatting import NOTHING
from core.protocol.public import TERMINAL, Run, RunPage, RunSummary
from dashboard import session, wording
from dashboard.forms.widgets import empty_state
from dashboard.lists import bulk, filters, paging, row_text
from dashboard.lists.row_selection import RowSelection
from dashboard.markup import escape
from dashboard.views import experiment_list

_MAX_SELECTED = 1000
_CONFIRM_ABOVE = 10
"""A person must confirm the cancellation of more runs than this."""
_FRESH_SECONDS = 1.0


def show() -> None:
    """Draw the page."""
    st.title("Runs")
    bulk.show_message()
    view = st.segmented_control(
        "List",
        ["Runs", "Experiments"],
        default="Runs",
        required=True,
        label_visibility="collapsed",
        key="view",
        bind="query-params",
    )
    if view == "Experiments":
        session.tab_title("Experiments")
        experiment_list.show()
        return
    query = filters.draw("runs")
    query["cursor"] = paging.page_cursor("runs", query)
    reply = session.fetch(f"runs {query}", lambda: _page(query))
    page = reply.value
    session.show_outage(reply.outage_since)
    selection = RowSelection("runs")
    if not page.items and not query["cursor"]:
        _empty(query)
        _store_summaries(selection, page.items)
        _actions(selection, page)
    else:
        runs, newer = _rows_to_draw(selection, page.items, query)
        _store_summaries(selection, runs)
        _actions(selection, page, query)
        _table(selection, runs)
        _footer(selection, page, newer, query)
    paging.rerun_on_change("runs", lambda: _check(query), _signature, page, outage_since=reply.outage_since)


def _page(query: Mapping[str, Any]) -> RunPage:
    """Return the page of the list. If a background check has just caused a redraw, return the check's reply."""
    checked: tuple[Mapping[str, Any], RunPage, float] | None = st.session_state.pop("runs.fresh", None)
    if checked and checked[0] == query and time.monotonic() - checked[2] < _FRESH_SECONDS:
        return checked[1]
    return session.client().runs(**query, count="true")


def _check(query: Mapping[str, Any]) -> RunPage:
    """Request the page in the background; store it, so that a redraw which it causes does not request it again."""
    page = session.client().runs(**query, count="true")
    st.session_state["runs.fresh"] = (dict(query), page, time.monotonic())
    return page


def _empty(query: Mapping[str, Any]) -> None:
    if filters.is_filtered(query):
        st.info("No run matches these filters.", icon=":material/filter_alt_off:")
        st.page_link(session.page("runs"), label="All runs", icon=":material/list:")
    else:
        empty_state("There are no runs yet. Create an experiment to start some.")


def _rows_to_draw(selection: RowSelection, items: Sequence[RunSummary], query: object) -> tuple[list[RunSummary], int]:
    """Return the rows to draw, and the number of newer runs that are not drawn because the rows are frozen."""
    runs, newer = list(items), 0
    frozen = selection.frozen_ids(query)
    if frozen:
        by_id = {run.id: run for run in items}
        missing = [run_id for run_id in frozen if run_id not in by_id]
        if missing:  # runs that no longer match the filters, such as a run that has ended in a list of running runs
            reply = session.fetch(
                f"runs {missing}", lambda: session.client().runs(id=missing, archived="include", limit=len(missing))
            )
            by_id |= {run.id: run for run in reply.value.items}
        newer = len([run for run in items if run.id not in set(frozen)])
        runs = [by_id[run_id] for run_id in frozen if run_id in by_id]
    selection.set_rows([run.id for run in runs], query)
    return runs, newer


def _store_summaries(selection: RowSelection, runs: Sequence[RunSummary]) -> None:
    """Store the newest summaries of the selected runs. The summaries of runs on other pages do not change."""
    summaries: dict[str, RunSummary] = st.session_state.setdefault("runs.selected", {})
    selected_ids = set(selection.ids)
    summaries |= {run.id: run for run in runs if run.id in selected_ids}
    for run_id in [run_id for run_id in summaries if run_id not in selected_ids]:
        del summaries[run_id]


def _actions(selection: RowSelection, page: RunPage, query: Mapping[str, Any] | None = None) -> None:
    """Draw the actions on the selected runs. They are always drawn, so that the table does not move."""
    summaries: dict[str, RunSummary] = st.session_state["runs.selected"]
    selected = [summaries[run_id] for run_id in selection.ids if run_id in summaries]
    shown = [run for run in selected if not run.archived]  # what lists do not show starts only after it is unarchived
    client = session.action_client()
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        session.action_link("run", "Open", "show_chart", {"id": selected[0].id} if len(selected) == 1 else None)
        live = [run.id for run in selected if run.state not in TERMINAL and run.state != "cancelling"]
        if st.button(_label("Cancel", live), icon=":material/cancel:", disabled=not live, key="runs.cancel"):
            _cancel(live)
        for name, icon, participle, action, ids in (
            (
                "Retry",
                "replay",
                "queued again",
                client.retry,
                [run.id for run in shown if run.state in ("failed", "cancelled")],
            ),
            (
                "Pause",
                "pause",
                "paused",
                client.pause,
                [run.id for run in selected if run.state in ("waiting", "queued", "running") and not run.pausing],
            ),
            (
                "Resume",
                "play_arrow",
                "resumed",
                client.resume,
                [run.id for run in shown if run.state == "paused" or run.pausing],
            ),
        ):
            st.button(
                _label(name, ids),
                icon=f":material/{icon}:",
                disabled=not ids,
                on_click=_run_action,
                args=(ids, action, participle),
                key=f"runs.{name.lower()}",
            )
        with st.popover("More", icon=":material/more_horiz:", disabled=not selected):
            _more_actions(client, selected)
        _selection_line(selection, selected, page, query)


def _label(name: str, ids: Sequence[str]) -> str:
    return escape(f"{name} {len(ids):,}" if len(ids) > 1 else name)


def _run_action(ids: Sequence[str], action: Callable[[str], Run], participle: str) -> None:
    summaries: dict[str, RunSummary] = st.session_state["runs.selected"]
    # A refresh requests only the current page; the replies also update the selected runs of other pages.
    summaries |= {run.id: run for run in bulk.run_each(ids, action, "run", participle)}


def _cancel(ids: Sequence[str]) -> None:
    if len(ids) <= _CONFIRM_ABOVE:
        _run_action(ids, session.action_client().cancel, "cancelled")
        st.rerun()

    @st.dialog("Cancel these runs?")
    def confirm() -> None:
        st.markdown(
            f"{wording.counted(len(ids), 'run')} will be cancelled. A running run writes a checkpoint first. "
            "Cancelled runs can be retried."
        )
        if st.button(
            f"Cancel {len(ids):,} runs",
            type="primary",
            on_click=_run_action,
            args=(ids, session.action_client().cancel, "cancelled"),
            key="runs.cancel.sure",
        ):
            st.rerun()

    confirm()


def _more_actions(client: Client, selected: Sequence[RunSummary]) -> None:
    live = [run.id for run in selected if run.state not in TERMINAL and run.role == "student"]
    priority = st.number_input(
        "Priority",
        -100,
        100,
        value=max((run.priority for run in selected), default=0),
        help="Runs with a higher priority start first. A teacher has the highest priority of its students.",
        key="runs.priority",
    )
    st.button(
        f"Set priority of {wording.counted(len(live), 'run')}",
        icon=":material/low_priority:",
        disabled=not live,
        on_click=_run_action,
        args=(live, lambda run_id: client.prioritise(run_id, priority), f"set to priority {priority}"),
        key="runs.prioritise",
    )
    names = list(dict.fromkeys(run.experiment for run in selected if run.experiment))
    st.markdown(
        "Tags and archiving apply to whole experiments: the selected runs belong to "
        f"**{wording.counted(len(names), 'experiment')}**."
    )
    experiment_list.tag_and_archive(list(dict.fromkeys(run.experiment_id for run in selected if run.experiment_id)))


def _selection_line(
    selection: RowSelection, selected: Sequence[RunSummary], page: RunPage, query: Mapping[str, Any] | None
) -> None:
    st.caption(escape(selection.sentence([row_text.run_title(run) for run in selected])))
    if selected:
        st.button("Clear", on_click=selection.clear, type="tertiary", icon=":material/close:", key="runs.clear")
    total = page.total or 0
    if query is not None and len(page.items) < total <= _MAX_SELECTED and len(selected) < total:
        st.button(
            f"Select all {total:,}",
            on_click=_select_all,
            args=(selection, query),
            type="tertiary",
            icon=":material/select_all:",
            key="runs.all",
        )


def _select_all(selection: RowSelection, query: Mapping[str, Any]) -> None:
    filters_only = {name: value for name, value in query.items() if name not in ("cursor", "limit")}
    runs = {run.id: run for run in session.client().all_runs(**filters_only)}
    selection.replace(list(runs))
    st.session_state["runs.selected"] = runs


def _table(selection: RowSelection, runs: Sequence[RunSummary]) -> None:
    column = st.column_config
    headlines = session.headline_labels(run.headline for run in runs)
    selection.table(
        row_text.run_rows(runs, datetime.now(UTC), headlines),
        placeholder=NOTHING,
        height=min(36 * len(runs) + 40, 680),
        column_config={
            "State": column.TextColumn(width=110),
            "Method": column.TextColumn(width=160),
            "Seed": column.NumberColumn(format="%d", width=60),
            "Progress": column.ProgressColumn(min_value=0, max_value=100, format="%d %%", width=120),
            **{title: column.NumberColumn(format="%.2f", width=130) for title in headlines.values()},
            "Priority": column.NumberColumn(format="%d", width=70),
            "Experiment": column.LinkColumn(display_text=row_text.EXPERIMENT_NAME, width=210),
            "Model": column.TextColumn(width=100),
            "Data set": column.TextColumn(width=90),
            "Started": column.DatetimeColumn(format="distance", width=120),
            "Duration": column.TextColumn(width=110),
            "Reason": column.TextColumn(width=300),
        },
    )


def _footer(selection: RowSelection, page: RunPage, newer: int, query: Mapping[str, Any]) -> None:
    if newer:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{wording.counted(newer, 'newer run')} will appear when nothing is selected.")
            st.button("Show them now", on_click=selection.allow_new_rows, type="tertiary", key="runs.release")
    paging.page_controls("runs", page, query["limit"], "run")


def _signature(page: RunPage) -> int:
    """Return a hash of the values that the table shows; the page is redrawn when it changes."""
    minute = datetime.now(UTC).minute if any(run.state not in TERMINAL for run in page.items) else 0
    shown = ((run.id, run.state, run.step, run.attempt, run.priority, run.reason) for run in page.items)
    return hash((minute, page.total, *shown))
