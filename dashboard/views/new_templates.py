"""Templates of a new experiment: an example, a clone of an experiment, uploaded teacher weights, or an empty form."""

from __future__ import annotations

from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, CatalogExample
from dashboard import addresses, session
from dashboard.forms import draft as drafts
from dashboard.forms import schema_fields
from dashboard.forms.draft import FormState
from dashboard.markup import escape

_FIRST = "digits-dkd-vs-dkd-align"
_PARAMETERS = ("clone", "example", "teacher")


def follow_link(catalog: Catalog, state: FormState) -> None:
    """Load the template that the address names, once: ``?clone=ID``, ``?example=NAME`` or ``?teacher=UPLOAD``."""
    link = {name: given for name in _PARAMETERS if (given := addresses.query_value(name, "name"))}
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
                on_click=_example,
                args=(catalog, state, _FIRST),
                help=escape(examples[_FIRST].summary),
                key="new.preset.digits",
            )
        st.button("Empty form", icon=":material/restart_alt:", on_click=_empty, args=(catalog, state), key="new.blank")
        if examples:
            st.selectbox(
                "Example",
                list(examples),
                index=None,
                format_func=lambda name: f"{examples[name].group} · {examples[name].title}",
                placeholder="More examples: CIFAR-100 pairs, rows of published tables …",
                label_visibility="collapsed",
                key="new.example",
                on_change=_chosen,
                args=(catalog, state),
                width=440,
            )
    if state.message:
        st.caption(escape(state.message))


def _leave_link(state: FormState) -> None:
    """Remove the template from the address after another one has been selected."""
    for name in _PARAMETERS:
        st.query_params.pop(name, None)
    state.start_query = {}


def _empty(catalog: Catalog, state: FormState) -> None:
    _leave_link(state)
    drafts.load(state, drafts.blank(catalog))


def _chosen(catalog: Catalog, state: FormState) -> None:
    name: str | None = st.session_state.get("new.example")
    st.session_state["new.example"] = None
    if name:
        _leave_link(state)
        _example(catalog, state, name)


def _example(catalog: Catalog, state: FormState, name: str) -> None:
    found: CatalogExample | None = next((item for item in catalog.examples if item.name == name), None)
    if found is None:
        state.message = f"There is no example named {name!r}."
        return
    spec = found.spec
    if "preset" in spec:
        filled = _filled_in(state, spec)
        if filled is None:
            return
        spec = filled
    drafts.load(state, schema_fields.to_draft({**spec, "name": drafts.free_name(name)}))
    if found.summary:
        state.message = found.summary


def _filled_in(state: FormState, spec: dict[str, Any]) -> dict[str, Any] | None:
    """Return a spec with the fields that its preset fills in; None if the backend does not return them."""
    try:
        return session.client().preview(spec).draft
    except (ApiError, BackendUnreachable) as error:
        state.message = f"The example cannot be loaded: {error}."
        return None


def _clone(state: FormState, key: str) -> None:
    try:
        found = session.client().experiment(key)
    except ApiError as error:
        if error.status != 404:
            raise
        state.message = f"There is no experiment {key!r} to clone; it may have been deleted."
        return
    name = drafts.free_name(found.name)
    try:
        copy = session.client().preview_clone(key)
    except ApiError as error:
        if error.status != 422:
            raise
        # The spec was valid when it was submitted and no longer is. The form shows the error at its field.
        drafts.load(
            state, schema_fields.to_draft({**found.spec, "tags": list(found.tags), "notes": found.notes, "name": name})
        )
        state.message = f"Copy of {found.name}. It must be changed before it can be submitted."
        return
    drafts.load(state, schema_fields.to_draft({**copy.draft, "name": name}), copy.teacher)
    state.message = f"Copy of {found.name}."
    if copy.teacher:
        state.message += " It keeps the teacher of the original, whatever you change in the students' training."
