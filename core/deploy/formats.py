"""Networks written in other formats, and read back by the programs that run them."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from core.deploy.network import DeployError, RunNetwork, read_run_network

if TYPE_CHECKING:
    import onnxruntime

Format = Literal["onnx", "torchscript", "safetensors"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}

Runner = Callable[[Tensor], Tensor]
"""Maps images (N, channels, H, W) in 0–1 to logits (N, C), by the program that runs the format."""

_EXAMPLES = 2  # a batch of 1 would be written as a constant
_MISSING = "{name} is not installed; pip install 'dkd-lab[deploy]'"


def write(run: RunNetwork, format: Format, path: Path) -> None:
    """Write a run's network.

    ONNX and TorchScript contain the normalisation, and take images in 0–1 in batches of any size. Safetensors are the
    run's weights as they are, whose metadata describe the normalisation.

    Args:
        run: The network.
        format: The format.
        path: The file.

    Raises:
        DeployError: The network cannot be written in this format, or a package is not installed.
        OSError: The file cannot be written.
    """
    match format:
        case "onnx":
            _write_onnx(run, path)
        case "torchscript":
            _write_torchscript(run, path)
        case "safetensors":
            shutil.copyfile(run.weights, path)


def open_runner(run: RunNetwork, format: Format, path: Path) -> Runner:
    """Return the function that a written file computes, run by onnxruntime, by TorchScript or by this package.

    Raises:
        DeployError: The file cannot be read, or a package is not installed.
    """
    match format:
        case "onnx":
            return _onnx_runner(path)
        case "torchscript":
            return _torchscript_runner(path)
        case "safetensors":
            return _no_gradients(read_run_network(run.spec, path).deployed())


def description(run: RunNetwork) -> dict[str, str]:
    """Return the metadata of an exported file, as texts by name."""
    texts = {f"dkd_{name}": text for name, text in _facts(run).items()}
    return texts | run.metadata.texts()


def _facts(run: RunNetwork) -> dict[str, str]:
    return {
        "model": run.spec.model.name,
        "method": run.spec.method.name,
        "seed": str(run.spec.seed),
        "fingerprint": run.spec.fingerprint(),
        "images": "float32, channels first, scaled to 0-1",
    }


def _write_onnx(run: RunNetwork, path: Path) -> None:
    _require("onnxscript")
    example = run.images(_EXAMPLES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        program = torch.onnx.export(
            run.deployed(),
            (example,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise DeployError(f"{run.spec.model.name} cannot be written as ONNX")
    program.model.metadata_props.update(description(run))
    program.save(str(path), external_data=False)


def _write_torchscript(run: RunNetwork, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated; programs in C++ read it
        module = torch.jit.trace(  # type: ignore[no-untyped-call]
            run.deployed(), (run.images(_EXAMPLES),), check_trace=False
        )
        module.save(str(path), _extra_files={"dkd.json": json.dumps(description(run))})


def _torchscript_runner(path: Path) -> Runner:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-untyped-call]
    return _no_gradients(module)


def _onnx_runner(path: Path) -> Runner:
    session = onnx_session(path)

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        return torch.from_numpy(logits)

    return run


def onnx_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file with onnxruntime on the CPU.

    Args:
        path: The file.
        threads: Number of threads; 0 for onnxruntime's choice.

    Raises:
        DeployError: Onnxruntime is not installed, or refuses the file.
    """
    _require("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        raise DeployError(f"onnxruntime cannot read {path.name}: {error}") from error


def quantise(source: Path, path: Path) -> None:
    """Write an ONNX file with weights of 8 bits; activations are quantised while it runs (dynamic quantisation).

    Args:
        source: The ONNX file in float32.
        path: The new file.

    Raises:
        DeployError: Onnxruntime is not installed.
    """
    _require("onnxruntime")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it recommends a pass that only static quantisation needs
    try:
        # Onnxruntime has no integer convolution for signed weights on the CPU.
        quantize_dynamic(str(source), str(path), weight_type=QuantType.QUInt8)
    finally:
        logging.disable(logging.NOTSET)


def _no_gradients(module: Callable[[Tensor], Any]) -> Runner:
    def run(images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(images)
        return logits

    return run


def _require(name: str) -> None:
    if find_spec(name) is None:
        raise DeployError(_MISSING.format(name=name))
