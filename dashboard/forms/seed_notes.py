"""What a number of seeds can show, as sentences for the preview of an experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from client.referee import seeds_for_a_verdict
from common.formatting import SIGNIFICANCE, p_text
from dashboard.wording import counted


def seed_sentence(spec: Mapping[str, Any]) -> str:
    """Return the smallest p value that listed seeds allow, and the seeds that allow one below 0.05.

    The exact sign-flip test of n pairs gives at least 2^(1−n). Holm's correction multiplies the smallest p by the
    number of comparisons with the baseline.

    Args:
        spec: The complete spec.

    Returns:
        Empty for seeds that are added until the comparisons are decided, for a sweep, and without a comparison.
    """
    seeds, comparisons = spec.get("seeds"), len(spec.get("methods") or ()) - 1
    if not isinstance(seeds, list | tuple) or not seeds or comparisons < 1 or spec.get("sweep"):
        return ""
    n, needed = len(seeds), seeds_for_a_verdict(comparisons)
    smallest = 2.0 ** (1 - n)
    over = f" over {comparisons} comparisons" if comparisons > 1 else ""
    corrected = f", {p_text(min(1.0, comparisons * smallest))} after Holm{over}" if comparisons > 1 else ""
    able = f"{counted(n, 'seed')}: the smallest possible p of a comparison is {p_text(smallest)}{corrected}."
    if n >= needed:
        return able
    return f"{able} No difference can be significant (p < {SIGNIFICANCE:g}) with fewer than {needed} seeds."
