"""The search for cyclic garbage begins when a training has been prepared."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.events import Event, Metrics, Started
from core.launch import collection_after_start
from core.specs import parse_experiment
from core.testing_runs import events_of
from core.train import TrainOptions, run_training


@pytest.fixture(autouse=True)
def _collecting() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_garbage_is_collected_after_the_start() -> None:
    frozen = gc.get_freeze_count()
    with collection_after_start() as begin:
        assert not gc.isenabled()
        begin()
        assert gc.isenabled()
        assert gc.get_freeze_count() > frozen
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_a_start_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ValueError, match="no spec"), collection_after_start():
        raise ValueError("no spec")
    assert gc.isenabled()


def test_a_collector_that_is_off_stays_off() -> None:
    gc.disable()
    with collection_after_start() as begin:
        begin()
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_the_start_ends_before_the_first_step(tmp_path: Path) -> None:
    spec = {"name": "collection", "preset": "quick", "methods": ["ce"], "seeds": [0], "training": {"epochs": 1}}
    run = parse_experiment(spec | {"teacher": None}).plan()[0].spec
    seen: list[list[Event]] = []
    options = TrainOptions(on_prepared=lambda: seen.append(events_of(tmp_path)))
    assert run_training(run, tmp_path, options=options) == "finished"
    (before,) = seen
    assert any(isinstance(event, Started) for event in before)
    assert not any(isinstance(event, Metrics) for event in before)
