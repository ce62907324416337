"""Query parameters of a page's address. They are validated before use, because anybody can write a link."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import streamlit as st

ValueKind = Literal["id", "name", "cursor"]
MAX_CHARACTERS = 200
"""Maximum length of a name or of a search term, in characters."""
_MAX_VALUES = 1000
_PATTERNS: dict[ValueKind, re.Pattern[str]] = {
    "id": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?"),
    "name": re.compile(rf"(?=\S)[^\x00-\x1f\x7f-\x9f]{{1,{MAX_CHARACTERS}}}"),
    "cursor": re.compile(r"[A-Za-z0-9_=.~+/-]{1,500}"),
}
_KIND_TITLES: dict[ValueKind, str] = {"id": "id", "name": "name", "cursor": "list position"}


class AddressError(ValueError):
    """A query parameter is invalid. The text is a sentence for people."""


def query_value(name: str, kind: ValueKind) -> str:
    """Return a query parameter; empty if it is absent.

    Raises:
        AddressError: The value is not of that kind.
    """
    value = st.query_params.get(name, "")
    return validated(value, name, kind) if value else ""


def query_values(name: str, kind: ValueKind) -> list[str]:
    """Return every value of a query parameter that may be repeated.

    Raises:
        AddressError: A value is not of that kind, or there are too many values.
    """
    values = st.query_params.get_all(name)
    if len(values) > _MAX_VALUES:
        raise AddressError(f"The link has {len(values):,} values of {name!r}; at most {_MAX_VALUES:,} are allowed.")
    return [validated(value, name, kind) for value in values]


def validated(value: str, name: str, kind: ValueKind) -> str:
    """Return the value unchanged.

    Raises:
        AddressError: The value is not of that kind.
    """
    if not _PATTERNS[kind].fullmatch(value):
        excerpt = value if len(value) <= 60 else f"{value[:60]}…"
        raise AddressError(f"{excerpt!r} in the link ({name}) is not a valid {_KIND_TITLES[kind]}.")
    return value


def searchable(values: list[str]) -> list[str]:
    """Return the values that are valid names or search terms; a link may contain other text."""
    return [value for value in values[:_MAX_VALUES] if _PATTERNS["name"].fullmatch(value)]


def accept_former_labels(key: str, values: Mapping[str, Any]) -> None:
    """Make saved links work after the label of an option has changed.

    Streamlit stores the visible label of an option in the address and ignores labels that it does not know. Call this
    before the widget is drawn.

    Args:
        key: Key of the widget, which is the name of the query parameter.
        values: Current options by their former labels.
    """
    label = st.query_params.get(key, "")
    if label in values and key not in st.session_state:
        st.session_state[key] = values[label]
