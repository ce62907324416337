"""Methods that read or replace the student's classifier, in whole trainings on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from core.events import JOURNAL_NAME, Metrics, read_journal
from core.specs import parse_experiment

METHODS: Any = ["simkd", {"name": "norm", "params": {"copies": 2}}, "cat_kd"]
ONE_IMAGE = 100 / 69  # %, by which rounding may change an accuracy


def metrics(folder: Path) -> list[dict[str, float]]:
    return [record.event.values for record in read_journal(folder / JOURNAL_NAME) if isinstance(record.event, Metrics)]


@pytest.mark.slow
def test_training_on_two_ranks_equals_that_of_one_process(tmp_path: Path) -> None:
    """The loss reads layers that DistributedDataParallel does not see, and leaves out layers that it waits for."""
    spec = parse_experiment(
        {
            "name": "ranks",
            "dataset": {
                "name": "synthetic",
                "params": {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40},
            },
            "teacher": {"model": "resnet8", "training": {"epochs": 1}},
            "student": {"model": "resnet8"},
            "methods": METHODS,
            "seeds": [0],
            "training": {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 0.02}},
        }
    )
    (tmp_path / "spec.json").write_text(spec.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "core", "run", str(tmp_path / "spec.json")]
    for ranks in ("1", "2"):
        result = subprocess.run(
            [*command, "--out", str(tmp_path / ranks), "--ranks", ranks],
            env=os.environ | {"OMP_NUM_THREADS": "1", "DKD_CACHE_DIR": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
    for method in spec.methods:
        one, two = (tmp_path / ranks / f"{method.label}-seed0" for ranks in ("1", "2"))
        for first, second in zip(metrics(one), metrics(two), strict=True):
            for name, value in first.items():
                if name.startswith(("train/", "test/loss")):
                    tolerance = 1.01 * ONE_IMAGE if "top" in name else 1e-5
                    assert second[name] == pytest.approx(value, rel=1e-3, abs=tolerance), (method.label, name)
        weights = [load_file(folder / "weights.safetensors") for folder in (one, two)]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(weights[1][name], tensor, rtol=1e-2, atol=1e-4, msg=f"{method.label} {name}")
