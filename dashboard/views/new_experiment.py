"""The New experiment page: a form made from the catalog, beside it what it would make."""

from __future__ import annotations

import json
import uuid
from copy import deepcopy
from pathlib import Path
from typing import Any

import streamlit as st
import yaml

from client import ApiError, BackendUnreachable
from core.wire.public import Catalog, Experiment, Preview
from dashboard import forms, session, tables
from dashboard.widgets import Slots, escape, integers, object_fields

_EXAMPLE = Path(__file__).parents[2] / "examples" / "digits.yaml"
_DRAFT, _GENERATION, _MADE = "new.draft", "new.generation", "new.made"


def show() -> None:
    """Draw the page."""
    st.title("New experiment")
    catalog = session.catalog()
    if _DRAFT not in st.session_state:
        _load(_blank(catalog))
    _presets(catalog)
    left, right = st.columns([3, 2], gap="large")
    slots = Slots()
    with left:
        draft = _form(catalog, st.session_state[_DRAFT], slots)
    st.session_state[_DRAFT] = draft
    spec = forms.to_spec(draft)
    with right, st.container(key="beside"):
        _beside(spec, draft, slots)


def _blank(catalog: Catalog) -> dict[str, Any]:
    listed = {"methods": catalog.methods, "models": catalog.models, "datasets": catalog.datasets}
    return forms.blank_draft(listed, catalog.experiment_schema)


def _load(draft: dict[str, Any]) -> None:
    """Show another draft. The widgets get new keys, so that they take its values."""
    st.session_state[_DRAFT] = draft
    st.session_state[_GENERATION] = uuid.uuid4().hex[:8]
    st.session_state.pop(_MADE, None)


def _presets(catalog: Catalog) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Begin with", width="content")
        if _EXAMPLE.is_file():
            st.button("Digits demo", icon=":material/bolt:", on_click=_load_example, key="new.preset.digits")
        st.button("Empty form", icon=":material/restart_alt:", on_click=_load_blank, args=(catalog,), key="new.blank")


def _load_example() -> None:
    example = yaml.safe_load(_EXAMPLE.read_text(encoding="utf-8"))
    _load(forms.to_draft(example | {"name": _free_name(example["name"])}))


def _free_name(name: str) -> str:
    """The name, with -2, -3 … behind it where that is taken: an example must not begin with an error."""
    try:
        taken = {item.name for item in session.client().experiments(text=name, limit=100).items}
    except (ApiError, BackendUnreachable):
        return name  # the page itself says what is wrong
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(free for free in numbered if free not in taken)


def _load_blank(catalog: Catalog) -> None:
    _load(_blank(catalog))


def _form(catalog: Catalog, draft: dict[str, Any], slots: Slots) -> dict[str, Any]:
    """Draw every field with the draft's value and return the draft as it is now."""
    key = f"new.{st.session_state[_GENERATION]}"
    found = deepcopy(draft)
    found["name"] = st.text_input(
        "Name",
        value=draft["name"],
        key=f"{key}.name",
        placeholder="digits-dkd-vs-dkd-align",
        help="Unique; how tables name it.",
    )
    slots.open("name")
    schema = catalog.experiment_schema
    training = forms.fields_of(schema["$defs"]["Training"], schema)

    st.subheader("Data and networks")
    found["dataset"] = _choice("Dataset", catalog.datasets, draft["dataset"], "dataset", key, slots)
    found["student"] = {
        "model": _choice("Student", catalog.models, draft["student"]["model"], "student.model", key, slots)
    }
    found["teacher"] = _teacher(catalog, draft, training, key, slots)

    st.subheader("Methods")
    st.caption("The first is the baseline. The same method may come twice with other parameters and its own label.")
    found["methods"] = [_method(catalog, draft, index, key, slots) for index in range(len(draft["methods"]))]
    slots.open("methods")
    st.button("Add a method", icon=":material/add:", on_click=_add_method, args=(catalog,), key=f"{key}.add")

    st.subheader("Seeds and training")
    found["seeds"] = integers(
        "Seeds",
        list(draft["seeds"]),
        path="seeds",
        key=f"{key}.seeds",
        slots=slots,
        hint="Every method is trained once with each; equal seeds make pairs.",
    )
    slots.open("seeds")
    settings = forms.completed(draft["training"], forms.defaults_of(schema["$defs"]["Training"], schema))
    found["training"] = object_fields(training, settings, path="training", key=key, slots=slots)
    with st.expander("Notes, tags, priority, device"):
        _extras(draft, found, schema, key, slots)
    return found


def _choice(
    label: str, entries: list[dict[str, Any]], value: dict[str, Any], path: str, key: str, slots: Slots
) -> dict[str, Any]:
    """A name from the catalog and its parameters."""
    names = [entry["name"] for entry in entries]
    titles = {entry["name"]: entry["title"] for entry in entries}
    index = names.index(value["name"]) if value["name"] in names else 0
    name = st.selectbox(label, names, index=index, format_func=titles.__getitem__, key=f"{key}.{path}.name")
    slots.open(f"{path}.name")
    entry = entries[names.index(name)]
    st.caption(entry["summary"])
    slots.open(path)
    fields = forms.fields_of(entry["params"])
    values = forms.completed(value["params"] if name == value["name"] else {}, forms.defaults_of(entry["params"]))
    params = object_fields(fields, values, path=f"{path}.params", key=f"{key}.{name}", slots=slots)
    slots.open(f"{path}.params")
    return {"name": name, "params": params}


def _teacher(
    catalog: Catalog, draft: dict[str, Any], training: list[forms.FormField], key: str, slots: Slots
) -> dict[str, Any] | None:
    given = draft["teacher"]
    wanted = st.toggle("With a teacher", value=given is not None, key=f"{key}.teacher")
    slots.open("teacher")
    if not wanted:
        return None
    given = given or forms.to_draft({"teacher": {"model": catalog.models[-1]["name"]}})["teacher"]
    schema = catalog.experiment_schema
    with st.container(border=True):
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
            defaults = forms.defaults_of(schema["$defs"]["Training"], schema)
            values = forms.completed(given["training"] or draft["training"], defaults)
            settings = object_fields(training, values, path="teacher.training", key=key, slots=slots)
        seed = st.number_input(
            "Teacher's seed", value=int(given["seed"]), step=1, format="%d", key=f"{key}.teacher.seed"
        )
        slots.open("teacher.seed")
    return {**given, "model": model, "weights": weights, "training": settings, "seed": int(seed or 0)}


def _weights(schema: dict[str, Any], given: dict[str, Any] | None, key: str, slots: Slots) -> dict[str, Any] | None:
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
        values = forms.completed(given or {}, {} if given else forms.defaults_of(whole, schema))
        weights = object_fields(forms.fields_of(whole, schema), values, path="teacher.weights", key=key, slots=slots)
    slots.open("teacher.weights")
    return weights


def _method(catalog: Catalog, draft: dict[str, Any], index: int, key: str, slots: Slots) -> dict[str, Any]:
    path = f"methods.{index}"
    given = draft["methods"][index]
    with st.container(border=True):
        chosen = _choice(f"Method {index + 1}", catalog.methods, given, path, key, slots)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            label = st.text_input(
                "Label",
                value=given["label"],
                key=f"{key}.{path}.label",
                placeholder="by itself",
                help="In tables and curves. Left empty: the method's name, with the reduction where there is one.",
            )
            if len(draft["methods"]) > 1:
                st.button(
                    "Remove", icon=":material/delete:", on_click=_remove_method, args=(index,), key=f"{key}.{path}.x"
                )
        slots.open(f"{path}.label")
    return {**chosen, "label": label}


def _add_method(catalog: Catalog) -> None:
    draft = deepcopy(st.session_state[_DRAFT])
    # Most comparisons set the last method against a variant of itself.
    entry = next((item for item in catalog.methods if item["name"] == draft["methods"][-1]["name"]), catalog.methods[0])
    params = deepcopy(draft["methods"][-1]["params"])
    draft["methods"].append({"name": entry["name"], "params": params, "label": ""})
    _load(draft)


def _remove_method(index: int) -> None:
    draft = deepcopy(st.session_state[_DRAFT])
    del draft["methods"][index]
    _load(draft)


def _extras(draft: dict[str, Any], found: dict[str, Any], schema: dict[str, Any], key: str, slots: Slots) -> None:
    found["notes"] = st.text_area("Notes", value=draft["notes"], key=f"{key}.notes")
    slots.open("notes")
    tags = st.text_input("Tags", value=", ".join(draft["tags"]), key=f"{key}.tags", help="Separated by commas.")
    found["tags"] = [tag.strip() for tag in tags.split(",") if tag.strip()]
    slots.open("tags")
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
    slots.open("priority")
    fields = forms.fields_of(schema["$defs"]["Resources"], schema)
    found["resources"] = object_fields(fields, draft["resources"], path="resources", key=key, slots=slots)


def _beside(spec: dict[str, Any], draft: dict[str, Any], slots: Slots) -> None:
    """What the form makes: errors, the runs, warnings, the button, the YAML."""
    text = json.dumps(spec, sort_keys=True)
    made: tuple[str, Experiment] | None = st.session_state.get(_MADE)
    if made and made[0] == text:
        _done(made[1])
    else:
        preview, problems = _preview(spec, text)
        named = bool(spec["name"])
        problems = [*slots.found, *problems]
        # A taken name is a warning of the preview, which makes nothing; starting the experiment is refused for it.
        notes = [(item.path, item.message) for item in preview.warnings] if preview else []
        problems += [note for note in notes if note[0] == "name"]
        slots.show(problems, "red", ":material/error:")
        if problems:
            _summary(problems, draft)
        elif preview:
            slots.show(notes, "orange", ":material/warning:")
            _planned(preview, notes, draft)
            if not named:
                st.info("Give it a name at the top of the form; tables and links use it.", icon=":material/edit:")
        count = tables.planned_count(preview) if preview else 0
        st.button(
            f"Start {tables.counted(count, 'run')}" if preview and not problems else "Start",
            type="primary",
            icon=":material/play_arrow:",
            disabled=bool(problems) or preview is None or not named,
            on_click=_submit,
            args=(spec, text),
            key="new.submit",
        )
        said = st.session_state.pop("new.said", "")
        if said:
            st.error(said, icon=":material/error:")
    st.subheader("As YAML")
    st.code(forms.yaml_of(spec), language="yaml", wrap_lines=True)


def _preview(spec: dict[str, Any], text: str) -> tuple[Preview | None, list[tuple[str, str]]]:
    """The runs, or what is wrong. Asked again only when the form has changed."""
    refusal: tuple[str, list[tuple[str, str]]] | None = st.session_state.get("new.refused")
    if refusal and refusal[0] == text:
        return None, refusal[1]
    known: tuple[str, Preview | None, list[tuple[str, str]]] | None = st.session_state.get("new.preview")
    if known is None or known[0] != text:
        try:
            # A form that nobody has named yet is no error; what it would make can be shown all the same.
            known = (text, session.client().preview({**spec, "name": spec["name"] or "not named yet"}), [])
        except ApiError as error:
            known = (text, None, _problems(error))
        st.session_state["new.preview"] = known
    return known[1], known[2]


def _problems(error: ApiError) -> list[tuple[str, str]]:
    if error.status != 422:
        raise error
    found = [(item.path, item.message) for item in error.problem.errors]
    return found or [("", error.problem.detail or error.problem.title)]


def _submit(spec: dict[str, Any], text: str) -> None:
    """Make the experiment. One key a draft: a double click, or a try after a lost answer, makes one experiment."""
    key: tuple[str, str] = st.session_state.get("new.key", ("", ""))
    if key[0] != text:
        key = (text, str(uuid.uuid4()))
        st.session_state["new.key"] = key
    try:
        made = session.client().submit(spec, idempotency_key=key[1])
    except BackendUnreachable as error:
        st.session_state["new.said"] = f"{error}; nothing has been made. Press it again when the backend is back."
    except ApiError as error:
        problems = _problems(error) if error.status == 422 else [("", str(error))]
        st.session_state["new.refused"] = (text, problems)
    else:
        st.session_state[_MADE] = (text, made)


def _done(experiment: Experiment) -> None:
    st.success(
        f"**{escape(experiment.name)}** is queued: {tables.counted(experiment.counts.total, 'run')}.",
        icon=":material/check_circle:",
    )
    st.page_link(
        session.page("compare"),
        label="Watch and compare",
        icon=":material/stacked_line_chart:",
        query_params={"experiment": experiment.id},
    )
    st.page_link(
        session.page("runs"), label="Its runs", icon=":material/list:", query_params={"experiment": experiment.name}
    )


def _summary(problems: list[tuple[str, str]], draft: dict[str, Any]) -> None:
    lines = []
    for path, message in problems:
        where = forms.spoken(path, draft)
        lines.append(f"- **{escape(where)}:** {escape(message)}" if where else f"- {escape(message)}")
    number = "One thing needs" if len(problems) == 1 else f"{len(problems)} things need"
    st.error(f"{number} to change before this can start:\n\n" + "\n".join(lines), icon=":material/error:")


def _planned(preview: Preview, warnings: list[tuple[str, str]], draft: dict[str, Any]) -> None:
    count = tables.planned_count(preview)
    st.markdown(f"**This makes {tables.counted(count, 'run')}.**")
    st.table(tables.planned_rows(preview))
    if warnings:
        lines = [f"- **{escape(forms.spoken(path, draft))}:** {escape(message)}" for path, message in warnings]
        st.warning("Allowed, but worth knowing:\n\n" + "\n".join(lines), icon=":material/warning:")
