"""Several ranks train what one process trains, stop together, and report the rank that failed first."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from core.events import JOURNAL_NAME, RANKS_KEY, Checkpointed, Failed, Log, Started, Stopped
from core.items.feature_file import read_features
from core.items.features import FEATURES_NAME
from core.items.file import read_items
from core.items.statistics import item_scores
from core.items.table import ITEMS_NAME
from core.launch import RankFailure, launch
from core.settings import TrainingSettings
from core.specs import parse_experiment
from core.tasks.classification import models
from core.train import TeacherSource, TrainingError, run_training
from core.train.batch_norm import synchronize_batch_norm
from core.train.checkpoint import CHECKPOINT_NAME
from tests.core.test_training import events, points, weights
from tests.core.two_ranks import METHODS, SPEC, STOP_AT, float64, planned


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything, trained by one process in ``one`` and by two in ``two``."""
    root = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.core.two_ranks", str(root)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    return root


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest relative distance of two networks' tensors."""
    assert one.keys() == other.keys()
    return max(
        float((one[name] - other[name]).double().norm() / one[name].double().norm().clamp_min(1e-3)) for name in one
    )


@pytest.mark.slow
class TestTwoRanks:
    @pytest.mark.parametrize("label", METHODS)
    def test_weights_and_metrics_are_those_of_one_process(self, trained: Path, label: str) -> None:
        one, two = weights(trained / "one" / label), weights(trained / "two" / label)
        assert one["stem.0.weight"].dtype == torch.float64
        assert furthest(one, two) < 1e-9
        for (step, expected), (same_step, observed) in zip(
            points(trained / "one" / label), points(trained / "two" / label), strict=True
        ):
            assert step == same_step
            assert expected == pytest.approx(observed, rel=1e-6, abs=1e-9)

    def test_first_rank_writes_the_items_of_all_test_images(self, trained: Path) -> None:
        _, metrics = points(trained / "two" / "log")[-1]
        items = read_items(trained / "two" / "log" / ITEMS_NAME)
        assert 100 * item_scores(items, "top1").mean() == metrics["test/top1"]
        assert 100 * item_scores(items, "agreement").mean() == metrics["fidelity/agreement"]

    def test_first_rank_keeps_features(self, trained: Path) -> None:
        one, two = (read_features(trained / folder / "log" / FEATURES_NAME) for folder in ("one", "two"))
        for name, network in one.networks.items():
            assert network.snapshots.keys() == two.networks[name].snapshots.keys()
            for epoch, snapshot in network.snapshots.items():
                np.testing.assert_allclose(two.networks[name].snapshots[epoch].values, snapshot.values, rtol=2e-3)
                assert two.networks[name].snapshots[epoch].measures == pytest.approx(snapshot.measures, rel=1e-3)

    def test_number_of_ranks_is_recorded(self, trained: Path) -> None:
        for folder, ranks, teacher_logits in (("one", "1", "kept"), ("two", "2", "rounded, not kept")):
            (started,) = (event for event in events(trained / folder / "log") if isinstance(event, Started))
            assert (started.environment[RANKS_KEY], started.environment["teacher_logits"]) == (ranks, teacher_logits)
            messages = [event.message for event in events(trained / folder / "log") if isinstance(event, Log)]
            runs_in_every_step = any(message.startswith("the teacher runs in every step") for message in messages)
            assert runs_in_every_step == (folder == "two")

    def test_methods_give_different_weights(self, trained: Path) -> None:
        results = [weights(trained / "two" / label) for label in METHODS]
        assert furthest(results[0], results[1]) > 1e-4
        assert furthest(results[1], results[2]) > 1e-4

    def test_ranks_stop_at_the_same_step_with_one_checkpoint(self, trained: Path) -> None:
        journal = events(trained / "two" / "half")
        assert [event.type for event in journal[-2:]] == ["checkpoint", "stopped"]
        assert journal[-1] == Stopped(step=STOP_AT)
        assert {path.name for path in (trained / "two" / "half").iterdir()} == {CHECKPOINT_NAME, JOURNAL_NAME}

    def test_run_resumed_on_two_ranks_repeats_bit_for_bit(self, trained: Path) -> None:
        uninterrupted, resumed = weights(trained / "two" / "log"), weights(trained / "two" / "rest")
        assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
        assert points(trained / "two" / "rest") == points(trained / "two" / "log")

    def test_run_resumed_on_one_process_repeats_up_to_rounding(
        self, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DKD_CACHE_DIR", str(trained / "cache"))
        source = TeacherSource(planned()["teacher"], trained / "teacher" / "weights.safetensors")
        resume = trained / "two" / "half" / CHECKPOINT_NAME
        with float64():
            assert run_training(planned()["log"], tmp_path, source, resume=resume) == "finished"
        assert furthest(weights(trained / "one" / "log"), weights(tmp_path)) < 1e-9
        assert any("began on 2 ranks" in getattr(event, "message", "") for event in events(tmp_path))

    def test_failing_rank_reports_its_reason_and_the_other_reports_the_loss(self, trained: Path) -> None:
        lost, failed = (json.loads((trained / f"meeting1/report{rank}.json").read_text()) for rank in range(2))
        assert (failed["kind"], failed["peer_lost"]) == ("oom", False)
        assert "batch size 16" in failed["reason"]
        assert lost["peer_lost"]
        assert not any(isinstance(event, Failed) for event in events(trained / "two" / "failed"))


class TestBatchNorm:
    def test_unsupported_batch_norm_is_refused(self) -> None:
        class Other(torch.nn.BatchNorm2d):
            pass

        with pytest.raises(TrainingError, match="Other cannot be computed over several ranks"):
            synchronize_batch_norm(torch.nn.Sequential(torch.nn.Sequential(Other(3))), torch.device("cpu"))

    @pytest.mark.parametrize("name", ["resnet8", "small_cnn", "mobilenet_v2_half", "vgg8", "wrn_16_2"])
    def test_synchronisation_keeps_names_weights_and_outputs(self, name: str) -> None:
        network = models.build(name, num_classes=5, image_size=32).eval()
        images, before = torch.randn(2, 3, 32, 32), list(network.state_dict())
        parameters, expected = list(network.parameters()), network(images)
        synchronize_batch_norm(network, torch.device("cpu"))
        assert list(network.state_dict()) == before
        assert all(one is other for one, other in zip(parameters, network.parameters(), strict=True))
        assert torch.equal(network(images), expected)
        kinds = {type(module).__name__ for module in network.modules() if "BatchNorm" in type(module).__name__}
        assert kinds == {"GlobalBatchNorm"}


def launched(out: Path, monkeypatch: pytest.MonkeyPatch, *acts: object) -> tuple[int, Failed | None]:
    """Return exit code and failure, if any, of a training whose ranks perform these acts."""
    monkeypatch.setenv("RANK_ACTS", json.dumps(acts))
    code = launch(
        len(acts), ["--plugin", "tests.core.acting_rank", "catalog"], out, TrainingSettings.from_environment()
    )
    journal = events(out)
    return code, journal[-1] if journal and isinstance(journal[-1], Failed) else None


LOST = vars(RankFailure("error", "RuntimeError: gloo: connection closed by peer", peer_lost=True))
NAN = vars(RankFailure("nan", "not finite at step 3"))
OOM = vars(RankFailure("oom", "out of memory at batch size 64"))


class TestLaunch:
    @pytest.mark.parametrize(
        ("acts", "kind", "reason"),
        [
            ([LOST, "killed", 3], "error", "rank 1 of 3 was ended by SIGKILL; rank 2 of 3 ended with exit code 3"),
            ([LOST, "faulty"], "error", "rank 1 of 2 was ended by SIGSEGV"),
            ([LOST, LOST, 3], "error", "rank 2 of 3 ended with exit code 3"),
            ([LOST, OOM], "oom", "rank 1 of 2: out of memory at batch size 64"),
            ([NAN, NAN], "nan", "not finite at step 3"),
            ([LOST, LOST], "error", "RuntimeError: gloo"),
        ],
    )
    def test_reason_is_that_of_the_rank_that_failed_first(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, acts: list[object], kind: str, reason: str
    ) -> None:
        code, failed = launched(tmp_path, monkeypatch, *acts)
        assert code == 1
        assert failed
        assert failed.kind == kind
        assert failed.reason.startswith(reason)

    @pytest.mark.parametrize("other", [LOST, "waits"])
    def test_rank_ended_from_outside_does_not_fail_the_run(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: object
    ) -> None:
        monkeypatch.setattr("core.launch._REPORT_SECONDS", 0.3)
        assert launched(tmp_path, monkeypatch, other, "killed") == (-signal.SIGKILL, None)
        (event,) = events(tmp_path)
        assert isinstance(event, Log)
        assert event.message == "rank 1 of 2 was ended by SIGKILL; the others were ended with it"

    def test_failures_of_other_ranks_after_success_are_ignored(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert launched(tmp_path, monkeypatch, 0, LOST) == (0, None)


@pytest.mark.slow
class TestProcesses:
    """``python -m core train --ranks 2`` as a worker starts it."""

    @contextmanager
    def started(self, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[psutil.Process]]]:
        """A training that would take hours, with its ranks, after its first epochs."""
        long = SPEC | {"methods": ["ce"], "training": SPEC["training"] | {"epochs": 10_000}}
        (folder / "run.json").write_text(parse_experiment(long).plan()[0].spec.model_dump_json())
        command = [sys.executable, "-m", "core", "train", "--ranks", "2", "--run", str(folder / "run.json")]
        process = subprocess.Popen([*command, "--out", str(folder)], env=os.environ | {"DKD_THREADS": "2"})
        try:
            self.wait(lambda: (folder / JOURNAL_NAME).exists() and len(points(folder)) > 1, process)
            ranks = psutil.Process(process.pid).children()
            assert len(ranks) == 2
            yield process, ranks
        finally:
            process.kill()
            process.wait()

    def wait(self, ready: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
        while not ready():
            assert process is None or process.poll() is None
            signal.sigtimedwait([], 0.05)

    def test_sigterm_stops_all_ranks_with_a_checkpoint(self, tmp_path: Path) -> None:
        with self.started(tmp_path) as (process, ranks):
            process.terminate()
            assert process.wait(60) == 0
            self.wait(lambda: not any(rank.is_running() for rank in ranks))
        journal = events(tmp_path)
        assert isinstance(journal[-2], Checkpointed)
        assert journal[-1] == Stopped(step=journal[-2].step)

    def test_killed_rank_ends_all_ranks_with_its_signal(self, tmp_path: Path) -> None:
        """A worker sees the same exit as from a training of one process, and returns the run to the queue."""
        with self.started(tmp_path) as (process, ranks):
            ranks[1].kill()
            assert process.wait(60) == -signal.SIGKILL
            self.wait(lambda: not any(rank.is_running() for rank in ranks))
        last = events(tmp_path)[-1]
        assert isinstance(last, Log)
        assert last.message.startswith("rank 1 of 2 was ended by SIGKILL")

    def test_ranks_end_when_their_parent_is_killed(self, tmp_path: Path) -> None:
        with self.started(tmp_path) as (process, ranks):
            process.kill()
            self.wait(lambda: not any(r.is_running() and r.status() != psutil.STATUS_ZOMBIE for r in ranks))


def test_zero_ranks_are_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "core", "run", "x.yaml", "--out", str(tmp_path), "--ranks", "0"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "0 is not a number of processes" in result.stderr
