"""A fake backend on loopback, and the dashboard run against it without a browser."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from client import Client
from tests import served
from tests.dashboard.fakes import FakeBackend, FakeServer
from tests.dashboard.stand import Stand, standing

SCRIPT = Path(__file__).parents[2] / "dashboard" / "script.py"


@pytest.fixture(autouse=True)
def _main_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore ``__main__``: AppTest replaces it by the page's script, which a process spawned later would run."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeServer]:
    """Run a fake backend that the dashboard finds through the environment."""
    with FakeServer() as running:
        monkeypatch.setenv("DKD_API_URL", running.url)
        monkeypatch.setenv("DKD_API_TOKEN", "for the tests")
        monkeypatch.setenv("DKD_HOME", str(tmp_path))
        yield running
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture
def backend(server: FakeServer) -> FakeBackend:
    return server.backend


class _Recorded(httpx.BaseTransport):
    """The network, with a record of the requests."""

    def __init__(self, requests: list[str]) -> None:
        self._network = httpx.HTTPTransport()
        self._requests = requests

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._requests.append(f"{request.method} {request.url.path}")
        return self._network.handle_request(request)

    def close(self) -> None:
        self._network.close()


@contextmanager
def connected(running: Stand, monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Stand]:
    """Let the dashboard in this process find a real backend through the environment, until the end of the block."""
    clients: list[Client] = []

    def connect(*given: Any, **options: Any) -> Client:
        clients.append(Client(*given, **options, transport=_Recorded(running.requests)))
        return clients[-1]

    monkeypatch.setenv("DKD_API_URL", running.url)
    monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)
    monkeypatch.setenv("DKD_HOME", str(home))
    monkeypatch.setattr("dashboard.session.Client", connect)
    running.requests.clear()
    try:
        yield running
    finally:
        for client in clients:  # the dashboard keeps its connections as long as it runs
            client.close()
        st.cache_data.clear()
        st.cache_resource.clear()


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stand]:
    """Run a real backend that the dashboard finds through the environment."""
    with standing(tmp_path) as running, connected(running, monkeypatch, tmp_path):
        yield running


def visit(path: str = "", **params: str | list[str]) -> AppTest:
    """Run the page at a url_path once, in a new session."""
    app = AppTest.from_file(str(SCRIPT), default_timeout=120)
    for name, value in params.items():
        app.query_params[name] = value
    if path:
        # A browser sends this with a deep link. AppTest has no public way to open a page that is a function.
        app._page_hash = calc_hash(path)
    return app.run()


def texts(app: AppTest) -> str:
    """Return all text on the page as one string."""
    elements = [*app.title, *app.header, *app.subheader, *app.markdown, *app.caption, *app.code, *app.text_area]
    boxes = [*app.error, *app.warning, *app.info, *app.success]
    pages = [unescape(str(item.proto.body)) for item in app.get("html")]
    return "\n".join([*(str(item.value) for item in [*elements, *boxes]), *pages])


def charts(app: AppTest) -> set[str]:
    """Return the keys of the charts on the page."""
    return {str(item.key) for item in app.get("bidi_component") if item.proto.component_name == "dkd_chart"}


def curve_names(app: AppTest, key: str) -> list[str]:
    """Return the legend of the chart with this key."""
    [chart] = [item for item in app.get("bidi_component") if str(item.key) == key]
    figure = json.loads(json.loads(chart.proto.json)["figure"])
    return [trace["name"] for trace in figure["data"] if trace.get("name") and trace.get("showlegend", True)]


def tables(app: AppTest) -> list[list[dict[str, str]]]:
    """Return the rows of each HTML table on the page."""
    elements = [ElementTree.fromstring(item.proto.body) for item in app.get("html") if "<table>" in item.proto.body]
    result = []
    for table in elements:
        names = [cell.text or "" for cell in table.iter("th")]
        rows = [
            [cell.text or "" for cell in row.iter("td")] for row in table.iter("tr") if row.get("class") != "dkd-group"
        ]
        result.append([dict(zip(names, row, strict=True)) for row in rows if row])
    return result


def button(app: AppTest, label: str) -> Any:
    """Return the first button with this label."""
    return next(item for item in app.button if item.label == label)


def field(app: AppTest, key_end: str) -> Any:
    """Return the first input widget whose key has this end."""
    every = [*app.number_input, *app.text_input, *app.text_area, *app.selectbox, *app.toggle, *app.multiselect]
    return next(item for item in every if item.key and item.key.endswith(key_end))


def choose(app: AppTest, name: str, *ids: str) -> None:
    """Select rows through the session state: AppTest cannot click into a table."""
    state = app.session_state[f"{name}.selection"]
    state["selected"] = list(ids)
    state["generation"] += 1
    state["default"] = [state["shown"].index(item) for item in ids]
    app.run()
