"""Small helpers for text shown to people: sentences and counted nouns."""

from __future__ import annotations


def sentence(text: str) -> str:
    """Return the text with a capital letter at the start and a full stop at the end."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in singular or plural: ``1 run``, ``3 runs``."""
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"
