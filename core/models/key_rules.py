"""Names of weights in the checkpoints that others publish, as rules."""

from __future__ import annotations

import re
from collections.abc import Callable

from core.models.network import KeyMap

Rule = tuple[str, str | Callable[[re.Match[str]], str]]


def key_renamer(*rules: Rule) -> KeyMap:
    """The first rule whose pattern matches the beginning of a key is applied; then ``inner`` parts may follow.

    A rule is (pattern, replacement), as ``re.sub`` takes them.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]

    def rename(key: str) -> str:
        for pattern, replacement in compiled:
            if pattern.match(key):
                return pattern.sub(replacement, key, count=1)
        return key

    return rename
