"""The rooms: which room may import which, and which programs must start without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "core", "backend", "worker", "client", "dashboard", "dkd_lab")

TORCH_FREE = (
    *("core.specs", "core.catalog", "core.events", "core.items", "core.machine", "core.protocol"),
    *("core.explain", "core.tuning"),
)

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "common": (),
    "core": ("common",),
    # `explain` has the loss terms in numpy, for the report on claims about the loss itself; `items` reads the files of
    # finished runs; `tuning` chooses settings from trials.
    "backend": (
        *("common", "core.specs", "core.catalog", "core.papers", "core.events", "core.protocol", "core.explain"),
        *("core.items", "core.tuning"),
    ),
    # A run's spec is opaque to the worker, so that no plugin has to be importable there.
    "worker": ("common", "core.events", "core.protocol", "client"),
    # The catalog is imported for plugins alone: a spec that names a plugin's entry is validated before it is sent.
    "client": ("common", "core.specs", "core.catalog", "core.events", "core.protocol"),
    "dashboard": ("common", "client", "core.explain", "core.protocol"),
    # The public package for scripts: it only passes names on.
    "dkd_lab": ("client", "core.methods"),
}


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions, as ``package.module``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the room"
            module = node.module or ""
            # `from core import spec` names core.specs.
            yield from (f"{module}.{alias.name}" if module in ROOMS else module for alias in node.names)


def within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def files(room: str) -> list[Path]:
    paths = sorted((ROOT / room).rglob("*.py"))
    assert paths, f"the room {room} is empty"
    return paths


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(room)
        for module in imports(path)
        if within(module, ROOMS) and not within(module, (room, *MAY_IMPORT[room]))
    ]
    assert not wrong


@pytest.mark.parametrize("package", ["core/train", "core/distill", "core/specs", "core/weights"])
def test_what_every_task_shares_imports_the_code_of_none(package: str) -> None:
    tasks = ("core.tasks.classification", "core.tasks.detection")
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(package)
        for module in imports(path)
        if within(module, tasks)
    ]
    assert not wrong


MAY_NAME = {"backend/predictions/projections.py": ("sklearn",)}
"""Modules outside of core that import a heavy package, within a function."""


@pytest.mark.parametrize("room", ROOMS)
def test_only_core_names_torch(room: str) -> None:
    heavy = ("torch", "torchvision", "safetensors", "sklearn")
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(room)
        for module in imports(path)
        if within(module, heavy)
        and not within(module, MAY_NAME.get(str(path.relative_to(ROOT)), ()))
        and (room != "core" or within(".".join(path.relative_to(ROOT).with_suffix("").parts), TORCH_FREE))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module", [*TORCH_FREE, "backend.app", "client", "client.cli", "dkd_lab", "worker.app", "worker.supervisor"]
)
def test_programs_start_without_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_dashboard_module_starts_without_torch() -> None:
    # script.py draws a page when it is imported; the browser tests start it.
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in files("dashboard")
        if path.name != "script.py"
    ]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def folder_of(module: str) -> str:
    """Return the folder of a module. A module at the top of its room counts as a folder."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("room", ROOMS)
def test_folders_of_a_room_import_each_other_in_one_direction(room: str) -> None:
    graph: dict[str, set[str]] = {}
    for path in files(room):
        folder = folder_of(module_of(path))
        imported = {folder_of(name) for name in imports(path) if within(name, (room,))}
        graph.setdefault(folder, set()).update(imported - {folder, room})
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the folders of the cycle
