"""The execution plan: its choices, their reasons, and that no choice changes what a run learns."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from core.events import JOURNAL_NAME, Started, read_journal
from core.settings import SettingsError, TrainingSettings
from core.specs import DatasetRef, Speed
from core.tasks.classification import data
from core.tasks.classification.networks import forward_multiplications
from core.tasks.workload import Workload
from core.train import TeacherSource, TrainOptions, performance, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.performance import ExecutionPlan, apply_thread_limit, plan_execution
from tests.core.speed_runs import experiment, log_text, losses, run_spec

CPU = torch.device("cpu")
LARGE = Workload(samples=240 * 50_000, steps=782, image_size=32)
DIGITS = Workload(samples=40 * 896, steps=14, image_size=8)


class TestPlan:
    @pytest.fixture(autouse=True)
    def _cpu_with_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(performance, "cpu_flags", lambda: frozenset({"avx512f", "avx512_bf16"}))

    def test_long_run_on_cpu_with_bfloat16_uses_every_optimisation(self) -> None:
        chosen = plan_execution(Speed(), CPU, LARGE)
        assert (chosen.precision, chosen.channels_last, chosen.compile, chosen.cuda_graphs) == (
            ("bfloat16", True, True, False)
        )

    def test_short_run_on_small_images_uses_no_optimisation(self) -> None:
        chosen = plan_execution(Speed(), CPU, DIGITS)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("float32", False, False)

    def test_cpu_without_bfloat16_uses_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(performance, "cpu_flags", lambda: frozenset({"avx2"}))
        assert plan_execution(Speed(), CPU, LARGE).precision == "float32"

    def test_choices_of_the_spec_are_kept(self) -> None:
        speed = Speed(precision="float32", channels_last="off", compile="off")
        chosen = plan_execution(speed, CPU, LARGE)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("float32", False, False)
        chosen = plan_execution(Speed(precision="bfloat16", channels_last="on", compile="on"), CPU, DIGITS)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("bfloat16", True, True)

    def test_plan_survives_json_and_is_described_in_the_environment(self) -> None:
        chosen = plan_execution(Speed(), CPU, LARGE)
        assert ExecutionPlan.model_validate_json(chosen.model_dump_json()) == chosen
        assert chosen.environment() == {
            "precision": "bfloat16",
            "channels_last": "on",
            "fused": "on",
            "compile": "on",
            "cuda_graphs": "off",
            "threads": str(torch.get_num_threads()),
        }

    def test_run_logs_its_plan_with_reasons(self, tmp_path: Path) -> None:
        assert run_training(run_spec(epochs=1, speed={"precision": "bfloat16"}), tmp_path) == "finished"
        started = next(record.event for record in read_journal(tmp_path / JOURNAL_NAME))
        assert isinstance(started, Started)
        assert started.environment["precision"] == "bfloat16"
        assert "precision bfloat16 (set in the spec)" in log_text(tmp_path)

    @pytest.mark.parametrize("given", ["0", "two", "-1"])
    def test_invalid_number_of_threads_is_refused(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_THREADS", given)
        with pytest.raises(SettingsError, match="DKD_THREADS"):
            TrainingSettings.from_environment()


class TestThreads:
    @pytest.fixture(autouse=True)
    def _two_threads(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("DKD_THREADS", "DKD_MOST_THREADS"):
            monkeypatch.delenv(name, raising=False)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def threads_of(self, folder: Path) -> str:
        events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
        return [event.environment["threads"] for event in events if isinstance(event, Started)][-1]

    def test_small_steps_use_one_thread_and_large_ones_all(self) -> None:
        small, large = replace(DIGITS, step_products=1e8), replace(LARGE, step_products=1e10)
        assert [plan_execution(Speed(), CPU, work).threads for work in (small, large, LARGE)] == [1, 2, 2]
        assert plan_execution(Speed(), torch.device("cuda"), DIGITS).threads == 2

    def test_number_of_threads_follows_the_work_per_step(self) -> None:
        torch.set_num_threads(6)
        products = (0.0, 2.9e8, 3e8, 4.4e8, 8e8, 9e8, 1e12, math.inf)
        chosen = [plan_execution(Speed(), CPU, replace(LARGE, step_products=number)) for number in products]
        assert [plan.threads for plan in chosen] == [1, 1, 2, 2, 5, 6, 6, 6]
        assert chosen[0].reasons["threads"] == "the steps are too small to share"
        assert chosen[4].reasons["threads"] == "the steps are too small for more"
        assert "threads" not in chosen[-1].reasons

    def test_default_threads_are_the_quota_unless_a_variable_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(performance, "processor_count", lambda: 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")  # torch has read it when it was imported
        assert apply_thread_limit(TrainingSettings.from_environment()) == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert apply_thread_limit(TrainingSettings.from_environment()) == 1
        monkeypatch.setenv("DKD_MOST_THREADS", "2")
        assert apply_thread_limit(TrainingSettings.from_environment()) == 2
        monkeypatch.setenv("DKD_THREADS", "3")
        assert apply_thread_limit(TrainingSettings.from_environment()) == 3

    def test_fixed_threads_are_kept(self) -> None:
        assert plan_execution(Speed(), CPU, replace(DIGITS, step_products=1.0), fixed_threads=True).threads == 2

    def test_forward_multiplications_equal_those_of_the_network(self) -> None:
        dataset = data.load(
            DatasetRef(name="synthetic", params={"num_classes": 5, "image_size": 8}),
            TrainingSettings.from_environment(),
        )
        network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(dataset.channels, 4, 3, padding=1, bias=False))
        state = torch.random.get_rng_state()
        assert forward_multiplications(network, dataset) == 8 * 8 * dataset.channels * 4 * 9
        assert network.training
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_run_with_small_steps_uses_one_thread_and_logs_why(self, tmp_path: Path) -> None:
        assert run_training(run_spec(epochs=1), tmp_path / "small") == "finished"
        assert self.threads_of(tmp_path / "small") == "1"
        assert "threads 1 (the steps are too small to share)" in log_text(tmp_path / "small")
        assert torch.get_num_threads() == 2, "the next run in this process decides for itself"

    def test_resumed_run_keeps_its_threads_and_repeats_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec, polled = run_spec("ce", epochs=2), iter(range(100))
        monkeypatch.setenv("DKD_THREADS", "2")
        assert run_training(spec, tmp_path / "whole") == "finished"
        halted = TrainOptions(stop_requested=lambda: next(polled) == 5)
        assert run_training(spec, tmp_path / "half", options=halted) == "stopped"
        monkeypatch.delenv("DKD_THREADS")
        assert run_training(spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME) == "finished"
        assert self.threads_of(tmp_path / "rest") == "2"
        assert losses(tmp_path / "rest") == losses(tmp_path / "whole")

    @pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP tells what it has read")
    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({}, ("OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '10000'")),
            ({"GOMP_SPINCOUNT": "70"}, ("OMP_WAIT_POLICY = 'PASSIVE'", "GOMP_SPINCOUNT = '70'")),
            ({"OMP_WAIT_POLICY": "active"}, ("OMP_WAIT_POLICY = 'ACTIVE'", "GOMP_SPINCOUNT = '30000000000'")),
        ],
        ids=["default", "own spin count", "own policy"],
    )
    def test_waiting_threads_spin_longer_only_if_a_variable_requests_it(
        self, variables: dict[str, str], expected: tuple[str, ...], tmp_path: Path
    ) -> None:
        spec = tmp_path / "run.json"
        spec.write_text(run_spec(epochs=1).model_dump_json())
        quiet = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        command = [sys.executable, "-m", "core", "train", "--run", str(spec), "--out", str(tmp_path / "out")]
        environment = quiet | {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "1"} | variables
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        for line in expected:
            assert line in done.stderr


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    first = experiment("dkd", 0).teacher_run()
    assert first
    assert run_training(first, folder) == "finished"
    return TeacherSource(first, folder / "weights.safetensors")


class TestEqualLearning:
    def curves(self, folder: Path, teacher: TeacherSource, switches: dict[str, Any]) -> np.ndarray[Any, Any]:
        of_seeds = []
        for seed in range(3):
            out = folder / str(seed)
            spec = run_spec("dkd", seed, epochs=3, speed=switches | {"reuse_teacher": False})
            assert run_training(spec, out, teacher) == "finished"
            of_seeds.append(losses(out))
        return np.array(of_seeds)

    def test_half_precision_learns_within_seed_noise(self, tmp_path: Path, teacher: TeacherSource) -> None:
        off = self.curves(tmp_path / "off", teacher, {"precision": "float32", "channels_last": "off"})
        for precision in ("bfloat16", "float16"):
            on = self.curves(tmp_path / precision, teacher, {"precision": precision, "channels_last": "on"})
            assert (on != off).any()
            # Pair by pair, the switch moves a curve by far less than another seed does.
            assert abs(on - off).max() < 0.2 * off.std(axis=0, ddof=1).mean()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")
    def test_compiled_network_learns_the_same(self, tmp_path: Path) -> None:
        for switch in ("off", "on"):
            run_training(run_spec(speed={"precision": "float32", "compile": switch}), tmp_path / switch)
        assert "was compiled" in log_text(tmp_path / "on")
        assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=1e-3)

    @pytest.mark.parametrize(
        "switches",
        [
            {"precision": "bfloat16"},
            {"precision": "float16"},
            pytest.param({"compile": "on"}, marks=[pytest.mark.slow, pytest.mark.filterwarnings("default")]),
        ],
    )
    def test_resumed_run_repeats_bit_for_bit(
        self, tmp_path: Path, teacher: TeacherSource, switches: dict[str, str]
    ) -> None:
        spec = run_spec("dkd", speed=switches)
        uninterrupted, half, resumed = (tmp_path / name for name in ("whole", "half", "rest"))
        run_training(spec, uninterrupted, teacher)
        polled = iter(range(14))
        stop = TrainOptions(stop_requested=lambda: next(polled, None) is None)
        assert run_training(spec, half, teacher, options=stop) == "stopped"
        assert run_training(spec, resumed, teacher, resume=half / CHECKPOINT_NAME) == "finished"
        assert losses(resumed) == losses(uninterrupted)
        one, other = (
            safetensors.torch.load_file(folder / "weights.safetensors") for folder in (uninterrupted, resumed)
        )
        assert all(torch.equal(one[name], other[name]) for name in one)
