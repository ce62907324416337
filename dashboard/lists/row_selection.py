"""Selection of table rows by id.

Streamlit identifies selected rows by position. Here they are stored by id, so that a selection survives refreshes and
changes of page or filter. While rows of the page are selected, the page is frozen: newer rows do not appear, so that
rows do not move while a person selects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st


class RowSelection:
    """The selected rows of one table in this browser session.

    Args:
        name: Name of the table, unique in the session.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        state: dict[str, Any] = st.session_state.setdefault(
            f"{name}.selection", {"selected": [], "shown": [], "query": None, "generation": 0, "default": []}
        )
        self._state = state
        self._read()

    @property
    def ids(self) -> list[str]:
        """All selected ids, in the order of selection."""
        return list(self._state["selected"])

    @property
    def key(self) -> str:
        """Widget key of the table as it is drawn now."""
        return f"{self._name}.table.{self._state['generation']}"

    def _read(self) -> None:
        """Merge the selection that the browser reports for the rows shown."""
        table = st.session_state.get(self.key)
        if table is not None:
            rows = list(table["selection"]["rows"])
            self._state["selected"] = merge_selection(self._state["selected"], self._state["shown"], rows)

    def frozen_ids(self, query: object) -> list[str]:
        """Return the ids of the rows that must stay on the page, in order; empty if the rows may change."""
        state = self._state
        if state["query"] != query or not set(state["selected"]) & set(state["shown"]):
            return []
        return list(state["shown"])

    def allow_new_rows(self) -> None:
        """Allow ``set_rows`` to change the shown rows once, although rows are selected. The selection is kept."""
        self._state["query"] = None

    def set_rows(self, ids: Sequence[str], query: object) -> None:
        """Set the ids of the rows that ``table`` draws, and the query that they answer."""
        state = self._state
        selected = set(state["selected"])
        if list(ids) != state["shown"] and selected & {*ids, *state["shown"]}:
            # The browser keeps selected positions as long as the key of the table stays the same.
            state["generation"] += 1
            state["default"] = [row for row, item in enumerate(ids) if item in selected]
        state["shown"], state["query"] = list(ids), query

    def table(self, rows: Sequence[Mapping[str, Any]], **options: Any) -> None:
        """Draw the rows with check boxes; ``options`` are those of ``st.dataframe``."""
        default: Any = {"selection": {"rows": self._state["default"]}}
        st.dataframe(
            rows,
            key=self.key,
            on_select="rerun",
            selection_mode="multi-row",
            selection_default=default,
            hide_index=True,
            **options,
        )

    def sentence(self, titles: Sequence[str]) -> str:
        """Return which rows are selected, and how many of them the page does not show.

        Args:
            titles: Titles of the selected rows.
        """
        if not titles:
            return "Select rows with the check boxes on the left, or with the arrow keys and the space bar."
        count = f"{len(titles):,} selected: " if len(titles) > 1 else "Selected: "
        names = ", ".join(titles[:3]) + (" …" if len(titles) > 3 else "")
        hidden = len(set(self.ids) - set(self._state["shown"]))
        more = f" ({hidden:,} not on this page)" if hidden else ""
        return f"{count}{names}{more}"

    def replace(self, ids: Sequence[str]) -> None:
        """Replace the selection by these ids, which need not be shown."""
        state = self._state
        state["selected"] = list(ids)
        state["generation"] += 1
        state["default"] = [row for row, item in enumerate(state["shown"]) if item in set(ids)]

    def clear(self) -> None:
        """Deselect all rows."""
        self.replace([])


def merge_selection(selected: Sequence[str], shown: Sequence[str], rows: Sequence[int]) -> list[str]:
    """Return the selected ids after a change on the page; ids that are not shown stay as they were.

    Args:
        selected: Ids that were selected before.
        shown: Ids on the page, in order.
        rows: Selected positions on the page.
    """
    on_page = [shown[row] for row in rows if row < len(shown)]
    unchanged = [item for item in selected if item in set(on_page) or item not in set(shown)]
    return [*unchanged, *(item for item in on_page if item not in set(unchanged))]
