"""Actions on many items: requests in parallel, and one message about all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import streamlit as st

from client import ApiError, BackendUnreachable
from dashboard import wording
from dashboard.markup import escape

_PARALLEL_REQUESTS = 8
T = TypeVar("T")
_MESSAGE = "bulk.message"
_MAX_ERRORS = 5


def run_each(keys: Sequence[str], action: Callable[[str], T], noun: str, participle: str) -> list[T]:
    """Run an action on every item and store a message for the next time the page is drawn.

    Args:
        keys: Ids of the items.
        action: Sends the request for one item. It runs in a thread without the session, so it must not call
            ``session``: the client, which has the person's token, must be bound to it beforehand.
        noun: Name of an item in the message, such as ``run``.
        participle: Past participle of the action, such as ``cancelled``.

    Returns:
        The replies of the requests that succeeded.
    """
    replies: list[T] = []
    errors: Counter[str] = Counter()
    with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
        for future in [pool.submit(action, key) for key in keys]:
            try:
                replies.append(future.result())
            except (ApiError, BackendUnreachable) as error:
                errors[error_sentence(error)] += 1
    set_message(f"{wording.counted(len(replies), noun)} {participle}." if replies else "", errors)
    return replies


def on_click(keys: Sequence[str], action: Callable[[str], object], noun: str, participle: str) -> None:
    """Callback of a button: ``run_each`` without a result."""
    run_each(keys, action, noun, participle)


def error_sentence(error: ApiError | BackendUnreachable) -> str:
    """Return an error as a sentence."""
    return wording.sentence((error.problem.detail if isinstance(error, ApiError) else "") or str(error))


def set_message(text: str, errors: Counter[str] | None = None) -> None:
    """Store a message for the next time the page is drawn.

    Args:
        text: Sentence about the items that succeeded; empty if there are none.
        errors: Number of occurrences of each error.
    """
    st.session_state[_MESSAGE] = (text, errors or Counter())


def set_error(text: str) -> None:
    """Store an error for the next time the page is drawn."""
    set_message("", Counter((text,)))


def show_message() -> None:
    """Show the message of the last action once."""
    done, errors = st.session_state.pop(_MESSAGE, ("", Counter()))
    if done:
        st.toast(escape(done), icon=":material/check:")
    for text, times in errors.most_common(_MAX_ERRORS):
        st.error(escape(text if times == 1 else f"{text} ({times} times)"), icon=":material/error:")
    if len(errors) > _MAX_ERRORS:
        st.error(f"{len(errors) - _MAX_ERRORS:,} more errors.", icon=":material/error:")
