"""Requests of the Run page, counted at the backend."""

from __future__ import annotations

from copy import deepcopy

import pytest

from client import BackendUnreachable, Client
from dashboard.curves.curve import MAX_POINTS
from dashboard.curves.feed import LOG_LINES, RunFeed
from dashboard.curves.store import CurveStore
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec

RUN = "run-0001-000"


@pytest.fixture
def client(server: FakeServer) -> Client:
    server.backend.submit(digits_spec(training={"epochs": 2000}))
    return Client()


def test_600_refreshes_never_read_history_again(backend: FakeBackend, client: Client) -> None:
    backend.advance(RUN, 300)
    feed = RunFeed(RUN, CurveStore()).update(client)
    start, requests = backend.sent, len(backend.requests)
    for tick in range(600):
        if tick % 30 == 0:
            backend.advance(RUN, 1)
        feed.update(client)
    assert feed.run.state == "running"
    assert feed.run.epoch == 320
    assert feed.curves.curves["test/top1"].epoch == list(range(1, 321))
    assert [line.number for line in feed.lines] == list(range(322 - LOG_LINES, 322))
    assert len(backend.requests) - requests == 600, "one request a tick"
    assert backend.sent - start < 600 * 500 + 20 * 2500


def test_refresh_without_new_points_changes_no_curve(backend: FakeBackend, client: Client) -> None:
    backend.advance(RUN, 5)
    feed = RunFeed(RUN, CurveStore()).update(client)
    curves = deepcopy(feed.curves.curves)
    feed.update(client)
    assert feed.curves.curves == curves


def test_a_long_run_keeps_few_points(backend: FakeBackend, client: Client) -> None:
    backend.advance(RUN, 1990)
    feed = RunFeed(RUN, CurveStore()).update(client)
    assert all(len(curve) <= MAX_POINTS for curve in feed.curves.curves.values())


def test_a_new_attempt_is_read_from_its_start(backend: FakeBackend, client: Client) -> None:
    backend.advance(RUN, 5)
    feed = RunFeed(RUN, CurveStore()).update(client)
    backend.end(RUN, "failed", "lost")
    assert feed.update(client).run.reason == "lost"
    assert feed.ended
    backend.retry(RUN)
    run = backend.runs[RUN]
    run.points.clear()
    run.done = 0
    backend.advance(RUN, 2)
    feed.update(client)
    assert feed.curves.curves["test/top1"].epoch == [1, 2]
    assert feed.run.attempt == 2


def test_outage_keeps_the_curves(backend: FakeBackend, client: Client, server: FakeServer) -> None:
    backend.advance(RUN, 5)
    feed = RunFeed(RUN, CurveStore()).update(client)
    server.stop()
    with pytest.raises(BackendUnreachable):
        feed.update(client)
    assert feed.run.epoch == 5
    server.start()
    backend.advance(RUN, 1)
    assert feed.update(client).run.epoch == 6


def test_the_curves_of_a_feed_are_those_of_the_session(backend: FakeBackend, client: Client) -> None:
    store = CurveStore()
    backend.advance(RUN, 5)
    feed = RunFeed(RUN, store).update(client)
    assert store.get(RUN) is feed.curves
    assert store.get(RUN).curves["test/top1"].epoch == [1, 2, 3, 4, 5]
    store.drop(RUN)
    assert not store.get(RUN).curves
