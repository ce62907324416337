"""Rows of a table that a person has chosen, known by what they show and not by where they stand.

Streamlit names chosen rows by position. Here they are kept by id: a choice survives refreshes, other pages and other
filters. While rows of a page are chosen, the page holds still and newer rows wait beside it, so that nothing moves
under the person's hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st


class RowSelection:
    """What is chosen in one table of this browser session.

    Args:
        name: of the table, unique in the session.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        state: dict[str, Any] = st.session_state.setdefault(
            f"{name}.choice", {"chosen": [], "shown": [], "query": None, "generation": 0, "default": []}
        )
        self._state = state
        self._read()

    @property
    def ids(self) -> list[str]:
        """Everything chosen, in the order of choosing."""
        return list(self._state["chosen"])

    @property
    def key(self) -> str:
        """Of the table as it is drawn now."""
        return f"{self._name}.table.{self._state['generation']}"

    def _read(self) -> None:
        """Take in what the browser says of the rows that it shows."""
        table = st.session_state.get(self.key)
        if table is not None:
            rows = list(table["selection"]["rows"])
            self._state["chosen"] = merge_selection(self._state["chosen"], self._state["shown"], rows)

    def frozen_ids(self, query: object) -> list[str]:
        """The ids to go on showing, in their order; none where the rows may change."""
        state = self._state
        if state["query"] != query or not set(state["chosen"]) & set(state["shown"]):
            return []
        return list(state["shown"])

    def release(self) -> None:
        """Let the rows change once, the choice staying."""
        self._state["query"] = None

    def set_rows(self, ids: Sequence[str], query: object) -> None:
        """These are the rows from now on. To be called before they are drawn."""
        state = self._state
        chosen = set(state["chosen"])
        if list(ids) != state["shown"] and chosen & {*ids, *state["shown"]}:
            # The browser keeps chosen positions for as long as the table has the same key.
            state["generation"] += 1
            state["default"] = [row for row, item in enumerate(ids) if item in chosen]
        state["shown"], state["query"] = list(ids), query

    def table(self, rows: Sequence[Mapping[str, Any]], **how: Any) -> None:
        """Draw the rows, their boxes at the left edge."""
        default: Any = {"selection": {"rows": self._state["default"]}}
        st.dataframe(
            rows,
            key=self.key,
            on_select="rerun",
            selection_mode="multi-row",
            selection_default=default,
            hide_index=True,
            **how,
        )

    def replace(self, ids: Sequence[str]) -> None:
        """Choose these and nothing else, whether they are shown or not."""
        state = self._state
        state["chosen"] = list(ids)
        state["generation"] += 1
        state["default"] = [row for row, item in enumerate(state["shown"]) if item in set(ids)]

    def clear(self) -> None:
        self.replace([])


def merge_selection(chosen: Sequence[str], shown: Sequence[str], rows: Sequence[int]) -> list[str]:
    """What is chosen once these rows of those shown are; what is not shown stays as it was."""
    here = [shown[row] for row in rows if row < len(shown)]
    kept = [item for item in chosen if item in set(here) or item not in set(shown)]
    return [*kept, *(item for item in here if item not in set(kept))]
