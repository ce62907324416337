"""Networks of runs for use elsewhere: exported files against PyTorch, and costs against closed forms."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.cli import main
from core.deploy import checks, formats
from core.deploy.measure import count_flops, measure, peak_bytes
from core.deploy.network import DeployError, RunNetwork, read_run_network
from core.settings import TrainingSettings
from core.specs import RunSpec, parse_experiment
from core.tasks.classification import data, models
from core.tasks.classification.diagnostics.inference import predict_logits
from core.tasks.classification.weights_metadata import training_metadata
from core.weights.metadata import InputFormat, Metadata
from core.weights.network_weights import save_weights

SETTINGS = TrainingSettings()


def _spec(**changes: Any) -> RunSpec:
    fields: dict[str, Any] = {
        "name": "deployed",
        "dataset": "digits",
        "student": {"model": {"name": "small_cnn", "params": {"width": 8}}},
        "methods": ["ce"],
        "seeds": [0],
        "training": {"epochs": 1},
    }
    return parse_experiment(fields | changes).plan()[0].spec


def _random_network(spec: RunSpec, **shape: Any) -> models.Network:
    torch.manual_seed(3)
    network = models.build(spec.model.name, **shape, **spec.model.params)
    for module in network.modules():  # so that exported statistics are not those of an untrained network
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the spec and the weights of a run on digits, with random weights."""
    folder = tmp_path_factory.mktemp("run")
    spec = _spec()
    dataset = data.load(spec.dataset, SETTINGS)
    network = _random_network(spec, num_classes=10, image_size=8, in_channels=1)
    path, weights = folder / "run.json", folder / "weights.safetensors"
    path.write_text(spec.model_dump_json())
    save_weights(network, weights, training_metadata(spec, dataset, 10.0))
    return path, weights


@pytest.fixture
def run(files: tuple[Path, Path]) -> RunNetwork:
    return read_run_network(_spec(), files[1])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _require(format: str) -> None:
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")


@pytest.mark.parametrize("format", formats.FORMATS)
def test_an_exported_file_computes_what_pytorch_computes(
    run: RunNetwork, tmp_path: Path, format: formats.Format
) -> None:
    _require(format)
    path = tmp_path / f"network{formats.SUFFIXES[format]}"
    formats.write(run, format, path)
    runner = formats.open_runner(run, format, path)
    difference = checks.compare(run, runner)
    assert difference.passed, difference
    dataset = data.load(run.spec.dataset, SETTINGS)
    expected = predict_logits(run.network, dataset, dataset.test)
    images = dataset.test.images[:50].float() / 255
    torch.testing.assert_close(runner(images), expected[:50], rtol=1e-4, atol=1e-4)
    measured = checks.measure_accuracy(run, {"pytorch": run.deployed(), format: runner}, SETTINGS)
    assert isinstance(measured, checks.Accuracy)
    top1 = 100 * float((expected.argmax(1) == dataset.test.labels).double().mean())
    assert measured.top1["pytorch"] == pytest.approx(top1)
    assert measured.agreement[format] == 100.0


@pytest.mark.parametrize("wrong", ["moved", "narrow", "nan"])
def test_the_check_finds_wrong_logits(run: RunNetwork, wrong: str) -> None:
    network = run.deployed()

    def runner(images: Tensor) -> Tensor:
        logits: Tensor = network(images)
        return {"moved": logits * 1.01, "narrow": logits[:, :9], "nan": logits + float("nan")}[wrong]

    assert not checks.compare(run, runner).passed


def test_onnx_and_int8_files_say_what_they_are(run: RunNetwork, tmp_path: Path) -> None:
    _require("onnx")
    onnx = pytest.importorskip("onnx")
    path, small = tmp_path / "network.onnx", tmp_path / "int8.onnx"
    formats.write(run, "onnx", path)
    formats.quantise(path, small)
    exported = onnx.load(str(path))
    texts = {item.key: item.value for item in exported.metadata_props}
    assert json.loads(texts["dkd_classes"]) == list(run.metadata.classes)
    assert (texts["dkd_model"], texts["dkd_fingerprint"]) == ("small_cnn", run.spec.fingerprint())
    operators = {node.op_type for node in onnx.load(str(small)).graph.node}
    assert {"ConvInteger", "MatMulInteger"} <= operators
    logits = formats.open_runner(run, "onnx", small)(run.images(7))
    expected = run.deployed()(run.images(7)).detach()
    assert 0 < float((logits - expected).abs().max()) < float(expected.abs().max())


def test_torchscript_files_say_what_they_are(run: RunNetwork, tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    formats.write(run, "torchscript", path)
    extra = {"dkd.json": ""}
    with pytest.warns(FutureWarning, match="torch.jit.load"):
        torch.jit.load(str(path), _extra_files=extra)  # type: ignore[no-untyped-call]
    assert json.loads(extra["dkd.json"])["dkd_seed"] == "0"


def test_the_command_exports_and_reports(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _require("onnx")
    spec, weights = map(str, files)
    out, small = tmp_path / "network.onnx", tmp_path / "int8.onnx"
    assert main(["export-model", spec, weights, "--out", str(out), "--int8", str(small)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["check"]["passed"]
    assert report["bytes"] == out.stat().st_size
    assert report["int8"]["bytes"] == small.stat().st_size
    assert set(report["accuracy"]["top1"]) == {"pytorch", "onnx", "int8"}
    wrong = ["export-model", spec, weights, "--format", "torchscript", "--out", str(out), "--int8", str(small)]
    assert main(wrong) == 2
    assert main(["export-model", spec, str(tmp_path / "none"), "--out", str(out)]) == 2
    assert main(["export-model", weights + ".json", weights, "--out", str(out)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_file_that_differs_fails(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(formats, "open_runner", lambda run, *_: lambda images: run.deployed()(images) + 1)
    out = str(tmp_path / "network.safetensors")
    arguments = ["export-model", *map(str, files), "--format", "safetensors", "--out", out, "--no-accuracy"]
    assert main(arguments) == 1
    assert "differs from PyTorch" in capsys.readouterr().err


def test_accuracy_needs_the_test_images(tmp_path: Path) -> None:
    spec = _spec(dataset="cifar100", student={"model": "resnet8"})
    weights = tmp_path / "weights.safetensors"
    expected = InputFormat((0.5, 0.5, 0.5), (0.2, 0.2, 0.2), 32)
    network = _random_network(spec, num_classes=100, image_size=32, in_channels=3)
    save_weights(network, weights, Metadata(input=expected))  # its classes are counted by the catalog
    run = read_run_network(spec, weights)
    assert run.num_classes == 100
    reason = checks.measure_accuracy(run, {"pytorch": run.deployed()}, _without_data(tmp_path))
    assert isinstance(reason, str)
    assert "cifar" in reason.lower()


def _without_data(folder: Path) -> TrainingSettings:
    return SETTINGS.model_copy(update={"data_dir": folder / "nothing"})


def test_weights_must_say_which_images_they_expect(run: RunNetwork, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    save_weights(run.network, weights, replace(run.metadata, input=None))
    with pytest.raises(DeployError, match="which images they expect"):
        read_run_network(run.spec, weights)


def _resnet_flops(blocks: int, classes: int) -> int:
    """Return the operations of a CIFAR ResNet with 3n blocks: 2·k²·in·out·H·W of each convolution (He et al. 2016)."""
    total = 9 * 3 * 16 * 32**2
    width, size = 16, 32
    for stage in range(3):
        channels, size = 16 * 2**stage, 32 // 2**stage
        total += 9 * width * channels * size**2 + 9 * channels**2 * size**2 * (2 * blocks - 1)
        total += width * channels * size**2 if stage else 0  # 1 × 1 convolution of the shortcut
        width = channels
    return 2 * (total + width * classes)


@pytest.mark.parametrize(("name", "blocks"), [("resnet8", 1), ("resnet20", 3), ("resnet56", 9)])
def test_operations_of_resnets_have_their_closed_form(name: str, blocks: int) -> None:
    network = models.build(name, num_classes=100, image_size=32).eval()
    for count in (1, 3):
        assert count_flops(network, torch.zeros(count, 3, 32, 32)) == _resnet_flops(blocks, 100)


def test_operations_of_grouped_convolutions_are_counted_per_group() -> None:
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 16, 1), nn.Flatten(), nn.Linear(400, 7)
    )
    expected = 2 * (9 * 8 * 25 + 8 * 16 * 25 + 400 * 7)
    assert count_flops(layers, torch.zeros(2, 8, 5, 5)) == expected


def test_peak_memory_counts_tensors_that_live_at_the_same_time() -> None:
    layers = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 5))
    with torch.no_grad():
        images = torch.zeros(4, 10)
        # The input, the output of the first layer, and that of ReLU.
        assert peak_bytes(layers, images) == 4 * 4 * (10 + 20 + 20)
        in_place = nn.Sequential(nn.Linear(10, 20), nn.ReLU(inplace=True), nn.Linear(20, 5))
        assert peak_bytes(in_place, images) == 4 * 4 * (10 + 20 + 5)


def test_networks_are_measured_in_turn(run: RunNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = RunNetwork(
        _spec(student={"model": {"name": "small_cnn", "params": {"width": 32}}}),
        run.weights,
        models.build("small_cnn", num_classes=10, image_size=8, in_channels=1, width=32).eval(),
        run.metadata,
        run.expected,
        10,
    )
    order: list[int] = []

    def seconds(module: nn.Module, images: Tensor) -> float:
        order.append(sum(parameter.numel() for parameter in module.parameters()))
        return float(len(order))

    monkeypatch.setattr("core.deploy.measure._seconds", seconds)
    small, large = measure([run, wide], device=torch.device("cpu"), batches=(1, 2), rounds=4)
    assert order[:8] == [small.parameters] * 2 + [large.parameters] * 2 + order[:4]
    assert small.parameters == models.count_parameters(run.network)
    assert small.weight_bytes == sum(tensor.nbytes for tensor in run.deployed().state_dict().values())
    assert large.flops > small.flops
    # Two rounds of warm-up are not counted; the third round begins with measurement 9.
    assert [small.latency[1].rounds, small.latency[1].median] == [4, 15.0]
    assert small.latency[1].low < small.latency[1].median < small.latency[1].high


def test_the_command_measures_and_reports(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pair = list(map(str, files))
    assert main(["measure", *pair, "--and", *pair, "--rounds", "2", "--threads", "1"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["threads"], report["device"]) == (1, "cpu")
    first, second = report["networks"]
    assert first["flops"] == second["flops"] > 0
    assert set(first["latency"]) == set(first["peak_bytes"]) == {"1", "64"}
    assert first["peak_bytes"]["64"] == 64 * first["peak_bytes"]["1"]
    if not torch.cuda.is_available():
        assert main(["measure", *pair, "--device", "cuda"]) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_networks_are_measured_on_a_gpu(run: RunNetwork) -> None:
    (cost,) = measure([run], device=torch.device("cuda"), rounds=3)
    (on_cpu,) = measure([run], device=torch.device("cpu"), rounds=3)
    assert (cost.flops, cost.parameters) == (on_cpu.flops, on_cpu.parameters)
    assert cost.peak_bytes[64] > 0
