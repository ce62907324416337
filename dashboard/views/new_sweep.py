"""The part of the New experiment page that makes a sweep: several values of some fields of the form's spec."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Preview
from core.protocol.submissions import SweepPreview
from dashboard import session, wording
from dashboard.forms import spec_draft, sweep_fields
from dashboard.forms.widgets import table
from dashboard.lists import bulk
from dashboard.markup import escape

_MAX_SHOWN = 12
_NAME_LENGTH = 80
_FIELDS = "new.sweep.fields"


def keep_choice() -> None:
    """Keep the fields that vary while they are not drawn: Streamlit forgets the values of such widgets."""
    st.session_state[_FIELDS] = st.session_state.get(_FIELDS, [])


def draw(spec: dict[str, Any], preview: Preview, draft: Mapping[str, Any]) -> None:
    """Draw the fields that vary with their values, a preview of the sweep, and the button that starts it."""
    paths = sweep_fields.variable_paths(preview.spec)
    chosen = st.multiselect(
        "Fields that vary",
        list(paths),
        format_func=lambda path: f"{spec_draft.describe_path(path, draft)} ({path})",
        placeholder="select fields",
        key=_FIELDS,
    )
    grid: dict[str, list[Any]] = {}
    for path in chosen:
        text = st.text_input(
            escape(f"Values of {path}"),
            placeholder=f"now {paths[path]}",
            key=f"new.sweep.values.{path}",
            help="Separated by commas. Each combination of the values of all fields is one experiment.",
        )
        try:
            grid[path] = sweep_fields.parse_values(text)
        except ValueError as error:
            if text.strip():
                st.caption(f":red[:material/error: {escape(error)}]")
    if not chosen or len(grid) < len(chosen):
        st.caption("Select fields and type several values of each, such as 0.01, 0.05, 0.1.")
        return
    experiment = {name: value for name, value in spec.items() if name != "name"}
    body = {
        "name": spec["name"][:_NAME_LENGTH] or "not named yet",
        "experiment": experiment | _racing(spec["seeds"]),
        "grid": grid,
    }
    shown = _preview(body)
    if shown is not None:
        _show(shown)
        _start(body, shown, named=bool(spec["name"]))


def _racing(seeds: Any) -> dict[str, Any]:
    """Draw whether the settings race, and return the seeds with it; nothing for listed seeds, which cannot."""
    if not isinstance(seeds, Mapping) or seeds.get("until") != "decided":
        return {}
    race = st.toggle(
        "Let the settings race",
        value=bool(seeds.get("race")),
        key="new.sweep.race",
        help="A method gets no more seeds in an experiment once it is surely better in another one of the sweep.",
    )
    return {"seeds": {**seeds, "race": race}}


def _preview(body: dict[str, Any]) -> SweepPreview | None:
    text = json.dumps(body, sort_keys=True, default=str)
    stored: tuple[str, SweepPreview | None, list[str]] | None = st.session_state.get("new.sweep.preview")
    if stored is None or stored[0] != text:
        try:
            stored = (text, session.client().preview_sweep(body), [])
        except ApiError as error:
            if error.status != 422:
                raise
            problems = [f"{item.path}: {item.message}" for item in error.problem.errors]
            stored = (text, None, problems or [str(error)])
        st.session_state["new.sweep.preview"] = stored
    for problem in stored[2]:
        st.error(escape(problem), icon=":material/error:")
    return stored[1]


def _show(preview: SweepPreview) -> None:
    count, runs = len(preview.items), preview.runs
    teachers = f", {wording.counted(preview.new_teachers, 'new teacher')}" if preview.new_teachers else ""
    st.markdown(f"**{wording.counted(count, 'experiment')} with {wording.counted(runs, 'run')}{teachers}.**")
    table([{"Experiment": item.name, "Runs": str(item.runs)} for item in preview.items[:_MAX_SHOWN]])
    if count > _MAX_SHOWN:
        st.caption(f"and {count - _MAX_SHOWN:,} more")
    for warning in preview.warnings:
        st.caption(f":material/warning: {escape(warning.message)}")


def _start(body: dict[str, Any], preview: SweepPreview, *, named: bool) -> None:
    text = json.dumps(body, sort_keys=True, default=str)
    if st.button(
        f"Start the sweep of {wording.counted(preview.runs, 'run')}",
        icon=":material/grid_view:",
        disabled=not named,
        help=None if named else "Enter a name at the top of the form.",
        key="new.sweep.submit",
    ):
        _submit(body, text)
    submitted: str | None = st.session_state.get("new.sweep.submitted")
    if submitted == text:
        st.success(f"The sweep **{escape(body['name'])}** is queued.", icon=":material/check_circle:")
        session.action_link("sweep", "Watch the sweep", "grid_view", {"name": body["name"]})


def _submit(body: dict[str, Any], text: str) -> None:
    """Create the experiments. The idempotency key depends on the sweep, so that a double click creates it once."""
    key: tuple[str, str] = st.session_state.get("new.sweep.key", ("", ""))
    if key[0] != text:
        key = (text, str(uuid.uuid4()))
        st.session_state["new.sweep.key"] = key
    try:
        session.action_client().sweep(body, idempotency_key=key[1])
    except (ApiError, BackendUnreachable) as error:
        st.error(escape(bulk.error_sentence(error)), icon=":material/error:")
        return
    st.session_state["new.sweep.submitted"] = text
