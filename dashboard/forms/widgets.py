"""Form fields as Streamlit widgets, each with a place below it for what the backend says about it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from dashboard import session
from dashboard.forms import schema_fields
from dashboard.markup import escape as escape
from dashboard.markup import html

_FIELD_WIDTH = 148  # pixels: four beside each other on a screen, two on a phone


@dataclass
class ErrorSlots:
    """Where errors can be shown, by the path of the field; and those found before anything is sent."""

    slots: dict[str, DeltaGenerator] = field(default_factory=dict)
    local_errors: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str) -> None:
        """Make a place for errors here."""
        self.slots[path] = st.empty()

    def add_error(self, path: str, message: str) -> None:
        """Note an error that needs no backend to be seen."""
        self.local_errors.append((path, message))

    def show(self, problems: list[tuple[str, str]], colour: str, icon: str) -> None:
        """Write each message at its field. Those without a field are left to the summary."""
        by_place: dict[str, list[str]] = {}
        for path, message in problems:
            at = schema_fields.nearest_field(path, self.slots)
            if at is not None:
                by_place.setdefault(at, []).append(message)
        for at, messages in by_place.items():
            text = "  \n".join(f":small[:{colour}[{icon} {escape(message)}]]" for message in messages)
            self.slots[at].markdown(text)


def draw_object(
    fields: list[schema_fields.FormField],
    values: dict[str, Any],
    *,
    path: str,
    key: str,
    slots: ErrorSlots,
    folded: Collection[str] = (),
) -> dict[str, Any]:
    """Draw the fields of an object side by side, a heading a group, and return what they hold.

    Args:
        folded: groups that are seldom needed: they open at a click.
    """
    result: dict[str, Any] = {}
    groups: dict[str, list[schema_fields.FormField]] = {}
    for item in fields:
        groups.setdefault(item.group, []).append(item)
    for group, members in groups.items():
        # Switches have no label above them and stand apart, so that rows stay level.
        switches = [item for item in members if item.kind == "boolean"]
        with st.expander(escape(group)) if group in folded else st.container():
            if group and group not in folded:
                st.markdown(f"**{escape(group)}**")
            for row in filter(None, ([item for item in members if item not in switches], switches)):
                with st.container(horizontal=True):
                    for item in row:
                        with st.container(width=_FIELD_WIDTH):
                            value = draw_field(
                                item, schema_fields.get_path(values, item.path), f"{path}.{item.path}", key, slots
                            )
                        schema_fields.set_path(result, item.path, value)
    return result


def draw_field(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    """Draw one field, a place for its errors below it, and return its value; None where it is left empty."""
    drawn = _DRAWN[item.kind](item, value, path, f"{key}.{path}", slots)
    slots.add(path)
    return drawn


def _number(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    number = None if value is None or isinstance(value, str) else value
    # No least or greatest value is given to the widget: it would correct what a person types without a word, while
    # the backend says what is wrong with it.
    placeholder = "not set" if item.nullable else "needed"
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


def _boolean(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    return st.toggle(escape(item.label), value=bool(value), help=escape(item.help) or None, key=key)


def _choice(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    options = list(item.choices)
    index = options.index(value) if value in options else 0
    return st.selectbox(escape(item.label), options, index=index, help=escape(item.help) or None, key=key)


def _text(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    return st.text_input(escape(item.label), value=str(value or ""), help=escape(item.help) or None, key=key) or None


def _integers(item: schema_fields.FormField, value: Any, path: str, key: str, slots: ErrorSlots) -> Any:
    return draw_integers(escape(item.label), list(value or ()), path=path, key=key, slots=slots, hint=escape(item.help))


def draw_integers(label: str, value: list[int], *, path: str, key: str, slots: ErrorSlots, hint: str) -> list[int]:
    """A list of whole numbers as text, ranges allowed; the last good list where the text cannot be read."""
    text = st.text_input(
        label, value=schema_fields.join_integers(value), help=f"{hint} As 0-4 or 0, 3, 7.", key=key, placeholder="none"
    )
    try:
        return schema_fields.parse_integers(text)
    except ValueError as error:
        slots.add_error(path, str(error))
        return value


_DRAWN: Mapping[schema_fields.FieldKind, Callable[[schema_fields.FormField, Any, str, str, ErrorSlots], Any]] = {
    "integer": _number,
    "number": _number,
    "boolean": _boolean,
    "choice": _choice,
    "text": _text,
    "integers": _integers,
}


def table(rows: Sequence[Mapping[str, str]], *, wrap: bool = False) -> None:
    """A table that holds still, on pages that begin with curves; wider than the page, it is moved sideways.

    Not ``st.table``: Streamlit takes its cells for Markdown, and draws it with 1.3 MB of its frontend, which a browser
    would prepare before the curves.

    Args:
        wrap: long cells take several lines.
    """
    if not rows:
        return
    names = "".join(f"<th>{html(name)}</th>" for name in rows[0])
    lines = "".join(f"<tr>{''.join(f'<td>{html(cell)}</td>' for cell in row.values())}</tr>" for row in rows)
    style = "dkd-table dkd-wrap" if wrap else "dkd-table"
    st.html(f'<div class="{style}"><table><thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>')


def empty_state(text: str) -> None:
    """What a page says before the first experiment, with the way to it."""
    st.info(text, icon=":material/science:")
    st.page_link(session.page("new"), label="Make the first experiment", icon=":material/add_circle:")
