"""A GPU that fails is a machine error: the run is neither failed nor trained on the CPU instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.cli import main
from core.events import GPUS_GIVEN, MACHINE_EXIT, Failed, Log
from tests.core.test_full_disk import SPEC, events_of


def trained(folder: Path) -> int:
    run = folder / "run.json"
    run.write_text(SPEC.model_dump_json())
    return main(["train", "--run", str(run), "--out", str(folder / "out")])


def test_assigned_gpu_that_torch_cannot_use_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(GPUS_GIVEN, "1")
    assert trained(tmp_path) == MACHINE_EXIT
    assert capsys.readouterr().err == "torch can use 0 of the 1 GPUs given to this training; see nvidia-smi\n"
    [event] = events_of(tmp_path / "out")
    assert isinstance(event, Log)


def test_gpu_that_fails_during_training_is_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be")

    monkeypatch.setattr("core.train.engine.Engine.train", broken)
    assert trained(tmp_path) == MACHINE_EXIT
    assert capsys.readouterr().err == "CUDA error: uncorrectable ECC error encountered\n"
    assert not any(isinstance(event, Failed) for event in events_of(tmp_path / "out"))


def test_other_cuda_error_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("core.train.engine.Engine.train", wrong)
    assert trained(tmp_path) == 1
    assert isinstance(events_of(tmp_path / "out")[-1], Failed)
