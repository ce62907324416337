"""Numbers in the texts and exports of a comparison: the images behind a share, and the digits of an effect."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update

from backend.db import Database, models
from common.formatting import difference_text
from core.protocol.comparisons import Overview
from tests.backend import rows


def _finished(database: Database, seeds: list[int]) -> str:
    experiment = rows.experiment(database, methods=["kd", {"name": "dkd", "label": "DKD"}], seeds=seeds)
    for run_id in rows.run_ids(database, experiment).values():
        rows.succeed(database, run_id, [80.0, 80.0])
    return experiment


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({0: 10.0, 1: 10.0, 2: 10.0}, "of 10 images"),
        ({0: 9.0, 1: 12.0}, "of 9 to 12 images; of some runs number of images not recorded"),
        ({}, "number of images not recorded"),
    ],
)
def test_share_of_part_of_the_images_names_their_number(
    database: Database, api: TestClient, counts: dict[int, float], words: str
) -> None:
    experiment = _finished(database, [0, 1, 2])
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label != "teacher":
            values = {"fidelity/agreement_wrong": 50.0 + seed}
            if seed in counts:
                values["fidelity/images_wrong"] = counts[seed]
            rows.insert_records(database, run_id, rows.metrics(40, values, epoch=4))
    title = f"Agreement where the teacher is wrong ({words})"
    query = {"experiment": experiment, "metric": "fidelity/agreement_wrong"}
    assert api.get("/api/v1/comparisons", params=query).json()["title"] == title
    overview = api.get("/api/v1/comparisons/overview", params={"experiment": experiment}).json()
    assert [row["title"] for row in overview["rows"] if row["metric"].startswith("fidelity/")] == [title]
    for part in ("", "/overview", "/table"):
        text = api.get(f"/api/v1/comparisons{part}", params=query | {"format": "markdown"}).text
        assert title in text.replace("\\", "")
    for part in ("", "/overview"):
        assert title in api.get(f"/api/v1/comparisons{part}", params=query | {"format": "csv"}).text


def test_share_of_all_images_names_their_number_among_all_metrics(database: Database, api: TestClient) -> None:
    experiment = _finished(database, [0, 1])
    with database.write() as session:
        session.execute(update(models.Run).values(test_size=901))
    query = {"experiment": experiment}
    titles = {
        row["metric"]: row["title"] for row in api.get("/api/v1/comparisons/overview", params=query).json()["rows"]
    }
    title = "Test accuracy (of 901 images)"
    assert titles["test/top1"] == title
    for kind in ("markdown", "latex", "csv"):
        text = api.get("/api/v1/comparisons/overview", params=query | {"format": kind}).text
        assert title in text.replace("\\", "")


def test_the_exports_show_an_effect_with_the_digits_of_its_interval(database: Database, api: TestClient) -> None:
    experiment = _finished(database, list(range(8)))
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label != "teacher":
            value = 0.5 + 0.01 * seed + (label == "DKD") * (0.0033 + 0.0003 * (seed % 3))
            rows.insert_records(database, run_id, rows.metrics(40, {"collapse/nc1": value}, epoch=4))
    overview = Overview.model_validate(
        api.get("/api/v1/comparisons/overview", params={"experiment": experiment}).json()
    )
    cell = next(row for row in overview.rows if row.metric == "collapse/nc1").cells[1]
    shown = "+0.00356 [+0.00335, +0.00377]"
    assert difference_text(cell.mean_difference, cell.interval) == shown
    for kind in ("markdown", "latex"):
        text = api.get("/api/v1/comparisons/overview", params={"experiment": experiment, "format": kind}).text
        assert shown in text.replace("\\", ""), text
