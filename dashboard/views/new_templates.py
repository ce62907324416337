"""What a new experiment begins with: an example, an old experiment, a teacher's weights, or nothing."""

from __future__ import annotations

from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, CatalogExample
from dashboard import addresses, session
from dashboard.forms import draft as drafts
from dashboard.forms import schema_fields
from dashboard.forms.draft import State
from dashboard.markup import escape

_FIRST = "digits-dkd-vs-dkd-align"
_PARAMETERS = ("clone", "example", "teacher")


def follow_link(catalog: Catalog, held: State) -> None:
    """Begin with what the address names, once: ``?clone=ID``, ``?example=NAME`` or ``?teacher=UPLOAD``."""
    link = {name: given for name in _PARAMETERS if (given := addresses.one(name, "name"))}
    if link == held.link:
        return
    held.link = link
    if "clone" in link:
        _clone(held, link["clone"])
    elif "example" in link:
        _example(catalog, held, link["example"])
    elif "teacher" in link:
        draft = drafts.blank(catalog)
        draft["teacher"]["weights"] = {"source": f"upload:{link['teacher']}", "fine_tune": False}
        drafts.load(held, draft)


def choices(catalog: Catalog, held: State) -> None:
    """The row of buttons above the form."""
    examples = {item.name: item for item in catalog.examples}
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Begin with", width="content")
        if _FIRST in examples:
            st.button(
                escape(examples[_FIRST].title),
                icon=":material/bolt:",
                on_click=_example,
                args=(catalog, held, _FIRST),
                help=escape(examples[_FIRST].summary),
                key="new.preset.digits",
            )
        st.button("Empty form", icon=":material/restart_alt:", on_click=_empty, args=(catalog, held), key="new.blank")
        if examples:
            st.selectbox(
                "Example",
                list(examples),
                index=None,
                format_func=lambda name: f"{examples[name].group} · {examples[name].title}",
                placeholder="Another example: the CIFAR-100 pairs, the author's rows …",
                label_visibility="collapsed",
                key="new.example",
                on_change=_chosen,
                args=(catalog, held),
                width=440,
            )
    if held.said:
        st.caption(escape(held.said))


def _leave_link(held: State) -> None:
    """What the address named is no longer what the form was begun from."""
    for name in _PARAMETERS:
        st.query_params.pop(name, None)
    held.link = {}


def _empty(catalog: Catalog, held: State) -> None:
    _leave_link(held)
    drafts.load(held, drafts.blank(catalog))


def _chosen(catalog: Catalog, held: State) -> None:
    name: str | None = st.session_state.get("new.example")
    st.session_state["new.example"] = None
    if name:
        _leave_link(held)
        _example(catalog, held, name)


def _example(catalog: Catalog, held: State, name: str) -> None:
    found: CatalogExample | None = next((item for item in catalog.examples if item.name == name), None)
    if found is None:
        held.said = f"There is no example named {name!r}."
        return
    spec = found.spec
    if "preset" in spec:
        filled = _filled_in(held, spec)
        if filled is None:
            return
        spec = filled
    drafts.load(held, schema_fields.to_draft({**spec, "name": drafts.free_name(name)}))
    if found.summary:
        held.said = found.summary


def _filled_in(held: State, spec: dict[str, Any]) -> dict[str, Any] | None:
    """A spec with what its preset fills in; None where the backend does not say."""
    try:
        return session.client().preview(spec).draft
    except (ApiError, BackendUnreachable) as error:
        held.said = f"The example cannot be read: {error}."
        return None


def _clone(held: State, key: str) -> None:
    try:
        found = session.client().experiment(key)
    except ApiError as error:
        if error.status != 404:
            raise
        held.said = f"There is no experiment {key!r} to clone; it may have been deleted."
        return
    name = drafts.free_name(found.name)
    try:
        copy = session.client().preview_clone(key)
    except ApiError as error:
        if error.status != 422:
            raise
        # It was submitted before something in it was refused, which is told at its field.
        drafts.load(
            held, schema_fields.to_draft({**found.spec, "tags": list(found.tags), "notes": found.notes, "name": name})
        )
        held.said = f"This is a copy of {found.name}, which cannot be submitted as it is."
        return
    drafts.load(held, schema_fields.to_draft({**copy.draft, "name": name}), copy.teacher)
    held.said = f"This is a copy of {found.name}."
    if copy.teacher:
        held.said += " Its teacher stays the same whatever you change in the students' training."
