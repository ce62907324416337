"""The code and the packages that a training records."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from core import provenance


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work tree with a committed ``core``, in the place of the real one."""
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "loss.py").write_text("a = 1\n")
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    monkeypatch.setattr(provenance, "_CODE", tmp_path)
    return tmp_path


def test_clean_tree_is_recorded_by_its_commit(tree: Path) -> None:
    record = provenance.provenance()
    assert record["commit"] == _git(tree, "rev-parse", "HEAD")
    assert "diff" not in record
    assert f"pydantic=={version('pydantic')}" in record["packages"].splitlines()


def test_only_uncommitted_changes_of_core_are_recorded(tree: Path) -> None:
    (tree / "notes.md").write_text("x")
    (tree / "core" / "loss.py").write_text("a = 2\n")
    record = provenance.provenance()
    assert record["commit"].endswith("+changes")
    assert "-a = 1" in record["diff"]
    assert "+a = 2" in record["diff"]
    (tree / "core" / "loss.py").write_text("b = 1\n" * provenance.MAX_DIFF)
    assert len(provenance.provenance()["diff"]) < provenance.MAX_DIFF + 100


def test_installed_package_without_git_records_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_CODE", tmp_path)
    assert provenance.provenance().keys() == {"packages"}


def test_missing_git_leaves_only_the_packages(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.provenance().keys() == {"packages"}
