"""State of the New experiment page, shared by its form, preview and templates."""

from __future__ import annotations

import json
import uuid
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.public import Catalog, Experiment, PlannedTeacher
from dashboard import session
from dashboard.forms import spec_draft

_KEY = "new.state"
UNNAMED = "not named yet"
"""Name with which the preview of a form without a name is requested."""


RejectedYaml = tuple[str, list[tuple[str, str]]]
"""Edited YAML that the form cannot show, and its errors: each a path and a message."""


@dataclass(frozen=True)
class Input:
    """What a person has entered in the form.

    Attributes:
        draft: The draft.
        parent: Id of the experiment that it is a copy of; empty if it is no copy.
        rejected_yaml: Text of the YAML field that is not applied to the draft; None without one.
    """

    draft: dict[str, Any]
    parent: str = ""
    rejected_yaml: RejectedYaml | None = None


@dataclass
class FormState:
    """State of the page in one browser session.

    Attributes:
        draft: The form's values, as ``spec_draft.to_draft`` returns them.
        generation: Part of every widget's key. A new generation creates new widgets, which take their values from the
            draft.
        submitted: The last submitted spec as text, and the experiment that it created.
        rejected_yaml: Edited YAML that the form cannot show, and its errors, so that no input is lost.
        yaml_source: The spec, as text, from which the content of the YAML field was generated.
        superseded_yaml: Former contents of the YAML field, which the browser may send until it has received the newest.
        example_number: Part of the key of the list of examples. A new number creates a list without a selection.
        start_query: The query parameters from which the draft was started.
        message: Describes the template or experiment from which the draft was started.
        copied_teacher: Teacher of a cloned experiment in the draft's form, and the backend's description of it.
        parent: Id of the experiment that the draft is a copy of; empty if it is no copy.
        train_new_teacher: Whether the copy trains a new teacher.
        choosing_method: Whether the list of methods is open.
        left: By the name of a task, its draft when the data set was last changed to that of another task.
        untouched: The spec, as text, that the form showed before the person changed it; None until it is drawn.
        replaced: The changed draft that a template has replaced, which can be brought back.
        asked: Which template would replace the changed draft, while the page asks whether it may; None if it does not.
        kept_in_browser: Whether the browser has answered which draft it kept before the page was reloaded.
    """

    draft: dict[str, Any]
    generation: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    submitted: tuple[str, Experiment] | None = None
    rejected_yaml: RejectedYaml | None = None
    yaml_source: str = ""
    superseded_yaml: set[str] = field(default_factory=set)
    example_number: int = 0
    start_query: dict[str, str] = field(default_factory=dict)
    message: str = ""
    copied_teacher: tuple[dict[str, Any], PlannedTeacher] | None = None
    parent: str = ""
    train_new_teacher: bool = False
    choosing_method: bool = False
    left: dict[str, dict[str, Any]] = field(default_factory=dict)
    untouched: str | None = None
    replaced: Input | None = None
    asked: str | None = None
    kept_in_browser: bool = False

    @property
    def text(self) -> str:
        """The spec as text."""
        return json.dumps(spec_draft.to_spec(self.draft), sort_keys=True)

    @property
    def touched(self) -> bool:
        """Whether the form contains input that would be lost with it."""
        submitted = self.submitted is not None and self.submitted[0] == self.text
        changed = self.untouched != self.text and not submitted
        return self.untouched is not None and (changed or self.rejected_yaml is not None)

    @property
    def input(self) -> Input:
        """What the person has entered."""
        return Input(self.draft, self.parent, self.rejected_yaml)


def form_state(catalog: Catalog) -> FormState:
    """Return the session's state, initially with an empty form."""
    if _KEY not in st.session_state:
        st.session_state[_KEY] = FormState(blank(catalog))
    state: FormState = st.session_state[_KEY]
    return state


def blank(catalog: Catalog) -> dict[str, Any]:
    """Return the draft of an empty form."""
    entries = {"methods": catalog.methods, "models": catalog.models, "datasets": catalog.datasets}
    return spec_draft.blank_draft(entries, catalog.experiment_schema)


def load(
    state: FormState, draft: dict[str, Any], teacher: PlannedTeacher | None = None, *, edited: bool = False
) -> None:
    """Show another draft in the form. A changed draft that it replaces can be brought back.

    Args:
        state: State of the page.
        draft: The draft.
        teacher: The backend's description of the draft's teacher, if the draft is a copy; the form then offers to use
            the same teacher.
        edited: Whether the person has edited the draft, as text, so that it replaces nothing and stays a copy.
    """
    if not edited:
        state.replaced = state.input if state.touched else state.replaced
        state.untouched = None
        state.parent = ""
    redraw(state, draft)
    state.message = ""
    state.copied_teacher = (deepcopy(draft["teacher"]), teacher) if teacher and draft["teacher"] else None
    state.train_new_teacher = False
    state.left = {}


def bring_back(state: FormState) -> None:
    """Show the draft that a template has replaced."""
    replaced, state.replaced = state.replaced, None
    if replaced is not None:
        load_input(state, replaced)


def load_input(state: FormState, entered: Input) -> None:
    """Show what a person has entered, which must not be lost either."""
    load(state, entered.draft)
    state.parent = entered.parent
    state.rejected_yaml = entered.rejected_yaml
    state.untouched = ""


def redraw(state: FormState, draft: dict[str, Any]) -> None:
    """Show a draft that a button of the form has changed."""
    state.draft = draft
    state.generation = uuid.uuid4().hex[:8]
    state.submitted = state.rejected_yaml = None
    state.yaml_source = ""


def free_name(name: str) -> str:
    """Return the name, with a suffix -2, -3 … if it is taken, so that a template starts with a valid name."""
    try:
        taken = {item.name for item in session.client().experiments(text=name, limit=100).items}
    except (ApiError, BackendUnreachable):
        return name  # the page shows the error
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(candidate for candidate in numbered if candidate not in taken)
