"""What a name may be made of: characters that are seen."""

from __future__ import annotations

import unicodedata

# Controls, formats (that turn the direction of writing, or have no width), ends of lines and paragraphs. In a terminal
# they change what is printed around them, and two names that look the same would be two.
_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"  # parts of words in some scripts, and of emoji


def unseen(text: str, *, lines: bool = False) -> str | None:
    """What is wrong with a text that has a character that is not shown; None where it has none.

    Args:
        lines: ends of lines and tabs are allowed.
    """
    if text.isprintable():  # most are, and this asks without a loop
        return None
    allowed = _JOINERS + ("\n\r\t" if lines else "")
    for character in text:
        if unicodedata.category(character) in _HIDDEN and character not in allowed:
            return f"has a character that is not shown, U+{ord(character):04X}; leave it out"
    return None


def visible(text: str, *, lines: bool = False) -> str:
    """The text as it is. Raises ValueError where ``unseen`` finds something in it."""
    if problem := unseen(text, lines=lines):
        raise ValueError(problem)
    return text
