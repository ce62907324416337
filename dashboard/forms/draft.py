"""The New experiment page's draft: what the form holds, in one place for the three parts of the page."""

from __future__ import annotations

import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, Experiment, PlannedTeacher
from dashboard import session
from dashboard.forms import schema_fields

_KEY = "new.state"


@dataclass
class FormState:
    """What a browser session holds of the page.

    Attributes:
        draft: as ``forms.to_draft`` makes it.
        generation: part of every widget's key. Widgets of another generation are other widgets, which take their
            values from the draft.
        made: the spec that was submitted last, as text, and what came of it.
        pending: YAML that could not be taken over, and what is wrong with it: nothing typed is thrown away.
        written: the spec, as text, that the YAML in its field is of.
        link: the query parameters that the draft was begun from.
        said: about what the form was begun from.
        kept: of a copy: the teacher of what it was copied from, as the draft holds one, and what is known of it.
        train_one: the copy is to have another teacher.
    """

    draft: dict[str, Any]
    generation: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    submitted: tuple[str, Experiment] | None = None
    rejected_yaml: tuple[str, list[tuple[str, str]]] | None = None
    yaml_source: str = ""
    start_query: dict[str, str] = field(default_factory=dict)
    message: str = ""
    copied_teacher: tuple[dict[str, Any], PlannedTeacher] | None = None
    train_new_teacher: bool = False


def form_state(catalog: Catalog) -> FormState:
    """The session's, begun with an empty form."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = FormState(blank(catalog))
    found: FormState = st.session_state[_KEY]
    return found


def blank(catalog: Catalog) -> dict[str, Any]:
    listed = {"methods": catalog.methods, "models": catalog.models, "datasets": catalog.datasets}
    return schema_fields.blank_draft(listed, catalog.experiment_schema)


def load(state: FormState, draft: dict[str, Any], teacher: PlannedTeacher | None = None) -> None:
    """Show another draft in the form.

    Args:
        teacher: of a copy: what is known of the draft's teacher, which the form then offers to keep.
    """
    redraw(state, draft)
    state.message = ""
    state.copied_teacher = (deepcopy(draft["teacher"]), teacher) if teacher and draft["teacher"] else None
    state.train_new_teacher = False


def redraw(state: FormState, draft: dict[str, Any]) -> None:
    """Show the draft as it was changed by a button of the form itself."""
    state.draft = draft
    state.generation = uuid.uuid4().hex[:8]
    state.submitted = state.rejected_yaml = None
    state.yaml_source = ""


def free_name(name: str) -> str:
    """The name, with -2, -3 … behind it where that is taken: what one begins with must not begin with an error."""
    try:
        taken = {item.name for item in session.client().experiments(text=name, limit=100).items}
    except (ApiError, BackendUnreachable):
        return name  # the page itself says what is wrong
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(free for free in numbered if free not in taken)
