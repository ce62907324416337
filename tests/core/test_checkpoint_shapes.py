"""Checkpoints in the shapes of public training scripts, read in every way in which weights are loaded."""

from __future__ import annotations

import argparse
import collections
import io
import os
import pathlib
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from core.cli import main
from core.tasks.classification import models
from core.tasks.classification.models.weights import load_content, read_weights
from core.weights.metadata import claimed_top1

NAMESPACE = argparse.Namespace(lr=0.1, model="small_cnn", out=pathlib.PosixPath("/runs"), milestones=[1, 2])


def network() -> models.Network:
    torch.manual_seed(3)
    return models.build("small_cnn", num_classes=4, image_size=8, width=2)


def fresh() -> models.Network:
    torch.manual_seed(4)
    return models.build("small_cnn", num_classes=4, image_size=8, width=2)


STATE: dict[str, Tensor] = {key: tensor.clone() for key, tensor in network().state_dict().items()}
OTHER = {key: tensor + 1 for key, tensor in STATE.items()}


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def taken(path: Path, **choices: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights read from a file, and the notes."""
    net = fresh()
    notes = load_content(net, read_weights(path, path.name, 10**9).content, **choices)
    return net.state_dict(), notes


def same(loaded: dict[str, Tensor], wanted: dict[str, Tensor] = STATE) -> bool:
    return all(torch.equal(tensor, wanted[key].to(tensor.dtype)) for key, tensor in loaded.items())


class Meter:
    """An object of an unknown class, as training scripts pickle them with the weights."""

    def __init__(self) -> None:
        self.values, self.inner = [1.0], {"x": NAMESPACE}


SHAPES: dict[str, Any] = {
    "a tensor beside the container": {"model": STATE, "best_acc": torch.tensor(72.5), "optimizer": {"state": {}}},
    "an optimiser with tensors": {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "model": STATE,
    },
    "imagenet example": {"epoch": 9, "state_dict": under("module."), "best_acc1": torch.tensor(71.2)},
    "kuangliu": {"net": under("module."), "acc": 93.0, "epoch": 9},
    "torchvision references": {"model": STATE, "lr_scheduler": {}, "epoch": 3, "args": NAMESPACE},
    "pathlib": {"model": STATE, "out": pathlib.PosixPath("/x"), "pure": pathlib.PurePosixPath("a/b")},
    "numpy": {"model": STATE, "history": np.array([1.0, 2.0]), "best": np.float64(3), "names": np.array(["a"])},
    "numpy objects": {"model": STATE, "mixed": np.array([1, "a", None], dtype=object), "when": np.datetime64("2020")},
    "own class": {"model": STATE, "meter": Meter()},
    "collections": {
        "model": STATE,
        "c": collections.Counter("ab"),
        "d": collections.defaultdict(list, a=[1]),
        "s": {1},
    },
    "types and errors": {"model": STATE, "kind": int, "reason": ValueError("x"), "steps": range(3), "all": ...},
    "random states": {"model": STATE, "torch": torch.get_rng_state(), "numpy": np.random.default_rng(0)},
    "device, dtype, size": {"model": STATE, "d": torch.device("cpu"), "t": torch.float16, "s": torch.Size([1])},
    "pycls": {"epoch": 3, "model_state": STATE},
    "model_state_dict": {"model_state_dict": STATE},
    "network": {"network": under("net.")},
    "params": {"params": STATE},
    "weights": {"weights": STATE},
    "a name of its own": {"my_resnet": STATE, "epoch": 1},
    "deep": {"checkpoint": {"model": {"state_dict": STATE}}},
    "a pair": (STATE, 7),
    "thop": {**STATE, "total_ops": torch.zeros(1), "total_params": torch.zeros(1), "stem.total_ops": torch.zeros(1)},
    "lightning": {
        "state_dict": {**under("model."), "criterion.weight": torch.ones(4), "train_acc.correct": torch.tensor(1)},
        "hyper_parameters": {"args": NAMESPACE},
        "pytorch-lightning_version": "2.0",
    },
    "a distiller": {"model": {**under("module.student."), **under("module.teacher.", OTHER)}},
    "a network pickled whole": network(),
    "a wrapped network pickled whole": {"model": torch.nn.DataParallel(network()), "epoch": 1},
    "parameters": {
        key: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor for key, tensor in STATE.items()
    },
    "compiled blocks": {key.replace(".", "._orig_mod.", 1): tensor for key, tensor in STATE.items()},
}
PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "backbone.",
    "module._orig_mod.",
    "_orig_mod.module.model.",
    "encoder.",
    "x.y.",
)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("shape", SHAPES)
def test_public_checkpoint_shapes_are_read(shape: str, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "in.pth"
    torch.save(SHAPES[shape], path, _use_new_zipfile_serialization=not legacy)
    assert same(taken(path)[0])


@pytest.mark.parametrize("form", ["torch", "pickle", "safetensors"])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_removed_in_every_format_and_file_name(form: str, prefix: str, tmp_path: Path) -> None:
    # Each name says another form than the file has.
    path = tmp_path / {"torch": "in.safetensors", "pickle": "in.pth", "safetensors": "in.pth.tar"}[form]
    state = under(prefix)
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    elif form == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state, protocol=4))
    assert same(taken(path)[0])


def test_numpy_weights_in_a_plain_pickle_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps({"model": {k: t.numpy() for k, t in STATE.items()}}, protocol=protocol))
        assert same(taken(path)[0])


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_other_precisions_are_converted(name: str, form: str, tmp_path: Path) -> None:
    narrow = {k: t.to(getattr(torch, name)) if t.is_floating_point() else t for k, t in STATE.items()}
    path = tmp_path / "in"
    torch.save(narrow, path) if form == "torch" else safetensors.torch.save_file(narrow, path)
    loaded, _ = taken(path)
    assert loaded["classifier.weight"].dtype == torch.float32
    assert same(loaded, {key: tensor.float() for key, tensor in narrow.items()})


class TestChoices:
    def test_moving_average_is_preferred_and_reported(self, tmp_path: Path) -> None:
        averaged = {**under("module.", OTHER), "n_averaged": torch.tensor(7)}
        for name in ("model_ema", "ema", "state_dict_ema"):
            path = tmp_path / "in.pth"
            torch.save({"model": STATE, name: averaged}, path)
            loaded, notes = taken(path)
            assert same(loaded, OTHER)
            assert f"moving average of the weights, as timm does, from {name!r}; model would match too" in notes[0]
            assert same(taken(path, container="model")[0])

    def test_empty_moving_average_is_ignored(self, tmp_path: Path) -> None:
        torch.save({"model": STATE, "ema": None, "model_ema": {"decay": 0.99}}, tmp_path / "in.pth")
        assert same(taken(tmp_path / "in.pth")[0])

    def test_ambiguous_state_dicts_are_refused(self, tmp_path: Path) -> None:
        torch.save({"model_s": STATE, "model_t": OTHER}, tmp_path / "in.pth")
        with pytest.raises(models.WeightsError, match=r"several state dicts match.*model_s, model_t.*--container"):
            taken(tmp_path / "in.pth")
        assert same(taken(tmp_path / "in.pth", container="model_t")[0], OTHER)
        torch.save({**under("model.a."), **under("model.b.", OTHER)}, tmp_path / "in.pth")
        with pytest.raises(models.WeightsError, match="network's keys several times"):
            taken(tmp_path / "in.pth")
        assert same(taken(tmp_path / "in.pth", drop=["model.a.*"])[0], OTHER)

    def test_keys_are_omitted_only_on_request(self, tmp_path: Path) -> None:
        torch.save({**STATE, "aux.weight": torch.ones(2)}, tmp_path / "in.pth")
        with pytest.raises(models.WeightsError, match=r"not in this network: aux.weight.*--drop"):
            taken(tmp_path / "in.pth")
        assert same(taken(tmp_path / "in.pth", drop=["aux.*"])[0])
        with pytest.raises(models.WeightsError, match=r"no key matches the pattern 'oux.\*'"):
            taken(tmp_path / "in.pth", drop=["oux.*"])
        with pytest.raises(models.WeightsError, match="no weights under 'ema'"):
            taken(tmp_path / "in.pth", container="ema")

    def test_convert_has_container_and_drop_and_reads_its_output(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        torch.save({"a": {**STATE, "aux.weight": torch.ones(2)}, "b": OTHER, "best_acc": 71.2}, tmp_path / "in.pth")
        shape = ["--model", "small_cnn", "--params", '{"width": 2}', "--num-classes", "4", "--image-size", "8"]
        out = tmp_path / "out.pth"
        arguments = ["convert", str(tmp_path / "in.pth"), str(out), *shape, "--container", "a", "--drop", "aux.*"]
        assert main(arguments) == 0
        assert "claims an accuracy of 71.20 %" in capsys.readouterr().out
        assert same(taken(out)[0])
        assert main(["convert", str(out), str(out), *shape]) == 0
        assert "claims an accuracy of 71.20 %" in capsys.readouterr().out
        assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


class _Attack:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call[0], self.call[1:]


class _Poison:
    """A tensor whose attributes a pickle tries to set."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_parameter, (torch.ones(1), False, {}), (None, {"__class__": dict})


class TestNoCodeIsRun:
    @pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
    def test_function_calls_are_refused_by_name(self, legacy: bool, tmp_path: Path) -> None:
        mark = tmp_path / "ran"
        calls = (
            _Attack(os.system, f"touch {mark}"),
            _Attack(eval, f"open({str(mark)!r}, 'w')"),
            _Attack(exec, f"open({str(mark)!r}, 'w')"),
            _Attack(open, str(mark), "w"),
            _Attack(getattr, mark, "touch"),
            _Attack(__import__, "os"),
        )
        for call in calls:
            torch.save({"model": STATE, "args": call}, tmp_path / "in.pth", _use_new_zipfile_serialization=not legacy)
            with pytest.raises(models.WeightsError, match=r"it names \w+\.\w+.*only tensors and numbers are read"):
                taken(tmp_path / "in.pth")
            (tmp_path / "raw.pkl").write_bytes(pickle.dumps({"model": STATE, "args": call}, protocol=4))
            with pytest.raises(models.WeightsError, match="it names"):
                taken(tmp_path / "raw.pkl")
        assert not mark.exists()

    def test_object_of_an_importable_class_is_not_created(self, tmp_path: Path) -> None:
        """Its constructor could run any code; in this test it would write a file."""
        mark = tmp_path / "ran"
        for call in (_Attack(zipfile.ZipFile, str(mark), "w"), _Attack(np.save, str(mark), 1)):
            (tmp_path / "in.pkl").write_bytes(pickle.dumps({"model": STATE, "args": call}, protocol=4))
            assert same(taken(tmp_path / "in.pkl")[0])
        assert list(tmp_path.iterdir()) == [tmp_path / "in.pkl"]

    def test_harmless_functions_in_settings_are_placeholders(self, tmp_path: Path) -> None:
        settings = {"key": len, "log": print, "left": iter([1]), "choose": max}
        for legacy in (False, True):
            content = {"state_dict": STATE, "hyper_parameters": settings}
            torch.save(content, tmp_path / "in.ckpt", _use_new_zipfile_serialization=not legacy)
            assert same(taken(tmp_path / "in.ckpt")[0])

    def test_pickle_cannot_change_functions_of_torch(self, tmp_path: Path) -> None:
        # GLOBAL, then BUILD on it with the state (None, {"hacked": 1}).
        for target in (
            b"torch._utils\n_rebuild_tensor_v2\n",
            b"torch.storage\nUntypedStorage\n",
            b"collections\nOrderedDict\n",
        ):
            program = b"\x80\x02c" + target + b"N}X\x06\x00\x00\x00hackedK\x01s\x86b."
            (tmp_path / "in.pkl").write_bytes(program)
            with pytest.raises(models.WeightsError):
                taken(tmp_path / "in.pkl")
        assert not hasattr(torch._utils._rebuild_tensor_v2, "hacked")
        assert not hasattr(torch.UntypedStorage, "hacked")
        torch.save({"model": STATE, "x": _Poison()}, tmp_path / "in.pth")
        with pytest.raises(models.WeightsError):
            taken(tmp_path / "in.pth")

    def test_torchscript_is_refused_by_name(self, tmp_path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            traced = torch.jit.trace(network().eval(), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
            torch.jit.save(traced, str(tmp_path / "in.pth"))
        with pytest.raises(models.WeightsError, match="TorchScript"):
            taken(tmp_path / "in.pth")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"<!DOCTYPE html><html>not found</html>", "an HTML page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
            (b"\x1f\x8b\x08\x00", "gzip"),
            (b"\x89HDF\r\n", "HDF5"),
            (b"", "empty"),
        ],
    )
    def test_files_of_other_formats_are_named(self, content: bytes, words: str, tmp_path: Path) -> None:
        (tmp_path / "in.pth").write_bytes(content)
        with pytest.raises(models.WeightsError, match=words):
            taken(tmp_path / "in.pth")

    def test_archives_without_checkpoint_are_named(self, tmp_path: Path) -> None:
        arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in STATE.items()}
        np.savez(tmp_path / "in.npz", **arrays)
        with pytest.raises(models.WeightsError, match="zip archive without a checkpoint"):
            taken(tmp_path / "in.npz")

    def test_integer_weights_are_refused(self, tmp_path: Path) -> None:
        quantised = {key: tensor.to(torch.int8) for key, tensor in STATE.items()}
        safetensors.torch.save_file(quantised, tmp_path / "in")
        with pytest.raises(models.WeightsError, match="quantised"):
            taken(tmp_path / "in")

    @pytest.mark.parametrize(("value", "word"), [(0.0, "zero"), (0.1, "constant")])
    def test_constant_weights_are_refused(self, value: float, word: str, tmp_path: Path) -> None:
        torch.save({key: torch.full_like(tensor, value) for key, tensor in STATE.items()}, tmp_path / "in.pth")
        with pytest.raises(models.WeightsError, match=f"every layer is {word}"):
            taken(tmp_path / "in.pth")


def test_checkpoint_above_the_size_limit_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "in.pth")
    with pytest.raises(models.WeightsError, match="DKD_MAX_WEIGHTS_GB"):
        read_weights(tmp_path / "in.pth", "in.pth", max_bytes=1000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(models.WeightsError, match="not a regular file"):
        taken(tmp_path / "pipe")


def test_separately_pickled_storages_are_read(tmp_path: Path) -> None:
    out = io.BytesIO()
    pickle.dump(STATE, out, protocol=2)
    (tmp_path / "in.pkl").write_bytes(out.getvalue())
    assert same(taken(tmp_path / "in.pkl")[0])


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("resnet20_acc72.5.pth", 72.5),
        ("epoch=9-val_acc=0.93.ckpt", 93.0),
        ("best_top1_73.12.pth.tar", 73.12),
        ("resnet50_a1_0-14fe96d1.pth", None),
        ("top5_91.pth", None),
        ("ckpt_epoch_240.pth", None),
        ("accum12.pth", None),
    ],
)
def test_accuracy_is_read_from_a_file_name(name: str, claim: float | None) -> None:
    accuracy = claimed_top1({}, name)
    assert accuracy == (None if claim is None else pytest.approx(claim))


@pytest.mark.parametrize(
    ("content", "claim"),
    [
        ({"best_acc": torch.tensor(72.5), "acc": 60}, 72.5),
        ({"best_acc1": 0.712}, 71.2),
        ({"metric": 71.2}, 71.2),
        ({"metric": 0.4}, None),
        ({"accuracy": (71.2, 90.1)}, 71.2),
        ({"epoch": 90, "lr": 0.1, "best_acc": True}, None),
    ],
)
def test_accuracy_is_read_from_a_checkpoint(content: dict[str, Any], claim: float | None) -> None:
    accuracy = claimed_top1(content, "in.pth")
    assert accuracy == (None if claim is None else pytest.approx(claim))
