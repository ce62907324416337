"""The actions of the Experiment page: pause, resume, cancel, retry, archive, priority, move, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import streamlit as st

from core.protocol.public import Experiment
from dashboard import projects, session
from dashboard.lists import bulk
from dashboard.markup import code, escape
from dashboard.views import experiment_list


def draw(experiment: Experiment) -> None:
    """Draw a button for every action; those that do not apply are disabled, so that the others do not move."""
    client, counts = session.action_client(), experiment.counts
    active = experiment.state == "active"
    unpaused = counts.waiting + counts.queued + counts.running
    archived = experiment.archived_at is not None  # hidden in lists: its runs start again only after it is unarchived
    actions: Sequence[tuple[str, str, str, Callable[[str], object], bool]] = (
        ("Pause", "pause", "paused", client.pause_experiment, active and bool(unpaused)),
        ("Resume", "play_arrow", "resumed", client.resume_experiment, bool(counts.paused) and not archived),
        ("Cancel", "cancel", "cancelled", client.cancel_experiment, active),
        (
            "Retry",
            "replay",
            "queued again",
            partial(experiment_list.retry_failed, client),
            bool(counts.failed or counts.cancelled) and not archived,
        ),
        (
            "Unarchive" if archived else "Archive",
            "unarchive" if archived else "archive",
            "unarchived" if archived else "archived",
            partial(client.archive_experiment, archived=not archived),
            True,
        ),
    )
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for name, icon, participle, action, possible in actions:
            st.button(
                escape(name),
                icon=f":material/{icon}:",
                disabled=not possible,
                on_click=bulk.on_click,
                args=([experiment.id], action, "experiment", participle),
                key=f"experiment.{name.lower()}",
            )
        with st.popover("Priority", icon=":material/low_priority:", disabled=not active):
            _priority(experiment)
        if targets := projects.targets(experiment.project):
            with st.popover("Move", icon=":material/drive_file_move:"):
                _move(experiment, targets)
        if st.button(
            "Delete …",
            icon=":material/delete:",
            disabled=active,
            help="Cancel it first: runs that have not ended cannot be deleted." if active else None,
            key="experiment.delete",
        ):
            experiment_list.ask_to_delete([experiment])


def _priority(experiment: Experiment) -> None:
    client = session.action_client()
    current = max((run.priority for run in experiment.runs), default=0)
    priority = st.number_input(
        "Priority",
        -100,
        100,
        value=current,
        help="Runs with a higher priority start first.",
        key=f"experiment.priority.{experiment.id}",
    )
    st.button(
        "Set priority",
        on_click=bulk.on_click,
        args=(
            [experiment.id],
            lambda key: client.prioritise_experiment(key, priority),
            "experiment",
            f"set to priority {priority}",
        ),
        key="experiment.prioritise",
    )


def _move(experiment: Experiment, targets: Sequence[str]) -> None:
    client = session.action_client()
    st.caption(f"It is in the project {code(experiment.project)}. Its runs, metrics and files move with it.")
    project = st.selectbox("Project", targets, key=f"experiment.move.{experiment.id}")
    st.button(
        "Move to this project",
        on_click=bulk.on_click,
        args=(
            [experiment.id],
            lambda key: client.experiments.update(key, project=project),
            "experiment",
            f"moved to {project}",
        ),
        key="experiment.move",
    )
