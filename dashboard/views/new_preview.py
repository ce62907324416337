"""The column beside the form of a new experiment: preview, Start button, and the spec as YAML."""

from __future__ import annotations

import uuid
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, Experiment, Preview
from dashboard import session, wording
from dashboard.forms import draft as drafts
from dashboard.forms import estimates, seed_notes, spec_draft, spec_yaml, yaml_import
from dashboard.forms.draft import FormState
from dashboard.forms.widgets import FieldErrors, table
from dashboard.lists import row_text
from dashboard.markup import escape
from dashboard.views import new_sweep

_YAML = "new.yaml"
_MAX_CHARACTERS = 100_000
_PARENT_DELETED = (
    "The experiment that this is a copy of has been deleted meanwhile, and nothing was started. Press Start again to "
    "submit the copy without a link to it."
)


def show(catalog: Catalog, state: FormState, field_errors: FieldErrors) -> None:
    """Draw the column, and show errors at the form's fields."""
    new_sweep.keep_choice()
    spec, text = spec_draft.to_spec(state.draft), state.text
    if state.submitted and state.submitted[0] == text:
        _show_submitted(state.submitted[1])
    else:
        _preview_and_start(state, spec, text, field_errors)
    _as_yaml(catalog, state, spec, text)


def _preview_and_start(state: FormState, spec: dict[str, Any], text: str, field_errors: FieldErrors) -> None:
    preview, problems = _preview(spec, text)
    problems = [*field_errors.local_errors, *problems]
    # A taken name is only a warning of the preview, but the experiment could not be started.
    notes = [(item.path, item.message) for item in preview.warnings] if preview else []
    problems += [note for note in notes if note[0] == "name"]
    field_errors.show(problems, "red", ":material/error:")
    if problems:
        _show_problems(problems, state.draft)
    elif preview:
        field_errors.show(notes, "orange", ":material/warning:")
        _show_plan(preview, notes, state.draft)
        if not spec["name"]:
            st.info("Enter a name at the top of the form to start the experiment.", icon=":material/edit:")
    valid = preview is not None and not problems
    pressed = st.button(
        f"Start {wording.counted(row_text.planned_count(preview), 'run')}" if preview and valid else "Start",
        type="primary",
        icon=":material/play_arrow:",
        disabled=not valid or not spec["name"] or state.rejected_yaml is not None,
        key="new.submit",
    )
    # The experiment is submitted here and not in the button's callback: a value that is still being typed when the
    # button is pressed arrives with the same message, and the callback would see the form without it.
    if pressed and valid and spec["name"]:
        _submit(state, spec, text)
    message = st.session_state.pop("new.message", "")
    if message:
        st.error(escape(message), icon=":material/error:")
    if preview is not None and not field_errors.local_errors:
        with st.expander("Sweep: several values of some fields", icon=":material/grid_view:"):
            new_sweep.draw(spec, preview, state.draft)


def _preview(spec: dict[str, Any], text: str) -> tuple[Preview | None, list[tuple[str, str]]]:
    """Return the preview, or the errors of the spec. The preview is requested again only if the form has changed."""
    refusal: tuple[str, list[tuple[str, str]]] | None = st.session_state.get("new.refused")
    if refusal and refusal[0] == text:
        return None, refusal[1]
    stored: tuple[str, Preview | None, list[tuple[str, str]]] | None = st.session_state.get("new.preview")
    if stored is None or stored[0] != text:
        try:
            # A form without a name is not an error: its preview is requested with a placeholder.
            stored = (text, session.client().preview({**spec, "name": spec["name"] or drafts.UNNAMED}), [])
        except ApiError as error:
            stored = (text, None, _problems(error))
        st.session_state["new.preview"] = stored
    return stored[1], stored[2]


def _problems(error: ApiError) -> list[tuple[str, str]]:
    if error.status != 422:
        raise error
    problems = [(item.path, item.message) for item in error.problem.errors]
    return problems or [("", error.problem.detail or error.problem.title)]


def _submit(state: FormState, spec: dict[str, Any], text: str) -> None:
    """Create the experiment. The idempotency key depends on the spec, so a double click or a retry creates only one."""
    key: tuple[str, str] = st.session_state.get("new.key", ("", ""))
    if key[0] != text:
        key = (text, str(uuid.uuid4()))
        st.session_state["new.key"] = key
    try:
        created = session.client().submit(spec, idempotency_key=key[1], parent=state.parent or None)
        state.submitted = (text, created)
    except BackendUnreachable as error:
        st.session_state["new.message"] = f"{error}; the experiment was not created. Try again later."
        return
    except ApiError as error:
        problems = _problems(error) if error.status == 422 else [("", str(error))]
        if state.parent and any(path == "parent" for path, _ in problems):
            state.parent = ""
            st.session_state["new.message"] = _PARENT_DELETED
        else:
            st.session_state["new.refused"] = (text, problems)
    st.rerun()


def _show_submitted(experiment: Experiment) -> None:
    reused = experiment.counts.succeeded
    queued = wording.counted(experiment.counts.total - reused, "run")
    more = f"; {wording.counted(reused, 'run')} already trained" if reused else ""
    st.success(
        f"**{escape(experiment.name)}** is queued: {queued}{more}.",
        icon=":material/check_circle:",
    )
    st.page_link(
        session.page("experiment"),
        label="Its page: time left, notes, runs",
        icon=":material/science:",
        query_params={"id": experiment.id},
    )
    st.page_link(
        session.page("compare"),
        label="Watch and compare",
        icon=":material/stacked_line_chart:",
        query_params={"experiment": experiment.id},
    )
    st.page_link(
        session.page("runs"),
        label="Runs of this experiment",
        icon=":material/list:",
        query_params={"experiment": experiment.name},
    )


def _show_problems(problems: list[tuple[str, str]], draft: dict[str, Any]) -> None:
    errors = "1 error" if len(problems) == 1 else f"{len(problems)} errors"
    text = f"{errors} to fix before this experiment can start:\n\n" + _problem_lines(problems, draft)
    st.error(text, icon=":material/error:")


def _problem_lines(problems: list[tuple[str, str]], draft: dict[str, Any]) -> str:
    lines = []
    for path, message in problems:
        field = spec_draft.describe_path(path, draft)
        lines.append(f"- **{escape(field)}:** {escape(message)}" if field else f"- {escape(message)}")
    return "\n".join(lines)


def _show_plan(preview: Preview, warnings: list[tuple[str, str]], draft: dict[str, Any]) -> None:
    count = row_text.planned_count(preview)
    st.markdown(f"**This experiment has {wording.counted(count, 'run')}.**")
    table(row_text.planned_rows(preview))
    for described in preview.teacher_sentences:
        st.markdown(f":material/school: {escape(described)}")
    for sentence in estimates.estimate_sentences(preview.estimate):
        st.markdown(f":material/schedule: {sentence}")
    if smallest_p := seed_notes.seed_sentence(preview.spec):
        st.markdown(f":material/casino: {escape(smallest_p)}")
    if warnings:
        st.warning("Warnings:\n\n" + _problem_lines(warnings, draft), icon=":material/warning:")


def _as_yaml(catalog: Catalog, state: FormState, spec: dict[str, Any], text: str) -> None:
    """Draw the spec as editable YAML; changes are applied to the form."""
    if state.rejected_yaml is not None:
        st.session_state[_YAML] = state.rejected_yaml[0]
    elif state.yaml_source != text or _YAML not in st.session_state:
        if _YAML in st.session_state:
            state.superseded_yaml.add(st.session_state[_YAML])
        st.session_state[_YAML] = spec_yaml.yaml_of(spec)
        state.yaml_source = text
    else:
        state.superseded_yaml.clear()  # the browser has sent the newest text
    st.text_area(
        "Spec as YAML",
        # The browser takes a value of the session state from the run that sets it. On a slow line the next run follows
        # before the field is loaded, which then begins with its default, and sends that as an edit.
        value=st.session_state[_YAML],
        key=_YAML,
        height=420,
        max_chars=_MAX_CHARACTERS,
        on_change=_apply_yaml,
        args=(catalog, state),
        help="Edit the spec or paste one. The form is updated when you leave the field or press Ctrl+Enter.",
    )
    if state.rejected_yaml is not None:
        lines = _problem_lines(state.rejected_yaml[1], {})
        st.error(f"This YAML cannot be applied to the form:\n\n{lines}", icon=":material/error:", width="stretch")
        st.button("Discard changes", icon=":material/undo:", on_click=_discard_yaml, args=(state,), key="new.yaml.drop")
    else:
        st.download_button(
            "Download",
            spec_yaml.yaml_of(spec),
            file_name=f"{spec['name'] or 'experiment'}.yaml",
            mime="application/yaml",
            icon=":material/download:",
            on_click="ignore",
            key="new.yaml.download",
        )


def _discard_yaml(state: FormState) -> None:
    state.rejected_yaml = None
    state.yaml_source = ""


def _apply_yaml(catalog: Catalog, state: FormState) -> None:
    """Apply the edited YAML to the form; keep the text if the form cannot show it."""
    text: str = st.session_state[_YAML]
    if text in state.superseded_yaml:
        # Not an edit: input in the form, or a click, came before the browser had received the YAML of the input before.
        # To apply the old text would undo that input.
        state.yaml_source = ""
        return
    state.superseded_yaml.clear()
    try:
        data = yaml_import.parse(text)
    except ValueError as error:
        state.rejected_yaml = (text, [("", str(error))])
        return
    name = data.get("name") or ""
    try:
        draft = session.client().preview({**data, "name": name or drafts.UNNAMED}).draft
    except BackendUnreachable as error:
        state.rejected_yaml = (text, [("", f"{error}. Try again later.")])
    except ApiError as error:
        entries = {"methods": catalog.methods, "models": catalog.models, "datasets": catalog.datasets}
        if error.status == 422 and yaml_import.form_can_show(data, entries, catalog.experiment_schema):
            drafts.load(state, spec_draft.to_draft(data), edited=True)
        else:
            problems = [(item.path, item.message) for item in error.problem.errors]
            state.rejected_yaml = (text, problems or [("", str(error))])
    else:
        drafts.load(state, spec_draft.to_draft({**draft, "name": name}), edited=True)
