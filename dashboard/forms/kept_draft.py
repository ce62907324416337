"""The draft of a new experiment in the browser's tab, from which it comes back after a reload."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog
from dashboard import session
from dashboard.forms import draft as drafts
from dashboard.forms import spec_draft, yaml_import
from dashboard.forms.draft import FormState, Input

_MAX_CHARACTERS = 200_000
MESSAGE = "This is your draft from before the page was reloaded."


def restore(catalog: Catalog, state: FormState) -> None:
    """Ask the browser of a new session for the draft, and show it unless there is input already.

    A link that was opened before the reload has been followed again; the draft that was made of its template replaces
    it. The draft of another link can be brought back.

    The component has its own container, so that the form below it keeps its place when it disappears: the browser would
    draw all of the form again, with its expanders closed and the first input after the reload lost.
    """
    place = st.container(key="dkd-draft-find")
    if state.kept_in_browser:
        return
    with place:
        found = _browser()(key="new.draft.find", data={"read": True}, height=1, on_found_change=_ignore).get("found")
    if found is None:
        return
    state.kept_in_browser = True
    kept = _parsed(str(found), catalog)
    if kept is None:
        return
    if kept.link == state.start_query and not state.touched:
        drafts.load_input(state, kept.input)
        state.message = MESSAGE
    else:
        state.replaced = kept.input


def keep(state: FormState) -> None:
    """Let the browser keep the draft; after a submission, and without input, it keeps none."""
    if not state.kept_in_browser:
        return
    kept = {
        "link": state.start_query,
        "spec": spec_draft.to_spec(state.draft),
        "parent": state.parent,
        "rejected_yaml": state.rejected_yaml,
    }
    with st.container(key="dkd-draft-keep"):
        _browser()(key="new.draft.keep", data={"text": json.dumps(kept) if state.touched else ""}, height=1)


@dataclass(frozen=True)
class _Kept:
    """What a browser has kept: the link from which the draft was started, and the input."""

    link: dict[str, str]
    input: Input


def _parsed(text: str, catalog: Catalog) -> _Kept | None:
    """Return what a browser has kept; None if the form cannot show it."""
    try:
        data = json.loads(text[:_MAX_CHARACTERS])
        link, spec, parent = data["link"], data["spec"], data.get("parent", "")
        rejected = data.get("rejected_yaml")  # drafts of earlier versions have none
        rejected_yaml = rejected and (str(rejected[0]), [(str(path), str(text)) for path, text in rejected[1]])
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    if not isinstance(link, dict) or not isinstance(spec, dict) or not isinstance(parent, str):
        return None
    name = spec.get("name") or ""
    try:
        shown = {**session.client().preview({**spec, "name": name or drafts.UNNAMED}).draft, "name": name}
    except ApiError:
        entries = {"methods": catalog.methods, "models": catalog.models, "datasets": catalog.datasets}
        if not yaml_import.form_can_show(spec, entries, catalog.experiment_schema):
            return None
        shown = spec
    except BackendUnreachable:
        return None
    return _Kept(link, Input(spec_draft.to_draft(shown), parent, rejected_yaml or None))


def _ignore() -> None:
    """Do nothing. Streamlit keeps the state of a component only if a callback is registered for it."""


@cache
def _browser() -> Callable[..., Any]:
    script = Path(__file__).parents[1] / "assets" / "draft.js"
    return st.components.v2.component("dkd_draft", js=script.read_text(encoding="utf-8"))
