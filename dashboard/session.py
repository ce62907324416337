"""What every page needs: the client, the way to the other pages, and what is shown while no backend answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

import streamlit as st
from streamlit.navigation.page import Page

from client import ApiError, BackendUnreachable, Client, ClientSettingsError
from core.protocol.public import Catalog
from dashboard.addresses import AddressError
from dashboard.curves.store import CurveStore
from dashboard.markup import code, escape
from dashboard.server import login

REFRESH_SECONDS = 2.0
"""Between two looks at what changes. A metric is then on the screen about as long after the backend has it."""
# A reply that takes longer than this is shown as an outage; the page asks again by itself.
_TIMEOUT_SECONDS = 6.0

T = TypeVar("T")


@st.cache_resource(show_spinner=False, max_entries=100)
def _client(settings: tuple[str | None, ...], token: str | None) -> Client:
    return Client(token=token, timeout=_TIMEOUT_SECONDS)


def client() -> Client:
    """The client of this session: the address, and the token unless a person has come in with one, from the
    environment, as ``Client`` reads them."""
    names = ("DKD_API_URL", "DKD_API_TOKEN", "DKD_API_TOKEN_FILE", "DKD_HOME")
    return _client(tuple(os.environ.get(name) for name in names), login.token())


@st.cache_data(ttl=60, show_spinner=False)
def _catalog(url: str) -> Catalog:
    return client().catalog()


def catalog() -> Catalog:
    """The catalog, asked for at most once a minute."""
    return _catalog(client().url)


def curve_store() -> CurveStore:
    """The curves that this browser session holds."""
    store: CurveStore = st.session_state.setdefault("curves", CurveStore())
    return store


def register_pages(pages: Mapping[str, Page]) -> None:
    """Tell the views which pages there are, by url_path. They cannot import the list, which imports them."""
    st.session_state["pages"] = dict(pages)


def page(name: str) -> Page:
    """A page by its url_path, for a link."""
    found: Page = st.session_state["pages"][name]
    return found


def action_link(
    name: str, label: str, icon: str, query: Mapping[str, str | Sequence[str]] | None, *, hint: str | None = None
) -> None:
    """A link to another page beside buttons, which leads nowhere while ``query`` is None.

    Streamlit 1.67 puts an address of its own before the one that ``st.switch_page`` leads to, so that the back button
    does not come back from there; from a link it does, with ``assets/history.js``.
    """
    st.page_link(
        page(name), label=label, icon=f":material/{icon}:", disabled=query is None, query_params=query, help=hint
    )


@dataclass(frozen=True)
class Fetched(Generic[T]):
    """The newest answer to a question.

    Attributes:
        value: it.
        lost: since when the backend has not answered; None while it does.
    """

    value: T
    lost: datetime | None = None


def fetch(key: str, question: Callable[[], T]) -> Fetched[T]:
    """Ask the backend; where it does not answer, what it said last.

    Raises BackendUnreachable where it has never answered this question, and ApiError as the client does.

    Args:
        key: names the question in this session, with everything that the answer depends on.
    """
    answers: dict[str, T] = st.session_state.setdefault("answers", {})
    try:
        # A backend known to be away is asked in the cheapest way first, without the client's repeated tries.
        if "lost" in st.session_state and not client().ready():
            raise BackendUnreachable(client().url, "it is not ready")
        value = question()
    except BackendUnreachable:
        since: datetime = st.session_state.setdefault("lost", datetime.now(UTC))
        _client.clear()  # a stack started anew may have another address or token
        if key not in answers:
            raise
        return Fetched(answers[key], since)
    st.session_state.pop("lost", None)
    if len(answers) > 200:
        answers.pop(next(iter(answers)))
    answers[key] = value
    return Fetched(value)


def show_outage(since: datetime | None) -> None:
    """A line above what may be out of date; nothing while the backend answers."""
    if since:
        st.warning(
            f"The backend has not answered since {since:%H:%M:%S} UTC. What you see is what it said last; "
            "this page goes on by itself when it is back.",
            icon=":material/cloud_off:",
        )


@contextmanager
def error_boundary() -> Iterator[None]:
    """Show an error of the backend as a sentence, with what to do about it. Around every page."""
    try:
        yield
    except BackendUnreachable as error:
        st.session_state.setdefault("lost", datetime.now(UTC))
        _client.clear()
        st.warning("The backend does not answer.", icon=":material/cloud_off:")
        st.markdown(
            f"Tried: {code(error.url)} ({escape(error.reason)}).\n\n"
            "Start the local stack with `dkd up`, or set `DKD_API_URL` to where the backend is. "
            "This page looks again every few seconds and goes on by itself."
        )
        _wait_for_backend()
    except ApiError as error:
        show_api_error(error)
    except AddressError as error:
        st.info(f"{escape(error)} The link may be old.", icon=":material/link_off:")
        st.page_link(page("runs"), label="All runs", icon=":material/list:")
    except ClientSettingsError as error:
        st.error(
            f"The dashboard cannot reach the backend with its settings: {escape(error)}", icon=":material/settings:"
        )


def show_api_error(error: ApiError) -> None:
    """What the backend refused, with a hint where there is one."""
    if error.status == 401 and login.token():
        login.sign_out("This token is not known any more: it has expired or was revoked.")
    elif error.status == 403 and login.token():
        st.error(escape(_sentence(error)), icon=":material/key_off:")
    elif error.status in (401, 403):
        st.error("The backend does not accept the dashboard's token.", icon=":material/key_off:")
        st.markdown("Set `DKD_API_TOKEN`, or `DKD_API_TOKEN_FILE` to the file that holds it, and start it again.")
    elif error.status == 404:
        st.info(f"{escape(_sentence(error))} The link may be old.", icon=":material/search_off:")
        st.page_link(page("runs"), label="All runs", icon=":material/list:")
    else:
        st.error(escape(_sentence(error)), icon=":material/error:")


def _sentence(error: ApiError) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


@st.fragment(run_every=3.0)
def _wait_for_backend() -> None:
    if client().ready():
        st.session_state.pop("lost", None)
        st.rerun()
