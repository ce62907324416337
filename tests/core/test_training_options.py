"""Complete trainings with averaged weights, micro-batches, mixtures, limits and reports within an epoch."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from core.catalog import load_plugins
from core.catalog.metric import VARYING_PREFIXES
from core.events import JOURNAL_NAME, Metrics, read_journal
from core.settings import TrainingSettings
from core.testing_runs import metrics_of, train_interrupted
from core.train import TrainOptions, engine, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.clock import Clock
from tests.core.speed_runs import log_text, run_spec

EVERYTHING: dict[str, Any] = {
    "epochs": 4,
    "ema": 0.8,
    "label_smoothing": 0.1,
    "clip_grad_norm": 1.0,
    "accumulate": 4,
    "evaluate_every": 3,
    "optimizer": {"name": "adam", "lr": 0.01, "params": {"beta1": 0.8}},
    "augment": ["flip", "randaugment", "random_erasing", "mixup", "cutmix"],
}


def metrics(folder: Path) -> list[Metrics]:
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return [event for event in events if isinstance(event, Metrics)]


def numbers(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """The steps and the values of a run, except those of its speed."""
    return [
        (event.step, {name: value for name, value in event.values.items() if not name.startswith(VARYING_PREFIXES)})
        for event in metrics(folder)
    ]


def train(folder: Path, *, resume: Path | None = None, options: TrainOptions | None = None, **changes: Any) -> str:
    return run_training(
        run_spec("ce", **changes), folder, resume=resume, options=options, settings=TrainingSettings(threads=1)
    )


def weights(folder: Path) -> bytes:
    content = (folder / "weights.safetensors").read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]  # without the metadata, which name the spec


def stop_at_poll(number: int) -> TrainOptions:
    """Return options that request a stop from the given poll on; polls are counted from zero."""
    polls = iter(range(1000))
    return TrainOptions(stop_requested=lambda: next(polls) >= number)


class TestMeasurements:
    """What is measured, and when, does not change the training."""

    def test_averaging_and_rare_evaluation_do_not_change_the_weights(self, tmp_path: Path) -> None:
        assert train(tmp_path / "plain", epochs=5) == "finished"
        assert train(tmp_path / "measured", epochs=5, ema=0.9, evaluate_every=2) == "finished"
        assert weights(tmp_path / "plain") == weights(tmp_path / "measured")
        plain, measured = metrics(tmp_path / "plain"), metrics(tmp_path / "measured")
        assert [event.values["train/loss"] for event in plain] == [event.values["train/loss"] for event in measured]
        assert ["test/top1" in event.values for event in measured] == [False, True, False, True, True]
        assert ["test_ema/top1" in event.values for event in measured] == [False, True, False, True, True]
        evaluated = [event for event in measured if "test/top1" in event.values]
        for event in evaluated:
            same = next(other for other in plain if other.step == event.step)
            assert event.values["test/top1"] == same.values["test/top1"]
        best = max(event.values["test/top1"] for event in evaluated)
        assert measured[-1].values["oracle/top1"] == best, "of the epochs that were evaluated"
        assert "collapse/nc1" in measured[-1].values
        assert "test_ema/top1" not in plain[-1].values

    def test_average_with_decay_zero_equals_the_network(self, tmp_path: Path) -> None:
        assert train(tmp_path, epochs=2, ema=0.0) == "finished"
        for event in metrics(tmp_path):
            for name in ("top1", "top5", "loss"):
                assert event.values[f"test_ema/{name}"] == event.values[f"test/{name}"]

    def test_average_lags_behind_the_network(self, tmp_path: Path) -> None:
        assert train(tmp_path, epochs=2, ema=0.99) == "finished"
        (_, last) = metrics(tmp_path)
        assert last.values["test_ema/loss"] > last.values["test/loss"]

    def test_reports_within_an_epoch_do_not_change_the_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert train(tmp_path / "plain", epochs=2) == "finished"
        monkeypatch.setattr(engine, "Clock", functools.partial(Clock, report_seconds=0.0))
        assert train(tmp_path / "live", epochs=2) == "finished"
        assert weights(tmp_path / "plain") == weights(tmp_path / "live")
        live = metrics(tmp_path / "live")
        assert [event.step for event in live] == list(range(1, 21)), "300 images in batches of 32 are ten steps"
        assert [event.epoch for event in live[:3]] == pytest.approx([0.1, 0.2, 0.3])
        for event in live[:9]:
            assert {"train/loss", "train/top1", "lr", "speed/images_per_second"} <= event.values.keys()
            assert "test/top1" not in event.values
        of_epochs = [values for _, values in numbers(tmp_path / "plain")]
        assert [values for step, values in numbers(tmp_path / "live") if step % 10 == 0] == of_epochs


class TestEverythingTogether:
    def test_run_stopped_in_the_middle_continues_bit_for_bit(self, tmp_path: Path) -> None:
        assert train(tmp_path / "whole", **EVERYTHING) == "finished"
        for stop_at in (7, 10, 25):
            stopping = stop_at_poll(stop_at)
            half, resumed = tmp_path / f"half {stop_at}", tmp_path / f"rest {stop_at}"
            assert train(half, options=stopping, **EVERYTHING) == "stopped"
            assert train(resumed, resume=half / CHECKPOINT_NAME, **EVERYTHING) == "finished"
            assert weights(resumed) == weights(tmp_path / "whole")
            assert numbers(resumed) == numbers(tmp_path / "whole")

    @pytest.mark.parametrize(
        "method",
        [
            {"name": "test_hint", "with": ["kd", "at"], "shares": {"hint": 0.2}},
            {"name": "dot", "with": ["test_hint"]},
            {"name": "fitnet", "params": {"hint_epochs": 1}, "with": ["kd"]},
        ],
        ids=["shares", "momenta", "two stages"],
    )
    def test_terms_one_by_one_continue_bit_for_bit(self, method: dict[str, Any], tmp_path: Path) -> None:
        load_plugins(["tests.core.hint_plugin"])
        data = {"num_classes": 5, "image_size": 8, "train_size": 69, "test_size": 40}
        spec = {
            "name": "together",
            "dataset": {"name": "synthetic", "params": data},
            "teacher": {"model": "resnet8", "training": {"epochs": 1, "batch_size": 32}},
            "student": {"model": "resnet8"},
            "methods": [method],
            "seeds": [0],
            "training": EVERYTHING | {"batch_size": 16, "optimizer": {"lr": 0.02}},
        }
        train_interrupted(spec, tmp_path).check()
        values = metrics_of(tmp_path / "whole")
        assert ["test_ema/top1" in of_epoch for of_epoch in values] == [False, False, True, True]
        assert all(of_epoch["grad/norm"] > 0 for of_epoch in values)

    def test_run_with_every_option_reports_its_metrics(self, tmp_path: Path) -> None:
        assert train(tmp_path, **EVERYTHING) == "finished"
        events = metrics(tmp_path)
        assert ["test/top1" in event.values for event in events] == [False, False, True, True]
        assert all(event.values["grad/norm"] > 0 for event in events)
        assert 0 < events[-1].values["train/top1"] < 100
        assert "epoch 1/4: training loss" in log_text(tmp_path)


@pytest.mark.parametrize("name", ["adam", "nadam", "radam", "rmsprop", "adagrad", "adafactor"])
def test_resumed_run_with_each_optimizer_repeats_bit_for_bit(name: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"epochs": 2, "optimizer": name}
    assert train(tmp_path / "whole", **changes) == "finished"
    stopping = stop_at_poll(6)
    assert train(tmp_path / "half", options=stopping, **changes) == "stopped"
    assert train(tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME, **changes) == "finished"
    assert weights(tmp_path / "rest") == weights(tmp_path / "whole")


def test_micro_batch_of_one_image_is_refused_before_the_first_step(tmp_path: Path) -> None:
    # At 2 px, the last map of resnet8 has one pixel.
    spec = run_spec("ce", batch_size=32, accumulate=32)
    tiny = spec.dataset.model_copy(update={"params": spec.dataset.params | {"image_size": 8}})
    model = spec.model.model_copy(update={"name": "vgg8", "params": {}})
    result = run_training(spec.model_copy(update={"dataset": tiny, "model": model}), tmp_path)
    assert result == "failed"
    assert "each divided into 32 micro-batches" in log_text(tmp_path)
    assert "a smaller accumulate" in log_text(tmp_path)
