"""Supplied teachers: the classes and the input format of their weights, and their accuracy."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from PIL import Image

from core.cli import main
from core.events import JOURNAL_NAME, Event, Failed, Finished, Log, Metrics, Started, read_journal
from core.settings import TrainingSettings
from core.specs import DatasetRef, ExperimentSpec, RunSpec, parse_experiment
from core.tasks.classification import data, models
from core.tasks.classification.models.published_weights import imagenet_class_names, published_input
from core.tasks.classification.teacher_input import InputAdapter, input_format_of
from core.train import TeacherSource, run_training
from core.train.checkpoint import CHECKPOINT_NAME
from core.train.interruption import TrainOptions
from core.weights.metadata import InputFormat, Metadata, describe_class_differences, read_metadata, serialise

MODEL = {"name": "small_cnn", "params": {"width": 4}}
CLASSES = ("ant", "bee", "cat", "dog")
SIDE = 8


def picture(label: int, light: float, random: np.random.Generator) -> Image.Image:
    """Stripes down, stripes across, a chequer or nothing, on a background of some light."""
    y, x = np.mgrid[:SIDE, :SIDE]
    pattern = (x % 2, y % 2, (x + y) % 2, 0 * x)[label]
    pixels = 110 + light + 30 * pattern[..., None] + random.normal(0, 12, (SIDE, SIDE, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def tree(root: Path, classes: tuple[str, ...] = CLASSES, lights: tuple[float, ...] = (-70, 70)) -> None:
    """Images of both splits; the brightness of the test images varies, independently of the training images."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 24)):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                light = lights[number % len(lights)] if split == "train" else (-70, 70)[number % 2]
                picture(label, light, random).save(folder / f"{number:02d}.png")


def experiment(folder: str, weights: Any = None, **more: Any) -> ExperimentSpec:
    return parse_experiment(
        {
            "name": "given",
            "dataset": {"name": "folder", "params": {"path": folder, "image_size": SIDE, "flip": False}},
            "teacher": {"model": MODEL, **({"weights": weights} if weights else {})},
            "student": {"model": {"name": "small_cnn", "params": {"width": 2}}},
            "methods": ["kd"],
            "seeds": [0],
            "training": {"epochs": 8, "batch_size": 16, "augment": "none", "optimizer": {"lr": 0.1}},
        }
        | more
    )


def events(folder: Path) -> list[Event]:
    return [record.event for record in read_journal(folder / JOURNAL_NAME)]


def warnings(folder: Path) -> list[str]:
    return [event.message for event in events(folder) if isinstance(event, Log) and event.level == "warning"]


def teacher(out: Path, spec: ExperimentSpec) -> dict[str, float]:
    """Run an experiment's teacher; its metrics."""
    run = spec.teacher_run()
    assert run
    run_training(run, out)
    last = events(out)[-1]
    assert isinstance(last, Finished), last
    return last.summary


def refusal(out: Path, run: RunSpec | None) -> str:
    assert run
    assert run_training(run, out) == "failed"
    last = events(out)[-1]
    assert isinstance(last, Failed)
    assert last.kind == "spec"
    return last.reason


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image folders, and in ``ours.safetensors`` a good teacher of ``pets``."""
    root = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATA_DIR", str(root))
        patch.setenv("DKD_PACK_DIR", str(root / ".packed"))
        tree(root / "pets")
        tree(root / "dark", lights=(-70,))
        shutil.rmtree(root / "dark" / "test")
        shutil.copytree(root / "pets" / "test", root / "dark" / "test")
        tree(root / "renamed", ("ant", "bee", "cow", "dog"))
        tree(root / "fewer", CLASSES[:3])
        assert teacher(root / "trained", experiment("pets"))["test/top1"] > 90
        shutil.copy(root / "trained" / "weights.safetensors", root / "ours.safetensors")
        state = safetensors.torch.load_file(root / "ours.safetensors")
        torch.save({"model": state}, root / "foreign.pth")
    return root


@pytest.fixture(autouse=True)
def _here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(home))
    monkeypatch.setenv("DKD_PACK_DIR", str(home / ".packed"))


def top1(folder: Path) -> float:
    return next(event.values["test/top1"] for event in events(folder) if isinstance(event, Metrics))


class TestClasses:
    def test_trained_weights_are_refused_on_other_classes_of_the_same_number(self, home: Path, tmp_path: Path) -> None:
        reason = refusal(tmp_path / "out", experiment("renamed", "ours.safetensors").teacher_run())
        assert "class 2 is 'cat' in the weights and 'cow' in the data set" in reason
        assert "only in the weights: cat; only in the data set: cow" in reason

    def test_trained_weights_are_refused_on_fewer_classes(self, tmp_path: Path) -> None:
        reason = refusal(tmp_path / "out", experiment("fewer", "ours.safetensors").teacher_run())
        assert "4 classes, not 3" in reason

    def test_trained_weights_are_refused_on_another_data_set_without_files(self, tmp_path: Path) -> None:
        synthetic = {
            "name": "synthetic",
            "params": {"num_classes": 4, "image_size": 8, "train_size": 40, "test_size": 8},
        }
        reason = refusal(tmp_path / "out", experiment("x", "ours.safetensors", dataset=synthetic).teacher_run())
        assert "class 0 is 'ant' in the weights" in reason

    def test_classes_in_another_order_are_refused(self, home: Path, tmp_path: Path) -> None:
        told = read_metadata(home / "ours.safetensors")
        state = safetensors.torch.load_file(home / "ours.safetensors")
        shuffled = Metadata(classes=("bee", "ant", "cat", "dog"), input=told.input)
        (home / "shuffled.safetensors").write_bytes(serialise(state, shuffled))
        reason = refusal(tmp_path / "out", experiment("pets", "shuffled.safetensors").teacher_run())
        assert "the same classes in another order; class 0 is 'bee' in the weights and 'ant' in the data set" in reason

    def test_uploaded_weights_are_refused_on_other_classes(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DKD_UPLOADS", str(tmp_path))
        sha = "a" * 64
        shutil.copy(home / "ours.safetensors", tmp_path / f"{sha}.safetensors")
        reason = refusal(tmp_path / "out", experiment("renamed", f"upload:{sha}").teacher_run())
        assert "class 2 is 'cat' in the weights" in reason

    def test_conversion_and_use_keep_the_class_names(self, home: Path, tmp_path: Path) -> None:
        shape = ["--model", "small_cnn", "--params", '{"width": 4}', "--num-classes", "4", "--image-size", str(SIDE)]
        for name in ("a.pth", "b.safetensors"):
            assert main(["convert", str(home / "ours.safetensors"), str(home / name), *shape]) == 0
            assert read_metadata(home / name) == read_metadata(home / "ours.safetensors")
            assert "class 2 is 'cat'" in refusal(tmp_path / name, experiment("renamed", name).teacher_run())
        teacher(tmp_path / "used", experiment("pets", "b.safetensors"))
        kept = read_metadata(tmp_path / "used" / "weights.safetensors")
        assert (kept.classes, kept.assumed_classes, kept.top1) == (
            CLASSES,
            (),
            read_metadata(home / "ours.safetensors").top1,
        )

    def test_unknown_class_names_are_not_invented(self, tmp_path: Path) -> None:
        teacher(tmp_path / "out", experiment("pets", "foreign.pth"))
        with safetensors.safe_open(tmp_path / "out" / "weights.safetensors", framework="pt") as file:
            told = file.metadata()
        assert "dkd_classes" not in told
        assert json.loads(told["dkd_taken_for"]) == list(CLASSES)

    def test_fine_tuning_on_other_classes_starts_with_a_new_last_layer(self, home: Path, tmp_path: Path) -> None:
        tuned = {"source": "ours.safetensors", "fine_tune": True}
        training = {"epochs": 1, "batch_size": 16, "optimizer": {"lr": 1e-9, "weight_decay": 0}, "augment": "none"}
        teacher(tmp_path / "other", experiment("renamed", tuned, training=training))
        assert any("the last layer starts from fresh weights" in text for text in warnings(tmp_path / "other"))
        teacher(tmp_path / "same", experiment("pets", tuned, training=training))
        assert warnings(tmp_path / "same") == []
        before = safetensors.torch.load_file(home / "ours.safetensors")["classifier.weight"]
        other, same = (
            safetensors.torch.load_file(tmp_path / name / "weights.safetensors")["classifier.weight"]
            for name in ("other", "same")
        )
        torch.testing.assert_close(same, before, atol=1e-5, rtol=0)
        assert (other - before).abs().max() > 0.01
        assert read_metadata(tmp_path / "other" / "weights.safetensors").classes == ("ant", "bee", "cow", "dog")

    def test_resumed_run_with_other_classes_is_refused(self, home: Path, tmp_path: Path) -> None:
        shutil.copytree(home / "pets", home / "changing")
        run = experiment("changing").teacher_run()
        assert run
        polled = iter(range(100))
        options = TrainOptions(stop_requested=lambda: next(polled) == 5)
        assert run_training(run, tmp_path / "half", options=options) == "stopped"
        for split in ("train", "test"):
            os.rename(home / "changing" / split / "cat", home / "changing" / split / "cow")
        assert run_training(run, tmp_path / "rest", resume=tmp_path / "half" / CHECKPOINT_NAME) == "failed"
        last = events(tmp_path / "rest")[-1]
        assert isinstance(last, Failed)
        assert "began on other classes" in last.reason

    def test_data_sets_without_files_have_class_names(self) -> None:
        from core.tasks.classification.data.class_names import class_names

        for name, first in (("digits", "0"), ("synthetic", "prototype 0 of 10x3x16")):
            choice = DatasetRef(name=name)
            assert class_names(choice, data.load(choice, TrainingSettings.from_environment()))[0] == first

    @pytest.mark.parametrize(
        ("theirs", "ours", "words"),
        [
            (("caf\u00e9", "b c"), ("cafe\u0301", "b_c"), ""),
            (("a", "b"), ("a", "b", "c"), "2 classes, not 3; only in the data set: c"),
            (("a", "b"), (), "have no names"),
        ],
    )
    def test_difference_of_classes_is_described(
        self, theirs: tuple[str, ...], ours: tuple[str, ...], words: str
    ) -> None:
        difference = describe_class_differences(theirs, ours)
        assert words in difference
        assert bool(words) == bool(difference)

    def test_published_imagenet_weights_are_refused_on_other_classes(self, tmp_path: Path) -> None:
        from core.tasks.classification.supplied_weights import _published_class_difference

        wordnet = imagenet_class_names()[0]
        messages: list[str] = []
        assert _published_class_difference("resnet18", wordnet, 1000, messages) == ""
        assert "class 0 is" in _published_class_difference("resnet18", wordnet[::-1], 1000, messages)
        assert "for 1000 classes, not for 10" in _published_class_difference("timm:resnet18", CLASSES, 10, messages)
        assert messages == []
        assert _published_class_difference("resnet18", tuple(map(str, range(1000))), 1000, messages) == ""
        assert "cannot be checked" in messages[0]


class TestInput:
    def test_trained_weights_keep_their_accuracy_on_other_training_images(self, home: Path, tmp_path: Path) -> None:
        """The accuracy of one file on the same test images once depended on the training images of the student."""
        at_home = read_metadata(home / "ours.safetensors").top1
        assert teacher(tmp_path / "ours", experiment("dark", "ours.safetensors"))["test/top1"] == at_home
        assert warnings(tmp_path / "ours") == []
        foreign = teacher(tmp_path / "foreign", experiment("dark", "foreign.pth"))["test/top1"]
        assert foreign < at_home - 10
        assert any(
            "how the images of these weights are to be normalised" in text for text in warnings(tmp_path / "foreign")
        )
        told = read_metadata(home / "ours.safetensors").input
        assert told
        named = {"source": "foreign.pth", "mean": list(told.mean), "std": list(told.std)}
        assert teacher(tmp_path / "named", experiment("dark", named))["test/top1"] == at_home
        assert warnings(tmp_path / "named") == []
        assert read_metadata(tmp_path / "named" / "weights.safetensors").input == InputFormat(
            told.mean, told.std, SIDE, known_from="given"
        )

    def test_students_use_the_teacher_with_its_measured_input(self, home: Path, tmp_path: Path) -> None:
        spec = experiment("dark", "ours.safetensors")
        teacher(tmp_path / "teacher", spec)
        run = spec.plan()[1].spec
        source = TeacherSource(spec.plan()[0].spec, tmp_path / "teacher" / "weights.safetensors")
        assert run_training(run, tmp_path / "student", source) == "finished"
        messages = [event.message for event in events(tmp_path / "student") if isinstance(event, Log)]
        assert any(text.startswith("the teacher sees the views with mean") for text in messages)
        # Where the teacher is right on nearly all test images, so is a student that agrees with it.
        values = next(event.values for event in reversed(events(tmp_path / "student")) if isinstance(event, Metrics))
        right = values["fidelity/agreement"] - values["test/top1"]
        assert abs(right) <= 100 - read_metadata(home / "ours.safetensors").top1 + 1e-6  # type: ignore[operator]

    def test_cached_logits_depend_on_the_input_format(
        self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DKD_CACHE_DIR", str(tmp_path / "cache"))
        keys = []
        for name, weights in (
            ("own", "foreign.pth"),
            ("named", {"source": "foreign.pth", "mean": [0.5] * 3, "std": [0.25] * 3}),
        ):
            spec = experiment("pets", weights)
            teacher(tmp_path / name, spec)
            source = TeacherSource(spec.plan()[0].spec, tmp_path / name / "weights.safetensors")
            assert run_training(spec.plan()[1].spec, tmp_path / f"{name}-student", source) == "finished"
            keys.append({path.name for path in (tmp_path / "cache" / "teacher-logits").iterdir() if path.is_dir()})
        assert len(keys[1]) == len(keys[0]) + 1

    def test_adapted_input_equals_the_input_that_the_network_expects(self) -> None:
        dataset = data.load(
            DatasetRef(name="synthetic", params={"num_classes": 4, "image_size": 8, "train_size": 8}),
            TrainingSettings.from_environment(),
        )
        shown, wanted = input_format_of(dataset), InputFormat((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), 8)
        seen = InputAdapter(torch.nn.Identity(), shown, wanted)(dataset.normalise(dataset.train.images))
        pixels = dataset.train.images.double() / 255
        mean, std = (torch.tensor(row, dtype=torch.float64).view(1, 3, 1, 1) for row in (wanted.mean, wanted.std))
        torch.testing.assert_close(seen.double(), (pixels - mean) / std, atol=1e-5, rtol=1e-5)
        larger = InputAdapter(torch.nn.Identity(), shown, InputFormat(shown.mean, shown.std, 16))
        assert larger(dataset.normalise(dataset.train.images)).shape[-1] == 16

    def test_images_are_resized_to_the_input_size_of_the_weights(self, home: Path, tmp_path: Path) -> None:
        """Weights of 16 px in a data set of 8 px: the network is built for 16, and is shown 16."""
        named = {"source": "ours.safetensors", "image_size": 16}
        teacher(tmp_path / "out", experiment("pets", named))
        told = read_metadata(tmp_path / "out" / "weights.safetensors").input
        assert told
        assert told.image_size == 16

    def test_published_input_formats_equal_those_of_torchvision_and_timm(self) -> None:
        ours = published_input("resnet18")
        assert ours
        assert (ours.mean, ours.std, ours.image_size) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
        theirs = published_input("timm:vit_small_patch16_224")
        assert theirs
        assert (theirs.mean, theirs.std, theirs.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
        assert published_input("resnet8") is None

    def test_spec_without_an_input_format_keeps_its_form_and_fingerprint(self) -> None:
        """Its stored form and its fingerprint, of commit 2ef2faf."""
        run = experiment("pets", "a.safetensors").teacher_run()
        assert run
        assert run.model_dump(mode="json")["weights"] == {"source": "a.safetensors", "sha256": None, "fine_tune": False}
        assert run.fingerprint() == FINGERPRINT
        named = experiment("pets", {"source": "a.safetensors", "mean": [0.5] * 3, "std": [0.5] * 3}).teacher_run()
        assert named
        assert named.fingerprint() != FINGERPRINT
        assert RunSpec.model_validate_json(named.model_dump_json()) == named

    @pytest.mark.parametrize(
        ("weights", "words"),
        [
            ({"mean": [0.5]}, "mean and std must be given together"),
            ({"mean": [0.5], "std": [0.0]}, "above 0"),
            ({"image_size": 16, "fine_tune": True}, "without fine_tune"),
        ],
    )
    def test_invalid_input_format_is_refused(self, weights: dict[str, Any], words: str) -> None:
        with pytest.raises(ValueError, match=words):
            experiment("pets", {"source": "a", **weights})

    def test_input_format_with_another_number_of_channels_is_refused(self, tmp_path: Path) -> None:
        weights = {"source": "foreign.pth", "mean": [0.5], "std": [0.5]}
        assert "3 channels" in refusal(tmp_path / "out", experiment("pets", weights).teacher_run())


FINGERPRINT = "v1-ac0db53252faa4ffd7d3674912c79c6c"


class TestTeacherAccuracy:
    def given(self, home: Path, tmp_path: Path, name: str, state: dict[str, torch.Tensor]) -> list[str]:
        torch.save(state, home / name)
        teacher(tmp_path / "out", experiment("pets", name))
        return warnings(tmp_path / "out")

    def test_teacher_at_chance_is_warned_of_in_the_runs_of_its_students_too(self, home: Path, tmp_path: Path) -> None:
        fresh = models.build("small_cnn", num_classes=4, image_size=SIDE, width=4).state_dict()
        fresh["classifier.bias"][1] = 100  # it says "bee" to everything
        messages = self.given(home, tmp_path, "chance.pth", dict(fresh))
        assert any("which is chance (25.0 %)" in text for text in messages)
        spec = experiment("pets", "chance.pth")
        source = TeacherSource(spec.plan()[0].spec, tmp_path / "out" / "weights.safetensors")
        run_training(spec.plan()[1].spec, tmp_path / "student", source)
        assert any(
            text.startswith("the teacher: the given teacher is right on") for text in warnings(tmp_path / "student")
        )

    def test_teacher_far_below_its_claimed_accuracy_is_warned_of(self, home: Path, tmp_path: Path) -> None:
        state = safetensors.torch.load_file(home / "ours.safetensors")
        weaker = dict(state) | {"classifier.weight": state["classifier.weight"] * torch.tensor([[1.0], [1], [1], [-1]])}
        assert any("its file claims 98.0 %" in text for text in self.given(home, tmp_path, "net_acc98.0.pth", weaker))

    def test_permuted_class_numbers_are_detected(self, home: Path, tmp_path: Path) -> None:
        state = dict(safetensors.torch.load_file(home / "ours.safetensors"))
        for key in ("classifier.weight", "classifier.bias"):
            state[key] = state[key][[1, 2, 3, 0]]
        messages = self.given(home, tmp_path, "turned.pth", state)
        assert any("with its classes in another order" in text for text in messages)

    def test_accurate_teacher_has_no_warning(self, tmp_path: Path) -> None:
        teacher(tmp_path / "out", experiment("pets", "ours.safetensors"))
        assert warnings(tmp_path / "out") == []

    def test_teacher_with_constant_output_is_refused(self, home: Path, tmp_path: Path) -> None:
        state = dict(safetensors.torch.load_file(home / "ours.safetensors"))
        torch.save(state | {"classifier.weight": torch.zeros_like(state["classifier.weight"])}, home / "dead.pth")
        assert "same logits" in refusal(tmp_path / "out", experiment("pets", "dead.pth").teacher_run())

    def test_run_refuses_weights_that_are_all_zero(self, home: Path, tmp_path: Path) -> None:
        state = safetensors.torch.load_file(home / "ours.safetensors")
        torch.save({key: torch.zeros_like(value) for key, value in state.items()}, home / "zero.pth")
        assert "every layer is zero" in refusal(tmp_path / "out", experiment("pets", "zero.pth").teacher_run())


def test_trained_weights_have_complete_metadata(home: Path) -> None:
    told = read_metadata(home / "ours.safetensors")
    started = next(event for event in events(home / "trained") if isinstance(event, Started))
    assert told.classes == CLASSES
    assert told.content_hash.startswith(started.environment["images"])
    assert told.dataset == "folder"
    assert told.input
    assert told.input.image_size == SIDE
    assert told.input.known_from == "training"
