"""Notes and tags on the Experiment page, and their editing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Experiment
from core.protocol.submissions import MAX_TAGS
from dashboard import session
from dashboard.lists import bulk
from dashboard.markup import markdown_html

_EDITED = "experiment.notes.edited"
"""The id of the experiment whose notes are being edited, and the notes from which the editing started."""
_MAX_CHARACTERS = 10_000


def draw(experiment: Experiment) -> None:
    """Draw the tags and the notes."""
    _tags(experiment)
    edited: tuple[str, str] | None = st.session_state.get(_EDITED)
    if edited and edited[0] == experiment.id:
        _editor(experiment, edited[1])
        return
    with st.container(horizontal=True, vertical_alignment="top"):
        with st.container():
            if experiment.notes:
                st.html(f'<div class="dkd-notes">{markdown_html(experiment.notes)}</div>')
            else:
                st.caption("No notes.")
        st.button(
            "Edit notes",
            icon=":material/edit:",
            on_click=_start,
            args=(experiment.id, experiment.notes),
            key="experiment.notes.edit",
        )


def _editor(experiment: Experiment, original: str) -> None:
    key = _text_key(experiment.id)
    st.text_area(
        "Notes",
        value=original,
        max_chars=_MAX_CHARACTERS,
        height=240,
        key=key,
        help="Markdown: headings, lists, tables, links and code. HTML is shown as it is typed, and pictures are links.",
    )
    with st.container(horizontal=True):
        st.button(
            "Save",
            type="primary",
            icon=":material/save:",
            on_click=_save,
            args=(experiment.id, original),
            key="experiment.notes.save",
        )
        st.button("Discard", on_click=_end, key="experiment.notes.discard")


def _text_key(experiment_id: str) -> str:
    return f"experiment.notes.{experiment_id}"


def _start(experiment_id: str, notes: str) -> None:
    st.session_state[_EDITED] = (experiment_id, notes)


def _end() -> None:
    st.session_state.pop(_EDITED, None)


def _save(experiment_id: str, original: str) -> None:
    """Store the notes, unless somebody has changed them meanwhile; then the next attempt overwrites these."""
    text: str = st.session_state[_text_key(experiment_id)]
    client = session.action_client()
    try:
        stored = client.experiment(experiment_id).notes
        if stored not in (original, text):
            st.session_state[_EDITED] = (experiment_id, stored)
            bulk.set_message(
                "", Counter(["The notes have been changed meanwhile. Save again to replace them by yours."])
            )
            return
        client.change_experiment(experiment_id, notes=text)
    except (ApiError, BackendUnreachable) as error:
        bulk.set_message("", Counter([bulk.error_sentence(error)]))
        return
    _end()
    bulk.set_message("Notes saved.")


@st.cache_data(ttl=20, show_spinner=False)
def _known_tags(url: str) -> list[str]:
    items = session.client().experiments(limit=200, archived="include").items
    return sorted({tag for item in items for tag in item.tags})


def _tags(experiment: Experiment) -> None:
    # The key depends on the stored tags, so that a refused change disappears from the field.
    attempts = st.session_state.setdefault("experiment.tags.attempts", 0)
    key = f"experiment.tags.{experiment.id}.{attempts}.{','.join(experiment.tags)}"
    known = session.fetch("known tags", lambda: _known_tags(session.client().url)).value
    st.multiselect(
        "Tags",
        list(dict.fromkeys([*experiment.tags, *known])),
        default=experiment.tags,
        max_selections=MAX_TAGS,
        accept_new_options=True,
        placeholder="add a tag",
        on_change=_change_tags,
        args=(experiment.id, experiment.tags, key),
        key=key,
    )


def _change_tags(experiment_id: str, before: Sequence[str], key: str) -> None:
    """Send what was added and removed, so that a change by another person at the same time is kept."""
    after = [tag.strip() for tag in st.session_state[key]]
    added = [tag for tag in after if tag not in before]
    removed = [tag for tag in before if tag not in after]
    try:
        session.action_client().change_experiment(experiment_id, add_tags=added, remove_tags=removed)
    except (ApiError, BackendUnreachable) as error:
        bulk.set_message("", Counter([bulk.error_sentence(error)]))
        st.session_state["experiment.tags.attempts"] += 1
        return
    _known_tags.clear()
