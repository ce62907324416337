"""``benchmarks/reproduce.py`` on a small stand-in for a pair: it resumes, and its table shows missing cells."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import reproduce
from benchmarks.reproduction.cells import Cell, Outcome, cells_of
from benchmarks.reproduction.pairs import PAIRS, TITLES, Pair, Setting, plan
from benchmarks.reproduction.table import Results, markdown
from core.events import Started, read_journal
from core.specs import PlannedRun

STANDIN = """
name: standin
dataset: digits
teacher: {model: {name: small_cnn, params: {width: 8}}}
student: {model: {name: small_cnn, params: {width: 4}}}
methods:
  - ce
  - {name: kd, params: {temperature: 4.0, ce_weight: 0.1, kd_weight: 0.9}}
  - {name: dkd, params: {beta: 2.0}}
  - {name: dkd_align, params: {beta: 2.0, reduction: log, epsilon_share: 0.1}}
seeds: [0]
training: {epochs: 240, schedule: {name: step, milestones: [150, 180, 210]}}
"""
SMALL = ["--epochs", "2", "--train-images", "100", "--test-images", "60"]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    example = tmp_path / "standin.yaml"
    example.write_text(STANDIN)
    return Pair("res32x4-res8x4", example, PAIRS["res32x4-res8x4"].published)


@pytest.fixture
def run(pair: Pair, tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs the benchmark and returns its exit code and its messages."""

    def run(*arguments: str, stop: threading.Event | None = None) -> tuple[int, list[str]]:
        messages: list[str] = []
        options = ["res32x4-res8x4", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *arguments]
        parsed = reproduce.parser().parse_args(options)
        return reproduce.reproduce(pair, parsed, messages.append, stop or threading.Event()), messages

    return run


def stored_cells(tmp_path: Path) -> dict[str, dict[str, object]]:
    data = json.loads((tmp_path / "out" / "reproduce-res32x4-res8x4-shortened.json").read_text())
    return {f"{cell['method']} {cell['seed']}": cell for cell in data["cells"]}


def folder_of(planned: list[PlannedRun], tmp_path: Path) -> Path:
    (cell,) = cells_of(planned, tmp_path / "work" / "reproduce-res32x4-res8x4-shortened")
    return cell.folder


def row(table: str, title: str) -> list[str]:
    line = next(line for line in table.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.split("|")[2:-1]]


def outcome(method: str, seed: int, top1: float = 70.0, **changes: Any) -> Outcome:
    values: dict[str, Any] = {
        **{"method": method, "seed": seed, "fingerprint": "v1-0", "top1": top1, "oracle": top1 + 1, "epochs": 240},
        **{"seconds": 600.0, "starts": 1, "images_per_second": 1.0, "teacher_reused": None, "precision": "float32"},
        **{"device": "cpu", "torch": "2", "machine": "a machine"},
    }
    return Outcome(**values | changes)


def test_finished_cells_are_stored_and_only_missing_ones_are_trained(
    run: Callable[..., tuple[int, list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*SMALL, "--seeds", "0", "--methods", "dkd", "ce"]
    with monkeypatch.context() as patch:
        damaged = tmp_path / "damaged.safetensors"
        damaged.write_bytes(b"not weights")
        patch.setattr(Cell, "weights", damaged)  # every training with a teacher fails
        code, messages = run(*arguments, "--parallel", "2")
    assert code == 1
    first = stored_cells(tmp_path)
    assert set(first) == {"teacher 0", "ce 0"}
    assert [line.split(":")[0] for line in messages[:2]] == ["teacher seed 0", "ce seed 0"]  # ce needs no teacher
    assert "Failed: dkd seed 0: " in messages[-1]
    assert "damaged.safetensors" in messages[-1]
    assert row(messages[-1], "DKD")[:4] == ["–", "–", "0 of 1", "all"]

    code, messages = run(*arguments)
    assert code == 0
    second = stored_cells(tmp_path)
    assert {name: second[name] for name in first} == first
    assert (set(second) - set(first), second["dkd 0"]["epochs"]) == ({"dkd 0"}, 2)
    assert [line.partition(":")[0] for line in messages[:-1]] == ["dkd seed 0"] * 2
    table = messages[-1]
    assert row(table, "DKD")[2:4] == ["1 of 1", "–"]
    assert "Failed" not in table

    # A shortened run is labelled and stored separately.
    assert "not a reproduction" in table
    assert "Shortened to 2 epochs, 100 training images, 60 test images." in table
    assert "oracle − published" not in table
    assert not (tmp_path / "out" / "reproduce-res32x4-res8x4.json").exists()
    assert run(*arguments) == (0, [table])
    assert run(*arguments, "--table") == (0, [table])
    with pytest.raises(ValueError, match="another --out"):
        run("--epochs", "3", "--methods", "ce", "--table")


def test_stopped_training_resumes_from_its_checkpoint(
    run: Callable[..., tuple[int, list[str]]], pair: Pair, tmp_path: Path
) -> None:
    long = ["--epochs", "4000", "--train-images", "100", "--test-images", "60", "--methods", "ce", "--seeds", "0"]
    journal = folder_of(plan(pair, Setting(4000, 100, 60), ["ce"], [0]), tmp_path) / "events.jsonl"

    def epochs() -> int:
        return journal.read_text().count('"metrics"') if journal.exists() else 0

    for _ in range(2):
        stop, began = threading.Event(), epochs()

        def watch(stop: threading.Event = stop, began: int = began) -> None:
            while epochs() < began + 2 and not stop.wait(0.05):
                pass
            stop.set()

        watching = threading.Thread(target=watch)
        watching.start()
        code, messages = run(*long, stop=stop)
        stop.set()
        watching.join()
        assert (code, messages[-2]) == (130, "stopped; the same command continues from here")
    starts = [event for record in read_journal(journal) if isinstance(event := record.event, Started)]
    assert [start.start_step > 0 for start in starts] == [False, True]
    assert stored_cells(tmp_path) == {}


def test_one_process_at_a_time_trains_a_cell(
    run: Callable[..., tuple[int, list[str]]], pair: Pair, tmp_path: Path
) -> None:
    folder = folder_of(plan(pair, Setting(2, 100, 60), ["ce"], [0]), tmp_path)
    folder.mkdir(parents=True)
    command = ["flock", str(folder / ".lock"), "sleep", "60"]
    with subprocess.Popen(command, start_new_session=True) as other:
        try:
            while subprocess.run(["flock", "-n", folder / ".lock", "true"], check=False).returncode == 0:
                pass
            code, messages = run(*SMALL, "--seeds", "0", "--methods", "ce")
        finally:
            os.killpg(other.pid, signal.SIGKILL)
    assert code == 1
    assert "another process is training ce seed 0" in messages[0]


def test_table_shows_published_accuracies_and_missing_cells(pair: Pair) -> None:
    results = Results(pair, Setting(), ["teacher", "dkd", "ce", "kd"], [0, 1, 2])
    for item in (
        outcome("teacher", 0, 79.0),
        outcome("dkd", 0, 75.0),
        outcome("dkd", 2, 76.0),
        outcome("ce", 0, 72.0),
    ):
        results.outcomes[item.method, item.seed] = item
    table = markdown(results)
    assert "with the published recipe" in table
    assert row(table, "teacher") == ["79.00", "80.00", "1 of 1", "–", "79.42", "+0.58", "10.0"]
    assert row(table, "DKD") == ["75.50 ± 0.71", "76.50 ± 0.71", "2 of 3", "seed 1", "76.32", "+0.18", "10.0"]
    assert row(table, "student alone (CE)")[2:4] == ["1 of 3", "seed 1, 2"]
    assert "--seeds 0 1 2`" in table
    assert "Resumed" not in table
    results.outcomes["ce", 0] = outcome("ce", 0, 72.0, starts=2)
    assert "Resumed from a checkpoint after an interruption: ce seed 0." in markdown(results)
    table = markdown(results)
    assert row(table, "KD") == ["–", "–", "0 of 3", "all", "73.33", "–", "–"]
    again = Results(pair, Setting())
    again.read(json.loads(json.dumps(results.to_json())))
    assert markdown(again) == table


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_is_planned_with_its_recipe(name: str) -> None:
    planned = plan(PAIRS[name], Setting(), list(TITLES), [0, 1])
    assert [run.label for run in planned] == ["teacher", *(m for m in list(TITLES)[1:] for _ in range(2))]
    teacher, students = planned[0].spec, [run.spec for run in planned[1:]]
    assert teacher.training.optimizer.lr == 0.05
    light = "shuffle" in name or "mobile" in name
    assert {spec.training.optimizer.lr for spec in students} == {0.01 if light else 0.05}
    assert {spec.training.epochs for spec in (teacher, *students)} == {240}
    assert {spec.training.schedule.milestones for spec in students} == {(150, 180, 210)}
    betas = {spec.method.params["beta"] for spec in students if "beta" in spec.method.params}
    six = name in ("vgg13-vgg8", "vgg13-mobilev2", "wrn40-2-wrn16-2", "wrn40-2-wrn40-1")
    assert betas == {2.0 if name in ("res56-res20", "res110-res32") else 6.0 if six else 8.0}
    terms = {
        run.label: (p["reduction"], p["epsilon"], p["epsilon_share"])
        for run in planned
        if (p := run.spec.method.params) and run.label.startswith("align")
    }
    assert terms == {
        "align-batch": ("batch", 6.0, None),
        "align-sample": ("sample", 6.0, None),
        "align-log": ("log", None, 0.1),
    }


def test_shortened_run_scales_the_whole_recipe() -> None:
    (_, dkd) = plan(PAIRS["res56-res20"], Setting(epochs=24), ["dkd"], [3])
    assert dkd.spec.training.schedule.milestones == (15, 18, 21)
    assert dkd.spec.method.params["ramp_epochs"] == 2
    assert (dkd.spec.seed, dkd.spec.data_seed) == (3, 3)
    (teacher,) = plan(PAIRS["res56-res20"], Setting(epochs=1), ["teacher"], [0])
    assert (teacher.spec.training.epochs, teacher.spec.training.schedule.name) == (1, "constant")


def test_bad_input_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["res1-res2"], ["res56-res20", "--epochs", "0"], ["res56-res20", "--methods", "fitnet"]):
        with pytest.raises(SystemExit) as exit_code:
            reproduce.main(wrong)
        assert exit_code.value.code == 2
    assert reproduce.main(["res56-res20", "--seeds", "1", "1", "--table"]) == 2
    assert "given twice" in capsys.readouterr().err
