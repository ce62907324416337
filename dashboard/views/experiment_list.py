"""The list of experiments on the Runs page, with actions on the selected experiments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import streamlit as st

from client import ApiError, Client
from common.formatting import NOTHING
from core.protocol.public import ExperimentPage, ExperimentSummary
from dashboard import session, wording
from dashboard.forms.widgets import empty_state
from dashboard.lists import bulk, filters, paging, row_text
from dashboard.lists.row_selection import RowSelection
from dashboard.markup import escape

_MAX_REFRESHED = 20
"""Maximum number of selected experiments outside the page whose state is requested when the page is redrawn."""


def show() -> None:
    """Draw the list."""
    query = filters.draw("experiments")
    query["cursor"] = paging.page_cursor("experiments", query)
    reply = session.fetch(f"experiments {query}", lambda: _page(query))
    page = reply.value
    session.show_outage(reply.outage_since)
    selection = RowSelection("experiments")
    rows, newer = _rows_to_draw(selection, page.items, query)
    if not rows and not query["cursor"]:
        _empty(query)
    else:
        _actions(selection, _selected_experiments(selection, rows))
        _table(selection, rows)
        if newer:
            st.caption(f"{wording.counted(newer, 'newer experiment')} will appear when nothing is selected.")
        paging.page_controls("experiments", page, query["limit"], "experiment")
    paging.rerun_on_change("experiments", lambda: _page(query), _signature, page, outage_since=reply.outage_since)


def _page(query: Mapping[str, Any]) -> ExperimentPage:
    return session.client().experiments(**query, count="true")


def _empty(query: Mapping[str, Any]) -> None:
    if filters.is_filtered(query):
        st.info("No experiment matches these filters.", icon=":material/filter_alt_off:")
        st.page_link(
            session.page("runs"), label="All experiments", icon=":material/list:", query_params={"view": "Experiments"}
        )
    else:
        empty_state("There are no experiments yet.")


def _rows_to_draw(
    selection: RowSelection, items: Sequence[ExperimentSummary], query: object
) -> tuple[list[ExperimentSummary], int]:
    """Return the rows to draw, and the number of newer experiments that are not shown while the page is frozen.

    Rows of a frozen page stay although they no longer match the filters, for example after they were archived, so that
    nobody deletes what is not shown.
    """
    rows, newer = list(items), 0
    frozen = selection.frozen_ids(query)
    by_id: dict[str, ExperimentSummary] = {item.id: item for item in items}
    if frozen:
        newer = len(set(by_id) - set(frozen))
        by_id |= _fetched([key for key in frozen if key not in by_id])
        rows = [by_id[key] for key in frozen if key in by_id]
    selection.set_rows([item.id for item in rows], query)
    return rows, newer


def _fetched(ids: Sequence[str]) -> dict[str, ExperimentSummary]:
    """Return the newest summaries of experiments that exist, at most ``_MAX_REFRESHED``."""
    found: dict[str, ExperimentSummary] = {}
    for id in ids[:_MAX_REFRESHED]:
        try:
            found[id] = session.fetch(f"experiment {id}", partial(session.client().experiment, id)).value
        except ApiError as error:
            if error.status != 404:
                raise
    return found


def _selected_experiments(selection: RowSelection, rows: Sequence[ExperimentSummary]) -> list[ExperimentSummary]:
    """Return the newest summaries of the selected experiments, and deselect those that no longer exist.

    The filters may hide a selected experiment, for example after it was archived. Its summary is then fetched: the one
    in the session may still show active runs, and an experiment with active runs cannot be deleted.
    """
    summaries: dict[str, ExperimentSummary] = st.session_state.setdefault("experiments.selected", {})
    summaries |= {item.id: item for item in rows}
    shown = {item.id for item in rows}
    hidden = [id for id in selection.ids if id not in shown][:_MAX_REFRESHED]
    fetched = _fetched(hidden)
    summaries |= fetched
    deleted = set(hidden) - set(fetched)
    if deleted:
        selection.replace([id for id in selection.ids if id not in deleted])
    return [summaries[id] for id in selection.ids if id in summaries]


def _actions(selection: RowSelection, selected: Sequence[ExperimentSummary]) -> None:
    """Draw the actions on the selected experiments.

    They are also drawn without a selection, so that the table does not move.
    """
    client = session.action_client()
    keys = [item.id for item in selected]
    live = [item.id for item in selected if item.state == "active"]
    # What is archived is hidden in lists, so that its runs start again only after it is unarchived.
    shown = [item for item in selected if item.archived_at is None]
    paused = [item.id for item in shown if item.counts.paused]
    failed = [item.id for item in shown if item.counts.failed or item.counts.cancelled]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        single = selected[0] if len(selected) == 1 else None
        session.action_link("experiment", "Open", "science", {"id": single.id} if single else None)
        session.action_link("compare", "Compare", "stacked_line_chart", {"experiment": keys} if keys else None)
        sweep = {"name": single.sweep} if single and single.sweep else {}
        session.action_link("sweep", "Its sweep" if sweep else "Sweeps", "grid_view", sweep)
        session.action_link("runs", "Its runs", "list", {"experiment": single.name} if single else None)
        session.action_link("new", "Clone", "content_copy", {"clone": single.id} if single else None)
        actions: Sequence[tuple[str, str, str, Callable[[str], object], list[str]]] = (
            ("Cancel", "cancel", "cancelled", client.cancel_experiment, live),
            ("Retry", "replay", "queued again", partial(retry_failed, client), failed),
            ("Pause", "pause", "paused", client.pause_experiment, live),
            ("Resume", "play_arrow", "resumed", client.resume_experiment, paused),
        )
        for name, icon, participle, action, ids in actions:
            st.button(
                f"{escape(name)} {len(ids):,}" if len(ids) > 1 else escape(name),
                icon=f":material/{icon}:",
                disabled=not ids,
                on_click=bulk.on_click,
                args=(ids, action, "experiment", participle),
                key=f"experiments.{name.lower()}",
            )
        with st.popover("More", icon=":material/more_horiz:", disabled=not selected):
            _priority(client, live)
            tag_and_archive(keys, archived=[item.id for item in selected if item.archived_at is not None])
            _delete([item for item in selected if item.state != "active"])
        st.caption(escape(selection.sentence([item.name for item in selected])))
        if selected:
            st.button(
                "Clear", on_click=selection.clear, type="tertiary", icon=":material/close:", key="experiments.clear"
            )


def retry_failed(client: Client, key: str) -> None:
    """Retry every failed or cancelled run of an experiment, the teacher first, which also requeues its students."""
    runs = client.all_runs(experiment=key, state=["failed", "cancelled"])
    for run in sorted(runs, key=lambda run: run.role == "student"):
        client.retry(run.id)


def _priority(client: Client, keys: Sequence[str]) -> None:
    priority = st.number_input(
        "Priority", -100, 100, value=0, help="Runs with a higher priority start first.", key="experiments.priority"
    )
    st.button(
        f"Set priority of {wording.counted(len(keys), 'experiment')}",
        icon=":material/low_priority:",
        disabled=not keys,
        on_click=bulk.on_click,
        args=(
            keys,
            lambda key: client.prioritise_experiment(key, priority),
            "experiment",
            f"set to priority {priority}",
        ),
        key="experiments.prioritise",
    )


def tag_and_archive(keys: Sequence[str], *, archived: Sequence[str] | None = None) -> None:
    """Draw the fields and buttons that change the tags of these experiments and archive them.

    Args:
        keys: The experiments.
        archived: Those of them that are archived; None if it is not known.
    """
    archivable = keys if archived is None else [key for key in keys if key not in archived]
    text = st.text_input("Tags (comma-separated)", key="bulk.tags", placeholder="paper, seed check")
    tags = list(dict.fromkeys(tag for part in text.split(",") if (tag := part.strip())))
    with st.container(horizontal=True):
        for name, icon, done in (("Add", "new_label", "tagged"), ("Remove", "label_off", "untagged")):
            st.button(
                f"{name} tags",
                icon=f":material/{icon}:",
                disabled=not keys or not tags,
                on_click=bulk.on_click,
                args=(keys, _tag_action(session.action_client(), tags, add=name == "Add"), "experiment", done),
                key=f"bulk.tags.{name.lower()}",
            )
    with st.container(horizontal=True):
        for hide, those in ((True, archivable), (False, keys if archived is None else archived)):
            action = "archive" if hide else "unarchive"
            st.button(
                "Archive" if hide else "Unarchive",
                icon=f":material/{action}:",
                disabled=not those,
                on_click=bulk.on_click,
                args=(those, _archive_action(session.action_client(), hide), "experiment", f"{action}d"),
                help="Archived experiments keep all their data and are hidden in lists." if hide else None,
                key=f"bulk.{action}",
            )


def _tag_action(client: Client, tags: Sequence[str], *, add: bool) -> Callable[[str], object]:
    def change(key: str) -> object:
        return client.change_experiment(key, add_tags=tags) if add else client.change_experiment(key, remove_tags=tags)

    return change


def _archive_action(client: Client, archived: bool) -> Callable[[str], object]:
    return lambda key: client.archive_experiment(key, archived=archived)


def _delete(ended: Sequence[ExperimentSummary]) -> None:
    if st.button("Delete …", icon=":material/delete:", disabled=not ended, key="experiments.delete"):
        ask_to_delete(ended)


@st.dialog("Delete permanently?")
def ask_to_delete(ended: Sequence[ExperimentSummary]) -> None:
    """Ask before experiments whose runs have all ended are deleted."""
    runs = sum(item.counts.total for item in ended)
    counted = f"{wording.counted(len(ended), 'experiment')} with {wording.counted(runs, 'run')}"
    st.markdown(
        f"This deletes {counted}, including metrics, logs and files: "
        + ", ".join(f"**{escape(item.name)}**" for item in ended[:10])
        + (" …" if len(ended) > 10 else "")
        + ". This cannot be undone. Teachers that other experiments use are kept."
    )
    with st.container(horizontal=True):
        # The action is a callback, which Streamlit runs before it draws the page; the rerun closes the dialog.
        deleted = st.button(
            "Delete",
            type="primary",
            on_click=bulk.on_click,
            args=([item.id for item in ended], session.action_client().delete_experiment, "experiment", "deleted"),
            key="experiments.delete.sure",
        )
        if st.button("Cancel", key="experiments.delete.cancel") or deleted:
            st.rerun()


def _table(selection: RowSelection, rows: Sequence[ExperimentSummary]) -> None:
    column = st.column_config
    selection.table(
        row_text.experiment_rows(rows),
        placeholder=NOTHING,
        height=min(36 * len(rows) + 40, 680),
        column_config={
            "State": column.TextColumn(width=100),
            "Experiment": column.LinkColumn(display_text=row_text.EXPERIMENT_NAME, width=260),
            "Progress": column.ProgressColumn(min_value=0, max_value=100, format="%d %%", width=120),
            "Done": column.TextColumn(width=90),
            "Running": column.NumberColumn(format="%d", width=70),
            "Waiting": column.NumberColumn(format="%d", width=70),
            "Failed": column.NumberColumn(format="%d", width=70),
            "Tags": column.ListColumn(width=160),
            "Methods": column.ListColumn(width=260),
            "Data set": column.TextColumn(width=90),
            "Teacher → student": column.TextColumn(width=190),
            "Created": column.DatetimeColumn(format="distance", width=120),
            "By": column.TextColumn(width=90),
            "Notes": column.TextColumn(width=260),
        },
    )


def _signature(page: ExperimentPage) -> int:
    shown = ((item.id, item.counts.model_dump_json(), round(item.progress, 3), *item.tags) for item in page.items)
    return hash((page.total, *shown))
