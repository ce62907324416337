"""Exports of a real backend, read back by the programs that they are for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from client.cli.app import run as dkd
from client.exporters import report
from client.importers.wandb import read as read_wandb
from client.models import Metrics
from client.rendering import figures
from core.protocol.public import Series
from core.protocol.records import ExperimentRecord
from tests import browser, served
from tests.backend.lab import spec
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fakes import FakeBackend
from tests.client.test_cli_export import _metrics, _record

ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """The client of a backend with two finished experiments that share their teacher; one is archived."""
    with served.backend(tmp_path) as url:
        monkeypatch.setenv("DKD_API_URL", url)
        monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)
        with Client() as client:
            with served.worker(url, tmp_path):
                for name in ("first", "second"):
                    client.submit(spec(name, seeds=[0, 1], tags=["t"])).wait(timeout=60, interval=0.1)
            client.experiments.archive("second")
            yield client


def test_duckdb_reads_the_whole_lab_with_the_documented_query(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    duckdb = pytest.importorskip("duckdb")
    monkeypatch.chdir(tmp_path)
    assert dkd(["export", "--all", "--format", "parquet", "--out", "lab"]) == 0
    # Five runs have two points of two metrics; the second experiment has four more and shares the teacher.
    assert re.findall(r"(\w+)\.parquet: (\d+) rows", capsys.readouterr().out) == [
        ("experiments", "2"),
        ("experiment_runs", "10"),
        ("runs", "9"),
        ("metrics", "36"),
    ]
    query = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "exports.md").read_text(), re.DOTALL)[0]
    rows = {(name, label): (n, mean, sd) for name, label, n, mean, sd in duckdb.sql(query).fetchall()}
    assert len(rows) == 6
    for name in ("first", "second"):
        for group in client.comparisons.get(name).groups:
            assert rows[name, group.label] == pytest.approx((group.n, group.mean, group.sd))
    (first,) = duckdb.sql(
        "SELECT spec, tags, created_at FROM 'lab/experiments.parquet' WHERE name = 'first'"
    ).fetchall()
    stored = client.experiments.get("first")
    assert json.loads(first[0]) == stored.spec
    assert (first[1], first[2]) == (["t"], stored.created_at)


def test_one_experiment_replaces_an_earlier_export(client: Client, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    out = str(tmp_path / "one")
    for name in ("second", "first"):
        assert dkd(["export", name, "--format", "parquet", "--out", out]) == 0
    assert pq.read_table(f"{out}/experiments.parquet")["name"].to_pylist() == ["first"]
    runs = pq.read_table(f"{out}/runs.parquet").to_pylist()
    (teacher,) = (run["run_id"] for run in runs if run["role"] == "teacher")
    assert {run["teacher_run_id"] for run in runs} == {None, teacher}


def test_parquet_keeps_values_that_are_not_finite(backend: FakeBackend, tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    values = [90.0, float("nan"), float("inf")]
    series = Series(name="test/top1", step=[1, 2, 3], epoch=[1, 2, 3], elapsed=[1, 2, 3], value=values)
    record = ExperimentRecord(experiment_id="exp-1", name="small", spec={}, created_at=fakes.NOW, runs=[_record()])
    backend.answers |= {
        "GET /api/v1/experiments/small": fakes.experiment(),
        "GET /api/v1/experiments/exp-1": fakes.experiment(),
        "GET /api/v1/exports/experiment": record,
        "GET /api/v1/runs/run-1/metrics": Metrics(run_id="run-1", state="succeeded", cursor=1, series=[series]),
    }
    assert dkd(["export", "small", "--format", "parquet", "--out", str(tmp_path)]) == 0
    stored = pq.read_table(tmp_path / "metrics.parquet")["value"].to_pylist()
    assert str(stored) == "[90.0, nan, inf]"


def test_tensorboard_reads_its_event_files(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert dkd(["export", "first", "--format", "tensorboard", "--out", str(tmp_path / "runs")]) == 0
    run = next(run for run in client.experiment("first").runs if run.label == "kd" and run.seed == 1)
    (folder,) = (tmp_path / "runs").glob(f"*{run.id}")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    (expected,) = client.runs.metrics(run.id, names=["test/top1"]).series
    assert [(item.step, item.value) for item in events.Scalars("test/top1")] == [
        (step, pytest.approx(value, rel=1e-6)) for step, value in zip(expected.step, expected.value, strict=True)
    ]


@pytest.mark.heavy
def test_wandb_reads_its_offline_runs(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="wandb has 80 MB and is not in the lock; pip install wandb to run this test")
    assert dkd(["export", "first", "--format", "wandb", "--out", str(tmp_path)]) == 0
    own = next(run for run in client.experiment("first").runs if run.label == "kd" and run.seed == 1)
    (run,) = (run for run in read_wandb(tmp_path / "wandb") if run.id == own.id)
    (expected,) = client.runs.metrics(own.id, names=["test/top1"]).series
    points = [(point.step, point.value) for point in run.points if point.name == "test/top1"]
    assert points == list(zip(expected.step, expected.value, strict=True))
    assert (run.name, run.seed, run.label, run.state) == ("kd seed 1", 1, "kd", "succeeded")
    assert run.config["training.epochs"] == 2


@pytest.mark.heavy
def test_mlflow_reads_what_it_was_sent(client: Client, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow has 300 MB with its server and is not in the lock")
    from tests.client.mlflow_server import mlflow_server

    with mlflow_server(tmp_path) as url:
        assert dkd(["export", "first", "--format", "mlflow", "--to", url]) == 0
        tracking = mlflow.MlflowClient(tracking_uri=url)
        experiment = tracking.get_experiment_by_name("first")
        runs = tracking.search_runs([experiment.experiment_id])
        assert len(runs) == 5
        (run,) = (item for item in runs if item.info.run_name == "kd seed 1")
        history = tracking.get_metric_history(run.info.run_id, "test/top1")
    own = next(item for item in client.experiment("first").runs if item.label == "kd" and item.seed == 1)
    (expected,) = client.runs.metrics(own.id, names=["test/top1"]).series
    assert [(item.step, item.value) for item in history] == list(zip(expected.step, expected.value, strict=True))


# The report


@pytest.fixture
def described(backend: FakeBackend) -> FakeBackend:
    """An experiment whose names try to become elements of a page."""
    hostile = "</script><img src=x onerror=alert(1)>"
    runs = [_record(run_id=f"run-{seed}", label=hostile, diff="+ x < y", reason="a & b") for seed in (0, 1)]
    record = ExperimentRecord(
        experiment_id="exp-1", name=hostile, spec={"name": hostile, "notes": "note"}, created_at=fakes.NOW, runs=runs
    )
    pair = fakes.comparison().paired[0].model_copy(update={"label": hostile})
    backend.answers |= {
        "GET /api/v1/exports/experiment": record,
        "GET /api/v1/comparisons": fakes.comparison(experiment=hostile, paired=[pair]),
        "GET /api/v1/runs/run-0/metrics": _metrics(),
        "GET /api/v1/runs/run-1/metrics": _metrics(),
        "GET /api/v1/experiments/small": fakes.experiment(),
    }
    return backend


def test_a_report_contains_results_and_provenance_and_no_markup_of_names(
    described: FakeBackend, tmp_path: Path
) -> None:
    pytest.importorskip("plotly")
    assert dkd(["export", "small", "--format", "html", "--out", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<img" not in page.split("</head>")[1]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", page.split("</head>")[1])
    assert "Two pairs cannot tell dkd from kd." in page
    for fact in ("torch==2.14.0", "v1-", "+ x &lt; y", "a &amp; b", "Holds for one teacher (seed 0)"):
        assert fact in page
    data = dict(re.findall(r'<script type="application/json" id="([\w-]+)">(.*?)</script>', page))
    assert json.loads(data["comparison"])["groups"][1]["mean"] == 96.25
    curve = json.loads(data["figure-0"])["data"]
    assert curve[0]["y"] == [90.0, None, 92.0]  # NaN is a gap
    assert page.count("Plotly.newPlot") >= 1


def test_a_report_of_several_experiments_compares_them_together(client: Client, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    out = tmp_path / "report.html"
    assert dkd(["export", "first", "second", "first", "--format", "html", "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    names = re.findall(r'<script type="application/json" id="([\w-]+)">', page)
    assert len(names) == len(set(names))
    assert {"e0-figure-0", "e1-figure-0", "e0-comparison", "e1-comparison"} <= set(names)
    tops = re.findall(r'<h1 id="([\w-]+)">', page)
    assert re.findall(r'<a href="#([\w-]+)">', page) == tops == ["e0-top", "e1-top"]
    assert "Result over all experiments" in page
    client.submit(spec("other", student={"model": "resnet8"})).cancel()
    page = report.build(client, "first", "other")
    assert "They are not tested together: " in page
    assert "Result over all experiments" not in page


def test_a_mean_is_drawn_only_where_every_run_has_a_value() -> None:
    def run(seed: int, *values: float) -> figures.DrawnRun:
        steps = list(range(1, len(values) + 1))
        series = Series(name="a", step=steps, epoch=steps, elapsed=steps, value=[*values])
        return figures.DrawnRun("kd", seed, Metrics(run_id="r", state="succeeded", cursor=1, series=[series]))

    figure = figures.curves([run(0, 1, 2, 3), run(1, 3, 4)], "a", "A")
    assert figure is not None
    assert [trace["y"] for trace in figure["data"]] == [[1, 2, 3], [3, 4], [2, 3]]
    assert figures.curves([run(0, 1)], "other", "A") is None


@pytest.mark.browser
def test_a_report_is_drawn_from_a_file_without_a_network(client: Client, tmp_path: Path) -> None:
    if browser.chromium() is None:
        pytest.skip("no Chromium is installed")
    path = tmp_path / "report.html"
    path.write_text(report.build(client, "first"), encoding="utf-8")
    requests: list[str] = []
    problems: list[str] = []
    with browser.browser() as running:
        page = running.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(path.as_uri())
        page.wait_for_selector("#figure-3 ~ *, [data-figure] .main-svg")
        charts = page.locator("[data-figure]").count()
        page.wait_for_function(f"document.querySelectorAll('[data-figure] .plot-container').length === {charts}")
        text = page.inner_text("body")
    assert charts == 4
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert problems == []
    assert "Keep dkd: the seeds do not support kd over it." in text
