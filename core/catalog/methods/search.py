"""The bounds within which a parameter is searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """A range of numbers, or a list of choices.

    Attributes:
        low: The smallest number.
        high: The largest number.
        log: Whether numbers are drawn uniformly in their logarithm.
        integer: Whether they are whole numbers.
        choices: The values instead of a range; empty for a range.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if not self.choices and not (self.low < self.high and (self.low > 0 or not self.log)):
            raise ValueError(f"[{self.low:g}, {self.high:g}] is no range to draw from")

    def in_words(self) -> str:
        """Return it as text."""
        if self.choices:
            return " or ".join(map(str, self.choices))
        return f"{self.low:.4g}–{self.high:.4g}" + (" (log)" if self.log else "")
