"""Layouts of a board that are stored by name: show, save, replace and delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import streamlit as st

from client import ApiError, BackendUnreachable, SpecError
from core.protocol.layouts import MAX_LAYOUT_NAME, BoardLayout, LayoutSummary
from dashboard import session, wording
from dashboard.lists import bulk, row_text
from dashboard.markup import escape
from dashboard.views import board_header

_NAME, _CHOSEN, _ASKS = "board.layout.name", "board.layout.chosen", "board.layout.asks"
_CONFLICT = 409


def draw(current: Callable[[], BoardLayout]) -> None:
    """Draw the stored layouts in a popover.

    Args:
        current: Returns the present layout.
    """
    with st.popover("Layouts", icon=":material/dashboard_customize:", width="content"):
        bulk.show_message()
        items = {item.name: item for item in _stored()}
        _choose(items)
        st.text_input(
            "Save this layout as",
            max_chars=MAX_LAYOUT_NAME,
            key=_NAME,
            placeholder="a name, such as: losses and agreement",
            on_change=_forget_question,
        )
        asks = st.session_state.get(_ASKS) == ("replace", st.session_state[_NAME].strip())
        if asks:
            stored = items.get(st.session_state[_NAME].strip())
            by = f", saved {_about(stored)}" if stored else ""
            st.warning(f"There is a layout of this name{escape(by)}.", icon=":material/warning:")
        with st.container(horizontal=True):
            if asks:
                st.button(
                    "Replace it",
                    icon=":material/save:",
                    on_click=_save,
                    args=(current, True),
                    key="board.layout.replace",
                )
                st.button("Keep it", on_click=_forget_question, key="board.layout.keep")
            else:
                st.button(
                    "Save",
                    icon=":material/save:",
                    type="primary",
                    on_click=_save,
                    args=(current, False),
                    key="board.layout.save",
                )
        st.caption(
            "A layout is what is pinned and how it is drawn, for any experiments. Everybody who uses this backend sees "
            "the saved ones. The address of this page contains the present one: copy it to share it."
        )


def _stored() -> list[LayoutSummary]:
    try:
        return session.fetch("board layouts", session.client().layouts.list).value.items
    except ApiError:  # an older backend stores none
        return []


def _about(item: LayoutSummary) -> str:
    by = f" by {item.saved_by}" if item.saved_by else ""
    return f"{row_text.timestamp(item.saved_at)} UTC{by}"


def _choose(items: dict[str, LayoutSummary]) -> None:
    if st.session_state.get(_CHOSEN) not in items:
        st.session_state.pop(_CHOSEN, None)
    name = st.selectbox(
        "Saved layouts",
        list(items),
        index=None,
        placeholder="Search by name" if items else "none is saved yet",
        disabled=not items,
        key=_CHOSEN,
        on_change=_forget_question,
    )
    item = items.get(name or "")
    if item is None:
        return
    st.caption(escape(f"{wording.counted(item.figures, 'figure')}, saved {_about(item)}"))
    asks = st.session_state.get(_ASKS) == ("delete", item.name)
    with st.container(horizontal=True):
        if asks:
            st.button(
                "Delete it",
                icon=":material/delete:",
                on_click=_delete,
                args=(item.name,),
                key="board.layout.delete-now",
            )
            st.button("Keep it", on_click=_forget_question, key="board.layout.keep-it")
        else:
            st.button("Show", icon=":material/visibility:", on_click=_show, args=(item.name,), key="board.layout.show")
            st.button("Delete …", on_click=_ask, args=("delete", item.name), key="board.layout.delete")


def _ask(question: str, name: str) -> None:
    st.session_state[_ASKS] = (question, name)


def _forget_question() -> None:
    st.session_state.pop(_ASKS, None)


def _show(name: str) -> None:
    """Write a stored layout into the address."""
    try:
        layout = session.client().layouts.get(name).layout
    except (ApiError, BackendUnreachable) as error:
        bulk.set_message("", Counter([bulk.error_sentence(error)]))
        return
    state = st.session_state
    state["over"], state["spread"], state["width"] = layout.x, layout.spread, layout.size
    state["smooth"], state["teachers"] = layout.smoothing, layout.teachers
    board_header.pin(layout.figures)


def _save(current: Callable[[], BoardLayout], replace: bool) -> None:
    name = st.session_state[_NAME].strip()
    if not name:
        bulk.set_message("", Counter(["Type a name for the layout."]))
        return
    try:
        session.action_client().layouts.save(name, current(), replace=replace)
    except SpecError as error:
        bulk.set_message("", Counter([wording.sentence(str(error))]))
    except ApiError as error:
        if error.status == _CONFLICT and not replace and any(field.path == "name" for field in error.problem.errors):
            _ask("replace", name)
        else:
            bulk.set_message("", Counter([bulk.error_sentence(error)]))
    except BackendUnreachable as error:
        bulk.set_message("", Counter([bulk.error_sentence(error)]))
    else:
        _forget_question()
        st.session_state[_NAME] = ""
        st.session_state[_CHOSEN] = name
        bulk.set_message(f"Layout {name} saved.")


def _delete(name: str) -> None:
    _forget_question()
    try:
        session.action_client().layouts.delete(name)
    except (ApiError, BackendUnreachable) as error:
        bulk.set_message("", Counter([bulk.error_sentence(error)]))
        return
    bulk.set_message(f"Layout {name} deleted.")
