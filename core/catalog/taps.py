"""Taps: the inner layers of a network whose outputs a method reads beside the logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from core.catalog.suggestions import suggest_name

FEATURES = "features"
"""The tap of the penultimate features, the input of the last linear layer."""


@dataclass(frozen=True)
class Taps:
    """The layers that a method reads.

    A name without a dot is a stage of the catalog's network (``stem``, ``stage1`` …, ``features``); a name with a dot
    is the path of any module in the network, such as ``layers.stage2.0.conv1``.

    Attributes:
        student: Names of the student's taps.
        teacher: Names of the teacher's taps.
    """

    student: tuple[str, ...] = ()
    teacher: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.student or self.teacher)


def unknown_tap(name: str, known: Sequence[str]) -> str | None:
    """Return what is wrong with a tap's name; None if it may be right.

    Args:
        name: The name.
        known: The taps of the network; empty if the catalog does not know them.
    """
    if not known or "." in name or name in known:
        return None
    return f"there is no tap {name!r}; {suggest_name(name, dict.fromkeys(known, ()))}"
