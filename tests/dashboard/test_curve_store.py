"""Curves in a session: requested once, then only new points."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest

from client import BackendUnreachable, Client
from core.protocol.public import MetricsReply, RunState, RunSummary, Series
from dashboard.curves.curve import MAX_POINTS, Curve, RunCurves, seconds_left
from dashboard.curves.store import CurveStore
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec


def series(steps: list[int], values: list[float] | None = None, *, name: str = "a", resolution: int = 1) -> Series:
    numbers = [float(step) for step in steps]
    spread = {"low": [v - 1 for v in numbers], "high": [v + 1 for v in numbers]} if resolution > 1 else {}
    return Series(
        name=name, step=steps, epoch=numbers, elapsed=numbers, value=values or numbers, resolution=resolution, **spread
    )


def reply(cursor: int, *series: Series, state: RunState = "running") -> MetricsReply:
    return MetricsReply(run_id="r", state=state, cursor=cursor, series=list(series))


def test_new_points_are_appended() -> None:
    run_curves = RunCurves()
    assert run_curves.merge(reply(2, series([1, 2])))
    assert run_curves.merge(reply(4, series([3, 4]), series([3], name="b")))
    assert run_curves.curves["a"].step == [1, 2, 3, 4]
    assert run_curves.curves["b"].step == [3]
    assert run_curves.cursor == 4


def test_a_reply_without_points_changes_no_curve() -> None:
    run_curves = RunCurves()
    run_curves.merge(reply(2, series([1, 2])))
    curves = deepcopy(run_curves.curves)
    assert run_curves.merge(reply(2))
    assert run_curves.curves == curves


def test_late_point_is_inserted_in_order_and_a_corrected_one_replaced() -> None:
    curve = Curve("a")
    curve.merge(series([1, 2, 4]))
    assert curve.merge(series([2, 3], [20.0, 30.0]))
    assert curve.step == [1, 2, 3, 4]
    assert curve.value == [1.0, 20.0, 30.0, 4.0]


def test_coarser_buckets_require_a_full_read_and_finer_points_do_not() -> None:
    curve = Curve("a")
    curve.merge(series([7, 15], resolution=8))
    assert curve.merge(series([16, 17]))
    assert (curve.low, curve.high) == ([6.0, 14.0, 16.0, 17.0], [8.0, 16.0, 16.0, 17.0])
    assert not curve.merge(series([31], resolution=16))


def test_long_curve_is_requested_again_at_lower_resolution() -> None:
    run_curves = RunCurves()
    assert run_curves.merge(reply(1, series(list(range(MAX_POINTS)))))
    assert not run_curves.merge(reply(2, series(list(range(MAX_POINTS, 2 * MAX_POINTS)))))


def test_cursor_that_goes_back_requests_everything_again() -> None:
    run_curves = RunCurves()
    run_curves.merge(reply(5, series([1])))
    assert not run_curves.merge(reply(3, series([1])))


def test_nan_is_kept_as_a_value() -> None:
    curve = Curve("a")
    curve.merge(series([1, 2], [math.nan, 2.0]))
    assert math.isnan(curve.value[0])


@pytest.fixture
def running(server: FakeServer) -> tuple[FakeBackend, Client, str]:
    server.backend.submit(digits_spec())
    run_id = "run-0001-000"
    server.backend.advance(run_id, 5)
    return server.backend, Client(), run_id


def test_refresh_requests_new_points_only(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    store.update(client, backend.summary(backend.runs[run_id]))
    before = backend.sent
    store.update(client, backend.summary(backend.runs[run_id]))
    nothing_new = backend.sent - before
    backend.advance(run_id, 1)
    store.update(client, backend.summary(backend.runs[run_id]))
    one_epoch = backend.sent - before - nothing_new
    assert nothing_new < 150
    assert one_epoch < 1500
    assert store.get(run_id).curves["test/top1"].epoch == [1, 2, 3, 4, 5, 6]


def test_600_refreshes_never_read_history_again(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    store.update(client, backend.summary(backend.runs[run_id]))
    start = backend.sent
    for tick in range(600):
        if tick % 30 == 0:
            backend.advance(run_id, 1)
        store.update(client, backend.summary(backend.runs[run_id]))
    assert backend.runs[run_id].state == "running"
    assert backend.sent - start < 600 * 120 + 20 * 1500
    complete = len(backend.metrics(run_id, [], 0).model_dump_json())
    assert backend.sent - start < 600 * complete / 10, "as good as reading the history at each tick"


def test_ended_run_is_requested_once(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    backend.advance(run_id, 100)
    store = CurveStore()
    summary = backend.summary(backend.runs[run_id])
    assert summary.state == "succeeded"
    store.update(client, summary)
    requests = len(backend.requests)
    store.update(client, summary)
    assert len(backend.requests) == requests


def test_a_new_attempt_is_read_from_its_start(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    store.update(client, backend.summary(backend.runs[run_id]))
    backend.end(run_id, "failed", "lost")
    backend.retry(run_id)
    run = backend.runs[run_id]
    run.points.clear()
    run.done = 0
    backend.advance(run_id, 2)
    store.update(client, backend.summary(run))
    assert store.get(run_id).curves["test/top1"].epoch == [1, 2]


def test_many_runs_are_read_over_several_refreshes(server: FakeServer) -> None:
    backend = server.backend
    backend.submit(digits_spec())
    for run in backend.runs.values():
        backend.advance(run.id, 2)
    store, client = CurveStore(), Client()
    runs = [backend.summary(run) for run in backend.runs.values()]
    filled = []
    for _ in range(4):
        updated = store.update_some(client, runs, ("test/top1",), budget=4)
        filled.append(sum(bool(run_curves.curves) for run_curves in updated.values()))
    assert filled == [4, 8, 10, 10]
    assert sum("metrics" in request for request in backend.requests) == 10


def test_outage_keeps_the_curves(running: tuple[FakeBackend, Client, str], server: FakeServer) -> None:
    backend, client, run_id = running
    store = CurveStore()
    summary: RunSummary = backend.summary(backend.runs[run_id])
    store.update(client, summary)
    server.stop()
    with pytest.raises(BackendUnreachable):
        store.update(client, summary)
    assert len(store.get(run_id).curves["test/top1"]) == 5


def test_oldest_runs_are_removed_at_the_limit() -> None:
    store = CurveStore()
    first = store.get("first")
    first.cursor = 7
    for number in range(500):
        store.get(f"run {number}")
    assert store.get("first").cursor == 0


def test_time_left_is_steps_left_times_seconds_per_step(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    summary = backend.summary(backend.runs[run_id])
    run_curves = store.update(client, summary)
    # 5 of 30 epochs took 0.4 s each.
    assert seconds_left(summary, run_curves.curves.values()) == pytest.approx(25 * 0.4)
    assert seconds_left(summary, []) is None
    backend.end(run_id, "failed")
    assert seconds_left(backend.summary(backend.runs[run_id]), run_curves.curves.values()) is None
