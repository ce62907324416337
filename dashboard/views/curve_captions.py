"""Sentences below curves of several methods."""

from __future__ import annotations

from core.protocol.public import Comparison


def time_caption(comparison: Comparison | None) -> str:
    """Return a sentence about which times the chart shows, and whether they can be compared between methods."""
    # While runs train, the comparison does not yet contain the time that they spend on the teacher.
    if comparison is None or (comparison.timing == "whole" and not comparison.complete):
        return (
            "Times are total training times. For each seed, one run computes the teacher's logits and the others may "
            "read them from disk, so a difference in time may not be caused by the method."
        )
    captions = {
        "whole": "Times are total training times.",
        "student": "Times do not include the time for the teacher's logits, because some runs computed the logits and "
        "others read them from disk.",
        "unlike": "Times cannot be compared between methods: some runs computed the teacher's logits, others read them "
        "from disk, and the time for this was not recorded.",
    }
    return captions[comparison.timing]
