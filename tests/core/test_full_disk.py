"""Training on a full disk continues without checkpoints; weights that cannot be written are a machine error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.cli import main
from core.events import JOURNAL_NAME, MACHINE_EXIT, Checkpointed, Event, Failed, Finished, Log, read_journal
from core.specs import RunSpec
from core.train import TrainOptions, run_training
from core.weights.network_weights import save_weights

SPEC = RunSpec.model_validate(
    {
        "role": "student",
        "dataset": {
            "name": "synthetic",
            "params": {"num_classes": 3, "image_size": 8, "train_size": 60, "test_size": 30},
        },
        "model": {"name": "small_cnn", "params": {"width": 4}},
        "method": "ce",
        "training": {"epochs": 2, "batch_size": 32},
        "seed": 0,
        "data_seed": 0,
    }
)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def events_of(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def test_training_continues_without_a_checkpoint_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(*_: object) -> Iterator[bytes]:
        yield b"a part of it"
        full()

    monkeypatch.setattr("core.train.checkpoint._encode", torn)
    assert run_training(SPEC, tmp_path, options=TrainOptions(checkpoint_seconds=0.0)) == "finished"
    events = events_of(tmp_path)
    assert isinstance(events[-1], Finished)
    assert not any(isinstance(event, Checkpointed) for event in events)
    logged = [event.message for event in events if isinstance(event, Log)]
    assert "no checkpoint could be written: No space left on device; the training continues without one" in logged
    assert list(tmp_path.glob("*.partial")) == [], "what was written of it takes no room"


def test_weights_that_do_not_fit_are_a_machine_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run.json"
    run.write_text(SPEC.model_dump_json())
    monkeypatch.setattr("core.train.run.save_weights", full)
    assert main(["train", "--run", str(run), "--out", str(tmp_path / "out")]) == MACHINE_EXIT
    assert "No space left on device" in capsys.readouterr().err
    assert not any(isinstance(event, Finished | Failed) for event in events_of(tmp_path / "out"))


def test_partly_written_weights_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.train.checkpoint.os.fsync", full)  # where a delayed write is refused
    with pytest.raises(OSError, match="No space"):
        save_weights(torch.nn.Linear(2, 2), tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []
