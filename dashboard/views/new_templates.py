"""Templates of a new experiment: an example, a clone of an experiment, uploaded teacher weights, or an empty form."""

from __future__ import annotations

from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, CatalogExample
from dashboard import addresses, session
from dashboard.forms import draft as drafts
from dashboard.forms import spec_draft
from dashboard.forms.draft import FormState
from dashboard.markup import escape

_FIRST = "digits-dkd-vs-dkd-align"
_EMPTY = ""
_PARAMETERS = ("clone", "example", "teacher")


def follow_link(catalog: Catalog, state: FormState) -> None:
    """Load the template in the address once: ``?clone=ID``, ``?example=NAME`` or ``?teacher=UPLOAD``."""
    link = {name: value for name in _PARAMETERS if (value := addresses.query_value(name, "name"))}
    if link == state.start_query:
        return
    state.start_query = link
    if "clone" in link:
        _clone(state, link["clone"])
    elif "example" in link:
        _example(catalog, state, link["example"])
    elif "teacher" in link:
        draft = drafts.blank(catalog)
        draft["teacher"]["weights"] = {"source": f"upload:{link['teacher']}", "fine_tune": False}
        drafts.load(state, draft)


def template_controls(catalog: Catalog, state: FormState) -> None:
    """Draw the row of templates above the form."""
    examples = {item.name: item for item in catalog.examples}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Start from", width="content")
        if _FIRST in examples:
            st.button(
                escape(examples[_FIRST].title),
                icon=":material/bolt:",
                on_click=_request,
                args=(catalog, state, _FIRST),
                help=escape(examples[_FIRST].summary),
                key="new.preset.digits",
            )
        st.button(
            "Empty form",
            icon=":material/restart_alt:",
            on_click=_request,
            args=(catalog, state, _EMPTY),
            key="new.blank",
        )
        if examples:
            st.selectbox(
                "Example",
                list(examples),
                index=None,
                format_func=lambda name: f"{examples[name].group} · {examples[name].title}",
                placeholder="More examples: CIFAR-100 pairs, rows of published tables …",
                label_visibility="collapsed",
                key=_example_key(state),
                on_change=_load_selected_example,
                args=(catalog, state),
                width=440,
            )
    if state.asked is not None:
        _ask(catalog, state)
    if state.message:
        st.caption(escape(state.message))
    if state.replaced is not None:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption("Your former draft was replaced.", width="content")
            st.button(
                "Bring it back",
                icon=":material/undo:",
                type="tertiary",
                on_click=_bring_back,
                args=(state,),
                key="new.bring-back",
            )


def _request(catalog: Catalog, state: FormState, name: str) -> None:
    """Show a template, unless the draft has been changed: then the page asks first.

    Args:
        catalog: The catalog.
        state: State of the page.
        name: Name of an example; empty for the empty form.
    """
    state.asked = name if state.touched else None
    if state.asked is None:
        _show(catalog, state, name)


def _show(catalog: Catalog, state: FormState, name: str) -> None:
    state.asked = None
    _leave_link(state)
    if name:
        _example(catalog, state, name)
    else:
        drafts.load(state, drafts.blank(catalog))


def _ask(catalog: Catalog, state: FormState) -> None:
    """Ask in a dialog whether a template may replace the changed draft."""

    def close() -> None:
        state.asked = None

    st.dialog("Replace what you have entered?", on_dismiss=close)(_question)(catalog, state, state.asked or _EMPTY)


def _question(catalog: Catalog, state: FormState, name: str) -> None:
    title = next((item.title for item in catalog.examples if item.name == name), name)
    new = f"The example **{escape(title)}**" if name else "An empty form"
    st.markdown(
        f"{new} replaces the whole form, which has changes that are not submitted. "
        'The button "Bring it back" undoes that once.'
    )
    with st.container(horizontal=True):
        # Callbacks run before the page is drawn; the rerun closes the dialog.
        replaced = st.button(
            "Replace", type="primary", on_click=_show, args=(catalog, state, name), key="new.replace.sure"
        )
        if st.button("Keep my draft", on_click=_keep, args=(state,), key="new.replace.keep") or replaced:
            st.rerun()


def _keep(state: FormState) -> None:
    state.asked = None


def _bring_back(state: FormState) -> None:
    _leave_link(state)
    drafts.bring_back(state)


def _leave_link(state: FormState) -> None:
    """Remove the template from the address after another one has been selected."""
    for name in _PARAMETERS:
        st.query_params.pop(name, None)
    state.start_query = {}


def _example_key(state: FormState) -> str:
    return f"new.{state.example_number}.example"


def _load_selected_example(catalog: Catalog, state: FormState) -> None:
    name: str | None = st.session_state.get(_example_key(state))
    # A new list instead of a new value: until the browser has received it, it still sends the selection, which would
    # load the example again and undo input in the form.
    state.example_number += 1
    if name:
        _request(catalog, state, name)


def _example(catalog: Catalog, state: FormState, name: str) -> None:
    example: CatalogExample | None = next((item for item in catalog.examples if item.name == name), None)
    if example is None:
        state.message = f"There is no example named {name!r}."
        return
    spec = example.spec
    if "preset" in spec:
        complete_spec = _with_preset_fields(state, spec)
        if complete_spec is None:
            return
        spec = complete_spec
    drafts.load(state, spec_draft.to_draft({**spec, "name": drafts.free_name(name)}))
    if example.summary:
        state.message = example.summary


def _with_preset_fields(state: FormState, spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return a spec with the fields that its preset gives; None if the backend does not return them."""
    try:
        return session.client().preview(spec).draft
    except (ApiError, BackendUnreachable) as error:
        state.message = f"The example cannot be loaded: {error}."
        return None


def _clone(state: FormState, key: str) -> None:
    try:
        original = session.client().experiment(key)
    except ApiError as error:
        if error.status != 404:
            raise
        state.message = f"There is no experiment {key!r} to clone; it may have been deleted."
        return
    name = drafts.free_name(original.name)
    try:
        copy = session.client().preview_clone(key)
    except ApiError as error:
        if error.status != 422:
            raise
        # The spec was valid when it was submitted and is no longer valid. The form shows the error at its field.
        drafts.load(
            state,
            spec_draft.to_draft({**original.spec, "tags": list(original.tags), "notes": original.notes, "name": name}),
        )
        state.parent = original.id
        state.message = f"Copy of {original.name}. It must be changed before it can be submitted."
        return
    drafts.load(state, spec_draft.to_draft({**copy.draft, "name": name}), copy.teacher)
    state.parent = original.id
    state.message = f"Copy of {original.name}."
    if copy.teacher:
        state.message += " It uses the teacher of the original, also if you change the students' training."
