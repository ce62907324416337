"""Python's version, and the packages of each extra."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from client.doctor.runner import Finding

MIN_PYTHON = (3, 11)

# Modules that the programs of each extra import; if all can be found, the extra counts as installed.
EXTRAS = {
    "train": (("celery", "pyarrow", "safetensors", "sklearn", "torch", "torchvision"), "train or run a worker"),
    "serve": (("alembic", "celery", "fastapi", "pyarrow", "sqlalchemy", "uvicorn"), "run the backend (`dkd up`)"),
    "dashboard": (("plotly", "streamlit"), "run the dashboard (`dkd up`)"),
}


def check_python(python: tuple[int, int, int] | None = None) -> Iterator[Finding]:
    """Check Python's version and name the installed version of DKD Lab.

    Args:
        python: The version; by default this process's version.
    """
    python = python or sys.version_info[:3]
    text = f"Python {'.'.join(map(str, python))}, DKD Lab {_own_version()}, {sys.prefix}"
    if python[:2] < MIN_PYTHON:
        needed = ".".join(map(str, MIN_PYTHON))
        yield Finding(check="python", status="error", message=text, action=f"install Python {needed} or newer")
    else:
        yield Finding(check="python", status="ok", message=text)


def check_packages() -> Iterator[Finding]:
    """Check that the packages of each extra are installed."""
    complete = []
    for extra, (modules, purpose) in EXTRAS.items():
        missing = [module for module in modules if not _is_installed(module)]
        if missing:
            message = f"the extra {extra} is incomplete: {', '.join(missing)} not installed"
            action = f"to {purpose} on this machine: pip install 'dkd-lab[{extra}]'"
            yield Finding(check="packages", status="warning", message=message, action=action)
        else:
            complete.append(extra)
    if complete:
        message = f"{'extra' if len(complete) == 1 else 'extras'} {', '.join(complete)} installed"
        yield Finding(check="packages", status="ok", message=message)


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _own_version() -> str:
    try:
        return version("dkd-lab")
    except PackageNotFoundError:
        return "not installed as a package (a checkout)"
