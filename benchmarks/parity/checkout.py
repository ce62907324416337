"""Checkouts of public repositories, whose code is run and measured and is no part of this package."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch

REPOSITORIES: Mapping[str, str] = {
    "mdistiller": "megvii-research/mdistiller",
    "repdistiller": "HobbitLong/RepDistiller",
    "gdkd": "ZaberKo/GDKD",
    "reviewkd": "dvlab-research/ReviewKD",
    "lskd": "sunshangquan/logit-standardization-KD",
    "mlkd": "Jin-Ying/Multi-Level-Logit-Distillation",
    "dist": "hunto/DIST_KD",
    "cls_kd": "yzd-v/cls_KD",
    "rld": "zju-SWJ/RLD",
    "ldrld": "yema-web/LDRLD",
    "pcd": "lijiayan401/PCD",
    "ctkd": "zhengli97/CTKD",
    "abkd": "ghwang-s/abkd",
    "skd": "HyunJunSik/StreamLined",
    "torchdistill": "yoshitomo-matsubara/torchdistill",
    "semckd": "DefangChen/SemCKD",
    "simkd": "DefangChen/SimKD",
    "srrl": "jingyang2017/KD_SRRL",
    "cat_kd": "GzyAftermath/CAT-KD",
    "sdd": "shicaiwei123/SDD-CVPR2024",
    "wkd": "JiamingLv/WKD",
    "deepkd": "haiduo/DeepKD",
    "ofd": "clovaai/overhaul-distillation",
    "at": "szagoruyko/attention-transfer",
}
"""By the name of its option, a repository on GitHub."""


class Checkout:
    """A checkout of a public repository.

    Args:
        folder: Its root.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._modules: dict[str, Any] = {}

    def commit(self) -> str:
        """Return the commit that is checked out, abbreviated; "" if it is not known."""
        command = ["git", "-C", str(self.folder), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() if not done.returncode else ""

    def module(self, name: str, root: str = "", absent: Mapping[str, Mapping[str, object]] | None = None) -> Any:
        """Return one of its modules, without running the ``__init__`` of the packages around it.

        Repositories have packages of the same name. So a module is not in ``sys.modules`` afterwards, and neither is
        what it imported from the repository.

        Args:
            name: Its dotted name.
            root: The folder within the checkout that imports start from.
            absent: Modules that it imports and that need not be installed, by name, each with what stands for its
                contents.

        Raises:
            SystemExit: The checkout has no such file.
        """
        if name in self._modules:
            return self._modules[name]
        start = self.folder / root
        if not (start / name.replace(".", "/")).with_suffix(".py").is_file():
            sys.exit(f"{self.folder} is not the checkout that was expected: it has no file {root}/{name}".strip("/"))
        parents = name.split(".")[:-1]
        packages = [".".join(parents[: depth + 1]) for depth in range(len(parents))]
        stubs = {stub: SimpleNamespace(**contents) for stub, contents in (absent or {}).items()}
        bare: dict[str, Any] = {package: ModuleType(package) for package in packages}
        for package, module in bare.items():
            module.__path__ = [str(start / package.replace(".", "/"))]
        with _imports_from(start, {**bare, **stubs}):
            self._modules[name] = importlib.import_module(name)
        return self._modules[name]


@contextmanager
def _imports_from(start: Path, modules: Mapping[str, Any]) -> Iterator[None]:
    """A block in which imports find some modules, and else start from a folder; afterwards they are as before."""
    before = dict(sys.modules)
    with mock.patch.object(sys, "path", [str(start), *sys.path]):
        sys.modules.update(modules)
        try:
            yield
        finally:
            for name, module in list(sys.modules.items()):
                inside = str(getattr(module, "__file__", None) or "").startswith(str(start))
                if inside or name in modules:
                    del sys.modules[name]
            sys.modules.update({name: module for name, module in before.items() if name not in sys.modules})


@contextmanager
def running_public_code() -> Iterator[None]:
    """A block in which code that was written for a GPU runs on the CPU in float64, and prints nothing."""

    def stay(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        return self

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with (
            mock.patch.object(torch.Tensor, "cuda", stay),
            mock.patch.object(torch.nn.Module, "cuda", stay),
            mock.patch.object(torch.nn.Module, "to", stay),
            redirect_stdout(io.StringIO()),
        ):
            yield
    finally:
        torch.set_default_dtype(before)
