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


def reply(cursor: int, *found: Series, state: RunState = "running") -> MetricsReply:
    return MetricsReply(run_id="r", state=state, cursor=cursor, series=list(found))


def test_new_points_are_appended() -> None:
    held = RunCurves()
    assert held.merge(reply(2, series([1, 2])))
    assert held.merge(reply(4, series([3, 4]), series([3], name="b")))
    assert held.curves["a"].step == [1, 2, 3, 4]
    assert held.curves["b"].step == [3]
    assert held.cursor == 4


def test_a_reply_without_points_changes_no_curve() -> None:
    held = RunCurves()
    held.merge(reply(2, series([1, 2])))
    curves = deepcopy(held.curves)
    assert held.merge(reply(2))
    assert held.curves == curves


def test_a_late_point_is_put_in_its_place_and_a_corrected_one_replaced() -> None:
    curve = Curve("a")
    curve.merge(series([1, 2, 4]))
    assert curve.merge(series([2, 3], [20.0, 30.0]))
    assert curve.step == [1, 2, 3, 4]
    assert curve.value == [1.0, 20.0, 30.0, 4.0]


def test_fine_points_follow_coarse_buckets_but_coarser_buckets_ask_for_all_again() -> None:
    curve = Curve("a")
    curve.merge(series([7, 15], resolution=8))
    assert curve.merge(series([16, 17]))
    assert (curve.low, curve.high) == ([6.0, 14.0, 16.0, 17.0], [8.0, 16.0, 16.0, 17.0])
    assert not curve.merge(series([31], resolution=16))


def test_a_curve_that_has_grown_too_long_is_asked_for_again() -> None:
    held = RunCurves()
    assert held.merge(reply(1, series(list(range(MAX_POINTS)))))
    assert not held.merge(reply(2, series(list(range(MAX_POINTS, 2 * MAX_POINTS)))))


def test_a_cursor_that_runs_backwards_asks_for_all_again() -> None:
    held = RunCurves()
    held.merge(reply(5, series([1])))
    assert not held.merge(reply(3, series([1])))


def test_nan_stays_a_value() -> None:
    curve = Curve("a")
    curve.merge(series([1, 2], [math.nan, 2.0]))
    assert math.isnan(curve.value[0])


@pytest.fixture
def running(server: FakeServer) -> tuple[FakeBackend, Client, str]:
    server.backend.submit(digits_spec())
    run_id = "run-0001-000"
    server.backend.advance(run_id, 5)
    return server.backend, Client(), run_id


def test_a_tick_asks_only_for_what_is_new(running: tuple[FakeBackend, Client, str]) -> None:
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


def test_600_ticks_cost_what_is_new_and_no_history(running: tuple[FakeBackend, Client, str]) -> None:
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
    whole = len(backend.metrics(run_id, [], 0).model_dump_json())
    assert backend.sent - start < 600 * whole / 10, "as good as reading the history at each tick"


def test_a_run_that_has_ended_is_asked_for_once(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    backend.advance(run_id, 100)
    store = CurveStore()
    summary = backend.summary(backend.runs[run_id])
    assert summary.state == "succeeded"
    store.update(client, summary)
    asked = len(backend.requests)
    store.update(client, summary)
    assert len(backend.requests) == asked


def test_a_new_attempt_is_read_from_its_start(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    store.update(client, backend.summary(backend.runs[run_id]))
    backend.end(run_id, "failed", "lost")
    backend.change(run_id, "retry")
    run = backend.runs[run_id]
    run.points.clear()
    run.done = 0
    backend.advance(run_id, 2)
    store.update(client, backend.summary(run))
    assert store.get(run_id).curves["test/top1"].epoch == [1, 2]


def test_many_runs_fill_in_tick_by_tick(server: FakeServer) -> None:
    backend = server.backend
    backend.submit(digits_spec())
    for run in backend.runs.values():
        backend.advance(run.id, 2)
    store, client = CurveStore(), Client()
    runs = [backend.summary(run) for run in backend.runs.values()]
    filled = []
    for _ in range(4):
        found = store.update_some(client, runs, ("test/top1",), budget=4)
        filled.append(sum(bool(held.curves) for held in found.values()))
    assert filled == [4, 8, 10, 10]
    assert sum("metrics" in request for request in backend.requests) == 10


def test_an_outage_leaves_what_is_held(running: tuple[FakeBackend, Client, str], server: FakeServer) -> None:
    backend, client, run_id = running
    store = CurveStore()
    summary: RunSummary = backend.summary(backend.runs[run_id])
    store.update(client, summary)
    server.stop()
    with pytest.raises(BackendUnreachable):
        store.update(client, summary)
    assert len(store.get(run_id).curves["test/top1"]) == 5


def test_the_oldest_runs_make_room() -> None:
    store = CurveStore()
    first = store.get("first")
    first.cursor = 7
    for number in range(500):
        store.get(f"run {number}")
    assert store.get("first").cursor == 0


def test_time_left_is_the_pace_of_training_times_the_steps_left(running: tuple[FakeBackend, Client, str]) -> None:
    backend, client, run_id = running
    store = CurveStore()
    summary = backend.summary(backend.runs[run_id])
    held = store.update(client, summary)
    # 5 of 30 epochs took 0.4 s each.
    assert seconds_left(summary, held.curves.values()) == pytest.approx(25 * 0.4)
    assert seconds_left(summary, []) is None
    backend.end(run_id, "failed")
    assert seconds_left(backend.summary(backend.runs[run_id]), held.curves.values()) is None
