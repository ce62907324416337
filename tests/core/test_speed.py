"""Fast without another result: what is chosen, that it falls back, that it learns alike, that batches stay the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from core import data, methods, models
from core.data.dataset import Augmentation, Batch, Dataset, Split, augmentation_table, shift_and_flip
from core.data.prefetch import prefetch
from core.events import JOURNAL_NAME, Log, Metrics, Started, read_journal
from core.settings import SettingsError, TrainingSettings
from core.specs import DatasetRef, ExperimentSpec, MethodRef, Optimizer, RunSpec, Speed, parse_experiment
from core.training import TeacherSource, TrainOptions, performance, run_training
from core.training import stepper as stepper_module
from core.training.checkpoint import CHECKPOINT_NAME
from core.training.compiling import CompilationError, capture_stream, compile_network
from core.training.optimizer import build_optimizer
from core.training.performance import ExecutionPlan, Precision, Workload, forward_multiplications, plan_execution
from core.training.stepper import Stepper
from core.training.teacher import LiveTeacher
from core.training.throughput import ThroughputMeter

CPU = torch.device("cpu")
LARGE = Workload(images=240 * 50_000, steps=782, image_size=32)
DIGITS = Workload(images=40 * 896, steps=14, image_size=8)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
DEVICES = ["cpu", pytest.param("cuda", marks=gpu)]


def experiment(method: str, seed: int, **changes: Any) -> ExperimentSpec:
    spec = {
        "name": "speed",
        "dataset": {"name": "synthetic", "params": {"num_classes": 5, "image_size": 16, "train_size": 300}},
        "teacher": {"model": "resnet8", "training": {"epochs": 1}},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": [method],
        "seeds": [seed],
        "training": {"epochs": 3, "batch_size": 32} | changes,
    }
    return parse_experiment(spec)


def run_spec(method: str = "ce", seed: int = 0, **changes: Any) -> RunSpec:
    return experiment(method, seed, **changes).plan()[-1].spec


def losses(folder: Path) -> list[float]:
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return [event.values["train/loss"] for event in events if isinstance(event, Metrics)]


def said(folder: Path) -> str:
    events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
    return "\n".join(event.message for event in events if isinstance(event, Log))


class TestChoice:
    @pytest.fixture(autouse=True)
    def _a_cpu_with_bfloat16(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(performance, "cpu_flags", lambda: frozenset({"avx512f", "avx512_bf16"}))

    def test_a_long_run_on_a_cpu_with_bfloat16_uses_all_there_is(self) -> None:
        chosen = plan_execution(Speed(), CPU, LARGE)
        assert (chosen.precision, chosen.channels_last, chosen.compile, chosen.cuda_graphs) == (
            ("bfloat16", True, True, False)
        )

    def test_small_images_and_little_to_do_stay_as_they_are(self) -> None:
        chosen = plan_execution(Speed(), CPU, DIGITS)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("float32", False, False)

    def test_without_the_hardware_it_is_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(performance, "cpu_flags", lambda: frozenset({"avx2"}))
        assert plan_execution(Speed(), CPU, LARGE).precision == "float32"

    def test_what_a_person_asks_for_is_done(self) -> None:
        asked = Speed(precision="float32", channels_last="off", compile="off")
        chosen = plan_execution(asked, CPU, LARGE)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("float32", False, False)
        chosen = plan_execution(Speed(precision="bfloat16", channels_last="on", compile="on"), CPU, DIGITS)
        assert (chosen.precision, chosen.channels_last, chosen.compile) == ("bfloat16", True, True)

    def test_it_survives_json_and_is_on_the_run(self) -> None:
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

    def test_a_run_says_what_was_chosen_and_why(self, tmp_path: Path) -> None:
        assert run_training(run_spec(epochs=1, speed={"precision": "bfloat16"}), tmp_path) == "finished"
        started = next(record.event for record in read_journal(tmp_path / JOURNAL_NAME))
        assert isinstance(started, Started)
        assert started.environment["precision"] == "bfloat16"
        assert "precision bfloat16 (set in the spec)" in said(tmp_path)

    @pytest.mark.parametrize("given", ["0", "two", "-1"])
    def test_threads_that_are_no_number_are_refused(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_THREADS", given)
        with pytest.raises(SettingsError, match="DKD_THREADS"):
            TrainingSettings.from_environment()


class TestThreads:
    @pytest.fixture(autouse=True)
    def _two(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name in ("DKD_THREADS", "DKD_MOST_THREADS"):
            monkeypatch.delenv(name, raising=False)
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def begun(self, folder: Path) -> str:
        events = [record.event for record in read_journal(folder / JOURNAL_NAME)]
        return [event.environment["threads"] for event in events if isinstance(event, Started)][-1]

    def test_a_small_step_takes_one_and_a_large_one_all_there_are(self) -> None:
        small, large = replace(DIGITS, step_products=1e8), replace(LARGE, step_products=1e10)
        assert [plan_execution(Speed(), CPU, work).threads for work in (small, large, LARGE)] == [1, 2, 2]
        assert plan_execution(Speed(), torch.device("cuda"), DIGITS).threads == 2

    def test_fixed_threads_are_kept(self) -> None:
        assert plan_execution(Speed(), CPU, replace(DIGITS, step_products=1.0), fixed_threads=True).threads == 2

    def test_the_work_is_that_of_the_network(self) -> None:
        dataset = data.load(DatasetRef(name="synthetic", params={"num_classes": 5, "image_size": 8}))
        network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(dataset.channels, 4, 3, padding=1, bias=False))
        state = torch.random.get_rng_state()
        assert forward_multiplications(network, dataset) == 8 * 8 * dataset.channels * 4 * 9
        assert network.training
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_a_run_takes_what_its_work_needs_and_says_why(self, tmp_path: Path) -> None:
        assert run_training(run_spec(epochs=1), tmp_path / "small") == "finished"
        assert self.begun(tmp_path / "small") == "1"
        assert "threads 1 (the steps are too small to share)" in said(tmp_path / "small")
        assert torch.get_num_threads() == 2, "the next run in this process decides for itself"

    def test_a_spec_with_its_recorded_threads_repeats_and_resumes_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec, polled = run_spec("ce", epochs=2), iter(range(100))
        monkeypatch.setenv("DKD_THREADS", "2")
        assert run_training(spec, tmp_path / "whole") == "finished"
        halted = TrainOptions(stop_requested=lambda: next(polled) == 5)
        assert run_training(spec, tmp_path / "half", options=halted) == "stopped"
        monkeypatch.delenv("DKD_THREADS")
        assert run_training(spec, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME) == "finished"
        assert self.begun(tmp_path / "rest") == "2"
        assert losses(tmp_path / "rest") == losses(tmp_path / "whole")

    @pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP tells what it has read")
    def test_threads_that_wait_do_not_spin(self, tmp_path: Path) -> None:
        spec = tmp_path / "run.json"
        spec.write_text(run_spec(epochs=1).model_dump_json())
        quiet = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
        command = [sys.executable, "-m", "core", "train", "--run", str(spec), "--out", str(tmp_path / "out")]
        asked = quiet | {"OMP_DISPLAY_ENV": "verbose", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=asked, capture_output=True, text=True, check=True)
        assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
        assert "GOMP_SPINCOUNT = '0'" in done.stderr


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherSource:
    folder = tmp_path_factory.mktemp("teacher")
    first = experiment("dkd", 0).teacher_run()
    assert first
    assert run_training(first, folder) == "finished"
    return TeacherSource(first, folder / "weights.safetensors")


class TestEqualLearning:
    def curves(self, folder: Path, teacher: TeacherSource, switches: dict[str, Any]) -> np.ndarray[Any, Any]:
        found = []
        for seed in range(3):
            out = folder / str(seed)
            spec = run_spec("dkd", seed, epochs=3, speed=switches | {"reuse_teacher": False})
            assert run_training(spec, out, teacher) == "finished"
            found.append(losses(out))
        return np.array(found)

    def test_half_precision_learns_within_seed_noise(self, tmp_path: Path, teacher: TeacherSource) -> None:
        off = self.curves(tmp_path / "off", teacher, {"precision": "float32", "channels_last": "off"})
        for precision in ("bfloat16", "float16"):
            on = self.curves(tmp_path / precision, teacher, {"precision": precision, "channels_last": "on"})
            assert (on != off).any()
            # Pair by pair, the switch moves a curve by far less than another seed does.
            assert abs(on - off).max() < 0.2 * off.std(axis=0, ddof=1).mean()

    @pytest.mark.slow
    @pytest.mark.filterwarnings("default")
    def test_a_compiled_network_learns_the_same(self, tmp_path: Path) -> None:
        for switch in ("off", "on"):
            run_training(run_spec(speed={"precision": "float32", "compile": switch}), tmp_path / switch)
        assert "was compiled" in said(tmp_path / "on")
        assert losses(tmp_path / "on") == pytest.approx(losses(tmp_path / "off"), rel=1e-3)

    @pytest.mark.parametrize(
        "asked",
        [
            {"precision": "bfloat16"},
            {"precision": "float16"},
            pytest.param({"compile": "on"}, marks=[pytest.mark.slow, pytest.mark.filterwarnings("default")]),
        ],
    )
    def test_resumed_it_ends_bit_for_bit_the_same(
        self, tmp_path: Path, teacher: TeacherSource, asked: dict[str, str]
    ) -> None:
        spec = run_spec("dkd", speed=asked)
        whole, half, rest = (tmp_path / name for name in ("whole", "half", "rest"))
        run_training(spec, whole, teacher)
        polled = iter(range(14))
        stop = TrainOptions(stop_requested=lambda: next(polled, None) is None)
        assert run_training(spec, half, teacher, options=stop) == "stopped"
        assert run_training(spec, rest, teacher, resume=half / CHECKPOINT_NAME) == "finished"
        assert losses(rest) == losses(whole)
        one, other = (safetensors.torch.load_file(folder / "weights.safetensors") for folder in (whole, rest))
        assert all(torch.equal(one[name], other[name]) for name in one)


class TestFallback:
    def test_without_a_compiler_the_run_goes_on_as_if_it_had_not_been_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing_compile(network: nn.Module, **_: Any) -> Any:
            def forward(images: Tensor) -> Tensor:
                network(images).sum().backward()  # moves the running statistics before it fails
                torch.rand(3)
                raise RuntimeError("no working C++ compiler\nand much more")

            return forward

        monkeypatch.setattr(torch, "compile", failing_compile)
        for switch in ("off", "on"):
            assert run_training(run_spec(speed={"compile": switch}), tmp_path / switch) == "finished"
        assert losses(tmp_path / "on") == losses(tmp_path / "off")
        assert "not compiled: RuntimeError: no working C++ compiler" in said(tmp_path / "on")
        events = [record.event for record in read_journal(tmp_path / "on" / JOURNAL_NAME)]
        started = next(event for event in events if isinstance(event, Started))
        assert started.environment["compile"] == "off"

    def test_compiling_leaves_state_gradients_and_random_numbers_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda network, **_: nn.Sequential(nn.Dropout(), network))
        network = models.build("resnet8", num_classes=5, image_size=8)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        example = torch.randn(4, 3, 8, 8)
        random = torch.random.get_rng_state()
        compile_network(network, example, ExecutionPlan(threads=1))
        assert torch.equal(torch.random.get_rng_state(), random)
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_what_cannot_be_compiled_is_said_in_a_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch, "compile", lambda *_, **__: lambda _: (_ for _ in ()).throw(OSError("a\nb")))
        with pytest.raises(CompilationError, match=r"^OSError: a$"):
            compile_network(
                models.build("resnet8", num_classes=5, image_size=8), torch.zeros(2, 3, 8, 8), ExecutionPlan(threads=1)
            )


class TestTeacher:
    @pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
    @pytest.mark.parametrize("name", ["resnet8", "wrn_16_1"])
    def test_its_logits_are_the_networks_and_the_network_is_left_as_it_is(
        self, name: str, precision: Precision, tolerance: float
    ) -> None:
        network = with_statistics(models.build(name, num_classes=5, image_size=16))
        before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        chosen = ExecutionPlan(precision=precision, channels_last=True, threads=1)
        batch = Batch(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.no_grad():
            expected = network(batch.images)
        found = LiveTeacher(network, chosen).logits(batch, 0).float()
        assert (found - expected).norm() < tolerance * expected.norm()
        assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())

    def test_batch_norm_after_a_convolution_is_folded_into_it(self) -> None:
        """Seen from outside: the norm's own kernel is never called."""
        network = with_statistics(models.build("resnet8", num_classes=5, image_size=16))
        teacher = LiveTeacher(network, ExecutionPlan(threads=1))
        batch = Batch(torch.randn(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            teacher.logits(batch, 0)
        names = {event.key for event in profile.key_averages()}
        assert "aten::convolution" in names
        assert "aten::batch_norm" not in names

    def test_a_network_that_cannot_be_traced_is_run_as_it_is(self) -> None:
        class Wilful(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(3, 5)

            def forward(self, images: Tensor) -> Tensor:
                features = images.mean((2, 3))
                return self.linear(features if features.sum() > 0 else -features)

        network = Wilful().eval()
        batch = Batch(-torch.ones(4, 3, 16, 16), torch.zeros(4, dtype=torch.int64), torch.arange(4), 4)
        with torch.no_grad():
            assert torch.equal(LiveTeacher(network, ExecutionPlan(threads=1)).logits(batch, 0), network(batch.images))


def with_statistics(network: nn.Module) -> nn.Module:
    """In eval mode, its batch norms as if it had been trained."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean = torch.randn_like(module.bias) / 5
            module.running_var = torch.rand_like(module.bias) + 0.5
    return network.eval().requires_grad_(False)


def reference_view(image: Tensor, view: Tensor, pad: int) -> Tensor:
    """One image's crop and flip, pixel by pixel as the definition has it."""
    side = image.shape[-1]
    padded = torch.nn.functional.pad(image, (pad, pad, pad, pad))
    top, left, flipped = view.tolist()
    crop = padded[:, top : top + side, left : left + side]
    return crop.flip(2) if flipped else crop


@pytest.mark.parametrize("pad", [0, 1, 4])
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_is_augmented_as_each_image_alone(pad: int, device: str) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, 12, 12), dtype=torch.uint8, generator=random)
    augmentation = Augmentation(pad=pad, flip=True)
    views = torch.from_numpy(augmentation_table(50, augmentation, 3, 1))
    found = shift_and_flip(images.to(device), views.to(device), augmentation).cpu()
    expected = torch.stack([reference_view(image, view, pad) for image, view in zip(images, views, strict=True)])
    assert torch.equal(found, expected)


def test_normalising_leaves_what_it_was_given() -> None:
    dataset = synthetic()
    images = dataset.train.images[:4].float()
    before = images.clone()
    dataset.normalise(images)
    assert torch.equal(images, before)


def synthetic(train_size: int = 300) -> Dataset:
    params = {"num_classes": 5, "image_size": 16, "train_size": train_size, "test_size": 50}
    return data.load(DatasetRef(name="synthetic", params=params))


def fingerprints(batches: Iterator[Batch]) -> list[str]:
    return [
        hashlib.sha256(
            b"".join(part.cpu().numpy().tobytes() for part in (batch.images, batch.labels, batch.index))
        ).hexdigest()
        for batch in batches
    ]


class TestBatches:
    def test_methods_with_one_seed_see_identical_batches(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: dict[str, list[str]] = {}
        original = Stepper.step

        def spy(self: Stepper, batch: Batch, *rest: Any) -> None:
            seen.setdefault(label, []).extend(fingerprints(iter([batch])))
            original(self, batch, *rest)

        monkeypatch.setattr(Stepper, "step", spy)
        for label, method, seed in (("ce", "ce", 0), ("again", "ce", 0), ("other seed", "ce", 1)):
            run_training(run_spec(method, seed), tmp_path / label)
        label = "another network"
        spec = run_spec()
        wider = spec.model_copy(update={"model": spec.model.model_copy(update={"params": {"width": 8}})})
        run_training(wider, tmp_path / label)
        assert len(seen["ce"]) == 3 * 10
        assert len(set(seen["ce"])) == len(seen["ce"])
        assert seen["ce"] == seen["again"] == seen["another network"]
        assert not set(seen["ce"]) & set(seen["other seed"])

    @pytest.mark.parametrize("device", DEVICES)
    def test_streamed_batches_are_the_resident_ones_bit_for_bit(self, device: str) -> None:
        resident = synthetic()
        rows = torch.arange(0, 300, 2)
        half = Split(resident.train.images, resident.train.labels[rows], rows)
        for train in (resident.train, half):
            here = replace(resident, train=train)
            streamed = replace(here, train=replace(train, memory_mapped=True, labels=train.labels.to(device)))
            assert streamed.train.needs_transfer
            assert not here.train.needs_transfer
            expected = fingerprints(here.batches(32, 0, 1, start=1))
            assert fingerprints(streamed.batches(32, 0, 1, start=1)) == expected
            if device == "cuda":
                assert fingerprints(here.to(torch.device(device)).batches(32, 0, 1, start=1)) == expected


class TestPrefetch:
    def test_everything_comes_in_order_and_not_too_far_ahead(self) -> None:
        made: list[int] = []

        def make(number: int) -> int:
            made.append(number)
            return number

        found = []
        for number in prefetch(make, range(50), depth=3):
            found.append(number)
            assert len(made) <= number + 1 + 3
        assert found == list(range(50))

    def test_an_error_comes_out_at_its_place(self) -> None:
        def make(number: int) -> int:
            if number == 2:
                raise OSError("the disk is gone")
            return number

        items = prefetch(make, range(5))
        assert [next(items), next(items)] == [0, 1]
        with pytest.raises(OSError, match="the disk is gone"):
            next(items)

    @pytest.mark.parametrize("how", ["close", "drop"])
    def test_its_thread_ends_with_it(self, how: str) -> None:
        before = threading.active_count()
        batches = replace(synthetic(), train=replace(synthetic().train, memory_mapped=True)).batches(32, 0, 0)
        next(batches)
        assert threading.active_count() == before + 1
        if how == "close":
            batches.close()
        else:
            del batches
        assert threading.active_count() == before


class TestPace:
    def test_only_what_this_process_did_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr("time.perf_counter", lambda: clock[0])
        pace = ThroughputMeter()

        def batches() -> Iterator[Batch]:
            for _ in range(2):
                clock[0] += 1  # to make it
                yield Batch(torch.zeros(8, 1, 1, 1), torch.zeros(8), torch.zeros(8), 8)

        for _ in pace.measure(batches()):
            clock[0] += 3  # to train on it
        assert pace.metrics() == {"speed/images_per_second": 2.0, "speed/input_stall": 25.0}

    def test_an_epoch_with_no_batch_left_says_nothing(self) -> None:
        assert ThroughputMeter().metrics() == {}


def stepper(device: str, name: str = "sgd", **choices: Any) -> Stepper:
    """DKD of a small network by another on a device."""
    torch.manual_seed(0)
    chosen = ExecutionPlan(fused=True, threads=1, **choices)
    model = models.build("resnet8", num_classes=5, image_size=16).to(device, memory_format=chosen.memory_format)
    teacher = models.build("resnet8", num_classes=5, image_size=16).to(device).eval().requires_grad_(False)
    optimizer = build_optimizer(model, Optimizer(name=name, lr=0.01), fused=True)
    loss = methods.build(MethodRef(name="dkd_align", params={"reduction": "log", "epsilon_share": 0.1}))

    def warn(text: str) -> None:
        raise AssertionError(text)

    return Stepper(model.train(), LiveTeacher(teacher, chosen, warn), loss, optimizer, chosen, warn=warn)


def trained(own: Stepper, device: str, epochs: int = 3) -> list[dict[str, float]]:
    """The means of each epoch; the rate changes with every step, the last batch is smaller."""
    dataset = synthetic(train_size=150).to(torch.device(device))
    found = []
    with capture_stream(own._plan, torch.device(device)):
        for epoch in range(epochs):
            for number, batch in enumerate(dataset.batches(32, 0, epoch)):
                own.step(batch, epoch, 0.01 * (1 + number + epoch))
            found.append(own.means.read())
            own.means = type(own.means)()
    return found


class TestRecording:
    """When a step is recorded and replayed, with a stand-in for the GPU's recorder that runs the function anew."""

    def test_it_is_recorded_once_an_epoch_and_replayed_for_full_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        plain, own = stepper("cpu"), stepper("cpu")
        own._capture = stepper_module._StepCapture()
        made, replayed = [], []

        class Again:
            def __init__(self, function: Any, example: list[Tensor], pool: Any) -> None:
                # What a recording holds on to: the optimiser's rate is read from this tensor from now on.
                self.function, self.rate = function, own.optimizer.param_groups[0]["lr"]
                made.append(self)

            def __call__(self, *inputs: Tensor) -> None:
                replayed.append(len(inputs[1]))
                own.optimizer.param_groups[0]["lr"] = float(self.rate)
                self.function(*inputs)

        monkeypatch.setattr(stepper_module, "GraphedCallable", Again)
        assert trained(own, "cpu") == trained(plain, "cpu")
        # 150 images: of 32, 32, 32, 32 and 22 the first is computed, the last is too small.
        assert (len(made), replayed) == (3, [32, 32, 32] * 3)
        for ours, theirs in zip(own.model.parameters(), plain.model.parameters(), strict=True):
            assert torch.equal(ours, theirs)

    def test_what_cannot_be_recorded_is_computed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
        plain, own = stepper("cpu"), stepper("cpu")
        own._capture, warned = stepper_module._StepCapture(), []
        own._warn = warned.append

        def refuse(*_: Any) -> None:
            raise RuntimeError("operation not permitted when stream is capturing")

        monkeypatch.setattr(stepper_module, "GraphedCallable", refuse)
        assert trained(own, "cpu") == trained(plain, "cpu")
        assert len(warned) == 1
        assert "not permitted" in warned[0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
class TestOnAGPU:
    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_a_recorded_step_is_the_computed_one(self, name: str) -> None:
        torch.backends.cudnn.deterministic = True
        plain, recorded = (stepper("cuda", name, cuda_graphs=switch) for switch in (False, True))
        expected, found = (trained(own, "cuda") for own in (plain, recorded))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4, nan_ok=True)
        for ours, theirs in zip(recorded.model.parameters(), plain.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_no_step_waits_for_the_device(self, precision: str) -> None:
        own = stepper("cuda", precision=precision, channels_last=True)
        batches = synthetic().to(torch.device("cuda")).batches(32, 0, 0)
        own.step(next(batches), 0, 0.01)  # what is set up once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                own.step(batch, 0, 0.02)
        finally:
            torch.cuda.set_sync_debug_mode("default")
