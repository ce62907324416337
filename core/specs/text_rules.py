"""Rules for names, labels and notes that people write: only visible characters, each in one spelling.

Source: Unicode's DerivedCoreProperties (Default_Ignorable_Code_Point) and Standard Annex 15 (normal form C).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Annotated

from pydantic import AfterValidator

# Control and format characters (which change the direction of writing, or have no width), line and paragraph
# separators. In a terminal they change the text around them, and two names that look the same would be different.
# Surrogates and private-use characters look different in every font.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_BLANK = re.compile(
    "["
    # Default_Ignorable_Code_Point: no glyph is drawn for them.
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Letters and symbols with an empty glyph: the braille blank, a Khitan filler, a musical note without a head, the
    # object replacement character.
    "\u2800\U00016fe4\U0001d159\ufffc"
    "]"
)
_JOINERS = "\u200c\u200d"  # parts of words in some scripts, and of emoji
_STYLES = "\ufe0e\ufe0f"  # select the text form or the emoji form of a symbol
_JOINED = frozenset({"Lo", "Mn", "Mc", "So", "Sk"})
_KEYCAPS = "0123456789#*"
_OTHER_SPACES = re.compile(
    "[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]"
)  # they look like an ordinary space, or almost
_LINES = "\n\r\t"
_MAX_MARKS = 4
"""Marks on one letter. Vietnamese needs two, pointed Hebrew three, Tibetan four."""
_MAX_LENGTH = 20_000
"""Longest text that is normalised, because the time is quadratic in the number of consecutive marks."""


@lru_cache(128)  # the points of a sweep have one text
def invisible_character(text: str, *, lines: bool = False) -> str | None:
    """Return what is wrong with a text that contains an invisible character; None if it contains none.

    Args:
        text: The text.
        lines: Allow line ends, tabs and all kinds of spaces.
    """
    if text.isascii() and text.isprintable():  # the usual case, checked without a loop
        return None
    marks = 0
    for index, character in enumerate(text):
        category = unicodedata.category(character)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if _is_hidden(character, category) and not (
            (lines and character in _LINES)
            or _belongs(character, text[max(index - 1, 0) : index], text[index + 1 : index + 2])
        ):
            return f"has a character that is not shown, U+{ord(character):04X}; leave it out"
        if not lines and _OTHER_SPACES.match(character):
            return f"has a space other than the ordinary one, U+{ord(character):04X}; use the space bar's"
        if marks > _MAX_MARKS:
            return f"has more than {_MAX_MARKS} marks on one letter; leave some out"
        if marks == 1 and (index == 0 or text[index - 1].isspace()):
            return f"has a mark without a letter below it, U+{ord(character):04X}; leave it out"
    return None


def require_visible(text: str, *, lines: bool = False) -> str:
    """Return the text in Unicode's normal form C, in which texts that look the same are equal.

    Raises:
        ValueError: The text is too long or contains an invisible character.
    """
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"has {len(text)} characters, which is too long")
    normalized = normal(text)
    if problem := invisible_character(normalized, lines=lines):
        raise ValueError(problem)
    return normalized


def normal(text: str) -> str:
    """Return the text in Unicode's normal form C: é is one character, even if it was typed as e and an accent.

    A text that is longer than every name and note is returned unchanged.
    """
    return text if text.isascii() or len(text) > _MAX_LENGTH else unicodedata.normalize("NFC", text)


def _visible_lines(text: str) -> str:
    return require_visible(text, lines=True)


VisibleText = Annotated[str, AfterValidator(require_visible)]
"""A name, label or tag on one line."""
VisibleLines = Annotated[str, AfterValidator(_visible_lines)]
"""A note on several lines."""


def _is_hidden(character: str, category: str) -> bool:
    """Return whether a character is never visible: of a hidden category, a blank, or one of Unicode's noncharacters."""
    if category in _HIDDEN or _BLANK.match(character):
        return True
    code = ord(character)
    # Cn are also the characters of a newer Unicode. Noncharacters are the last two of each plane, and one range.
    return category == "Cn" and (code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF)


def _belongs(character: str, before: str, after: str) -> bool:
    """Return whether a character without a glyph of its own changes the one before it visibly."""
    if not before:
        return False
    kind = unicodedata.category(before)
    if character in _JOINERS:
        return bool(after) and (kind in _JOINED or before in _STYLES) and unicodedata.category(after) in _JOINED
    return character in _STYLES and (kind == "So" or (before in _KEYCAPS and after == "\u20e3"))
