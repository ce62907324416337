"""What a page's address says, validated before anybody is asked about it: anyone can make one for somebody else."""

from __future__ import annotations

import re
from typing import Literal

import streamlit as st

ValueKind = Literal["id", "name", "cursor"]
MAX_CHARACTERS = 200
"""Of a name, or of a word that is searched for."""
_MAX_VALUES = 1000
_PATTERNS: dict[ValueKind, re.Pattern[str]] = {
    "id": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?"),
    "name": re.compile(rf"(?=\S)[^\x00-\x1f\x7f-\x9f]{{1,{MAX_CHARACTERS}}}"),
    "cursor": re.compile(r"[A-Za-z0-9_=.~+/-]{1,500}"),
}
_WORDS: dict[ValueKind, str] = {"id": "an id", "name": "a name", "cursor": "a place in a list"}


class AddressError(ValueError):
    """The address says something that cannot be meant. The text is a sentence for a person."""


def query_value(name: str, kind: ValueKind) -> str:
    """A parameter of the page's address; empty if it is not there. Raises AddressError."""
    found = st.query_params.get(name, "")
    return validated(found, name, kind) if found else ""


def query_values(name: str, kind: ValueKind) -> list[str]:
    """A parameter that may be there more than once. Raises AddressError."""
    found = st.query_params.get_all(name)
    if len(found) > _MAX_VALUES:
        raise AddressError(f"The address has {name!r} {len(found):,} times; {_MAX_VALUES:,} are the most.")
    return [validated(item, name, kind) for item in found]


def validated(value: str, name: str, kind: ValueKind) -> str:
    """The value as it is. Raises AddressError if it cannot be of that kind."""
    if not _PATTERNS[kind].fullmatch(value):
        shown = value if len(value) <= 60 else f"{value[:60]}…"
        raise AddressError(f"{shown!r} is not {_WORDS[kind]}, as which the address gives it ({name}).")
    return value


def searchable(values: list[str]) -> list[str]:
    """Those that can be a name or a word to search for, as an address may have any."""
    return [value for value in values[:_MAX_VALUES] if _PATTERNS["name"].fullmatch(value)]
