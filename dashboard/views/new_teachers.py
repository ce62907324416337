"""The teachers of a new experiment: none, one or several, each trained alone or distilled from a teacher of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import streamlit as st

from core.protocol.public import Catalog
from dashboard.forms import draft as drafts
from dashboard.forms import schema_fields, spec_draft
from dashboard.forms.draft import FormState
from dashboard.forms.widgets import FieldErrors, draw_entry, draw_object, escape
from dashboard.views import new_methods

Draft = dict[str, Any]
FOLDED = ("Speed",)
"""Groups of training settings that are folded."""
_USE, _TRAIN = "Keep", "Train a new one"


def draw(catalog: Catalog, state: FormState, key: str, field_errors: FieldErrors) -> dict[str, Any]:
    """Draw the teachers of the draft; return those fields of the draft with the current input."""
    teachers = spec_draft.own_teachers(state.draft)
    with_teacher = st.toggle("With a teacher", value=bool(teachers), key=f"{key}.teacher")
    field_errors.add("teacher")
    field_errors.add("teachers")
    if not with_teacher:
        return {**spec_draft.with_teachers([]), "ensemble": state.draft["ensemble"]}
    if len(teachers) > 1:
        edited = [_one_of_several(catalog, state, number, key, field_errors) for number in range(len(teachers))]
        ensemble = _ensemble(catalog, state.draft["ensemble"], key, field_errors)
    else:
        given = teachers[0] if teachers else _new_teacher(catalog)
        edited, ensemble = [_only_teacher(catalog, state, given, key, field_errors)], state.draft["ensemble"]
    most = catalog.experiment_schema["properties"].get("teachers", {}).get("maxItems", 1)
    if len(edited) < most:
        st.button(
            "Add a teacher",
            icon=":material/add:",
            on_click=_add,
            args=(catalog, state),
            key=f"{key}.teachers.add",
            help="Students then learn from a mean of the teachers' logits.",
        )
    return {**spec_draft.with_teachers(edited), "ensemble": ensemble}


def _new_teacher(catalog: Catalog) -> Draft:
    # A detector has to give logits of the same boxes as the first detector, which is the first choice of a student.
    boxes = catalog.models[0].get("region_logits")
    name = [entry["name"] for entry in catalog.models if entry.get("region_logits") == boxes][-1]
    teacher: Draft = spec_draft.to_draft({"teacher": {"model": name}})["teacher"]
    return teacher


def _only_teacher(catalog: Catalog, state: FormState, draft: Draft, key: str, field_errors: FieldErrors) -> Draft:
    with st.container(border=True):
        if state.copied_teacher and _keeps_teacher(state, key):
            teacher, description = state.copied_teacher
            st.caption(escape(description.sentence))
            return deepcopy(teacher)
        return _fields(catalog, draft, state.draft["training"], "Teacher", "teacher", key, field_errors)


def _one_of_several(catalog: Catalog, state: FormState, number: int, key: str, field_errors: FieldErrors) -> Draft:
    path, draft = f"teachers.{number}", state.draft["teachers"][number]
    with st.container(border=True):
        teacher = _fields(catalog, draft, state.draft["training"], f"Teacher {number + 1}", path, key, field_errors)
        st.button("Remove", icon=":material/delete:", on_click=_remove, args=(state, number), key=f"{key}.{path}.x")
    return teacher


def _ensemble(catalog: Catalog, draft: Draft, key: str, field_errors: FieldErrors) -> Draft:
    """Draw how the teachers are combined."""
    schema = catalog.experiment_schema
    own = schema["$defs"]["Ensemble"]
    values = schema_fields.with_defaults(draft, schema_fields.schema_defaults(own, schema))
    ensemble = draw_object(
        schema_fields.schema_to_fields(own, schema), values, path="ensemble", key=key, field_errors=field_errors
    )
    field_errors.add("ensemble")
    return ensemble


def _fields(
    catalog: Catalog,
    draft: Draft,
    students: Mapping[str, Any],
    title: str,
    path: str,
    key: str,
    field_errors: FieldErrors,
) -> Draft:
    """Draw the fields of a teacher, and of the teachers that it is distilled from.

    Args:
        catalog: The catalog.
        draft: The teacher in the draft.
        students: How the students are trained.
        title: Title of the teacher.
        path: Path of the teacher in the spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
    """
    schema = catalog.experiment_schema
    own_key = f"{key}.{path}"
    model = draw_entry(title, catalog.models, draft["model"], f"{path}.model", key, field_errors)
    field_errors.add(path)
    weights = _weights(schema, draft["weights"], path, key, field_errors)
    separate = st.toggle(
        "Separate training settings",
        value=draft["training"] is not None,
        key=f"{own_key}.own",
        help="By default the teacher is trained with the students' settings. For external weights, these settings are "
        "used only with fine-tuning.",
    )
    settings = None
    if separate:
        training = schema["$defs"]["Training"]
        values = schema_fields.with_defaults(
            draft["training"] or dict(students), schema_fields.schema_defaults(training, schema)
        )
        settings = draw_object(
            schema_fields.schema_to_fields(training, schema),
            values,
            path=f"{path}.training",
            key=key,
            field_errors=field_errors,
            folded=FOLDED,
        )
    seed = st.number_input("Seed of the teacher", value=int(draft["seed"]), step=1, format="%d", key=f"{own_key}.seed")
    field_errors.add(f"{path}.seed")
    distilled = _distillation(catalog, draft, model, students, path, key, field_errors)
    return {**draft, "model": model, "weights": weights, "training": settings, "seed": int(seed or 0), **distilled}


def _distillation(
    catalog: Catalog,
    draft: Draft,
    model: Mapping[str, Any],
    students: Mapping[str, Any],
    path: str,
    key: str,
    field_errors: FieldErrors,
) -> Draft:
    """Draw the method of a teacher that is not trained by cross-entropy, and the teacher that this method reads."""
    given, own = draft.get("method"), draft.get("teacher")
    with_method = st.toggle(
        "Trained with a method",
        value=bool(given or own),
        key=f"{key}.{path}.distilled",
        help="By default a teacher is trained by cross-entropy. With a method that reads a teacher of its own, it is a "
        "teacher assistant, or a generation of born-again networks.",
    )
    field_errors.add(f"{path}.method")
    if not with_method:
        return {"method": None, "teacher": None}
    entries = {entry["name"]: entry for entry in catalog.methods}
    reading = (name for name, entry in entries.items() if entry["needs_teacher"] and entry["family"] == "logits")
    first = next(reading, catalog.methods[0]["name"])
    taps = new_methods.taps_of_networks(catalog, model, own)
    method = new_methods.draw_method(
        catalog,
        given or {"name": first, "params": {}, "label": ""},
        "Method of the teacher",
        path=f"{path}.method",
        key=key,
        field_errors=field_errors,
        taps=taps,
    )
    field_errors.add(f"{path}.teacher")
    # A combination reads a teacher if one of its methods does.
    members = [method["name"], *(item["name"] for item in method.get(spec_draft.ADDED) or ())]
    if not any(entries.get(name, {}).get("needs_teacher") for name in members):
        return {"method": method, "teacher": None}
    with st.container(border=True):
        teacher = _fields(
            catalog, own or _new_teacher(catalog), students, "Its own teacher", f"{path}.teacher", key, field_errors
        )
    return {"method": {"label": "", **method}, "teacher": teacher}


def _keeps_teacher(state: FormState, key: str) -> bool:
    """Draw the choice of a copy's teacher; return whether the copy uses the original's teacher."""
    selected = st.segmented_control(
        "Teacher of the copy",
        [_USE, _TRAIN],
        default=_TRAIN if state.train_new_teacher else _USE,
        required=True,
        key=f"{key}.teacher.keep",
        help="A teacher with other settings has to be trained first, and results of students of different teachers "
        "cannot be compared.",
    )
    state.train_new_teacher = selected == _TRAIN
    return not state.train_new_teacher


def _weights(
    schema: dict[str, Any], current: dict[str, Any] | None, path: str, key: str, field_errors: FieldErrors
) -> dict[str, Any] | None:
    """Draw the switch for external weights and their fields; return None if the teacher is trained from scratch."""
    external = st.toggle(
        "External weights",
        value=current is not None,
        key=f"{key}.{path}.elsewhere",
        help="Use published weights or a file instead of training the teacher, or fine-tune them.",
    )
    weights = None
    if external:
        weights_schema = schema["$defs"]["Weights"]
        defaults = {} if current else schema_fields.schema_defaults(weights_schema, schema)
        values = schema_fields.with_defaults(current or {}, defaults)
        weights = draw_object(
            schema_fields.schema_to_fields(weights_schema, schema),
            values,
            path=f"{path}.weights",
            key=key,
            field_errors=field_errors,
        )
    field_errors.add(f"{path}.weights")
    return weights


def _add(catalog: Catalog, state: FormState) -> None:
    teachers = spec_draft.own_teachers(state.draft) or [_new_teacher(catalog)]
    # The copy gets another seed, because two equal teachers are the same run.
    seed = 1 + max(int(teacher["seed"]) for teacher in teachers)
    _show(state, [*teachers, {**deepcopy(teachers[-1]), "seed": seed}])


def _remove(state: FormState, number: int) -> None:
    teachers = spec_draft.own_teachers(state.draft)
    _show(state, teachers[:number] + teachers[number + 1 :])


def _show(state: FormState, teachers: Sequence[Draft]) -> None:
    drafts.redraw(state, deepcopy({**state.draft, **spec_draft.with_teachers(teachers)}))
