"""Form fields as Streamlit widgets with placeholders for error messages, and other elements that several pages draw."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import session
from dashboard.forms import schema_fields, spec_draft, spec_yaml, yaml_import
from dashboard.markup import escape as escape
from dashboard.markup import html

_FIELD_WIDTH = 148  # pixels: four beside each other on a screen, two on a phone
_WIDE_WIDTH = 312  # two fields and the space between them


@dataclass
class FieldErrors:
    """Placeholders for error messages in a form.

    Attributes:
        placeholders: Placeholders by the path of the field.
        local_errors: Path and message of errors that were found without the backend.
    """

    placeholders: dict[str, DeltaGenerator] = field(default_factory=dict)
    local_errors: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Add a placeholder for errors of a field at the current position."""
        self.placeholders[path] = st.empty()

    def add_error(self, path: str, message: str) -> None:
        """Add an error that was found without the backend."""
        self.local_errors.append((path, message))

    def show(self, problems: list[tuple[str, str]], colour: str, icon: str) -> None:
        """Show each message at its field. Messages without a field appear only in the summary."""
        by_field: dict[str, list[str]] = {}
        for path, message in problems:
            at = spec_draft.nearest_field(path, self.placeholders)
            if at is not None:
                by_field.setdefault(at, []).append(message)
        for at, messages in by_field.items():
            text = "  \n".join(f":small[:{colour}[{icon} {escape(message)}]]" for message in messages)
            self.placeholders[at].markdown(text)


def draw_object(
    fields: list[schema_fields.FormField],
    values: dict[str, Any],
    *,
    path: str,
    key: str,
    field_errors: FieldErrors,
    folded: Collection[str] = (),
    taps: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Draw the fields of an object side by side, with a heading per group, and return their values.

    Values without a field are returned unchanged.

    Args:
        fields: Fields of the object.
        values: Values of the draft.
        path: Path of the object in the spec.
        key: Prefix of the widgets' keys.
        field_errors: Receives the placeholders for errors.
        folded: Rarely used groups, which are drawn as closed expanders.
        taps: Taps of the chosen networks, by "student" and "teacher".
    """
    result: dict[str, Any] = schema_fields.uncovered(values, fields)
    groups: dict[str, list[schema_fields.FormField]] = {"": []}
    for item in fields:
        groups.setdefault(item.group, []).append(item)
    for group, members in groups.items():
        # Switches have no label above them and are drawn in a separate row, so that the fields of a row are aligned.
        switches = [item for item in members if item.kind == "boolean"]
        lists = [item for item in members if item.kind == "entries"]
        wide = [item for item in members if item.kind in ("taps", "tap", "texts")]
        plain = [item for item in members if item not in (*switches, *lists, *wide)]
        with st.expander(escape(group)) if group in folded else st.container():
            if group and group not in folded:
                st.markdown(f"**{escape(group)}**")
            for row, width in ((plain, _FIELD_WIDTH), (wide, _WIDE_WIDTH), (switches, _FIELD_WIDTH)):
                if not row:
                    continue
                with st.container(horizontal=True):
                    for item in row:
                        if not item.exists(result):
                            continue
                        with st.container(width=width):
                            value = _draw_item(_with_taps(item, taps), values, path, key, field_errors)
                        schema_fields.set_path(result, item.path, value)
            for item in lists:
                schema_fields.set_path(result, item.path, _draw_item(item, values, path, key, field_errors))
    return result


def draw_entry(
    label: str, entries: list[dict[str, Any]], value: dict[str, Any], path: str, key: str, field_errors: FieldErrors
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
    field_errors.add(f"{path}.name")
    if name not in titles:
        field_errors.add(path)
        return deepcopy(value)
    entry = next(item for item in entries if item["name"] == name)
    st.caption(escape(entry["summary"]))
    field_errors.add(path)
    fields = schema_fields.schema_to_fields(entry["params"])
    values = schema_fields.with_defaults(
        value["params"] if name == value["name"] else {}, schema_fields.schema_defaults(entry["params"])
    )
    # Parameters have no nested objects: their groups are of what is rarely changed.
    folded = {item.group for item in fields} - {""}
    params = draw_object(
        fields, values, path=f"{path}.params", key=f"{key}.{name}", field_errors=field_errors, folded=folded
    )
    field_errors.add(f"{path}.params")
    return {"name": name, "params": params}


def _with_taps(item: schema_fields.FormField, taps: Mapping[str, Sequence[str]] | None) -> schema_fields.FormField:
    """Return a field that names taps with those of the chosen network as its choices."""
    if item.taps is None:
        return item
    return replace(item, choices=tuple(item.taps.options((taps or {}).get(item.taps.network, ()))))


def _draw_item(
    item: schema_fields.FormField, values: dict[str, Any], path: str, key: str, field_errors: FieldErrors
) -> Any:
    # A field that the spec leaves out, or that belongs to another choice, has no value in the draft. The key names the
    # choice, because two choices may have a field of the same name with different defaults.
    value = schema_fields.get_path(values, item.path, item.default if item.only_for or item.left_out else None)
    own_key = f"{key}.{'-'.join(map(str, item.only_for[1]))}" if item.only_for else key
    entered = draw_field(item, value, f"{path}.{item.path}", own_key, field_errors)
    return None if item.left_out and entered == item.default else entered


def draw_field(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    """Draw one field with a placeholder for its errors below it; return its value, None if it is empty."""
    entered = _WIDGETS[item.kind](item, value, path, f"{key}.{path}", field_errors)
    field_errors.add(path)
    return entered


def _number(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    number = None if value is None or isinstance(value, str) else value
    # The widget gets no minimum or maximum: it would silently correct the input, while the backend explains the error.
    placeholder = "not set" if item.nullable else "required"
    hint = escape(item.help) or None
    if item.kind == "integer":
        start = None if number is None else int(number)
        return st.number_input(
            escape(item.label), value=start, step=1, format="%d", placeholder=placeholder, help=hint, key=key
        )
    real = None if number is None else float(number)
    return st.number_input(
        escape(item.label), value=real, step=item.step, format="%g", placeholder=placeholder, help=hint, key=key
    )


def _boolean(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    return st.toggle(escape(item.label), value=bool(value), help=escape(item.help) or None, key=key)


def _choice(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    options = list(item.choices)
    index = options.index(value) if value in options else 0
    return st.selectbox(escape(item.label), options, index=index, help=escape(item.help) or None, key=key)


def _text(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    return st.text_input(escape(item.label), value=str(value or ""), help=escape(item.help) or None, key=key) or None


def _tap(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    options = _with_values(item.choices, [value] if value else [])
    return st.selectbox(
        escape(item.label),
        options,
        index=options.index(value) if value else None,
        accept_new_options=True,
        placeholder="choose a layer, or type a path",
        help=escape(item.help) or None,
        key=key,
    )


def _texts(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    values = [str(name) for name in value or ()]
    return st.multiselect(
        escape(item.label),
        _with_values(item.choices, values),
        default=values,
        accept_new_options=True,
        placeholder="choose layers, or type paths" if item.kind == "taps" else "type values",
        help=escape(item.help) or None,
        key=key,
    )


def _with_values(choices: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """Return the choices, and the values that are not among them."""
    return list(dict.fromkeys((*choices, *values)))


def _numbers(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    text = st.text_input(
        escape(item.label),
        value=schema_fields.join_numbers(value or ()),
        help=f"{escape(item.help)} Separated by commas.".strip(),
        key=key,
        placeholder="none",
    )
    try:
        numbers = schema_fields.parse_numbers(text)
        return None if item.nullable and not numbers else numbers
    except ValueError as error:
        field_errors.add_error(path, str(error))
        return value


def _mapping(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    text = st.text_input(
        escape(item.label),
        value=spec_yaml.one_line(value) if value else "",
        help=f"{escape(item.help)} For example width: 8, depth: 2.".strip(),
        key=key,
        placeholder="none",
    )
    try:
        return yaml_import.parse_mapping(text) if text.strip() else {}
    except ValueError as error:
        field_errors.add_error(path, str(error))
        return value


def _integers(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    return draw_integers(
        escape(item.label), list(value or ()), path=path, key=key, field_errors=field_errors, hint=escape(item.help)
    )


def draw_integers(
    label: str, value: list[int], *, path: str, key: str, field_errors: FieldErrors, hint: str
) -> list[int]:
    """Draw a text field for a list of integers and ranges; return the last valid list if the text is invalid."""
    text = st.text_input(
        label,
        value=schema_fields.join_integers(value),
        help=f"{hint} For example 0-4, or 0, 3, 7.",
        key=key,
        placeholder="none",
    )
    try:
        return schema_fields.parse_integers(text)
    except ValueError as error:
        field_errors.add_error(path, str(error))
        return value


def _entries(item: schema_fields.FormField, value: Any, path: str, key: str, field_errors: FieldErrors) -> Any:
    """Draw a selection of catalog entries, and the fields of those that have parameters."""
    given = {choice["name"]: choice for choice in spec_draft.named_choices(value)}
    known = {entry["name"]: entry for entry in item.entries}
    names = st.multiselect(
        escape(item.label),
        [*known, *(name for name in given if name not in known)],
        default=list(given),
        format_func=lambda name: known[name]["title"] if name in known else name,
        help=escape(item.help) or None,
        key=key,
    )
    chosen = []
    for index, name in enumerate(names):
        params = given.get(name, {}).get("params", {})
        entry = known.get(name)
        if entry and entry["params"].get("properties"):
            st.caption(escape(entry["summary"]))
            params = draw_object(
                schema_fields.schema_to_fields(entry["params"]),
                schema_fields.with_defaults(params, schema_fields.schema_defaults(entry["params"])),
                path=f"{path}.{index}.params",
                key=f"{key}.{name}",
                field_errors=field_errors,
            )
        chosen.append({"name": name, "params": params})
    return spec_draft.short_choices(chosen)


_WIDGETS: Mapping[schema_fields.FieldKind, Callable[[schema_fields.FormField, Any, str, str, FieldErrors], Any]] = {
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "choice": _choice,
    "text": _text,
    "integers": _integers,
    "numbers": _numbers,
    "texts": _texts,
    "tap": _tap,
    "taps": _texts,
    "mapping": _mapping,
    "entries": _entries,
}


def table(rows: Sequence[Mapping[str, str]], *, wrap: bool = False, groups: Sequence[str] = ()) -> None:
    """Draw a static HTML table that scrolls sideways if it is wider than the page.

    ``st.table`` renders its cells as Markdown, and it needs 1.3 MB of Streamlit's frontend, which a browser would load
    before the curves.

    Args:
        rows: Cells by column title, in the order of the columns.
        wrap: Whether long cells are broken into several lines.
        groups: Title of the group of each row, above the first row of the group; empty for rows without groups.
    """
    if not rows:
        return
    names = "".join(f"<th>{html(name)}</th>" for name in rows[0])
    lines, last = "", ""
    for index, row in enumerate(rows):
        if groups and groups[index] != last:
            last = groups[index]
            lines += f'<tr class="dkd-group"><td colspan="{len(row)}"><b>{html(last)}</b></td></tr>'
        lines += f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row.values())}</tr>"
    style = "dkd-table dkd-wrap" if wrap else "dkd-table"
    scrolls = f'<div class="{style}" tabindex="0" role="group" aria-label="Table">'  # with the arrow keys
    st.html(f"{scrolls}<table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>")


def empty_state(text: str) -> None:
    """Show that a page has no data yet, with a link to the form of a new experiment."""
    st.info(text, icon=":material/science:")
    st.page_link(session.page("new"), label="Create an experiment", icon=":material/add_circle:")
