"""Python, the packages of the extras, and torch with its GPUs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from client.doctor import packages, torch_build
from client.doctor.torch_build import findings_of

FACTS: dict[str, Any] = {
    "torch": "2.14.0+cu130",
    "cuda": "13.0",
    "available": False,
    "gpus": [],
    "warnings": [],
    "torchvision": "0.29.2",
}


def test_this_python_is_new_enough() -> None:
    (item,) = packages.check_python()
    assert item.status == "ok"
    assert sys.prefix in item.message


def test_an_old_python_is_an_error() -> None:
    (item,) = packages.check_python((3, 10, 4))
    assert (item.status, item.action) == ("error", "install Python 3.11 or newer")


def test_missing_packages_are_named_with_the_extra_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages, "_is_installed", lambda module: module not in ("uvicorn", "alembic"))
    broken, complete = packages.check_packages()
    assert broken.status == "warning"
    assert "serve is incomplete: alembic, uvicorn not installed" in broken.message
    assert "pip install 'dkd-lab[serve]'" in broken.action
    assert (complete.status, complete.message) == ("ok", "extras train, dashboard installed")


def test_torch_is_not_needed_where_nothing_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "find_spec", lambda name: None)
    (item,) = torch_build.check_torch()
    assert item.status == "ok"


@pytest.mark.slow
def test_torch_is_imported_in_a_process_of_its_own() -> None:
    pytest.importorskip("torch")
    pair, gpus = torch_build.check_torch()
    assert pair.status == "ok", pair
    assert gpus.status == "ok", gpus


def test_a_torch_that_cannot_be_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_build, "_SCRIPT", "print('not json')")
    (item,) = torch_build.check_torch()
    assert item.status == "error"
    assert "its process ended with code 0" in item.message
    monkeypatch.setattr(torch_build, "_SCRIPT", 'print(\'{"torch_error": "ImportError: libcudart.so"}\')')
    (item,) = torch_build.check_torch()
    assert "libcudart.so" in item.message


def test_a_torch_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(*_: object, **options: Any) -> None:
        raise subprocess.TimeoutExpired("python", options["timeout"])

    monkeypatch.setattr("client.doctor.torch_build.subprocess.run", hangs)
    (item,) = torch_build.check_torch()
    assert item.status == "error"
    assert "takes longer" in item.message


def test_the_pair_of_torch_and_torchvision() -> None:
    assert next(findings_of(FACTS, None)).status == "ok"
    assert next(findings_of({**FACTS, "torch": "2.11.0", "torchvision": "0.26.1"}, None)).status == "ok"
    wrong = next(findings_of({**FACTS, "torchvision": "0.26.0"}, None))
    assert wrong.status == "error"
    assert "do not fit: torch needs 0.29" in wrong.message
    broken = {name: value for name, value in FACTS.items() if name != "torchvision"}
    item = next(findings_of({**broken, "torchvision_error": "RuntimeError: operator\nnms does not exist"}, None))
    assert item.status == "error"
    assert "operator nms does not exist" in item.message


@pytest.mark.parametrize(
    ("changes", "driver", "status", "text"),
    [
        ({}, None, "ok", "no GPU; trainings use the CPU"),
        ({"gpus": ["H200"], "available": True}, ["H200"], "ok", "H200 (a build for CUDA 13.0)"),
        ({"gpus": ["H200"], "available": True}, ["H200", "H200"], "warning", "torch detects 1 of 2 GPUs"),
        ({"cuda": None}, ["H200"], "error", "torch is a build without CUDA"),
        ({"warnings": ["The NVIDIA driver is too old"]}, ["H200"], "error", "The NVIDIA driver is too old"),
    ],
)
def test_gpus_of_torch_and_of_the_driver(
    changes: dict[str, Any], driver: list[str] | None, status: str, text: str
) -> None:
    _, item = findings_of(FACTS | changes, driver)
    assert item.status == status
    assert text in item.message
    assert bool(item.action) is (status != "ok")
