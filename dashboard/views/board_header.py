"""The controls of a board's figures: what is pinned, and the options of each figure. They change the address."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from core.protocol.layouts import MAX_FIGURES, BoardFigure
from dashboard.boards import address, choices
from dashboard.boards.choices import Choice, Figures
from dashboard.markup import escape

_NO_RIGHT_AXIS = "no right axis"


def pin(figures: Figures) -> None:
    """Write the figures into the address."""
    st.query_params[address.PIN] = address.texts(figures)


def picker(figures: Figures, offered: Mapping[Choice, str]) -> None:
    """Draw the search for metrics to pin.

    Args:
        figures: The present figures.
        offered: What can be pinned, with its title.
    """
    full = len(figures) >= MAX_FIGURES
    placeholder = "Search the metrics that were measured"
    if full or not offered:
        all_pinned = "All measured metrics are pinned" if figures else "Nothing is measured yet"
        placeholder = f"A board has at most {MAX_FIGURES:,} figures" if full else all_pinned
    # Another key after each change, so that the field is empty again.
    key = f"board.add.{len(figures)}.{','.join(figure.metric for figure in figures)}"
    st.selectbox(
        "Add a figure",
        list(offered),
        index=None,
        format_func=lambda choice: offered.get(choice, ", ".join(choice)),
        placeholder=placeholder,
        disabled=full or not offered,
        key=key,
        on_change=_add,
        args=(figures, key),
        width=380,
        help="Only metrics that a shown run has measured, by the panels of a run's page. A group can be added as one.",
    )


def _add(figures: Figures, key: str) -> None:
    chosen: Choice | None = st.session_state[key]
    if chosen:
        pin(choices.added(figures, chosen))


def heading(figure: BoardFigure, figures: Figures, titles: Mapping[str, str]) -> None:
    """Draw the title of a figure and its options.

    Args:
        figure: The figure.
        figures: All figures.
        titles: Titles of the metrics that can be on the right axis, and of those that are pinned.
    """
    name = figure.metric
    title = titles[name].rpartition(" · ")[2]
    beside = f" and {titles[figure.right].rpartition(' · ')[2]}" if figure.right else ""
    with st.container(horizontal=True, vertical_alignment="center", key=f"dkd-head-{name}"):
        st.markdown(f"**{escape(title + beside)}**", width="stretch")
        with st.popover("Options", type="tertiary", width="content", key=f"board.options.{name}"):
            right_key = f"board.right.{name}.{figure.right}"  # a new field after a change by a link or a layout
            others = [other for other in titles if other != name]
            st.selectbox(
                "Right axis",
                ["", *others],
                index=others.index(figure.right) + 1 if figure.right in others else 0,
                format_func=lambda other: titles[other] if other else _NO_RIGHT_AXIS,
                key=right_key,
                on_change=_set_right,
                args=(figures, name, right_key),
            )
            log_key = f"board.log.{name}.{figure.log}"
            st.toggle("Log scale", value=figure.log, key=log_key, on_change=_set_log, args=(figures, name, log_key))
            place = [item.metric for item in figures].index(name)
            with st.container(horizontal=True):
                _button("Earlier", "arrow_back", name, choices.moved(figures, name, -1), disabled=place == 0)
                last = place == len(figures) - 1
                _button("Later", "arrow_forward", name, choices.moved(figures, name, 1), disabled=last)
                _button("Unpin", "close", name, choices.removed(figures, name))


def _button(label: str, icon: str, metric: str, result: Figures, *, disabled: bool = False) -> None:
    st.button(
        label,
        icon=f":material/{icon}:",
        on_click=pin,
        args=(result,),
        disabled=disabled,
        key=f"board.{label.lower()}.{metric}",
    )


def _set_right(figures: Figures, metric: str, key: str) -> None:
    pin(choices.changed(figures, metric, right=st.session_state[key]))


def _set_log(figures: Figures, metric: str, key: str) -> None:
    pin(choices.changed(figures, metric, log=st.session_state[key]))
