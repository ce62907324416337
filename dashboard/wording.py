"""Small helpers for text shown to people: sentences and counted nouns."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NAME_CHARACTERS = 60
"""Characters of the part of a file's name that names an experiment."""


def file_stem(names: Sequence[str], content: str) -> str:
    """Return a file's name without its ending: of the experiments that it is about, and of its content.

    Args:
        names: Names of the experiments; without any, the name begins with the program's.
        content: What the file contains, as "differences".
    """
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    first = re.sub(r"[^A-Za-z0-9]+", "-", names[0] if names else "dkd lab").strip("-") or "experiment"
    ending = re.sub(r"[^a-z0-9]+", "-", content.lower()).strip("-")
    return f"{first[:_NAME_CHARACTERS]}{more.replace(' ', '-')}-{ending}"


def sentence(text: str) -> str:
    """Return the text with a capital letter at the start and a full stop at the end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in singular or plural: ``1 run``, ``3 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {plural or noun + 's'}"
