"""The command works with a closed output, any encoding of the terminal and any switches of Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.events import JOURNAL_NAME, Finished, Log, Record, read_journal

SPEC = """
name: "猫"
dataset: digits
student: {model: small_cnn}
methods: [{name: ce, label: 猫}, {name: ce, label: 犬}]
seeds: [0, 1]
training: {epochs: 1}
"""
PLAIN = {"OMP_NUM_THREADS": "1", "DKD_THREADS": "1"}


def core(
    *arguments: str | Path, stdout: int = subprocess.PIPE, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "core", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | PLAIN | (env or {}), stdout=stdout, stderr=subprocess.PIPE, check=False, timeout=300
    )


def finished(out: Path) -> int:
    events = [[record.event for record in read_journal(path)] for path in out.glob(f"*/{JOURNAL_NAME}")]
    return sum(isinstance(journal[-1], Finished) for journal in events)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_all_runs_are_trained_if_the_output_has_no_reader(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    reader, writer = os.pipe()
    os.close(reader)
    done = core("run", spec, "--out", out, stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr.decode()) == (0, WARNED)
    assert finished(out) == 4


def test_training_without_docstrings_on_a_terminal_of_ascii(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    env = {"PYTHONOPTIMIZE": "2", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    done = core("run", spec, "--out", out, env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert finished(out) == 4
    lines = done.stdout.decode("ascii").splitlines()
    assert lines[0].startswith("?                        seed 0    test accuracy ")


WARNED = "warning: seeds: 2 seed(s) give no usable interval; at least 6 are needed for p < 0.05\n"


@pytest.mark.parametrize("switches", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_catalog_is_printed_completely_in_any_encoding(switches: dict[str, str]) -> None:
    usual, done = core("catalog"), core("catalog", env={"PYTHONOPTIMIZE": "2", **switches})
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == len(usual.stdout.splitlines())
    assert done.stdout == usual.stdout.decode().encode("ascii", "replace")


def test_output_that_could_not_be_written_is_an_error() -> None:
    with open("/dev/full", "wb") as full:
        done = core("catalog", stdout=full.fileno())
    assert done.returncode == 1
    assert done.stderr.decode() == "python -m core: the output could not be written: No space left on device\n"


def test_output_folder_that_cannot_be_created_is_named_before_training(spec: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name, reason in {
        "file": "it exists and is not a folder",
        "file/below": "Not a directory",
        "loop": "it is a link to nothing",
    }.items():
        done = core("run", spec, "--out", tmp_path / name)
        assert (done.returncode, done.stderr.decode()) == (2, f"--out {tmp_path / name}: {reason}\n")


def test_warnings_of_runs_are_printed_once_and_again_at_the_end(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert core("run", spec, "--out", out).returncode == 0
    for path in out.glob(f"*/{JOURNAL_NAME}"):
        first = next(iter(read_journal(path)))
        warning = Record(seq=first.seq, time=first.time, event=Log(message="the disk was slow", level="warning"))
        path.write_text(warning.model_dump_json() + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    done = core("run", spec, "--out", out)
    assert done.stderr.decode() == f"{WARNED}warning: 猫 seed 0: the disk was slow\n"
    assert done.stdout.decode().splitlines()[-1] == (
        "warning: the disk was slow (猫 seed 0, 犬 seed 0, 猫 seed 1 and 1 more)"
    )
