"""The New experiment page: a form made from the catalog, beside it what it would make."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import streamlit as st

from core.protocol.public import Catalog
from dashboard import session
from dashboard.forms import draft as drafts
from dashboard.forms import schema_fields
from dashboard.forms.draft import FormState
from dashboard.forms.widgets import ErrorSlots, draw_integers, draw_object, escape
from dashboard.views import new_preview, new_templates

_FOLDED = ("Speed",)
_USE, _TRAIN = "Use this one", "Train one"


def show() -> None:
    """Draw the page."""
    st.title("New experiment")
    catalog = session.catalog()
    state = drafts.form_state(catalog)
    new_templates.follow_link(catalog, state)
    new_templates.choices(catalog, state)
    left, right = st.columns([3, 2], gap="large")
    slots = ErrorSlots()
    with left:
        state.draft = _form(catalog, state, slots)
    with right, st.container(key="beside"):
        new_preview.show(catalog, state, slots)


def _form(catalog: Catalog, state: FormState, slots: ErrorSlots) -> dict[str, Any]:
    """Draw every field with the draft's value and return the draft as it is now."""
    draft, key = state.draft, f"new.{state.generation}"
    found = deepcopy(draft)
    found["name"] = st.text_input(
        "Name",
        value=draft["name"],
        key=f"{key}.name",
        placeholder="digits-dkd-vs-dkd-align",
        help="Unique; how tables name it.",
    )
    slots.add("name")
    schema = catalog.experiment_schema
    training = schema_fields.schema_to_fields(schema["$defs"]["Training"], schema)

    st.subheader("Data and networks")
    found["dataset"] = _choice("Dataset", catalog.datasets, draft["dataset"], "dataset", key, slots)
    found["student"] = {
        "model": _choice("Student", catalog.models, draft["student"]["model"], "student.model", key, slots)
    }
    found["teacher"] = _teacher(catalog, state, training, key, slots)

    st.subheader("Methods")
    st.caption("The first is the baseline. The same method may come twice with other parameters and its own label.")
    found["methods"] = [_method(catalog, state, index, key, slots) for index in range(len(draft["methods"]))]
    slots.add("methods")
    st.button("Add a method", icon=":material/add:", on_click=_add_method, args=(catalog, state), key=f"{key}.add")

    st.subheader("Seeds and training")
    found["seeds"] = draw_integers(
        "Seeds",
        list(draft["seeds"]),
        path="seeds",
        key=f"{key}.seeds",
        slots=slots,
        hint="Every method is trained once with each; equal seeds make pairs.",
    )
    slots.add("seeds")
    settings = schema_fields.with_defaults(
        draft["training"], schema_fields.schema_defaults(schema["$defs"]["Training"], schema)
    )
    found["training"] = draw_object(training, settings, path="training", key=key, slots=slots, folded=_FOLDED)
    with st.expander("Notes, tags, priority, device"):
        _extras(draft, found, schema, key, slots)
    return found


def _choice(
    label: str, entries: list[dict[str, Any]], value: dict[str, Any], path: str, key: str, slots: ErrorSlots
) -> dict[str, Any]:
    """A name from the catalog and its parameters."""
    titles = {entry["name"]: entry["title"] for entry in entries}
    # The catalog does not list everything that it takes: of timm's hundreds of models a spec names the one it wants.
    names = list(titles) if value["name"] in titles else [*titles, value["name"]]
    name = st.selectbox(
        escape(label),
        names,
        index=names.index(value["name"]),
        format_func=lambda one: titles.get(one, one),
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
    given = draft["teacher"]
    wanted = st.toggle("With a teacher", value=given is not None, key=f"{key}.teacher")
    slots.add("teacher")
    if not wanted:
        return None
    given = given or schema_fields.to_draft({"teacher": {"model": catalog.models[-1]["name"]}})["teacher"]
    schema = catalog.experiment_schema
    with st.container(border=True):
        if state.copied_teacher and _keeps(state, key):
            teacher, known = state.copied_teacher
            st.caption(escape(known.sentence))
            return deepcopy(teacher)
        model = _choice("Teacher", catalog.models, given["model"], "teacher.model", key, slots)
        weights = _weights(schema, given["weights"], key, slots)
        own = st.toggle(
            "Trained in its own way",
            value=given["training"] is not None,
            key=f"{key}.teacher.own",
            help="Otherwise as the students are, by cross-entropy. Weights from elsewhere: with fine-tune only.",
        )
        settings = None
        if own:
            defaults = schema_fields.schema_defaults(schema["$defs"]["Training"], schema)
            values = schema_fields.with_defaults(given["training"] or draft["training"], defaults)
            settings = draw_object(training, values, path="teacher.training", key=key, slots=slots, folded=_FOLDED)
        seed = st.number_input(
            "Teacher's seed", value=int(given["seed"]), step=1, format="%d", key=f"{key}.teacher.seed"
        )
        slots.add("teacher.seed")
    return {**given, "model": model, "weights": weights, "training": settings, "seed": int(seed or 0)}


def _keeps(state: FormState, key: str) -> bool:
    """Whether a copy keeps the teacher of what it was copied from."""
    chosen = st.segmented_control(
        "The copy's teacher",
        [_USE, _TRAIN],
        default=_TRAIN if state.train_new_teacher else _USE,
        required=True,
        key=f"{key}.teacher.keep",
        help="A teacher of other settings is another one: it is trained first, and accuracies under the two cannot be "
        "compared.",
    )
    state.train_new_teacher = chosen == _TRAIN
    return not state.train_new_teacher


def _weights(
    schema: dict[str, Any], given: dict[str, Any] | None, key: str, slots: ErrorSlots
) -> dict[str, Any] | None:
    """Where the teacher's weights come from, if it is not trained here."""
    wanted = st.toggle(
        "Weights from elsewhere",
        value=given is not None,
        key=f"{key}.teacher.elsewhere",
        help="Published ones, or a file: the teacher is not trained, or trained on.",
    )
    weights = None
    if wanted:
        whole = schema["$defs"]["Weights"]
        values = schema_fields.with_defaults(given or {}, {} if given else schema_fields.schema_defaults(whole, schema))
        weights = draw_object(
            schema_fields.schema_to_fields(whole, schema), values, path="teacher.weights", key=key, slots=slots
        )
    slots.add("teacher.weights")
    return weights


def _method(catalog: Catalog, state: FormState, index: int, key: str, slots: ErrorSlots) -> dict[str, Any]:
    path = f"methods.{index}"
    given = state.draft["methods"][index]
    with st.container(border=True):
        chosen = _choice(f"Method {index + 1}", catalog.methods, given, path, key, slots)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            label = st.text_input(
                "Label",
                value=given["label"],
                key=f"{key}.{path}.label",
                placeholder="by itself",
                help="In tables and curves. Left empty, it follows the method: its name, with the reduction if it has "
                "one.",
            )
            if len(state.draft["methods"]) > 1:
                st.button(
                    "Remove",
                    icon=":material/delete:",
                    on_click=_remove_method,
                    args=(state, index),
                    key=f"{key}.{path}.x",
                )
        slots.add(f"{path}.label")
    return {**chosen, "label": label}


def _add_method(catalog: Catalog, state: FormState) -> None:
    draft = deepcopy(state.draft)
    # Most comparisons set the last method against a variant of itself.
    entry = next((item for item in catalog.methods if item["name"] == draft["methods"][-1]["name"]), catalog.methods[0])
    params = deepcopy(draft["methods"][-1]["params"])
    draft["methods"].append({"name": entry["name"], "params": params, "label": ""})
    drafts.redraw(state, draft)


def _remove_method(state: FormState, index: int) -> None:
    draft = deepcopy(state.draft)
    del draft["methods"][index]
    drafts.redraw(state, draft)


def _extras(draft: dict[str, Any], found: dict[str, Any], schema: dict[str, Any], key: str, slots: ErrorSlots) -> None:
    found["notes"] = st.text_area("Notes", value=draft["notes"], key=f"{key}.notes")
    slots.add("notes")
    tags = st.text_input("Tags", value=", ".join(draft["tags"]), key=f"{key}.tags", help="Separated by commas.")
    found["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    slots.add("tags")
    found["priority"] = int(
        st.number_input(
            "Priority",
            value=int(draft["priority"]),
            step=1,
            format="%d",
            key=f"{key}.priority",
            help="Higher runs first.",
        )
        or 0
    )
    slots.add("priority")
    fields = schema_fields.schema_to_fields(schema["$defs"]["Resources"], schema)
    found["resources"] = draw_object(fields, draft["resources"], path="resources", key=key, slots=slots)
