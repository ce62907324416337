"""Comparisons as text, the overview, and GPU-seconds."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.comparisons import convergence
from backend.comparisons.run_data import MetricCurve, StudentRun, TeacherRun
from backend.db import Database, models, now
from core.events import RANKS_KEY
from core.protocol.comparisons import Overview
from tests.backend import rows
from tests.backend.finished_experiments import THREE, compare, finished


def test_comparison_is_exported_as_csv_markdown_and_latex(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    path = "/api/v1/comparisons"
    table = api.get(path, params={"experiment": experiment, "format": "csv"})
    assert table.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(table.text)))
    assert [(line["label"], float(line["mean"]), line["n"]) for line in lines] == [
        ("kd", 82.0, "3"),
        ("DKD", 83.5, "3"),
    ]
    assert (float(lines[1]["difference"]), lines[0]["difference"], lines[1]["sign_flip_p"]) == (1.5, "", "0.25")
    marked = api.get(path, params={"experiment": experiment, "format": "markdown"}).text
    assert "| DKD | 83.50 ± 2.50 | 3 |" in marked
    assert "3 pairs cannot show p \\< 0.25" in marked
    tex = api.get(path, params={"experiment": experiment, "format": "latex"}).text
    assert "DKD & 83.50 $\\pm$ 2.50 & 3 &" in tex
    assert tex.count("\\toprule") == tex.count("\\bottomrule") == 1
    assert "\\begin{table}\n" in tex, "it fits into a column"
    header = next(line for line in tex.splitlines() if line.strip().startswith("Method &"))
    accuracy = "\\shortstack[r]{Test \\\\ accuracy (\\%)}"
    assert header.strip() == f"Method & {accuracy} & n & $\\Delta$ & p & Epochs \\\\"
    assert "$+$" not in tex
    caption = next(line for line in tex.splitlines() if "\\caption" in line)
    assert "seeds" not in caption, "the notes are below the table"
    assert "% DKD against kd: " in tex


def test_overview_tests_every_metric(database: Database, api: TestClient) -> None:
    seeds = list(range(8))
    last = {
        (label, seed): 80.0 + seed + (1 + 0.1 * seed) * (label == "DKD") for label in ("kd", "DKD") for seed in seeds
    }
    experiment = finished(database, last, seeds=seeds)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        is_dkd = label == "DKD"
        end = {
            "test/loss": 1 + 0.01 * seed + is_dkd,
            "collapse/nc1": 0.5 + 0.01 * seed - 0.1 * seed * is_dkd - 0.2 * is_dkd,
        }
        robust = {"robustness/patch_drop": 10.0, "robustness/patch_teacher": 70.0, "train/loss": 0.1}
        rows.insert_records(database, run_id, rows.metrics(40, {**end, **robust}, epoch=4))
    overview = Overview.model_validate(
        api.get("/api/v1/comparisons/overview", params={"experiment": experiment}).json()
    )
    verdicts = {row.metric: row.cells[1].verdict for row in overview.rows}
    # A higher loss is worse and a higher accuracy better; NC1 has no better side, so that its verdict is "lower".
    assert verdicts == {
        "test/top1": "better",
        "test/loss": "worse",  # equal in every pair: there is no interval, and the exact test decides
        "collapse/nc1": "lower",
        "robustness/patch_drop": "unclear",
    }
    assert overview.tests == 4
    assert any("hold over all 4 comparisons of this table" in note for note in overview.notes)
    assert all(cell.sign_flip_p_holm is not None for row in overview.rows for cell in row.cells[1:])
    only = api.get("/api/v1/comparisons/overview", params={"experiment": experiment, "group": "collapse"}).json()
    assert [row["metric"] for row in only["rows"]] == ["collapse/nc1"]


def _student(**changes: Any) -> StudentRun:
    values: dict[str, Any] = {
        "run_id": "r",
        "experiment": "e",
        "label": "kd",
        "method": "kd",
        "seed": 0,
        "teacher": TeacherRun("t", "v1-a", 0, "succeeded", 90.0),
        "state": "succeeded",
        "reason": "",
        "epochs": 3,
        "test_size": 899,
        "environment": {},
        "devices": (),
    }
    return StudentRun(**values | changes)


@pytest.mark.parametrize(
    ("devices", "environment", "gpu_seconds"),
    [
        (("cuda NVIDIA H200",), {}, 20.0),
        (("cuda NVIDIA H200",), {RANKS_KEY: "4"}, 80.0),
        (("cpu",), {}, None),
        (("cpu", "cuda NVIDIA H200"), {}, None),  # one attempt on each: the share of the GPU is unknown
        ((), {}, None),
    ],
)
def test_gpu_seconds_are_known_only_for_gpu_runs(
    devices: tuple[str, ...], environment: dict[str, str], gpu_seconds: float | None
) -> None:
    curve = MetricCurve(step=[1, 2, 3], epoch=[1.0, 2.0, 3.0], elapsed=[10.0, 20.0, 30.0], value=[80.0, 90.0, 91.0])
    reached = convergence.run_convergence(_student(devices=devices, environment=environment), curve, 85.5)
    assert (reached.epochs, reached.seconds, reached.gpu_seconds) == (2.0, 20.0, gpu_seconds)


def test_gpus_of_one_model_are_the_same_device(database: Database, api: TestClient) -> None:
    experiment = finished(database, THREE)
    cards = {("kd", 0): "cuda:0 A", ("DKD", 0): "cuda:1 A", ("kd", 1): "cuda:0 A", ("DKD", 1): "cuda:0 B"}
    with database.write() as session:
        moment = now(session)
        worker = models.Worker(
            id="w", name="w", host="h", slots=1, device="gpu", registered_at=moment, last_heartbeat=moment
        )
        session.add(worker)
        session.flush()
        for key, run_id in rows.run_ids(database, experiment).items():
            if key in cards:
                session.add(
                    models.Attempt(
                        run_id=run_id,
                        number=1,
                        worker_id="w",
                        worker_name="w",
                        host="h",
                        device=cards[key],
                        started_at=moment,
                    )
                )
    (pair,) = compare(api, experiment).paired
    assert [(item.setting, item.seeds, item.values) for item in pair.unlike] == [
        ("device", [1], "cuda B against cuda A")
    ]
