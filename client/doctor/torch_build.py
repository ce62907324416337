"""Checks that torch can be imported, fits torchvision and the GPU driver, and detects the GPUs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from client.doctor.runner import Finding

IMPORT_SECONDS = 100.0
_NVIDIA_SMI_SECONDS = 10.0
# torch 2.11 needs torchvision 0.26, torch 2.12 needs 0.27, and so on.
_TORCHVISION_OFFSET = 15
_LONGEST_ERROR = 300

# Run in a separate process: the import of torch takes seconds, may crash, and must not load torch into the client.
_SCRIPT = """
import json, warnings
facts = {}
try:
    import torch
    facts["torch"] = torch.__version__
    facts["cuda"] = torch.version.cuda
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts["available"] = torch.cuda.is_available()
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    facts["warnings"] = [str(item.message) for item in caught]
    try:
        import torchvision
        facts["torchvision"] = torchvision.__version__
    except Exception as error:
        facts["torchvision_error"] = f"{type(error).__name__}: {error}"
except Exception as error:
    facts["torch_error"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""


def check_torch() -> Iterator[Finding]:
    """Check that torch can be imported, that torchvision fits it, and that torch detects the GPUs."""
    if find_spec("torch") is None:
        # Not an error: a machine that only submits needs no torch. The check "packages" shows how to install it.
        yield Finding(check="torch", status="ok", message="not installed; needed only on machines that train")
        return
    facts = _import_torch()
    yield from findings_of(facts, _driver_gpus() if "torch" in facts else None)


def findings_of(facts: dict[str, Any], driver_gpus: list[str] | None) -> Iterator[Finding]:
    """Return the findings for the output of the child process.

    Args:
        facts: The output: torch, cuda, available, gpus, warnings and torchvision, or an error instead.
        driver_gpus: GPUs that the NVIDIA driver lists; None without a driver.
    """
    if "torch_error" in facts:
        message = f"torch cannot be imported: {_one_line(facts['torch_error'])}"
        action = "install it again: pip install --force-reinstall 'dkd-lab[train]'"
        yield Finding(check="torch", status="error", message=message, action=action)
        return
    yield _pair_finding(facts)
    yield _gpu_finding(facts, driver_gpus)


def _pair_finding(facts: dict[str, Any]) -> Finding:
    torch = facts["torch"]
    if "torchvision_error" in facts:
        message = f"torch {torch} works, but torchvision cannot be imported: {_one_line(facts['torchvision_error'])}"
    elif (needed := _torchvision_for(torch)) and not facts["torchvision"].startswith(f"{needed}."):
        message = f"torch {torch} and torchvision {facts['torchvision']} do not fit: torch needs {needed}"
    else:
        return Finding(check="torch", status="ok", message=f"torch {torch}, torchvision {facts['torchvision']}")
    action = "install the pair that requirements.lock pins: pip install --force-reinstall 'dkd-lab[train]'"
    return Finding(check="torch", status="error", message=message, action=action)


def _gpu_finding(facts: dict[str, Any], driver_gpus: list[str] | None) -> Finding:
    build = f"a build for CUDA {facts['cuda']}" if facts["cuda"] else "a build without CUDA"
    if facts["gpus"] and facts["available"]:
        if driver_gpus and len(driver_gpus) > len(facts["gpus"]):
            message = f"torch detects {len(facts['gpus'])} of {len(driver_gpus)} GPUs"
            return Finding(
                check="gpus", status="warning", message=message, action="CUDA_VISIBLE_DEVICES hides GPUs: unset it"
            )
        return Finding(check="gpus", status="ok", message=f"{', '.join(facts['gpus'])} ({build})")
    if not driver_gpus:
        return Finding(check="gpus", status="ok", message=f"no GPU; trainings use the CPU ({build})")
    gpus = ", ".join(driver_gpus)
    if not facts["cuda"]:
        action = "install a CUDA build of torch, such as PyPI's build for Linux"
        return Finding(check="gpus", status="error", message=f"{gpus} cannot be used: torch is {build}", action=action)
    reason = f": {_one_line(facts['warnings'][0])}" if facts["warnings"] else ""
    message = f"{gpus} cannot be used by torch, {build}{reason}"
    action = "update the NVIDIA driver, or install a torch that is built for its CUDA version (`nvidia-smi` shows it)"
    return Finding(check="gpus", status="error", message=message, action=action)


def _torchvision_for(torch: str) -> str:
    """Return the torchvision release for a torch release, such as "0.29" for "2.14.0"; empty if unknown."""
    match = re.match(r"2\.(\d+)", torch)
    return f"0.{int(match[1]) + _TORCHVISION_OFFSET}" if match else ""


def _import_torch() -> dict[str, Any]:
    try:
        # -P: a folder named torch in the current folder must not be imported in its place.
        process = subprocess.run(
            [sys.executable, "-P", "-c", _SCRIPT],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=IMPORT_SECONDS - 5.0,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"torch_error": "the import takes longer than a minute and a half"}
    try:
        facts: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"torch_error": f"its process ended with code {process.returncode}"}
    return facts


def _driver_gpus() -> list[str] | None:
    """Return the GPUs that the NVIDIA driver lists; None without a driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        process = subprocess.run(
            [program, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=_NVIDIA_SMI_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return [line.strip() for line in process.stdout.splitlines() if line.strip()] if process.returncode == 0 else None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_LONGEST_ERROR]
