"""Rules that map the keys of published checkpoints to those of the networks."""

from __future__ import annotations

import re
from collections.abc import Callable

from core.weights.key_matching import KeyMap

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def key_renamer(*rules: Rule) -> KeyMap:
    """Return a function that applies the first rule whose pattern matches the beginning of a key.

    Args:
        rules: pairs (pattern, replacement) as for ``re.sub``.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(key: str) -> str:
        for pattern, replacement in compiled:
            if pattern.match(key):
                return pattern.sub(replacement, key, count=1)
        return key

    return rename
