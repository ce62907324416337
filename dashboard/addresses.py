"""What a page's address says, checked before anybody is asked about it: anyone can make one for somebody else."""

from __future__ import annotations

import re
from typing import Literal

import streamlit as st

Kind = Literal["id", "name", "cursor"]
MAX_CHARACTERS = 200
"""Of a name, or of a word that is searched for."""
_MOST = 1000
_PATTERNS: dict[Kind, re.Pattern[str]] = {
    "id": re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62}[A-Za-z0-9])?"),
    "name": re.compile(rf"(?=\S)[^\x00-\x1f\x7f-\x9f]{{1,{MAX_CHARACTERS}}}"),
    "cursor": re.compile(r"[A-Za-z0-9_=.~+/-]{1,500}"),
}
_WORDS: dict[Kind, str] = {"id": "an id", "name": "a name", "cursor": "a place in a list"}


class AddressError(ValueError):
    """The address says something that cannot be meant. The text is a sentence for a person."""


def one(name: str, kind: Kind) -> str:
    """A parameter of the page's address; empty if it is not there. Raises AddressError."""
    found = st.query_params.get(name, "")
    return checked(found, name, kind) if found else ""


def several(name: str, kind: Kind) -> list[str]:
    """A parameter that may be there more than once. Raises AddressError."""
    found = st.query_params.get_all(name)
    if len(found) > _MOST:
        raise AddressError(f"The address has {name!r} {len(found):,} times; {_MOST:,} are the most.")
    return [checked(item, name, kind) for item in found]


def checked(value: str, name: str, kind: Kind) -> str:
    """The value as it is. Raises AddressError if it cannot be of that kind."""
    if not _PATTERNS[kind].fullmatch(value):
        shown = value if len(value) <= 60 else f"{value[:60]}…"
        raise AddressError(f"{shown!r} is not {_WORDS[kind]}, as which the address gives it ({name}).")
    return value


def short(values: list[str]) -> list[str]:
    """Those that can be a name or a word to search for, as an address may have any."""
    return [value for value in values[:_MOST] if _PATTERNS["name"].fullmatch(value)]
