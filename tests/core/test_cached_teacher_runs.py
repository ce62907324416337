"""Runs that read the cached logits of their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.catalog.metric import VARYING_PREFIXES
from core.events import JOURNAL_NAME, Log, Metrics, Started, read_journal
from core.settings import SettingsError
from core.train import TeacherSource, TrainOptions, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from tests.core.teacher_experiments import experiment


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    spec = experiment("dkd", epochs=3).teacher_run()
    assert spec
    folder = tmp_path_factory.mktemp("teacher")
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


class TestRuns:
    """The same through whole trainings."""

    def events(self, folder: Path) -> list[Any]:
        return [record.event for record in read_journal(folder / JOURNAL_NAME)]

    def shares(self, folder: Path) -> list[float | None]:
        return [e.values.get("speed/teacher_reused") for e in self.events(folder) if isinstance(e, Metrics)]

    def spent(self, folder: Path) -> list[float]:
        """Seconds spent on the teacher's logits since the run began, after each epoch."""
        metrics = [event.values for event in self.events(folder) if isinstance(event, Metrics)]
        return [values["speed/teacher_seconds"] for values in metrics if "speed/teacher_seconds" in values]

    def elapsed(self, folder: Path) -> list[float]:
        return [event.elapsed for event in self.events(folder) if isinstance(event, Metrics)]

    def curve(self, folder: Path) -> list[dict[str, float]]:
        metrics = [event.values for event in self.events(folder) if isinstance(event, Metrics)]
        return [
            {name: value for name, value in values.items() if not name.startswith(VARYING_PREFIXES)}
            for values in metrics
        ]

    def same_weights(self, one: Path, other: Path) -> bool:
        return (one / "weights.safetensors").read_bytes() == (other / "weights.safetensors").read_bytes()

    def test_second_run_reads_the_cache_and_ends_with_equal_metrics(
        self, teacher: TeacherSource, tmp_path: Path
    ) -> None:
        spec = experiment("dkd", "kd", "ce", epochs=3)
        runs = {planned.label: planned.spec for planned in spec.plan()}
        for name, label in (("first", "dkd"), ("again", "dkd"), ("other", "kd"), ("none", "ce")):
            assert run_training(runs[label], tmp_path / name, teacher) == "finished"
        shares = {name: self.shares(tmp_path / name) for name in ("first", "again", "other", "none")}
        hits = [100.0] * 3
        assert shares == {"first": [0.0] * 3, "again": hits, "other": hits, "none": [None] * 3}
        for name in ("first", "again", "other"):
            spent, elapsed = self.spent(tmp_path / name), self.elapsed(tmp_path / name)
            assert spent == sorted(spent)
            assert spent[0] > 0
            assert all(part < whole for part, whole in zip(spent, elapsed, strict=True))
        assert self.spent(tmp_path / "none") == []
        assert self.curve(tmp_path / "first") == self.curve(tmp_path / "again")
        assert self.same_weights(tmp_path / "first", tmp_path / "again")
        said = " ".join(event.message for event in self.events(tmp_path / "again") if isinstance(event, Log))
        assert "3 epochs were read from the disk" in said
        started = {
            name: next(e for e in self.events(tmp_path / name) if isinstance(e, Started)) for name in ("again", "none")
        }
        assert started["again"].environment["teacher_logits"] == "kept"
        assert "teacher_logits" not in started["none"].environment

    def test_cached_logits_of_mixtures_are_those_of_the_same_mixtures(
        self, teacher: TeacherSource, tmp_path: Path
    ) -> None:
        augment = ["randaugment", {"name": "mixup", "params": {"alpha": 1.0}}]
        runs = {
            name: experiment("dkd", epochs=3, augment=chosen, **more).plan()[-1].spec
            for name, chosen, more in (
                ("first", augment, {}),
                ("again", augment, {"accumulate": 2}),
                ("weaker", ["randaugment", "mixup"], {}),
            )
        }
        for name, spec in runs.items():
            assert run_training(spec, tmp_path / name, teacher) == "finished"
        assert {name: self.shares(tmp_path / name) for name in runs} == {
            "first": [0.0] * 3,
            "again": [100.0] * 3,
            "weaker": [0.0] * 3,
        }

    def test_the_switch_keeps_nothing_and_rounds_nothing(
        self, teacher: TeacherSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path / "cache"))
        on, off = (
            experiment("dkd", epochs=2, speed={"reuse_teacher": reuse}).plan()[1].spec for reuse in (True, False)
        )
        assert run_training(off, tmp_path / "off", teacher) == "finished"
        assert not (tmp_path / "cache").exists()
        assert self.shares(tmp_path / "off") == [None, None]
        assert run_training(on, tmp_path / "on", teacher) == "finished"
        assert not self.same_weights(tmp_path / "on", tmp_path / "off")
        for ours, theirs in zip(self.curve(tmp_path / "on"), self.curve(tmp_path / "off"), strict=True):
            assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-2)

    @pytest.mark.parametrize("kept", ["none", "all", "the second epoch"])
    def test_resumed_in_the_middle_of_an_epoch_it_ends_the_same(
        self, teacher: TeacherSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: str
    ) -> None:
        spec = experiment("dkd", epochs=3).plan()[1].spec
        polled = iter(range(8))
        options = TrainOptions(
            stop_requested=lambda: next(polled, None) == 7
        )  # in the second of three epochs of five steps
        assert run_training(spec, tmp_path / "half", teacher, options=options) == "stopped"
        monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path / "elsewhere"))
        assert run_training(spec, tmp_path / "whole", teacher) == "finished"
        (folder,) = (tmp_path / "elsewhere" / "teacher-logits").glob("*/")
        for path in folder.glob("epoch-*"):
            if kept == "none" or (kept == "the second epoch" and path.stem != "epoch-00001"):
                path.unlink()
        resume = tmp_path / "half" / CHECKPOINT_NAME
        assert run_training(spec, tmp_path / "rest", teacher, resume=resume) == "finished"
        expected = {"none": [0, 0, 0], "all": [0, 100, 100], "the second epoch": [0, 100, 0]}
        assert self.shares(tmp_path / "rest") == expected[kept]
        assert self.curve(tmp_path / "rest") == self.curve(tmp_path / "whole")
        assert self.same_weights(tmp_path / "rest", tmp_path / "whole")

    def test_invalid_limit_is_refused_before_the_training(
        self, teacher: TeacherSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DKD_TEACHER_LOGITS_GB", "plenty")
        with pytest.raises(SettingsError, match="DKD_TEACHER_LOGITS_GB is 'plenty'"):
            run_training(experiment("dkd", epochs=1).plan()[1].spec, tmp_path, teacher)
        assert not list(tmp_path.iterdir())
