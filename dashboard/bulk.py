"""One action on many things: carried out side by side, and told in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import streamlit as st

from client import ApiError, BackendUnreachable
from dashboard import tables

_AT_ONCE = 8
_SAID = "bulk.said"
_REFUSALS = 5


def each(keys: Sequence[str], action: Callable[[str], object], noun: str, done: str) -> None:
    """Do it to each, and keep what to say of it for the next time the page is drawn.

    Args:
        noun: what one of them is called, as ``run``.
        done: what they are then, as ``cancelled``.
    """

    def one(key: str) -> str:
        try:
            action(key)
        except (ApiError, BackendUnreachable) as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        refused = Counter(filter(None, pool.map(one, keys)))
    good = len(keys) - refused.total()
    say(f"{tables.counted(good, noun)} {done}." if good else "", refused)


def say(done: str, refused: Counter[str] | None = None) -> None:
    """Keep a sentence, and refusals with how often each came, for the next time the page is drawn."""
    st.session_state[_SAID] = (done, refused or Counter())


def said() -> None:
    """Show what the last action did, once."""
    done, refused = st.session_state.pop(_SAID, ("", Counter()))
    if done:
        st.toast(done, icon=":material/check:")
    for text, times in refused.most_common(_REFUSALS):
        st.error(text if times == 1 else f"{text} ({times} times)", icon=":material/error:")
    if len(refused) > _REFUSALS:
        st.error(f"And {len(refused) - _REFUSALS} more refusals.", icon=":material/error:")
