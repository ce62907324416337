"""The worker's settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.service_settings import settings_problems
from worker.settings import WorkerSettings


def test_settings_are_read_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DKD_HOME": str(tmp_path),
        "DKD_SLOTS": "2",
        "DKD_THREADS": "3",
        "DKD_DEVICE": "cpu",
        "DKD_TRAINING_COMMAND": json.dumps(["train", "this"]),
        "DKD_LABELS": "h200, site/cellar",
    }.items():
        monkeypatch.setenv(name, value)
    settings = WorkerSettings()
    assert settings.artifact_root == tmp_path / "artifacts"
    assert settings.broker == tmp_path / "broker"
    assert (settings.slots_on(0), settings.threads) == (2, 3)
    assert settings.labels == ("h200", "site/cellar")
    assert settings.training_command == ("train", "this")


def test_invalid_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_SLOTS", "0")
    with pytest.raises(ValidationError, match="slots"):
        WorkerSettings()


@pytest.mark.parametrize("name", [name for name in WorkerSettings.model_fields if name.endswith("_seconds")])
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e13"])
def test_duration_that_no_clock_can_count_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DKD_{name.upper()}", value)
    with pytest.raises(ValidationError) as caught:
        WorkerSettings()
    assert settings_problems(caught.value)[0].startswith(f"DKD_{name.upper()}: ")


def test_slots_share_the_processors_that_the_worker_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("common.processors.processor_count", lambda: 8)
    settings = WorkerSettings()
    assert [settings.threads_share(slots) for slots in (1, 2, 3, 9)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert [settings.threads_share(slots) for slots in (1, 2, 3, 9)] == [3, 3, 2, 1]


@pytest.mark.parametrize(
    ("settings", "gpus", "slots"),
    [
        ({}, 0, 6),
        ({}, 3, 3),
        ({"DKD_CPU_SLOTS": "5"}, 0, 5),
        ({"DKD_CPU_SLOTS": "5"}, 4, 4),
        ({"DKD_RUNS_PER_GPU": "3"}, 2, 6),
        ({"DKD_SLOTS": "3"}, 4, 3),
    ],
)
def test_number_of_slots(settings: dict[str, str], gpus: int, slots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker.settings.default_cpu_slots", lambda: 6)
    assert WorkerSettings().slots_on(gpus) == slots
