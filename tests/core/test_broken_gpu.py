"""A GPU that does not work is the machine's fault: the run is not failed for it, and not trained on the CPU instead."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.cli import main
from core.events import GPUS_GIVEN, MACHINE_EXIT, Failed, Log
from tests.core.test_full_disk import SPEC, said


def trained(folder: Path) -> int:
    run = folder / "run.json"
    run.write_text(SPEC.model_dump_json())
    return main(["train", "--run", str(run), "--out", str(folder / "out")])


def test_one_that_was_given_and_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv(GPUS_GIVEN, "1")
    assert trained(tmp_path) == MACHINE_EXIT
    assert capsys.readouterr().err == "torch can use 0 of the 1 GPUs given to this training; see nvidia-smi\n"
    [event] = said(tmp_path / "out")
    assert isinstance(event, Log)


def test_one_that_breaks_in_the_midst(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be")

    monkeypatch.setattr("core.train.engine.Engine.train", broken)
    assert trained(tmp_path) == MACHINE_EXIT
    assert capsys.readouterr().err == "CUDA error: uncorrectable ECC error encountered\n"
    assert not any(isinstance(event, Failed) for event in said(tmp_path / "out"))


def test_another_error_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("core.train.engine.Engine.train", wrong)
    assert trained(tmp_path) == 1
    assert isinstance(said(tmp_path / "out")[-1], Failed)
