"""One action on many things: carried out side by side, and told in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import streamlit as st

from client import ApiError, BackendUnreachable
from dashboard import wording
from dashboard.markup import escape

_AT_ONCE = 8
T = TypeVar("T")
_SAID = "bulk.said"
_REFUSALS = 5


def run_each(keys: Sequence[str], action: Callable[[str], T], noun: str, done: str) -> list[T]:
    """Do it to each, and keep what to say of it for the next time the page is drawn. Returns the answers.

    Args:
        noun: what one of them is called, as ``run``.
        done: what they are then, as ``cancelled``.
    """

    answers: list[T] = []
    refused: Counter[str] = Counter()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for future in [pool.submit(action, key) for key in keys]:
            try:
                answers.append(future.result())
            except (ApiError, BackendUnreachable) as error:
                refused[error_sentence(error)] += 1
    set_message(f"{wording.counted(len(answers), noun)} {done}." if answers else "", refused)
    return answers


def on_click(keys: Sequence[str], action: Callable[[str], object], noun: str, done: str) -> None:
    """``each`` for a button, to which nothing is given back."""
    run_each(keys, action, noun, done)


def error_sentence(error: ApiError | BackendUnreachable) -> str:
    """What went wrong, as a sentence."""
    return wording.sentence((error.problem.detail if isinstance(error, ApiError) else "") or str(error))


def set_message(done: str, refused: Counter[str] | None = None) -> None:
    """Keep a sentence, and refusals with how often each came, for the next time the page is drawn."""
    st.session_state[_SAID] = (done, refused or Counter())


def show_message() -> None:
    """Show what the last action did, once."""
    done, refused = st.session_state.pop(_SAID, ("", Counter()))
    if done:
        st.toast(escape(done), icon=":material/check:")
    for text, times in refused.most_common(_REFUSALS):
        st.error(escape(text if times == 1 else f"{text} ({times} times)"), icon=":material/error:")
    if len(refused) > _REFUSALS:
        st.error(f"And {len(refused) - _REFUSALS:,} more refusals.", icon=":material/error:")
