"""What the methods cost, on the Compare page: time without the teacher's part, GPU-hours and energy."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from core.protocol.costs import MethodCost, cost_table
from dashboard.forms.widgets import table
from dashboard.markup import escape


def draw(costs: Sequence[MethodCost], labels: Sequence[str]) -> None:
    """Draw the costs of the shown methods and of the teacher's training; nothing if no run has any.

    Args:
        costs: The costs.
        labels: Labels of the methods, in the order of the rows.
    """
    by_label = {cost.label: cost for cost in costs if not cost.is_teacher}
    teachers = [cost for cost in costs if cost.is_teacher]
    shown = cost_table([*(by_label[label] for label in labels if label in by_label), *teachers])
    if shown is None:
        return
    st.subheader("Time and energy")
    table([dict(zip(shown.header, row, strict=True)) for row in shown.rows], wrap=True)
    for note in shown.notes:
        st.caption(escape(note))
