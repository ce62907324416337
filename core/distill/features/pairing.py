"""Which stage of the student is compared with which stage of the teacher."""

from __future__ import annotations

from collections.abc import Iterable


def pair_stages(student: Iterable[str], teacher: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of stages from shallow to deep: the deepest with the deepest, and so on backwards.

    If one network has more stages, its surplus shallow ones are in no pair.

    Args:
        student: The student's taps from shallow to deep.
        teacher: The teacher's taps from shallow to deep.
    """
    backwards = zip(reversed(list(student)), reversed(list(teacher)), strict=False)
    return list(backwards)[::-1]
