"""Tapped vectors of a teacher, cached beside its logits: the same numbers, the same limits, the same checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from core.catalog import load_plugins
from core.catalog.metric import VARYING_PREFIXES
from core.distill.objective import Outputs
from core.events import JOURNAL_NAME, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.tasks.classification import data, models
from core.tasks.classification.data import Dataset
from core.tasks.classification.models.taps import Tapped
from core.train import TeacherSource, TrainOptions, run_training
from core.train.cached_teacher import QuantizedTeacher
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.output_cache import OutputCache
from core.train.performance import ExecutionPlan
from core.train.quantization import LOGITS, MAX_DEVIATION, quantize
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of
from tests.core.teacher_experiments import SYNTHETIC, experiment
from tests.core.teacher_harness import CHOSEN, Harness, key_for

load_plugins(["tests.core.hint_plugin"])

HINT: Any = {"name": "test_hint", "params": {"student_tap": "features", "teacher_tap": "features"}}
TAPS = {"features": 64}
EPOCH_BYTES = 150 * (2 * 5 + 4 + 2 * 64 + 4)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load(SYNTHETIC, TrainingSettings.from_environment())


def tapped(seed: int = 0, taps: Sequence[str] = ("features",)) -> Tapped:
    torch.manual_seed(seed)
    return Tapped(models.build("resnet8", num_classes=5, image_size=8).eval(), taps)


def harness(dataset: Dataset, root: Path, network: Any = None, limit: int = 10**9) -> Harness:
    return Harness(dataset, network or tapped(), root, limit, TAPS)


def same(ours: Sequence[Outputs], theirs: Sequence[Outputs]) -> bool:
    """Whether all outputs are equal bit for bit."""
    return all(
        torch.equal(one.logits, other.logits)
        and one.taps.keys() == other.taps.keys()
        and all(torch.equal(one.taps[name], other.taps[name]) for name in one.taps)
        for one, other in zip(ours, theirs, strict=True)
    )


class TestReuse:
    def test_hit_and_miss_are_the_same_numbers_and_a_hit_does_not_ask(self, dataset: Dataset, tmp_path: Path) -> None:
        first, second = harness(dataset, tmp_path), harness(dataset, tmp_path)
        missed, hit = ([one.outputs(epoch) for epoch in range(3)] for one in (first, second))
        assert (first.asked, second.asked) == (3 * 5, 3)  # one batch an epoch is checked
        assert (first.share, second.share) == (0, 100)
        assert all(same(*pair) for pair in zip(missed, hit, strict=True))
        first.teacher.finish()
        assert "teacher logits and taps: 0 epochs were read from the disk, 3 written" in first.text()

    def test_they_are_the_networks_up_to_the_rounding(self, dataset: Dataset, tmp_path: Path) -> None:
        one = harness(dataset, tmp_path)
        for batch, kept in zip(one.batches(0), one.outputs(0), strict=True):
            _, exact = one.forward(batch.images)
            assert kept.taps["features"].dtype == torch.float32
            assert (exact - kept.taps["features"]).abs().max() <= exact.abs().max() * 2**-10
            assert not torch.equal(exact, kept.taps["features"])

    def test_each_of_several_ranks_gets_the_numbers_of_one_process(self, dataset: Dataset, tmp_path: Path) -> None:
        one = harness(dataset, tmp_path)
        ranks = QuantizedTeacher(LiveTeacher(one.forward, CHOSEN, task_of(dataset), tuple(TAPS)))
        assert same(one.outputs(0), [ranks.outputs(batch, 0) for batch in one.batches(0)])

    def test_map_is_not_rounded_and_a_vector_beside_it_is(self, dataset: Dataset, tmp_path: Path) -> None:
        network, names = tapped(taps=("features", "stage1")), ("features", "stage1")
        teacher = QuantizedTeacher(LiveTeacher(network.forward, CHOSEN, task_of(dataset), names))
        batch = next(iter(dataset.batches(32, 0, 0)))
        found, (logits, features, stage) = teacher.outputs(batch, 0), network(batch.images)
        assert list(found.taps) == ["features", "stage1"]
        assert torch.equal(found.taps["stage1"], stage)
        assert torch.equal(found.taps["features"], quantize(features).values)
        assert torch.equal(found.logits, quantize(logits).values)

    def test_teacher_for_the_checks_has_taps_of_its_own(self, dataset: Dataset) -> None:
        network = tapped().network
        plan = ExecutionPlan(threads=1, compile=True)
        live = LiveTeacher(network, plan, task_of(dataset), tuple(TAPS))
        batch = next(iter(dataset.batches(32, 0, 0)))
        expected = LiveTeacher(network, CHOSEN, task_of(dataset), tuple(TAPS)).outputs(batch, 0)
        assert same([live.uncompiled().outputs(batch, 0)], [expected])


class TestWrong:
    def test_vectors_of_another_network_are_found_even_if_its_logits_are_the_same(
        self, dataset: Dataset, tmp_path: Path
    ) -> None:
        network = tapped()

        def other(images: torch.Tensor) -> Any:
            logits, features = network(images)
            return logits, features.flip(1)

        harness(dataset, tmp_path, network).outputs(0)
        changed, live = harness(dataset, tmp_path, other), harness(dataset, tmp_path / "elsewhere", other)
        assert same(changed.outputs(0), live.outputs(0))
        assert (changed.share, changed.files.epochs()) == (0, set())
        assert "are not the teacher's features now" in changed.text()

    @pytest.mark.parametrize("damaged", ["logits", "features", "a tap is missing", "another width"])
    def test_a_damaged_file_is_removed_and_made_again(self, dataset: Dataset, tmp_path: Path, damaged: str) -> None:
        first = harness(dataset, tmp_path)
        expected = first.outputs(0)
        (path,) = first.files.folder.glob("epoch-*")
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        if damaged == "a tap is missing":
            del tensors["features.mean"]
        elif damaged == "another width":
            tensors["features.centred"] = tensors["features.centred"][:, :63].contiguous()
        else:
            tensors["centred" if damaged == "logits" else "features.centred"][70, 2] += 1
        safetensors.torch.save_file(tensors, path, metadata)
        assert first.files.read(0, 150, {LOGITS: 5} | TAPS) is None
        assert not path.exists()
        again = harness(dataset, tmp_path)
        assert same(again.outputs(0), expected)
        assert again.share == 0
        third = harness(dataset, tmp_path)
        third.outputs(0)
        assert third.share == 100

    def test_what_float16_cannot_hold_is_used_as_it_is_and_not_kept(self, dataset: Dataset, tmp_path: Path) -> None:
        network = tapped()

        def odd(images: torch.Tensor) -> Any:
            logits, features = network(images)
            features[3, 2] += 2 * MAX_DEVIATION
            return logits, features

        one = harness(dataset, tmp_path, odd)
        kept = one.outputs(0)[0].taps["features"]
        with torch.no_grad():
            exact = odd(one.batches(0)[0].images)[1]
        assert torch.equal(kept[3], exact[3])
        assert not torch.equal(kept[:3], exact[:3])
        assert one.files.epochs() == set()
        assert "too coarse" in one.text()


class TestLimits:
    def test_vectors_count_in_the_limit_of_the_disk(self, dataset: Dataset, tmp_path: Path) -> None:
        one = harness(dataset, tmp_path, limit=2 * (EPOCH_BYTES + 500))
        for epoch in range(4):
            one.outputs(epoch)
        assert one.files.epochs() == {0, 1}
        assert "DKD_TEACHER_LOGITS_GB" in one.text()

    @pytest.mark.parametrize(("free", "kept"), [(8 * EPOCH_BYTES, {0}), (8 * EPOCH_BYTES - 1, set())])
    def test_vectors_count_in_the_share_of_the_memory(
        self, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept: set[int]
    ) -> None:
        monkeypatch.setattr("core.train.cached_teacher._free_memory", lambda _: free)
        one = harness(dataset, tmp_path)
        one.outputs(0)
        assert one.files.epochs() == kept


class TestKey:
    def test_taps_have_a_key_of_their_own_in_any_order(self, dataset: Dataset, tmp_path: Path) -> None:
        def name(*taps: str) -> str:
            return OutputCache(tmp_path, key_for(dataset, taps=taps), 1).name

        assert len({name(), name("features"), name("stage1"), name("features", "stage1")}) == 4
        assert name("features", "stage1") == name("stage1", "features")

    def test_logits_that_were_cached_without_taps_are_found_and_read(self, dataset: Dataset, tmp_path: Path) -> None:
        """The layout of the files and of the keys from before there were taps."""
        key = key_for(dataset)
        assert "taps" not in key
        assert key["network"] == "batch norm folded"
        files = OutputCache(tmp_path, {"of": "an old run"}, 10**9)
        assert files.name == "4e1649abc4ba09ae4170ddcabf3440bd"
        files.folder.mkdir()
        centred, mean = torch.arange(6).half().view(2, 3), torch.ones(2)
        old = {"centred": centred, "mean": mean}
        safetensors.torch.save_file(old, files.folder / "epoch-00000.safetensors", {"crc32": "f6a5a51a"})
        table = files.read(0, 2, {LOGITS: 3})
        assert table
        assert torch.equal(table[LOGITS].centred, centred)
        assert torch.equal(table[LOGITS].mean, mean)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    spec = experiment("kd", epochs=3).teacher_run()
    assert spec
    folder = tmp_path_factory.mktemp("teacher")
    assert run_training(spec, folder) == "finished"
    return TeacherSource(spec, folder / "weights.safetensors")


class TestRuns:
    """The same through whole trainings."""

    def train(
        self, folder: Path, teacher: TeacherSource, cache: Path, resume: Path | None = None, stop_at: int | None = None
    ) -> str:
        polled = iter(range(100))
        options = TrainOptions(stop_requested=lambda: next(polled) == stop_at)
        settings = TrainingSettings(cache_dir=cache, threads=1)
        spec = experiment(HINT, epochs=3).plan()[-1].spec
        return run_training(spec, folder, teacher, resume, options, settings=settings)

    def events(self, folder: Path) -> list[Any]:
        return [record.event for record in read_journal(folder / JOURNAL_NAME)]

    def metrics(self, folder: Path) -> list[dict[str, float]]:
        return [event.values for event in self.events(folder) if isinstance(event, Metrics)]

    def shares(self, folder: Path) -> list[float]:
        return [values["speed/teacher_reused"] for values in self.metrics(folder)]

    def assert_equal(self, one: Path, other: Path) -> None:
        weights, others = ((folder / "weights.safetensors").read_bytes() for folder in (one, other))
        assert weights == others
        curves = [
            [
                {name: value for name, value in values.items() if not name.startswith(VARYING_PREFIXES)}
                for values in self.metrics(folder)
            ]
            for folder in (one, other)
        ]
        assert curves[0] == curves[1]

    def test_second_run_reads_the_cache_and_ends_the_same(self, teacher: TeacherSource, tmp_path: Path) -> None:
        for name in ("first", "again"):
            assert self.train(tmp_path / name, teacher, tmp_path / "cache") == "finished"
        assert (self.shares(tmp_path / "first"), self.shares(tmp_path / "again")) == ([0.0] * 3, [100.0] * 3)
        self.assert_equal(tmp_path / "first", tmp_path / "again")
        messages = [event.message for event in self.events(tmp_path / "again") if isinstance(event, Log)]
        assert not any("the teacher runs in every step" in message for message in messages)
        assert any("teacher logits and taps: 3 epochs were read from the disk" in message for message in messages)

    @pytest.mark.parametrize("cache", ["warm", "cold"])
    def test_resumed_in_the_middle_of_an_epoch_it_ends_the_same(
        self, teacher: TeacherSource, tmp_path: Path, cache: str
    ) -> None:
        assert self.train(tmp_path / "whole", teacher, tmp_path / "warm") == "finished"
        assert self.train(tmp_path / "half", teacher, tmp_path / "other", stop_at=7) == "stopped"
        resume = tmp_path / "half" / CHECKPOINT_NAME
        assert self.train(tmp_path / "rest", teacher, tmp_path / cache, resume) == "finished"
        assert self.shares(tmp_path / "rest") == ([0, 100, 100] if cache == "warm" else [0, 0, 0])
        self.assert_equal(tmp_path / "whole", tmp_path / "rest")
