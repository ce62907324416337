"""The rooms: who may import whom, and what must start without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "backend", "worker", "client", "dashboard")

TORCH_FREE = ("core.spec", "core.catalog", "core.events", "core.wire", "core.explain")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "core": (),
    # The loss terms in numpy, for what the report on the claims says of the loss itself.
    "backend": ("core.spec", "core.catalog", "core.events", "core.wire", "core.explain"),
    "worker": ("core.spec", "core.events", "core.wire", "client"),
    # The catalog for plugins only: a spec that names an entry from outside is validated before it is sent.
    "client": ("core.spec", "core.catalog", "core.events", "core.wire"),
    "dashboard": ("client", "core.explain", "core.wire"),
}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, inside functions too, as ``package.module``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; name the room"
            module = node.module or ""
            # `from core import spec` names core.spec.
            yield from (f"{module}.{alias.name}" if module in ROOMS else module for alias in node.names)


def within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, f"the room {room} is empty"
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(room)
        for module in imports(path)
        if within(module, ROOMS) and not within(module, (room, *MAY_IMPORT[room]))
    ]
    assert not wrong


@pytest.mark.parametrize("room", ROOMS)
def test_only_core_names_torch(room: str) -> None:
    heavy = ("torch", "torchvision", "safetensors", "sklearn")
    wrong = [
        f"{path.relative_to(ROOT)}: {module}"
        for path in files(room)
        for module in imports(path)
        if within(module, heavy)
        and (room != "core" or within(".".join(path.relative_to(ROOT).with_suffix("").parts), TORCH_FREE))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "module", [*TORCH_FREE, "backend.app", "client", "client.cli", "worker.app", "worker.supervisor"]
)
def test_it_starts_without_torch(module: str) -> None:
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
