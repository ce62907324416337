"""The New experiment page: a form generated from the catalog, with a preview beside it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import streamlit as st

from core.protocol.public import Catalog
from dashboard import session
from dashboard.forms import draft as drafts
from dashboard.forms import kept_draft, schema_fields, spec_draft, task_catalog, task_change
from dashboard.forms.draft import FormState
from dashboard.forms.task_change import TaskForm
from dashboard.forms.widgets import FieldErrors, draw_entry, draw_object
from dashboard.views import new_methods, new_preview, new_seeds, new_teachers, new_templates, new_tune


def show() -> None:
    """Draw the page."""
    st.title("New experiment")
    catalog = session.catalog()
    state = drafts.form_state(catalog)
    new_templates.follow_link(catalog, state)
    kept_draft.restore(catalog, state)
    new_templates.template_controls(catalog, state)
    left, right = st.columns([3, 2], gap="large")
    field_errors = FieldErrors()
    with left:
        state.draft = _form(catalog, state, field_errors)
    if state.untouched is None:
        state.untouched = state.text
    with right, st.container(key="beside"):
        new_preview.show(catalog, state, field_errors)
    kept_draft.keep(state)


def _form(catalog: Catalog, state: FormState, field_errors: FieldErrors) -> dict[str, Any]:
    """Draw every field with the draft's value and return the draft with the current input."""
    draft, key = state.draft, f"new.{state.generation}"
    edited = deepcopy(draft)
    edited["name"] = st.text_input(
        "Name",
        value=draft["name"],
        key=f"{key}.name",
        placeholder="digits-dkd-vs-dkd-align",
        help="A unique name, which identifies the experiment in tables and links.",
    )
    field_errors.add("name")

    st.subheader("Data and networks")
    edited["dataset"] = draw_entry("Data set", catalog.datasets, draft["dataset"], "dataset", key, field_errors)
    task = session.task(edited["dataset"]["name"])
    former = session.task(draft["dataset"]["name"])
    if task != former:
        _change_task(catalog, state, edited, former, task)
        st.rerun()
    catalog = task_catalog.for_task(catalog, task, spec_draft.trainings(draft))
    schema = catalog.experiment_schema
    training = schema_fields.schema_to_fields(schema["$defs"]["Training"], schema)
    edited["student"] = {
        "model": draw_entry("Student", catalog.models, draft["student"]["model"], "student.model", key, field_errors)
    }
    edited |= new_teachers.draw(catalog, state, key, field_errors)

    st.subheader("Methods")
    st.caption("The first method is the baseline. A method can be added several times with different parameters.")
    first_teacher = next(iter(spec_draft.own_teachers(edited)), None)
    taps = new_methods.taps_of_networks(catalog, edited["student"]["model"], first_teacher)
    edited["methods"] = new_methods.draw(catalog, state, key, field_errors, taps)

    edited.pop("tune", None)
    item = session.item(edited["dataset"]["name"])
    if tune := new_tune.draw(draft.get("tune"), schema, key, field_errors, item=item):
        edited["tune"] = tune

    st.subheader("Seeds and training")
    edited["seeds"] = new_seeds.draw(draft["seeds"], schema, key, field_errors)
    settings = schema_fields.with_defaults(
        draft["training"], schema_fields.schema_defaults(schema["$defs"]["Training"], schema)
    )
    edited["training"] = draw_object(
        training, settings, path="training", key=key, field_errors=field_errors, folded=new_teachers.FOLDED
    )
    with st.expander("Notes, tags, priority, device"):
        _extras(draft, edited, schema, key, field_errors)
    return edited


def _change_task(
    catalog: Catalog, state: FormState, edited: dict[str, Any], former: dict[str, Any], task: dict[str, Any]
) -> None:
    """Show the draft with a data set of another task."""
    saved = state.left.get(task["name"]) or task_change.networks_of_example(catalog, edited["dataset"]["name"])
    state.left[former["name"]] = state.draft
    before, after = (TaskForm.of(catalog, item) for item in (former, task))
    drafts.redraw(state, task_change.change_task(edited, before, after, saved))
    state.copied_teacher = None


def _extras(
    draft: dict[str, Any], edited: dict[str, Any], schema: dict[str, Any], key: str, field_errors: FieldErrors
) -> None:
    edited["notes"] = st.text_area("Notes", value=draft["notes"], key=f"{key}.notes")
    field_errors.add("notes")
    tags = st.text_input("Tags", value=", ".join(draft["tags"]), key=f"{key}.tags", help="Separated by commas.")
    edited["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    field_errors.add("tags")
    edited["priority"] = int(
        st.number_input(
            "Priority",
            value=int(draft["priority"]),
            step=1,
            format="%d",
            key=f"{key}.priority",
            help="Runs with a higher priority start first.",
        )
        or 0
    )
    field_errors.add("priority")
    fields = schema_fields.schema_to_fields(schema["$defs"]["Resources"], schema)
    edited["resources"] = draw_object(fields, draft["resources"], path="resources", key=key, field_errors=field_errors)
