"""Supplied weights: converted, matched by name, used unchanged or fine-tuned."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from core.cli import main
from core.events import JOURNAL_NAME, Failed, Finished, Log, Metrics, read_journal
from core.settings import TrainingSettings
from core.specs import RunSpec, SpecError, parse_experiment
from core.tasks.classification import models
from core.tasks.classification.models.small_cnn import SmallCNN
from core.tasks.classification.models.weights import load_state, read_source
from core.train import run_training
from core.weights.state_dicts import find_state_dicts, strip_prefixes

PUBLISHED = json.loads(Path(__file__).with_name("published_checkpoints.json").read_text())
"""Keys of the literature's networks in their own order, and the logits that ``wave`` weights give there."""


def wave(key: str, like: Tensor, number: int) -> Tensor:
    """The same weights for a key wherever it is: deterministic, of a healthy size, variances positive."""
    values = torch.sin(torch.arange(like.numel(), dtype=torch.float64) * 12.9898 + number * 78.233)
    if key.endswith("running_var"):
        values = 1 + 0.5 * values
    elif like.dim() > 1:
        values = values * (2 / like[0].numel()) ** 0.5
    elif key.endswith("weight"):
        values = 1 + 0.3 * values
    else:
        values = 0.1 * values
    return values.reshape(like.shape).float()


def network(name: str = "resnet8", classes: int = 5, size: int = 32) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, num_classes=classes, image_size=size)


def published(name: str) -> dict[str, Tensor]:
    """A checkpoint under the literature's own keys."""
    net = network(name)
    state = net.state_dict()
    keys = PUBLISHED[name]["keys"]
    return {key: wave(key, state[net.map_published_key(key)], number) for number, key in enumerate(keys)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("DKD_DOWNLOAD", raising=False)


class TestPublishedCheckpoints:
    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_weights_give_the_published_logits(self, name: str) -> None:
        net = network(name).eval()
        load_state(net, published(name))
        images = torch.sin(torch.arange(3 * 32 * 32, dtype=torch.float64) * 0.7).reshape(1, 3, 32, 32).float()
        with torch.no_grad():
            logits = net(images)[0]
        torch.testing.assert_close(logits, torch.tensor(PUBLISHED[name]["logits"]), rtol=1e-3, atol=1e-3)

    def test_torchvision_keys_are_mapped(self) -> None:
        import torchvision

        theirs = torchvision.models.mobilenet_v2(num_classes=5).eval()
        net = network("mobilenet_v2").eval()
        load_state(net, theirs.state_dict())
        images = torch.randn(1, 3, 32, 32)
        torch.testing.assert_close(net(images), theirs(images))

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda t: {"model": t, "epoch": 240},
            lambda t: {"state_dict": {f"module.{k}": v for k, v in t.items()}},
            lambda t: {f"_orig_mod.module.model.{k}": v for k, v in t.items()},
            lambda t: {"model": {f"module.student.{k}": v for k, v in t.items()} | {"module.teacher.x": torch.ones(1)}},
        ],
    )
    def test_prefixes_of_wrappers_are_removed(self, wrap: Any) -> None:
        tensors = {"conv1.weight": torch.ones(1), "fc.bias": torch.ones(2)}
        assert set(strip_prefixes(find_state_dicts(wrap(tensors))[0])) == set(tensors)

    def test_checkpoint_without_weights_is_refused(self) -> None:
        with pytest.raises(models.WeightsError, match=r"no weights found.*epoch, accuracy"):
            find_state_dicts({"epoch": 3, "accuracy": 0.5})


class TestMismatch:
    def test_mismatched_keys_are_named(self) -> None:
        tensors = network().state_dict()
        del tensors["layers.stage2.0.conv1.weight"]
        tensors["extra.weight"] = torch.ones(1)
        tensors["classifier.bias"] = torch.ones(7)
        with pytest.raises(models.WeightsError) as caught:
            load_state(network(), tensors)
        assert "missing: layers.stage2.0.conv1.weight" in str(caught.value)
        assert "not in this network: extra.weight" in str(caught.value)
        assert "classifier.bias (7,), not (5,)" in str(caught.value)

    def test_non_finite_weights_are_refused(self) -> None:
        tensors = network().state_dict()
        tensors["layers.stage2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
        tensors["classifier.bias"][1] = torch.inf
        net = network()
        before = net.linear.bias.clone()
        with pytest.raises(models.WeightsError, match=r"not finite: layers.stage2.0.conv1.weight, classifier.bias"):
            load_state(net, tensors)
        assert torch.equal(net.linear.bias, before)

    def test_another_class_count_matches_only_on_request(self) -> None:
        given = network(classes=9)
        with pytest.raises(models.WeightsError, match=r"classifier\.weight"):
            load_state(network(), given.state_dict())
        net = network()
        before = net.linear.weight.clone()
        load_state(net, given.state_dict(), any_classes=True)
        assert torch.equal(net.linear.weight, before)
        assert torch.equal(net.get_parameter("stem.0.weight"), given.get_parameter("stem.0.weight"))


class TestConvert:
    def convert(self, source: Path, out: Path, model: str = "resnet8", classes: int = 5) -> int:
        return main(["convert", str(source), str(out), "--model", model, "--num-classes", str(classes)])

    def test_checkpoint_with_a_numpy_scalar_is_converted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save({"model": published("resnet8"), "best_acc": np.float64(72.3)}, tmp_path / "in.pth")
        assert self.convert(tmp_path / "in.pth", tmp_path / "out.safetensors") == 0
        assert "77,717 parameters" in capsys.readouterr().out
        net = network()
        net.load_state_dict(safetensors.torch.load_file(tmp_path / "out.safetensors"))
        assert torch.equal(net.linear.weight, published("resnet8")["fc.weight"])

    def test_code_in_a_checkpoint_is_not_run(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        class Attack:
            def __reduce__(self) -> tuple[Any, ...]:
                return Path.touch, (tmp_path / "ran",)

        torch.save({"model": published("resnet8"), "args": Attack()}, tmp_path / "in.pth")
        (tmp_path / "raw.pth").write_bytes(pickle.dumps(Attack(), protocol=2))
        assert self.convert(tmp_path / "in.pth", tmp_path / "out.safetensors") == 2
        assert self.convert(tmp_path / "raw.pth", tmp_path / "out.safetensors") == 2
        assert "only tensors and numbers are read" in capsys.readouterr().err
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "out.safetensors").exists()

    @pytest.mark.parametrize(
        ("model", "classes", "message"),
        [
            ("resnet8", 10, "classifier.weight (5, 64), not (10, 64)"),
            ("resnet14", 5, "missing: layers.stage1.1.conv1.weight"),
            ("resnet9", 5, "did you mean"),
            ("faster_rcnn", 5, "faster_rcnn needs no conversion: a spec names the checkpoint"),
        ],
    )
    def test_mismatch_is_reported(
        self, model: str, classes: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save(published("resnet8"), tmp_path / "in.pth")
        assert self.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", model, classes) == 2
        assert message in capsys.readouterr().err

    # The second one's first byte ends a pickle that has not begun: the unpickler pops from an empty list.
    @pytest.mark.parametrize("content", [b"no checkpoint", b".", b""])
    def test_missing_or_damaged_file_is_reported(
        self, content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "in.pth").write_bytes(content)
        for source in ("none.pth", "in.pth"):
            assert self.convert(tmp_path / source, tmp_path / "out.safetensors") == 2
            assert source in capsys.readouterr().err


SPEC = {
    "name": "weights",
    "dataset": {
        "name": "synthetic",
        "params": {"num_classes": 5, "image_size": 8, "train_size": 64, "test_size": 50},
    },
    "student": {"model": "small_cnn"},
    "methods": ["kd"],
    "seeds": [0],
    "training": {"epochs": 2, "batch_size": 32},
}


def teacher_run(weights: object, model: object = "resnet8", **changes: object) -> RunSpec:
    spec = parse_experiment(SPEC | {"teacher": {"model": model, "weights": weights}} | changes)
    run = spec.teacher_run()
    assert run is not None
    return run


def failure(spec: RunSpec, out: Path) -> str:
    assert run_training(spec, out) == "failed"
    last = [record.event for record in read_journal(out / JOURNAL_NAME)][-1]
    assert isinstance(last, Failed)
    assert last.kind == "spec"
    return last.reason


class TestTeacher:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        """A teacher's weights under DATA_DIR."""
        path = tmp_path / "data" / "teachers" / "resnet8.safetensors"
        path.parent.mkdir(parents=True)
        safetensors.torch.save_file(network(size=8).state_dict(), path)
        return path

    def test_file_is_used_without_training(self, file: Path, tmp_path: Path) -> None:
        assert run_training(teacher_run("teachers/resnet8.safetensors"), tmp_path / "out") == "finished"
        events = [record.event for record in read_journal(tmp_path / "out" / JOURNAL_NAME)]
        assert [event.step for event in events if isinstance(event, Metrics)] == [0]
        assert any(isinstance(event, Log) and "as they are" in event.message for event in events)
        assert isinstance(events[-1], Finished)
        assert "test/top1" in events[-1].summary
        assert (
            safetensors.torch.load_file(tmp_path / "out" / "weights.safetensors").keys()
            == network().state_dict().keys()
        )
        exported = safetensors.torch.load_file(tmp_path / "out" / "weights.safetensors")
        assert torch.equal(exported["classifier.weight"], network(size=8).state_dict()["classifier.weight"])

    def test_file_of_other_classes_is_fine_tuned(self, tmp_path: Path) -> None:
        source = tmp_path / "data" / "nine.pth"
        source.parent.mkdir()
        torch.save(network(classes=9, size=8).state_dict(), source)
        spec = teacher_run({"source": f"file://{source}", "fine_tune": True})
        assert run_training(spec, tmp_path / "out") == "finished"
        trained = safetensors.torch.load_file(tmp_path / "out" / "weights.safetensors")
        assert trained["classifier.weight"].shape == (5, 64)
        assert not torch.equal(trained["stem.0.weight"], network(classes=9, size=8).state_dict()["stem.0.weight"])

    def test_checksum_is_verified(self, file: Path, tmp_path: Path) -> None:
        right = hashlib.sha256(file.read_bytes()).hexdigest()
        assert run_training(teacher_run({"source": str(file), "sha256": right}), tmp_path / "right") == "finished"
        assert "not the expected file" in failure(
            teacher_run({"source": str(file), "sha256": "0" * 64}), tmp_path / "wrong"
        )

    def test_missing_file_is_named_with_its_folder(self, tmp_path: Path) -> None:
        assert str(tmp_path / "data" / "none.safetensors") in failure(teacher_run("none.safetensors"), tmp_path / "out")

    def test_keys_of_weights_of_another_network_are_named(self, file: Path, tmp_path: Path) -> None:
        assert "missing: layers.stage1.1" in failure(teacher_run(str(file), "resnet14"), tmp_path / "out")

    @pytest.mark.parametrize(
        "source", ["https://127.0.0.1/x.safetensors", "ftp://127.0.0.1/x", "simplecache::file://x"]
    )
    def test_address_is_refused_while_downloads_are_off(self, source: str, tmp_path: Path) -> None:
        reason = failure(teacher_run(source), tmp_path / "out")
        assert "downloads are off" in reason or "cannot be read from" in reason

    def test_unknown_timm_network_gives_a_readable_reason(self, tmp_path: Path) -> None:
        spec = teacher_run({"source": "pretrained", "fine_tune": True}, "timm:vit_smal_patch16_224")
        assert "did you mean timm:vit_small_patch16_224" in failure(spec, tmp_path / "out")

    def test_fingerprint_depends_on_weights_and_not_on_unused_training_settings(self) -> None:
        plain = parse_experiment(SPEC | {"teacher": {"model": "resnet8"}}).teacher_run()
        assert plain is not None
        assert "weights" not in plain.model_dump(mode="json", exclude_none=True)
        longer = {"training": {"epochs": 9}}
        as_is, tuned = "a.safetensors", {"source": "a.safetensors", "fine_tune": True}
        names = [
            plain.fingerprint(),
            teacher_run(as_is).fingerprint(),
            teacher_run("b.safetensors").fingerprint(),
            teacher_run(tuned).fingerprint(),
            teacher_run(tuned, **longer).fingerprint(),
        ]
        assert len(set(names)) == 5
        assert teacher_run(as_is, **longer).fingerprint() == teacher_run(as_is).fingerprint()


LARGE = {"dataset": {"name": "synthetic", "params": {"num_classes": 5, "image_size": 32}}}


class TestPretrained:
    def test_spec_refuses_networks_without_published_weights(self) -> None:
        with pytest.raises(SpecError, match=r"teacher.weights: resnet8 has no published weights; name a file"):
            teacher_run("pretrained")

    def test_other_classes_need_fine_tuning(self) -> None:
        with pytest.raises(SpecError, match=r"for 1000 classes, not for 5.*fine_tune: true"):
            teacher_run("pretrained", "resnet18", **LARGE)
        teacher_run({"source": "pretrained", "fine_tune": True}, "resnet18", **LARGE)

    def test_grey_images_are_refused(self) -> None:
        grey = {"dataset": {"name": "synthetic", "params": {"num_classes": 5, "image_size": 32, "channels": 1}}}
        with pytest.raises(SpecError, match="3 channels"):
            teacher_run({"source": "pretrained", "fine_tune": True}, "resnet18", **grey)

    def test_missing_torchvision_weights_error_names_the_remedy(self, tmp_path: Path) -> None:
        with pytest.raises(models.WeightsError) as caught:
            network("resnet18").load_pretrained()
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in str(caught.value)
        assert str(tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth") in str(caught.value)
        assert "DKD_DOWNLOAD=1" in str(caught.value)

    def test_cached_torchvision_weights_are_used_except_the_last_layer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torchvision

        theirs = torchvision.models.resnet18().state_dict()
        file = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
        file.parent.mkdir(parents=True)
        torch.save(theirs, file)
        net = network("resnet18")
        net.load_pretrained()
        assert torch.equal(net.get_parameter("stem.0.weight"), theirs["conv1.weight"])
        assert net.linear.out_features == 5

    def test_missing_timm_weights_error_names_the_remedy(self) -> None:
        with pytest.raises(models.WeightsError, match=r"huggingface.co/timm/resnet18.a1_in1k.*HF_HOME.*DKD_DOWNLOAD=1"):
            network("timm:resnet18").load_pretrained()

    def test_cached_timm_weights_are_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import timm

        theirs = timm.create_model("test_vit", num_classes=1000)
        file = tmp_path / "model.safetensors"
        safetensors.torch.save_file(theirs.state_dict(), file)
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: str(file))
        net = network("timm:test_vit")  # at 32 px: timm fits the position embeddings
        net.load_pretrained()
        ours = net.state_dict()
        assert torch.equal(ours["network.blocks.0.attn.qkv.weight"], theirs.state_dict()["blocks.0.attn.qkv.weight"])
        assert net.linear.out_features == 5


@pytest.mark.parametrize("allow_download", [False, True])
def test_network_of_a_plugin_loads_its_own_published_weights(allow_download: bool) -> None:
    class Theirs(SmallCNN):
        def load_pretrained(self) -> None:
            self.loaded = self.allow_download

    theirs = Theirs(num_classes=2, in_channels=1, image_size=8, width=4)
    supplied = models.SuppliedWeights("pretrained")
    assert models.load_supplied(theirs, supplied, any_classes=False, allow_download=allow_download) == ()
    assert theirs.loaded == allow_download


def test_uploaded_weights_are_found_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, fresh = (models.build("small_cnn", num_classes=10, image_size=8, in_channels=1) for _ in range(2))
    content = safetensors.torch.save(dict(trained.state_dict()))
    sha256 = hashlib.sha256(content).hexdigest()
    source = f"upload:{sha256}"
    with pytest.raises(models.WeightsError, match="in the store of a backend"):
        read_source(source, sha256, TrainingSettings.from_environment())
    monkeypatch.setenv("DKD_UPLOADS", str(tmp_path))
    with pytest.raises(models.WeightsError, match="upload it again"):
        read_source(source, sha256, TrainingSettings.from_environment())
    (tmp_path / f"{sha256}.safetensors").write_bytes(content)
    supplied = read_source(source, sha256, TrainingSettings.from_environment())
    models.load_supplied(fresh, supplied, any_classes=False, allow_download=False)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in trained.state_dict().items())
