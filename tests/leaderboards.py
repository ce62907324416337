"""A small leaderboard, as a backend answers it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from core.protocol.comparisons import Interval
from core.protocol.leaderboards import (
    FewerMethods,
    Leaderboard,
    LeaderboardCell,
    LeaderboardExperiment,
    LeaderboardMethod,
    LeaderboardRun,
    LeaderboardSetting,
    Ranking,
    RankPair,
)

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _setting(student: str, cells: list[LeaderboardCell], **changes: Any) -> LeaderboardSetting:
    values: dict[str, Any] = {
        "title": f"digits resnet8→{student}",
        "metric": "test/top1",
        "metric_title": "Test accuracy",
        "unit": "%",
        "better": "higher",
        "dataset": "digits",
        "teacher": "resnet8",
        "student": student,
        "epochs": 4,
        "condition": "one teacher (seed 0)",
        "experiments": ["exp-1"],
        "common_seeds": [0, 1],
        "counted": True,
        "cells": cells,
    }
    return LeaderboardSetting.model_validate(values | changes)


def leaderboard(**changes: Any) -> Leaderboard:
    """Return the leaderboard of two methods in two settings, of which one lacks a method."""
    kd = LeaderboardCell(label="kd", n=2, mean=70.5, sd=0.5, run_ids=["r1", "r2"], experiments=["exp-1"], seeds=[0, 1])
    dkd = LeaderboardCell(
        label="dkd",
        n=2,
        mean=72.5,
        sd=0.5,
        best=True,
        mean_rank=1.0,
        pairs=2,
        units=2,
        mean_difference=2.0,
        difference_interval=Interval(low=1.5, high=2.5),
        p=0.5,
        p_holm=0.5,
        verdict="better",
        seeds=[0, 1],
        run_ids=["r3", "r4"],
        experiments=["exp-1"],
    )
    lacking = LeaderboardCell(label="dkd", n=0, experiments=["exp-1"], reason="failed: out of memory")
    ranked = [
        LeaderboardMethod(label="dkd", method="dkd", settings=1, mean_rank=1.0, interval=Interval(low=1.0, high=1.5)),
        LeaderboardMethod(label="kd", method="kd", settings=2, mean_rank=2.0, interval=Interval(low=1.5, high=2.0)),
    ]
    values: dict[str, Any] = {
        "task": "classification",
        "tasks": ["classification"],
        "baseline": "kd",
        "methods": ranked,
        "settings": [
            _setting("small_cnn", [dkd, kd]),
            _setting("resnet8", [kd, lacking], counted=False, reason="without dkd", common_seeds=[]),
        ],
        "ranking": Ranking(
            unit="seed",
            units=2,
            blocks=2,
            friedman=2.0,
            friedman_p=0.5,
            friedman_kind="exact",
            critical_difference=1.39,
            pairs=[RankPair(first="dkd", second="kd", wins=2, losses=0, ties=0, p=0.5, p_holm=0.5, differs=False)],
            cliques=[["dkd", "kd"]],
        ),
        "counted": 1,
        "fewer": [FewerMethods(without=["dkd"], settings=2)],
        "tests": 1,
        "notes": ["Values are after the last epoch.", "A note."],
        "experiments": [LeaderboardExperiment(id="exp-1", name="small", created_at=_NOW, tags=["paper"])],
        "runs": [
            LeaderboardRun(
                id=f"r{number}",
                experiment_id="exp-1",
                setting="digits resnet8→small_cnn",
                label="kd" if number < 3 else "dkd",
                seed=number % 2,
                value=70.0,
                fingerprint="f" * 16,
            )
            for number in (1, 2, 3, 4)
        ],
        "version": "1.0",
        "made_at": _NOW,
        "address": "http://127.0.0.1:8000",
    }
    return Leaderboard.model_validate(values | changes)
