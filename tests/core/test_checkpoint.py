"""Checkpoints are restored bit for bit, and a damaged or partly written one is never used."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from core.events import Log, Metrics, Started
from core.specs import RunSpec
from core.train import TrainingError, run_training
from core.train.checkpoint import (
    CHECKPOINT_NAME,
    PREVIOUS_NAME,
    Checkpoint,
    Progress,
    RandomState,
    find_checkpoint,
    load_checkpoint,
    promote,
    save_checkpoint,
)
from core.train.optimizer import restore_optimizer
from core.train.serialization import flatten, unflatten
from tests.core.test_training import events, experiment, points, stop_after, students, weights

FINGERPRINT = "v1-0"


def content(step: int = 1, *, optimizer: str = "adamw", channels_last: bool = False) -> Checkpoint:
    """Of a small network after one step."""
    torch.manual_seed(step)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
    if channels_last:
        network.to(memory_format=torch.channels_last)
    kinds = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    rule = kinds[optimizer](network.parameters(), lr=0.1, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    rule.step()
    return Checkpoint(
        fingerprint=FINGERPRINT,
        progress=Progress(epoch=2, batch=3, step=step, elapsed=1 / 3, best_headline=12.5),
        model=network.state_dict(),
        optimizer=rule.state_dict(),
        metric_sums={"train/loss": torch.tensor([1 / 3, 2.0, 1.0], dtype=torch.float64)},
        journal=b'{"a": 1}\n',
        scaler={"scale": 65536.0, "_growth_tracker": 3},
        plan={"precision": "bfloat16", "threads": 2},
        device="cpu",
        random=[RandomState.now(torch.device("cpu"))],
    )


def same(one: object, other: object) -> bool:
    """Trees equal to the last bit."""
    tensors: list[dict[str, torch.Tensor]] = [{}, {}]
    described = [flatten(tree, collected, "x") for tree, collected in zip((one, other), tensors, strict=True)]
    return described[0] == described[1] and all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


class TestFile:
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_checkpoint_is_restored_bit_for_bit(self, tmp_path: Path, optimizer: str) -> None:
        saved = content(optimizer=optimizer)
        read = load_checkpoint(save_checkpoint(tmp_path, saved), FINGERPRINT)
        assert same(
            vars(read) | {"progress": None, "random": None, "journal": None},
            vars(saved) | {"progress": None, "random": None, "journal": None},
        )
        assert (read.progress, read.journal) == (saved.progress, saved.journal)
        assert torch.equal(read.random[0].cpu, saved.random[0].cpu)

    def test_safetensors_reads_the_weights_of_a_checkpoint(self, tmp_path: Path) -> None:
        saved = content()
        tensors = safetensors.torch.load_file(save_checkpoint(tmp_path, saved))
        assert all(torch.equal(tensors[f"model.{name}"], tensor) for name, tensor in saved.model.items())

    def test_previous_checkpoint_is_kept(self, tmp_path: Path) -> None:
        for step in (1, 2, 3):
            save_checkpoint(tmp_path, content(step))
        steps = [
            load_checkpoint(tmp_path / name, FINGERPRINT).progress.step for name in (PREVIOUS_NAME, CHECKPOINT_NAME)
        ]
        assert steps == [2, 3]
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted((PREVIOUS_NAME, CHECKPOINT_NAME))

    def test_previous_checkpoint_is_kept_on_a_file_system_without_links(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "link", refuse)
        self.test_previous_checkpoint_is_kept(tmp_path)

    def test_flipped_bit_and_missing_or_extra_bytes_are_detected(self, tmp_path: Path) -> None:
        complete = save_checkpoint(tmp_path, content()).read_bytes()
        choice = random.Random(0)
        places = {0, 7, 8, 9, len(complete) - 1} | {choice.randrange(len(complete)) for _ in range(300)}
        damaged = tmp_path / "damaged"
        for place in places:
            damaged.write_bytes(
                complete[:place] + bytes([complete[place] ^ (1 << choice.randrange(8))]) + complete[place + 1 :]
            )
            with pytest.raises(TrainingError, match="damaged"):
                load_checkpoint(damaged, FINGERPRINT)
        for length in [*places, 0]:
            damaged.write_bytes(complete[:length])
            with pytest.raises(TrainingError, match="damaged"):
                load_checkpoint(damaged, FINGERPRINT)
        damaged.write_bytes(complete + b"\0")
        with pytest.raises(TrainingError, match="damaged"):
            load_checkpoint(damaged, FINGERPRINT)

    def test_checkpoint_of_another_run_is_refused(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path, content())
        result = find_checkpoint(tmp_path / CHECKPOINT_NAME, "v1-1")
        assert result.checkpoint is None
        assert "another run" in result.problems[0]

    def test_tied_and_strided_tensors_are_restored(self) -> None:
        tied = torch.arange(6.0).view(2, 3)
        tensors: dict[str, torch.Tensor] = {}
        tree = {"a": {"b.c": tied}, "b": tied.t(), 3: (tied[0], None, [True, 1, 0.1, "x"]), "a.b": {"c": tied}}
        described = json.loads(json.dumps(flatten(tree, tensors, "t")))
        assert same(unflatten(described, safetensors.torch.load(safetensors.torch.save(tensors))), tree)

    def test_value_of_an_unsupported_type_is_refused(self) -> None:
        with pytest.raises(TypeError, match=r"t\.a is of type set"):
            flatten({"a": {1}}, {}, "t")


def test_restored_optimizer_state_has_the_memory_format_of_its_parameters() -> None:
    # A fused kernel reads a parameter and its momentum at one offset.
    kept = content(optimizer="sgd").optimizer
    network = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    restore_optimizer(optimizer, kept)
    weight = network.get_parameter("0.weight")
    momentum = optimizer.state[weight]["momentum_buffer"]
    assert momentum.stride() == weight.stride()
    assert torch.equal(momentum, kept["state"][0]["momentum_buffer"])


class TestPromote:
    def test_promoted_checkpoint_of_another_folder_becomes_the_previous_one(self, tmp_path: Path) -> None:
        earlier, folder = tmp_path / "1", tmp_path / "2"
        earlier.mkdir()
        folder.mkdir()
        promote(save_checkpoint(earlier, content(1)), folder)
        save_checkpoint(folder, content(2)).write_bytes(b"damaged")
        result = find_checkpoint(folder / CHECKPOINT_NAME, FINGERPRINT)
        assert result.checkpoint
        assert result.checkpoint.progress.step == 1

    def test_damaged_checkpoint_does_not_replace_a_valid_previous_one(self, tmp_path: Path) -> None:
        for step in (1, 2):
            save_checkpoint(tmp_path, content(step))
        (tmp_path / CHECKPOINT_NAME).write_bytes(b"damaged")
        result = find_checkpoint(tmp_path / CHECKPOINT_NAME, FINGERPRINT)
        promote(result.path, tmp_path)
        save_checkpoint(tmp_path, content(3))
        steps = [
            load_checkpoint(tmp_path / name, FINGERPRINT).progress.step for name in (PREVIOUS_NAME, CHECKPOINT_NAME)
        ]
        assert steps == [1, 3]

    def test_start_from_the_beginning_removes_old_checkpoints(self, tmp_path: Path) -> None:
        for step in (1, 2):
            save_checkpoint(tmp_path, content(step))
        promote(None, tmp_path)
        assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def spec() -> RunSpec:
    return students(experiment(methods=["ce"]), "ce")[0]


class TestDamage:
    def stopped(self, spec: RunSpec, folder: Path) -> None:
        """A run that was stopped twice, so that it has two checkpoints, at steps 3 and 7."""
        run_training(spec, folder, options=stop_after(3))
        run_training(spec, folder, resume=folder / CHECKPOINT_NAME, options=stop_after(4))

    def test_run_resumes_from_the_previous_checkpoint_if_the_last_is_damaged(
        self, tmp_path: Path, spec: RunSpec
    ) -> None:
        self.stopped(spec, tmp_path / "a")
        path = tmp_path / "a" / CHECKPOINT_NAME
        path.write_bytes(path.read_bytes()[:-100])
        assert run_training(spec, tmp_path / "b", resume=path) == "finished"
        journal = events(tmp_path / "b")
        (warning,) = [event for event in journal if isinstance(event, Log) and event.level == "warning"]
        assert "damaged" in warning.message
        assert "the previous one is used" in warning.message
        assert [event.start_step for event in journal if isinstance(event, Started)] == [0, 3]
        run_training(spec, tmp_path / "whole")
        assert points(tmp_path / "b") == points(tmp_path / "whole")
        assert all(
            torch.equal(value, weights(tmp_path / "b")[key]) for key, value in weights(tmp_path / "whole").items()
        )

    def test_run_starts_from_the_beginning_if_both_checkpoints_are_damaged(self, tmp_path: Path, spec: RunSpec) -> None:
        self.stopped(spec, tmp_path)
        for name in (CHECKPOINT_NAME, PREVIOUS_NAME):
            (tmp_path / name).write_bytes(b"damaged")
        assert run_training(spec, tmp_path, resume=tmp_path / CHECKPOINT_NAME, options=stop_after(1)) == "stopped"
        first, *_ = events(tmp_path)
        assert isinstance(first, Log)
        assert first.message.count("damaged") == 2
        assert "starts from the beginning" in first.message

    def test_another_kind_of_device_gets_a_new_execution_plan(self, tmp_path: Path, spec: RunSpec) -> None:
        run_training(spec, tmp_path, options=stop_after(3))
        kept = load_checkpoint(tmp_path / CHECKPOINT_NAME, spec.fingerprint())
        kept.device, kept.plan = "cuda", kept.plan | {"cuda_graphs": True}
        resume = save_checkpoint(tmp_path, kept)
        run_training(spec, tmp_path, resume=resume, options=stop_after(1))
        journal = events(tmp_path)
        assert any("chosen again" in event.message for event in journal if isinstance(event, Log))
        assert [event for event in journal if isinstance(event, Started)][-1].environment["cuda_graphs"] == "off"

    def test_resumed_run_keeps_its_execution_plan(self, tmp_path: Path, spec: RunSpec) -> None:
        run_training(spec, tmp_path, options=stop_after(3))
        kept = load_checkpoint(tmp_path / CHECKPOINT_NAME, spec.fingerprint())
        kept.plan |= {"channels_last": not kept.plan["channels_last"]}
        run_training(spec, tmp_path, resume=save_checkpoint(tmp_path, kept), options=stop_after(1))
        first, second = [event.environment for event in events(tmp_path) if isinstance(event, Started)]
        assert {first["channels_last"], second["channels_last"]} == {"on", "off"}


@pytest.mark.slow
def test_run_killed_twenty_times_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.core.resume_chain", str(tmp_path), "20", "4"]
    environment = os.environ | {"DKD_THREADS": "1", "DKD_CACHE_DIR": str(tmp_path / "cache")}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert result.returncode == 0, result.stderr
    kills = json.loads(result.stdout)
    assert len(kills) == 20
    assert {kill.split(",")[0] for kill in kills} == {"after steps", "at any time", "writing"}
    chain, uninterrupted = tmp_path / "chain", tmp_path / "whole"
    assert (chain / "weights.safetensors").read_bytes() == (uninterrupted / "weights.safetensors").read_bytes()
    assert points(chain) == points(uninterrupted)
    assert len([event for event in events(chain) if isinstance(event, Metrics)]) == 30
