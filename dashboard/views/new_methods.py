"""The methods of a new experiment: a card for each, and the list to choose from, grouped by family."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import streamlit as st

from core.protocol.public import Catalog
from dashboard import families
from dashboard.families import Kind
from dashboard.forms import draft as drafts
from dashboard.forms import method_fields, schema_fields, spec_draft, task_catalog
from dashboard.forms.draft import FormState
from dashboard.forms.method_fields import Entry
from dashboard.forms.widgets import FieldErrors, draw_object, escape

_LABEL_LENGTH = 60  # characters, as the backend allows
Draft = dict[str, Any]
Taps = Mapping[str, Sequence[str]]


def taps_of_networks(catalog: Catalog, student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> Taps:
    """Return the taps of the chosen networks; none for a network that the catalog does not list.

    Args:
        catalog: The catalog.
        student: The student's model in the draft.
        teacher: The teacher in the draft; None without one.
    """
    taps = {entry["name"]: tuple(entry.get("taps", ())) for entry in catalog.models}
    names = {"student": student["name"], "teacher": teacher["model"]["name"] if teacher else ""}
    return {network: taps.get(name, ()) for network, name in names.items()}


def draw(catalog: Catalog, state: FormState, key: str, field_errors: FieldErrors, taps: Taps) -> list[Draft]:
    """Draw every method of the draft and the buttons that add some; return the methods with the current input."""
    methods = [_method(catalog, state, index, key, field_errors, taps) for index in range(len(state.draft["methods"]))]
    field_errors.add("methods")
    st.button("Add a method", icon=":material/add:", on_click=_open_list, args=(state,), key=f"{key}.add")
    if state.choosing_method:
        _method_list(catalog, state)
    return methods


def _open_list(state: FormState) -> None:
    state.choosing_method = True


def _grouped(catalog: Catalog) -> dict[str, list[Entry]]:
    """Return the methods of the catalog by family, in the order of families."""
    entries = {entry["name"]: entry for entry in catalog.methods}
    kinds = {name: Kind(name, entry.get("family") or "") for name, entry in entries.items()}
    return {family: [entries[name] for name in names] for family, names in families.grouped(entries, kinds).items()}


def _method_list(catalog: Catalog, state: FormState) -> None:
    """Draw the list of methods as a dialog, which stays open until a method is chosen or the dialog is closed."""

    def close() -> None:
        state.choosing_method = False

    st.dialog("Methods", width="large", on_dismiss=close)(_choose)(catalog, state)


def _choose(catalog: Catalog, state: FormState) -> None:
    """Draw the methods that contain the searched words; a chosen one is added to the draft."""
    text = st.text_input(
        "Search", key="new.methods.search", icon=":material/search:", placeholder="name, source, what it compares"
    )
    words = text.lower().split()
    found = 0
    for family, entries in _grouped(catalog).items():
        matching = [entry for entry in entries if all(word in _searched(entry, family) for word in words)]
        if not matching:
            continue
        found += len(matching)
        st.subheader(escape(families.family_title(family)))
        for entry in matching:
            with st.container(border=True, gap="xsmall"):
                if st.button(escape(entry["title"]), icon=":material/add:", key=f"new.methods.{entry['name']}"):
                    _add(state, task_catalog.first_draft(entry))
                    state.choosing_method = False
                    st.rerun()
                _facts(entry)
    if not found:
        st.caption("No method contains these words.")


def _searched(entry: Entry, family: str) -> str:
    parts = (entry["name"], entry["title"], entry["summary"], entry.get("source", ""), entry.get("cost", ""))
    return " ".join((*parts, families.family_title(family))).lower()


def _facts(entry: Entry) -> None:
    """Draw the summary of a method, its source and its cost."""
    st.caption(escape(entry["summary"]))
    facts = (entry.get("source"), f"Cost: {entry['cost']}" if entry.get("cost") else "")
    shown = " · ".join(fact for fact in facts if fact)
    if shown:
        st.caption(escape(shown))


def _method(
    catalog: Catalog, state: FormState, index: int, key: str, field_errors: FieldErrors, taps: Taps
) -> dict[str, Any]:
    path = f"methods.{index}"
    draft, title = state.draft["methods"][index], f"Method {index + 1}"
    many = len(state.draft["methods"]) > families.MANY
    folded = st.expander(escape(f"{title}: {draft['label'] or draft['name']}")) if many else st.container(border=True)
    with folded:
        method = draw_method(catalog, draft, title, path=path, key=key, field_errors=field_errors, taps=taps)
        label = _label_and_buttons(state, index, key)
        field_errors.add(f"{path}.label")
    return {**method, "label": label}


def draw_method(
    catalog: Catalog,
    draft: Mapping[str, Any],
    title: str,
    *,
    path: str,
    key: str,
    field_errors: FieldErrors,
    taps: Taps,
) -> Draft:
    """Draw the selection of a method, its parameters, and the methods that are added to it; return it without a label.

    Args:
        catalog: The catalog.
        draft: The method in the draft.
        title: Title of the selection.
        path: Path of the method in the spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
        taps: Taps of the chosen networks, by "student" and "teacher".
    """
    entry = _select(catalog, draft["name"], title, f"{key}.{path}.name")
    field_errors.add(f"{path}.name")
    given = draft.get(spec_draft.ADDED) or []
    if entry is None:
        field_errors.add(path)
        return {**deepcopy(dict(draft)), spec_draft.ADDED: given}
    _facts(entry)
    field_errors.add(path)
    fields = st.container()
    added = _added(catalog, given, entry, path, key, field_errors, taps)
    with fields:
        method = method_fields.draw(
            entry, draft, path=path, key=key, field_errors=field_errors, taps=taps, combined=bool(added)
        )
    combined = {**method, spec_draft.ADDED: added}
    regions = draft.get(spec_draft.REGIONS)
    if task_catalog.has_regions(catalog, [method, *added]):
        regions = _regions(catalog, regions, path, key, field_errors)
    elif _names(combined) != _names(draft):
        regions = None  # the methods chosen now compare no regions; an imported field without effect keeps its error
    return {**combined, spec_draft.REGIONS: regions} if regions else combined


def _names(method: Mapping[str, Any]) -> list[str]:
    return [method["name"], *(item["name"] for item in method.get(spec_draft.ADDED) or ())]


def _select(catalog: Catalog, name: str, title: str, key: str) -> Entry | None:
    """Draw the selection of a method, family by family; None if the catalog does not have the draft's method."""
    grouped = _grouped(catalog)
    entries = {entry["name"]: entry for group in grouped.values() for entry in group}
    titles = {
        entry["name"]: f"{families.family_title(family)} · {entry['title']}"
        for family, group in grouped.items()
        for entry in group
    }
    names = list(titles) if name in titles else [*titles, name]
    chosen = st.selectbox(
        escape(title),
        names,
        index=names.index(name),
        format_func=lambda method: titles.get(method, method),
        key=key,
        help="Type to search by family or name. “Add a method” shows all methods with their sources and costs.",
    )
    return entries.get(chosen)


def _added(
    catalog: Catalog,
    draft: Sequence[Mapping[str, Any]],
    first: Entry,
    path: str,
    key: str,
    field_errors: FieldErrors,
    taps: Taps,
) -> list[Draft]:
    """Draw the methods whose terms are added to those of a method; none if the spec has no such field."""
    method_schema = catalog.experiment_schema.get("$defs", {}).get("MethodRef", {})
    schema = method_schema.get("properties", {}).get(spec_draft.ADDED)
    if schema is None:
        return list(map(dict, draft))
    entries = {entry["name"]: entry for group in _grouped(catalog).values() for entry in group}
    given = {item["name"]: item for item in draft}
    # A method without terms of its own, such as cross-entropy, adds nothing.
    options = [name for name, entry in entries.items() if entry.get("own_terms") and name != first["name"]]
    names = st.multiselect(
        "Together with",
        list(dict.fromkeys((*options, *given))),
        default=list(given),
        format_func=lambda name: entries[name]["title"] if name in entries else name,
        key=f"{key}.{path}.with",
        placeholder="this method alone",
        max_selections=schema.get("maxItems"),
        help=escape(schema.get("description", "")) or None,
    )
    field_errors.add(f"{path}.with")
    added = []
    for number, name in enumerate(names):
        own_path, entry = f"{path}.with.{number}", entries.get(name)
        value = given.get(name, {"name": name, "params": {}})
        if entry is None:
            added.append(dict(value))
            continue
        with st.container(border=True):
            st.markdown(f"**+ {escape(entry['title'])}**")
            st.caption(escape(entry["summary"]))
            field_errors.add(own_path)
            added.append(
                method_fields.draw(
                    entry,
                    value,
                    path=own_path,
                    key=key,
                    field_errors=field_errors,
                    taps=taps,
                    combined=True,
                    added=True,
                )
            )
    return added


def _regions(catalog: Catalog, draft: Any, path: str, key: str, field_errors: FieldErrors) -> Draft:
    """Draw the fields for the compared boxes and for the weight of boxes without an object."""
    schema = catalog.experiment_schema
    own = schema["$defs"]["RegionOptions"]
    values = schema_fields.with_defaults(spec_draft.long_regions(draft), schema_fields.schema_defaults(own, schema))
    st.caption("On which boxes student and teacher are compared, and how boxes without an object are weighted.")
    fields = schema_fields.schema_to_fields(own, schema)
    place = f"{path}.{spec_draft.REGIONS}"
    regions = draw_object(fields, values, path=place, key=key, field_errors=field_errors)
    field_errors.add(place)
    return regions


def _label_and_buttons(state: FormState, index: int, key: str) -> str:
    path = f"methods.{index}"
    with st.container(horizontal=True, vertical_alignment="bottom"):
        label: str = st.text_input(
            "Label",
            value=state.draft["methods"][index]["label"],
            key=f"{key}.{path}.label",
            placeholder="automatic",
            help="Name in tables and curves. By default the name of the method, with its reduction if it has one.",
        )
        count = len(state.draft["methods"])
        for word, icon, other in (("Up", "arrow_upward", index - 1), ("Down", "arrow_downward", index + 1)):
            if count > 1:
                st.button(
                    escape(word),
                    icon=f":material/{icon}:",
                    on_click=_swap,
                    args=(state, index, other),
                    disabled=not 0 <= other < count,
                    key=f"{key}.{path}.{word.lower()}",
                    help="The first method is the baseline.",
                )
        st.button(
            "Duplicate",
            icon=":material/content_copy:",
            on_click=_duplicate,
            args=(state, index),
            key=f"{key}.{path}.copy",
            help="Add the same method once more under another label, to change some of its parameters.",
        )
        if count > 1:
            st.button("Remove", icon=":material/delete:", on_click=_remove, args=(state, index), key=f"{key}.{path}.x")
    return label


def _add(state: FormState, method: Mapping[str, Any]) -> None:
    draft = deepcopy(state.draft)
    added = {"label": "", "shares": {}, spec_draft.ADDED: [], **method}
    draft["methods"].append({**added, "label": free_label(draft["methods"], added)})
    drafts.redraw(state, draft)


def _duplicate(state: FormState, index: int) -> None:
    _add(state, deepcopy(state.draft["methods"][index]))


def _swap(state: FormState, index: int, other: int) -> None:
    draft = deepcopy(state.draft)
    methods = draft["methods"]
    methods[index], methods[other] = methods[other], methods[index]
    drafts.redraw(state, draft)


def free_label(methods: Sequence[Mapping[str, Any]], added: Mapping[str, Any]) -> str:
    """Return a label for an added method that no other one has; empty if its automatic label is free.

    The label has a number instead of the parameters, which the person is about to change: "dkd 2".

    Args:
        methods: The methods of the draft.
        added: The method; a copy has the label of its original.
    """
    if added["label"] not in {method["label"] for method in methods}:
        return str(added["label"])
    if not added["label"] and not any(_automatic(method) == _automatic(added) for method in methods):
        return ""
    stem = re.sub(r" \d+$", "", added["label"]) or " + ".join(_names(added))
    taken = {method["label"] for method in methods}
    numbered = (f"{stem[: _LABEL_LENGTH - len(str(number)) - 1]} {number}" for number in range(2, len(methods) + 3))
    return next(label for label in numbered if label not in taken)


def _automatic(method: Mapping[str, Any]) -> tuple[object, ...]:
    """Return what the automatic label of a method always has; a method with a label of its own has no other."""
    if method["label"]:
        return (method["label"],)
    params, regions = method.get("params") or {}, method.get(spec_draft.REGIONS)
    return (*_names(method), params.get("reduction"), str(regions or ""))


def _remove(state: FormState, index: int) -> None:
    draft = deepcopy(state.draft)
    del draft["methods"][index]
    drafts.redraw(state, draft)
