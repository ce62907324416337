"""The public package: its exported names, and when torch is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

import client
import dkd_lab

LOSSES = ("alignment", "ce", "dist", "dkd", "dkd_align", "dkd_divergence", "kd", "nckd", "nkd", "rld", "tckd")


def test_exported_names_are_pinned() -> None:
    """Scripts import these names: one may be added in any release, and removed only in a major one."""
    assert sorted(dkd_lab.__all__) == [
        "ApiError",
        "BackendSilent",
        "BackendUnreachable",
        "Client",
        "ClientSettingsError",
        "Experiment",
        "InsecureConnection",
        "Metrics",
        "NotABackend",
        "Run",
        "ServerEvent",
        "SpecError",
        *LOSSES,
    ]
    assert dir(dkd_lab) == sorted(dkd_lab.__all__)


def test_client_is_the_client_packages_own() -> None:
    assert dkd_lab.Client is client.Client


def test_client_is_imported_without_torch() -> None:
    code = "import sys; from dkd_lab import Client; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_core_methods(name: str) -> None:
    methods = pytest.importorskip("core.methods")
    assert getattr(dkd_lab, name) is getattr(methods, name)


def test_a_loss_is_computed_through_the_public_package() -> None:
    torch = pytest.importorskip("torch")
    from dkd_lab import dkd

    student = torch.zeros(4, 5, requires_grad=True)
    loss = dkd(student, torch.eye(5)[:4] * 3, torch.arange(4))
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().sum() > 0


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'dkd_aligned'"):
        dkd_lab.dkd_aligned  # noqa: B018 (the access is what is tested)
