"""Whatever installs a package from an index checks its hash against the lock."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_INSTALL = re.compile(r"\bpip3? (?:install|download)\b")
_LOCAL = re.compile(r"(?:-e )?\.|/wheel/\*\.whl")
"""This package itself, which is built from the checkout."""


def commands(path: Path) -> list[str]:
    """Return the shell commands of a Dockerfile, a Makefile or a script that install packages."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    parts = re.split(r"\n|&&|\|\||;(?! *then)", text)
    return [" ".join(part.split()) for part in parts if _INSTALL.search(part)]


@pytest.mark.parametrize("name", ["Makefile", "docker/Dockerfile", ".ci/run", ".github/workflows/checks.yml"])
def test_every_install_command_requires_hashes(name: str) -> None:
    found = commands(ROOT / name)
    assert found or name in (".ci/run", ".github/workflows/checks.yml")
    for command in found:
        local = "--no-deps" in command and _LOCAL.fullmatch(command.split()[-1])
        # "$@" is --require-hashes unless TORCH_BACKEND selects a build of torch that the lock does not have.
        assert "--require-hashes" in command or local or '"$@" -r /lists/worker' in command, command
    if name == "docker/Dockerfile":
        assert (
            'if [ -n "$TORCH_BACKEND" ]; then set -- --torch-backend "$TORCH_BACKEND"; else set -- --require-hashes'
            in (ROOT / name).read_text(encoding="utf-8")
        )


def test_every_locked_package_has_a_hash() -> None:
    blocks = re.split(r"\n(?=[^ \n])", (ROOT / "requirements.lock").read_text(encoding="utf-8").strip())
    assert len(blocks) > 100
    for block in blocks:
        assert re.match(r"[a-z0-9-]+==\S+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]


@pytest.mark.parametrize("group", ["setuptools", "uv"])
def test_the_installing_tools_are_locked(group: str) -> None:
    assert re.search(rf"^{group}==", (ROOT / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)


def wheel(folder: Path) -> Path:
    """Write a wheel without content."""
    path = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny.py", "")
        archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny-1.0.dist-info/RECORD", "")
    return path


@pytest.mark.parametrize("installer", ["uv", "pip"])
@pytest.mark.parametrize("right", [True, False])
def test_a_wrong_hash_fails_the_installation(tmp_path: Path, installer: str, right: bool) -> None:
    digest = hashlib.sha256(wheel(tmp_path).read_bytes()).hexdigest()
    lock = tmp_path / "lock"
    lock.write_text(f"tiny==1.0 --hash=sha256:{digest if right else 64 * '0'}\n")
    program = [str(Path(sys.executable).with_name("uv")), "pip"] if installer == "uv" else [sys.executable, "-m", "pip"]
    command = [*program, "install", "--require-hashes", "--no-index", "--find-links", str(tmp_path), "-r", str(lock)]
    command += ["--target", str(tmp_path / "target")]
    command += ["--python", sys.executable, "--no-cache"] if installer == "uv" else ["--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is right, done.stderr
    assert (tmp_path / "target" / "tiny.py").exists() is right
    if not right:
        assert "hash" in done.stderr.lower()
