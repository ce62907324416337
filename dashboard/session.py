"""Functions that all pages share: the client, links to pages, stored replies, and messages about backend errors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import streamlit as st
from streamlit.navigation.page import Page

from client import ApiError, BackendUnreachable, Client, ClientSettingsError
from common.formatting import within_sentence
from core.protocol.public import Catalog, Experiment, Run, RunSummary
from dashboard.addresses import AddressError
from dashboard.curves.store import CurveStore
from dashboard.families import families_of
from dashboard.markup import code, escape
from dashboard.server import login
from dashboard.wording import sentence

REFRESH_SECONDS = 2.0
"""Interval between two refreshes of a live page."""
# A reply that takes longer is treated as an outage; the page tries again by itself.
_TIMEOUT_SECONDS = 6.0
# A change is not repeated and may take long on a busy backend. Giving up early would report a failure for a change that
# the backend then completes.
_ACTION_TIMEOUT_SECONDS = 60.0
_MAX_REPLIES = 200
_PROJECT = "project.chosen"

T = TypeVar("T")


@st.cache_resource(show_spinner=False, max_entries=100)
def _client(settings: tuple[str | None, ...], token: str | None, timeout: float, project: str | None) -> Client:
    return Client(token=token, timeout=timeout, project=project, use_login=False)


def client() -> Client:
    """Return the client with which the pages read data.

    ``Client`` reads the address and the token from the environment, unless a person has signed in with a token. It sees
    the chosen project only.
    """
    return _client_with(_TIMEOUT_SECONDS, chosen_project())


def lab_client() -> Client:
    """Return a client that sees all projects, whichever is chosen: for pages about projects, people and the lab."""
    return _client_with(_TIMEOUT_SECONDS, None)


def action_client() -> Client:
    """Return the client for requests that change something; it waits longer for the reply."""
    return _client_with(_ACTION_TIMEOUT_SECONDS, chosen_project())


def chosen_project() -> str | None:
    """Return the name of the project that the pages are limited to; None for all."""
    chosen: str | None = st.session_state.get(_PROJECT)
    return chosen


def choose_project(name: str | None) -> None:
    """Limit the pages to a project; None for all."""
    if name != chosen_project():
        st.session_state.pop("replies", None)
    st.session_state[_PROJECT] = name


def _client_with(timeout: float, project: str | None) -> Client:
    names = ("DKD_API_URL", "DKD_API_TOKEN", "DKD_API_TOKEN_FILE", "DKD_HOME")
    return _client(tuple(os.environ.get(name) for name in names), login.token(), timeout, project)


@st.cache_data(ttl=60, show_spinner=False)
def _catalog(url: str) -> Catalog:
    return client().catalog()


def catalog() -> Catalog:
    """Return the catalog, requested at most once a minute."""
    return _catalog(client().url)


def task(dataset: str) -> dict[str, Any]:
    """Return the task of a data set, as the catalog describes it.

    A data set that the catalog does not have, as of a plug-in that is not loaded, counts as one of the first task.
    """
    known = catalog()
    name = next((item.get("task") for item in known.datasets if item["name"] == dataset), None)
    return next((item for item in known.tasks if item["name"] == name), next(iter(known.tasks), {}))


def item(dataset: str) -> str:
    """Return what an item of a data set is called, such as an image."""
    return str(task(dataset).get("item", "image"))


def headline(dataset: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the metric, as the catalog describes it, by which results on a data set are judged.

    Args:
        dataset: The name of the data set.
        params: Its parameters, which say on which images the reports measure.
    """
    on_held_out = (params or {}).get("evaluate") == "validation"
    name = task(dataset).get("validation" if on_held_out else "headline", "")
    return _metric(name) or catalog().metrics[0]


def headline_of_run(run: RunSummary) -> dict[str, Any]:
    """Return the metric by which a run is judged, on the images on which it was measured."""
    params = _dataset_params(run.spec) if isinstance(run, Run) else None
    return headline(run.dataset, params) if params else _metric(run.headline) or headline(run.dataset)


def headline_of(experiments: Sequence[Experiment], runs: Sequence[RunSummary]) -> dict[str, Any]:
    """Return the metric by which selected experiments are judged; without any, that of single runs."""
    if experiments:
        return headline(experiments[0].dataset, _dataset_params(experiments[0].spec))
    return headline_of_run(runs[0]) if runs else headline("")


def _metric(name: str) -> dict[str, Any] | None:
    return next((item for item in catalog().metrics if item["name"] == name), None)


def _dataset_params(spec: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the parameters of a spec's data set, which a spec may also give by its name alone."""
    dataset = spec.get("dataset")
    return dataset.get("params") if isinstance(dataset, Mapping) else None


def several_tasks(named: Iterable[tuple[str, str]]) -> str:
    """Return why things of different tasks are not compared, which names one of each; empty if all are of one task.

    Args:
        named: Name and data set of each, such as those of experiments.
    """
    first_of: dict[str, tuple[str, str]] = {}
    for name, dataset in named:
        first_of.setdefault(task(dataset).get("title", ""), (name, dataset))
    if len(first_of) < 2:
        return ""
    parts = [
        f"{name} is {within_sentence(title)} on {dataset}, judged by {within_sentence(headline(dataset)['title'])}"
        for title, (name, dataset) in first_of.items()
    ]
    return f"{'; '.join(parts)}. Results of different tasks are not compared: select those of one task."


def headline_labels(names: Iterable[str]) -> dict[str, str]:
    """Return the title with its unit of each of these metrics, by name, in the order of the catalog."""
    wanted = set(names)
    return {item["name"]: item["label"] for item in catalog().metrics if item["name"] in wanted}


def companion(methods: Iterable[str]) -> dict[str, Any] | None:
    """Return the metric of these methods that can be drawn beside the headline metric; None if there is none.

    Args:
        methods: names in the catalog, or those of a combination, joined by ``+``.
    """
    known = catalog()
    by_method = {entry["name"]: entry["companion"] for entry in known.methods if entry.get("companion")}
    members = (name for method in methods for name in method.split("+"))
    name = next((by_method[member] for member in members if member in by_method), None)
    return next((item for item in known.metrics if item["name"] == name), None)


def families() -> dict[str, str]:
    """Return the family of each method of the catalog."""
    return families_of(catalog().methods)


def method_colours() -> dict[str, str]:
    """Return the colours that the catalog gives to methods, by label."""
    return {
        label: colour
        for entry in catalog().methods
        for label, colour in {entry["name"]: entry.get("color"), **entry.get("label_colors", {})}.items()
        if colour
    }


def curve_store() -> CurveStore:
    """Return the store of this browser session's curves."""
    store: CurveStore = st.session_state.setdefault("curves", CurveStore())
    return store


def register_pages(pages: Mapping[str, Page]) -> None:
    """Store the pages by url_path for links. The views cannot import the list of pages, which imports the views."""
    st.session_state["pages"] = dict(pages)


def tab_title(*parts: str) -> None:
    """Set the title of the browser's tab, the most special part first, so that tabs can be told apart."""
    st.set_page_config(page_title=" · ".join((*parts, "DKD Lab")))


def page(name: str) -> Page:
    """Return a page by its url_path, for a link."""
    result: Page = st.session_state["pages"][name]
    return result


def action_link(
    name: str, label: str, icon: str, query: Mapping[str, str | Sequence[str]] | None, *, hint: str | None = None
) -> None:
    """Draw a link to another page among buttons; it is disabled while ``query`` is None.

    With ``st.switch_page``, Streamlit 1.67 adds another history entry before the opened page, so that the back button
    does not return to this page. After a link it returns, with ``assets/history.js``.
    """
    st.page_link(
        page(name), label=label, icon=f":material/{icon}:", disabled=query is None, query_params=query, help=hint
    )


@dataclass(frozen=True)
class Fetched(Generic[T]):
    """The newest reply to a request.

    Attributes:
        value: The reply.
        outage_since: Time at which the backend stopped answering, so that the reply may be out of date; None while it
            answers.
    """

    value: T
    outage_since: datetime | None = None


def fetch(key: str, request: Callable[[], T]) -> Fetched[T]:
    """Send a request to the backend, or return the last reply if the backend does not answer.

    Args:
        key: Identifies the request in this session; it contains all parameters on which the reply depends.
        request: Sends the request.

    Raises:
        BackendUnreachable: The backend does not answer and has not answered this request before.
        ApiError: The backend refused the request.
    """
    replies: dict[str, T] = st.session_state.setdefault("replies", {})
    try:
        # During an outage, a cheap request is tried first, without the client's retries.
        if in_outage() and not client().ready():
            raise BackendUnreachable(client().url, "it is not ready")
        value = request()
    except BackendUnreachable:
        since = note_outage()
        _client.clear()  # a restarted stack may have another address or token
        if key not in replies:
            raise
        return Fetched(replies[key], since)
    st.session_state.pop("outage_since", None)
    if len(replies) > _MAX_REPLIES:
        replies.pop(next(iter(replies)))
    replies[key] = value
    return Fetched(value)


def in_outage() -> bool:
    """Return whether the backend did not answer the last request of a page."""
    return "outage_since" in st.session_state


def note_outage() -> datetime:
    """Store that the backend does not answer, and return since when."""
    since: datetime = st.session_state.setdefault("outage_since", datetime.now(UTC))
    return since


def show_outage(since: datetime | None) -> None:
    """Warn that the page may be out of date; draw nothing if ``since`` is None."""
    if since:
        st.warning(
            f"The backend has not answered since {since:%H:%M:%S} UTC. This page shows the last data received and "
            "updates when the backend is available again.",
            icon=":material/cloud_off:",
        )


def show_token_end() -> None:
    """Say that the token of this page's requests ends soon; draw nothing otherwise."""
    end = client().token_end
    if end is None:
        return
    whose = "Your token" if login.token() else "The dashboard's token"
    time = f"{end.ends_at:%Y-%m-%d %H:%M} UTC"
    if end.replaced:
        text = f"{whose} has been replaced, and its earlier text ends at {time}. Use the new text."
    else:
        text = f"{whose} ends at {time}. An admin renews it with `dkd token rotate NAME --days DAYS`."
    st.info(text, icon=":material/key:")


@contextmanager
def error_boundary() -> Iterator[None]:
    """Show errors of the backend as messages with instructions. Every page is drawn within this context manager."""
    try:
        yield
    except BackendUnreachable as error:
        note_outage()
        _client.clear()
        st.warning("The backend does not answer.", icon=":material/cloud_off:")
        st.markdown(
            f"Tried: {code(error.url)} ({escape(error.reason)}).\n\n"
            "Start the local stack with `dkd up`, or set `DKD_API_URL` to the address of the backend. "
            "This page retries every few seconds."
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
    """Show the reason why the backend refused a request, with a hint for some errors."""
    if error.status == 401 and login.token():
        login.sign_out(
            "This token has expired or was revoked." if login.mode() == "token" else "Your session has ended."
        )
    elif error.status == 403 and login.token():
        st.error(escape(sentence(str(error))), icon=":material/key_off:")
    elif error.status in (401, 403):
        st.error("The backend does not accept the dashboard's token.", icon=":material/key_off:")
        st.markdown("Set `DKD_API_TOKEN`, or set `DKD_API_TOKEN_FILE` to its file, and restart the dashboard.")
    elif error.status == 404:
        project = chosen_project()
        elsewhere = f" Only the project {escape(project)} is shown; it may be in another one." if project else ""
        st.info(f"{escape(sentence(str(error)))} The link may be old.{elsewhere}", icon=":material/search_off:")
        st.page_link(page("runs"), label="All runs", icon=":material/list:")
    else:
        st.error(escape(sentence(str(error))), icon=":material/error:")


@st.fragment(run_every=3.0)
def _wait_for_backend() -> None:
    if client().ready():
        st.session_state.pop("outage_since", None)
        st.rerun()
