"""The New experiment page: a form generated from the catalog, with a preview beside it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import streamlit as st

from core.protocol.public import Catalog
from dashboard import session
from dashboard.forms import draft as drafts
from dashboard.forms import schema_fields, spec_draft
from dashboard.forms.draft import FormState
from dashboard.forms.widgets import ErrorSlots, draw_integers, draw_object, escape
from dashboard.views import new_methods, new_preview, new_templates

_FOLDED = ("Speed",)
_USE, _TRAIN = "Keep", "Train a new one"


def show() -> None:
    """Draw the page."""
    st.title("New experiment")
    catalog = session.catalog()
    state = drafts.form_state(catalog)
    new_templates.follow_link(catalog, state)
    new_templates.template_controls(catalog, state)
    left, right = st.columns([3, 2], gap="large")
    slots = ErrorSlots()
    with left:
        state.draft = _form(catalog, state, slots)
    with right, st.container(key="beside"):
        new_preview.show(catalog, state, slots)


def _form(catalog: Catalog, state: FormState, slots: ErrorSlots) -> dict[str, Any]:
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
    slots.add("name")
    schema = catalog.experiment_schema
    training = schema_fields.schema_to_fields(schema["$defs"]["Training"], schema)

    st.subheader("Data and networks")
    edited["dataset"] = _choice("Data set", catalog.datasets, draft["dataset"], "dataset", key, slots)
    edited["student"] = {
        "model": _choice("Student", catalog.models, draft["student"]["model"], "student.model", key, slots)
    }
    edited["teacher"] = _teacher(catalog, state, training, key, slots)

    st.subheader("Methods")
    st.caption("The first method is the baseline. A method can be added several times with different parameters.")
    taps = new_methods.taps_of_networks(catalog, edited["student"]["model"], edited["teacher"])
    edited["methods"] = new_methods.draw(catalog, state, key, slots, taps)

    st.subheader("Seeds and training")
    edited["seeds"] = draw_integers(
        "Seeds",
        list(draft["seeds"]),
        path="seeds",
        key=f"{key}.seeds",
        slots=slots,
        hint="Each method is trained once per seed. Runs with the same seed are compared in pairs.",
    )
    slots.add("seeds")
    settings = schema_fields.with_defaults(
        draft["training"], schema_fields.schema_defaults(schema["$defs"]["Training"], schema)
    )
    edited["training"] = draw_object(training, settings, path="training", key=key, slots=slots, folded=_FOLDED)
    with st.expander("Notes, tags, priority, device"):
        _extras(draft, edited, schema, key, slots)
    return edited


def _choice(
    label: str, entries: list[dict[str, Any]], value: dict[str, Any], path: str, key: str, slots: ErrorSlots
) -> dict[str, Any]:
    """Draw the selection of a catalog entry and the fields of its parameters."""
    titles = {entry["name"]: entry["title"] for entry in entries}
    # Some valid names are not in the catalog, such as the names of timm's hundreds of models.
    names = list(titles) if value["name"] in titles else [*titles, value["name"]]
    name = st.selectbox(
        escape(label),
        names,
        index=names.index(value["name"]),
        format_func=lambda entry_name: titles.get(entry_name, entry_name),
        key=f"{key}.{path}.name",
    )
    slots.add(f"{path}.name")
    if name not in titles:
        slots.add(path)
        return deepcopy(value)
    entry = next(item for item in entries if item["name"] == name)
    st.caption(escape(entry["summary"]))
    slots.add(path)
    fields = schema_fields.schema_to_fields(entry["params"])
    values = schema_fields.with_defaults(
        value["params"] if name == value["name"] else {}, schema_fields.schema_defaults(entry["params"])
    )
    params = draw_object(fields, values, path=f"{path}.params", key=f"{key}.{name}", slots=slots)
    slots.add(f"{path}.params")
    return {"name": name, "params": params}


def _teacher(
    catalog: Catalog, state: FormState, training: list[schema_fields.FormField], key: str, slots: ErrorSlots
) -> dict[str, Any] | None:
    draft = state.draft
    teacher_draft = draft["teacher"]
    with_teacher = st.toggle("With a teacher", value=teacher_draft is not None, key=f"{key}.teacher")
    slots.add("teacher")
    if others := drafts.further_teachers(draft):
        st.caption(escape(f"{others}. Only the YAML text can change this."))
    if not with_teacher:
        return None
    teacher_draft = teacher_draft or spec_draft.to_draft({"teacher": {"model": catalog.models[-1]["name"]}})["teacher"]
    schema = catalog.experiment_schema
    with st.container(border=True):
        if state.copied_teacher and _keeps_teacher(state, key):
            teacher, description = state.copied_teacher
            st.caption(escape(description.sentence))
            return deepcopy(teacher)
        model = _choice("Teacher", catalog.models, teacher_draft["model"], "teacher.model", key, slots)
        weights = _weights(schema, teacher_draft["weights"], key, slots)
        separate = st.toggle(
            "Separate training settings",
            value=teacher_draft["training"] is not None,
            key=f"{key}.teacher.own",
            help="By default the teacher is trained with the students' settings and cross-entropy. For external "
            "weights, these settings are used only with fine-tuning.",
        )
        settings = None
        if separate:
            defaults = schema_fields.schema_defaults(schema["$defs"]["Training"], schema)
            values = schema_fields.with_defaults(teacher_draft["training"] or draft["training"], defaults)
            settings = draw_object(training, values, path="teacher.training", key=key, slots=slots, folded=_FOLDED)
        seed = st.number_input(
            "Seed of the teacher", value=int(teacher_draft["seed"]), step=1, format="%d", key=f"{key}.teacher.seed"
        )
        slots.add("teacher.seed")
    return {**teacher_draft, "model": model, "weights": weights, "training": settings, "seed": int(seed or 0)}


def _keeps_teacher(state: FormState, key: str) -> bool:
    """Draw the choice of a copy's teacher; return whether the copy uses the original's teacher."""
    selected = st.segmented_control(
        "Teacher of the copy",
        [_USE, _TRAIN],
        default=_TRAIN if state.train_new_teacher else _USE,
        required=True,
        key=f"{key}.teacher.keep",
        help="A teacher with other settings has to be trained first, and accuracies of students of different teachers "
        "cannot be compared.",
    )
    state.train_new_teacher = selected == _TRAIN
    return not state.train_new_teacher


def _weights(
    schema: dict[str, Any], current: dict[str, Any] | None, key: str, slots: ErrorSlots
) -> dict[str, Any] | None:
    """Draw the switch for external weights and their fields; return None if the teacher is trained from scratch."""
    external = st.toggle(
        "External weights",
        value=current is not None,
        key=f"{key}.teacher.elsewhere",
        help="Use published weights or a file instead of training the teacher, or fine-tune them.",
    )
    weights = None
    if external:
        weights_schema = schema["$defs"]["Weights"]
        defaults = {} if current else schema_fields.schema_defaults(weights_schema, schema)
        values = schema_fields.with_defaults(current or {}, defaults)
        weights = draw_object(
            schema_fields.schema_to_fields(weights_schema, schema), values, path="teacher.weights", key=key, slots=slots
        )
    slots.add("teacher.weights")
    return weights


def _extras(draft: dict[str, Any], edited: dict[str, Any], schema: dict[str, Any], key: str, slots: ErrorSlots) -> None:
    edited["notes"] = st.text_area("Notes", value=draft["notes"], key=f"{key}.notes")
    slots.add("notes")
    tags = st.text_input("Tags", value=", ".join(draft["tags"]), key=f"{key}.tags", help="Separated by commas.")
    edited["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    slots.add("tags")
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
    slots.add("priority")
    fields = schema_fields.schema_to_fields(schema["$defs"]["Resources"], schema)
    edited["resources"] = draw_object(fields, draft["resources"], path="resources", key=key, slots=slots)
