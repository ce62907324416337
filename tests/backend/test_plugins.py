"""Entries from outside the tree: a method with a term of its own, and a task that is judged by another metric."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from client import Client
from client.exporters.series import points
from core.catalog import DATASETS, METHODS, METRICS, TASKS, MethodEntry, Metric, load_plugins
from core.protocol.comparisons import Comparison
from core.protocol.public import Catalog
from core.protocol.result_tables import ResultTable
from core.specs import parse_experiment, warnings_of
from dashboard.charts import figures, panels
from dashboard.curves.curve import Curve
from tests.backend import rows
from tests.backend.conftest import ADMIN_TOKEN

METHOD = """
from pydantic import Field

from core.catalog import METHODS, MethodEntry, Metric
from core.catalog.methods import SpecWarning
from core.catalog.registry import Params


class NearParams(Params):
    weight: float = Field(1.0, ge=0, description="Weight of the distance.")


def warnings(params, context):
    if not params.weight:
        yield SpecWarning("params.weight", f"nothing is distilled in {context.epochs} epochs")


METHODS.add(
    MethodEntry(
        name="near",
        title="Near",
        summary="A distance of one's own.",
        target="near_loss:near_loss",
        params=NearParams,
        metrics=(
            Metric("train/near", "Distance of Near", better="lower", panel="Terms of Near"),
            Metric("grad/near_share", "Near's share of the gradient", "%"),
        ),
        warnings=warnings,
        color="#123456",
        cost="A subtraction.",
    )
)
"""

TASK = """
from core.catalog import DATASETS, TASKS, DatasetEntry, DatasetFacts, Metric, TaskEntry
from core.catalog.datasets import SplitParams

TASKS.add(
    TaskEntry(
        name="ordering",
        title="Ordering",
        summary="Items are put in order.",
        target="ordering",
        headline="test/tau",
        validation="val/tau",
        metrics=(
            Metric("test/tau", "Kendall's τ", better="higher", panel="Order"),
            Metric("val/tau", "Validation τ", better="higher", panel="Order"),
        ),
    )
)
DATASETS.add(
    DatasetEntry(
        name="shelves",
        title="Shelves",
        summary="Books on shelves.",
        target="ordering:load",
        params=SplitParams,
        facts=lambda params: DatasetFacts(10, 1, 8, 100, 100),
        task="ordering",
    )
)
"""

ALIGN = {"name": "dkd_align", "params": {"reduction": "log", "epsilon": 6.0}}


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for registry in (METHODS, TASKS, DATASETS):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "near_plugin.py").write_text(METHOD, encoding="utf-8")
    (folder / "ordering_plugin.py").write_text(TASK, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    load_plugins(["near_plugin", "ordering_plugin"])
    yield
    for name in ("near_plugin", "ordering_plugin"):
        del sys.modules[name]


def finish(database: Database, run_id: str, values: dict[str, float]) -> None:
    rows.insert_records(database, run_id, *(rows.metrics(step, values, seq=step, epoch=step) for step in (1, 2)))
    rows.change(database, run_id, state="succeeded", attempt=1, total_epochs=2, test_size=899)


def through(api: TestClient) -> Callable[[httpx.Request], httpx.Response]:
    """Return a handler that lets the client's requests reach the application without a server."""

    def answer(request: httpx.Request) -> httpx.Response:
        reply = api.request(request.method, str(request.url), content=request.content)
        return httpx.Response(reply.status_code, headers={"Content-Type": "application/json"}, content=reply.content)

    return answer


def test_a_method_brings_its_metrics_to_the_catalog_comparisons_exports_and_charts(
    api: TestClient, database: Database
) -> None:
    catalog = Catalog.model_validate(api.get("/api/v1/catalog").json())
    entry = next(item for item in catalog.methods if item["name"] == "near")
    assert (entry["color"], entry["cost"]) == ("#123456", "A subtraction.")
    described = {item["name"]: item for item in catalog.metrics}
    assert (described["train/near"]["title"], described["train/near"]["panel"]) == ("Distance of Near", "Terms of Near")
    assert [item["name"] for item in entry["metrics"]] == ["train/near", "grad/near_share"]

    experiment = rows.experiment(database, methods=["kd", "near"], seeds=[0, 1])
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        own = {"train/near": 0.5 + seed, "grad/near_share": 12.0} if label == "near" else {}
        finish(database, run_id, {"test/top1": 90.0 + seed} | own)
    answer = api.get("/api/v1/comparisons", params={"experiment": experiment, "metric": "train/near"})
    compared = Comparison.model_validate(answer.json())
    assert (compared.title, compared.better) == ("Distance of Near", "lower")
    assert {group.label: group.mean for group in compared.groups} == {"kd": None, "near": 1.0}
    unknown = api.get("/api/v1/comparisons", params={"experiment": experiment, "metric": "train/nea"})
    assert "did you mean train/near" in unknown.text

    run_id = rows.run_ids(database, experiment)["near", 0]
    with Client("http://testserver", ADMIN_TOKEN, transport=httpx.MockTransport(through(api))) as client:
        exported = {point.name for point in points(client, client.runs.record(run_id))}
    assert {"train/near", "grad/near_share"} <= exported

    panel = next(item for item in panels.standard_panels(catalog.metrics) if item.title == "Terms of Near")
    assert [trace.title for trace in panel.traces] == ["Distance of Near"]
    curve = Curve("train/near", [1, 2], [1.0, 2.0], [1.0, 2.0], [0.5, 0.4], [0.5, 0.4], [0.5, 0.4], 1)
    assert figures.run_figure(panel, {"train/near": curve}) is not None
    more = [trace.metric for item in panels.additional_panels(catalog.metrics) for trace in item.traces]
    assert "grad/near_share" in more


def test_a_methods_own_warnings_are_those_of_the_spec() -> None:
    spec = parse_experiment(rows.SPEC | {"methods": ["kd", {"name": "near", "params": {"weight": 0}}]})
    found = [str(problem) for problem in warnings_of(spec)]
    assert "methods.1.params.weight: nothing is distilled in 4 epochs" in found


def test_a_metric_that_another_entry_describes_differently_is_refused() -> None:
    own = MethodEntry(name="own", title="Own", summary="", target="", metrics=(Metric("train/kd", "My KD"),))
    with pytest.raises(ValueError, match=r"'own' and '\w+' describe the metric 'train/kd' differently"):
        METHODS.add(own)
    assert METRICS["train/kd"].title == "KD term, unweighted"
    assert "own" not in METHODS
    METHODS.add(MethodEntry(name="own", title="Own", summary="", target="", metrics=(METRICS["train/kd"],)))


def test_a_colour_that_no_chart_can_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="#RRGGBB"):
        MethodEntry(name="own", title="Own", summary="", target="", color="blue")


def test_results_of_a_task_are_judged_by_its_headline_metric(api: TestClient, database: Database) -> None:
    experiment = rows.experiment(database, name="order", dataset="shelves", methods=["kd", "near"], seeds=[0])
    other = rows.experiment(database, name="classes", methods=["kd"], seeds=[0], teacher={"model": "resnet14"})
    runs = rows.run_ids(database, experiment)
    tau = {"teacher": 0.9, "kd": 0.5, "near": 0.7}
    for (label, _), run_id in runs.items():
        finish(database, run_id, {"test/tau": tau[label], "test/top1": 1.0})
    for run_id in rows.run_ids(database, other).values():
        finish(database, run_id, {"test/top1": 0.6})

    compared = Comparison.model_validate(api.get("/api/v1/comparisons", params={"experiment": "order"}).json())
    assert (compared.metric, compared.title, compared.teacher_top1) == ("test/tau", "Kendall's τ", 0.9)
    assert (compared.test_size, compared.resolution) == (899, None), "a rank correlation counts no items"
    assert {group.label: group.mean for group in compared.groups} == {"kd": 0.5, "near": 0.7}
    assert [group.convergence and group.convergence.reached for group in compared.groups] == [0, 0]
    shown = api.get(f"/api/v1/runs/{runs['near', 0]}").json()
    assert (shown["headline"], shown["latest"]["test/tau"]["value"]) == ("test/tau", 0.7)

    sorted_runs = api.get("/api/v1/runs", params={"sort": "-headline", "role": "student"}).json()["items"]
    by_value = [(run["experiment"], run["label"]) for run in sorted_runs]
    assert by_value == [("order", "near"), ("classes", "kd"), ("order", "kd")]
    teachers = api.get("/api/v1/teachers").json()["items"]
    assert {item["dataset"]: item["top1"] for item in teachers} == {"shelves": 0.9, "digits": 0.6}

    claims = rows.experiment(database, name="claims", dataset="shelves", methods=["dkd", ALIGN], seeds=[0])
    for (label, _), run_id in rows.run_ids(database, claims).items():
        finish(database, run_id, {"test/tau": 0.9 if label in ("teacher", "dkd") else 0.5, "test/top1": 1.0})
    judged = api.get("/api/v1/comparisons/claims", params={"experiment": "claims", "target": 0.8}).json()["claims"]
    assert next(claim for claim in judged if claim["number"] == 4)["numbers"]["later"] == 1

    both = api.get("/api/v1/comparisons/table", params={"experiment": ["order", "classes"]})
    assert both.status_code == 422
    assert [error["path"] for error in both.json()["errors"]] == ["experiment"]
    table = ResultTable.model_validate(api.get("/api/v1/comparisons/table", params={"experiment": ["order"]}).json())
    assert (table.metric, [row.dataset for row in table.rows]) == ("test/tau", ["shelves"])
    preview = api.post(
        "/api/v1/experiments/preview", json=rows.SPEC | {"name": "next", "dataset": "shelves", "methods": ["kd"]}
    )
    assert "succeeded, 0.90)" in preview.json()["teacher"]["sentence"]
