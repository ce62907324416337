"""Runs on different images are neither averaged nor compared, in every report."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from core.protocol.comparisons import Comparison, Overview, PaperClaims
from core.protocol.result_tables import ResultTable
from tests.backend import rows

OLD, NEW = "a" * 16, "b" * 16
METHODS = ["dkd", {"name": "dkd_align", "label": "align", "params": {"reduction": "sample", "epsilon": 0.1}}]


def _ask(api: TestClient, part: str, **query: Any) -> Any:
    answer = api.get(f"/api/v1/comparisons{part}", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def _trained(database: Database, images: dict[int, str], name: str = "rows", **more: Any) -> str:
    """Create six seeds of two methods with 80 % and 81 %, and 20 points more on the new images; return the id."""
    experiment = rows.experiment(database, methods=METHODS, seeds=sorted(images), name=name, **more)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        environment = {"images": OLD} if label == "teacher" else {"images": images[seed]} if images[seed] else {}
        top1 = 90.0 if label == "teacher" else 60.0 + 0.1 * seed + (label == "align") - 20 * (images[seed] == NEW)
        rows.succeed(database, run_id, [top1 - 30, top1, top1], environment=environment)
    return experiment


MIXED = {0: OLD, 1: OLD, 2: OLD, 3: OLD, 4: NEW, 5: NEW}


def test_a_comparison_is_of_one_data_set_and_names_the_runs_of_others(database: Database, api: TestClient) -> None:
    comparison = Comparison.model_validate(_ask(api, "", experiment=_trained(database, MIXED)))
    dkd, align = comparison.groups
    assert (dkd.n, align.n) == (4, 4)
    assert (dkd.mean, align.mean) == pytest.approx((60.15, 61.15))
    assert set(dkd.values) == {0, 1, 2, 3}
    assert [run.seed for run in dkd.runs if "trained on other data" in run.reason] == [4, 5]
    assert comparison.paired[0].n == 4
    assert dkd.convergence is not None
    assert dkd.convergence.of == 4
    assert len(comparison.set_aside) == 4
    assert set(comparison.set_aside_data) == set(comparison.set_aside)
    assert f"images {OLD[:8]}" in comparison.data
    assert any(f"images {NEW[:8]}" in note and "dkd seed 4" in note for note in comparison.notes)


def test_runs_of_several_other_data_sets_are_distinguished(database: Database, api: TestClient) -> None:
    third = "c" * 16
    comparison = Comparison.model_validate(_ask(api, "", experiment=_trained(database, MIXED | {5: third})))
    names = set(comparison.set_aside_data.values())
    assert len(names) == 2
    assert {text for text in (NEW[:8], third[:8]) if any(text in name for name in names)} == {NEW[:8], third[:8]}


def test_overview_and_claims_use_one_data_set(database: Database, api: TestClient) -> None:
    experiment = _trained(database, MIXED)
    overview = Overview.model_validate(_ask(api, "/overview", experiment=experiment))
    assert [cell.n for row in overview.rows for cell in row.cells] == [4, 4]
    assert any("The data changed between runs" in note for note in overview.notes)
    claims = PaperClaims.model_validate(_ask(api, "/claims", experiment=experiment))
    assert {claim.n for claim in claims.claims if claim.number == 4} == {4}
    assert any("The data changed between runs" in note for note in claims.notes)


def test_a_table_has_a_row_for_each_data_set(database: Database, api: TestClient) -> None:
    _trained(database, MIXED)
    table = ResultTable.model_validate(_ask(api, "/table"))
    assert [[cell.n for cell in row.cells] for row in table.rows] == [[4, 4], [2, 2]]
    assert [cell.mean for row in table.rows for cell in row.cells] == pytest.approx([60.15, 61.15, 40.45, 41.45])
    assert [row.teacher_top1 for row in table.rows] == [90.0, None]  # the teacher was tested on the first row's images
    assert OLD[:8] in table.rows[0].title
    assert NEW[:8] in table.rows[1].title


def test_experiments_of_other_images_are_not_pooled(database: Database, api: TestClient) -> None:
    first = _trained(database, dict.fromkeys((0, 1, 2), OLD))
    second = _trained(database, dict.fromkeys((3, 4), NEW), name="later")
    comparison = Comparison.model_validate(_ask(api, "", experiment=[first, second]))
    assert [group.n for group in comparison.groups] == [3, 3]
    assert comparison.groups[0].mean == pytest.approx(60.1)
    assert len(ResultTable.model_validate(_ask(api, "/table")).rows) == 2


def test_a_teacher_tested_on_other_images_sets_no_target(database: Database, api: TestClient) -> None:
    comparison = Comparison.model_validate(_ask(api, "", experiment=_trained(database, dict.fromkeys(range(3), NEW))))
    assert (comparison.teacher_top1, comparison.target) == (None, None)
    assert any("its test accuracy is not compared with theirs" in note for note in comparison.notes)


def test_runs_that_did_not_record_their_images_are_shown_with_a_caveat(database: Database, api: TestClient) -> None:
    images = {0: OLD, 1: OLD, 2: "", 3: ""}
    comparison = Comparison.model_validate(_ask(api, "", experiment=_trained(database, images)))
    assert [group.n for group in comparison.groups] == [4, 4]
    assert any("4 of 8 runs did not record their training images" in note for note in comparison.notes)
    plain = Comparison.model_validate(
        _ask(api, "", experiment=_trained(database, dict.fromkeys((4, 5), OLD), name="recorded"))
    )
    assert not any("record" in note or "data changed" in note for note in plain.notes)


def test_number_of_images_distinguishes_runs_without_a_hash(database: Database, api: TestClient) -> None:
    experiment = _trained(database, dict.fromkeys(range(4), ""))
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        rows.change(database, run_id, train_size=900, test_size=90 if (label, seed) == ("align", 0) else 100)
    comparison = Comparison.model_validate(_ask(api, "", experiment=experiment))
    assert (comparison.test_size, [group.n for group in comparison.groups]) == (100, [4, 3])
    assert any("images not recorded, 900 for training and 90 for the test" in note for note in comparison.notes)


def test_other_differences_within_an_average_are_noted(database: Database, api: TestClient) -> None:
    experiment = _trained(database, dict.fromkeys(range(3), OLD))
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label != "teacher":
            precision = "bfloat16" if seed == 0 else "float32"
            rows.change(database, run_id, environment={"images": OLD, "precision": precision})
    comparison = Comparison.model_validate(_ask(api, "", experiment=experiment))
    assert "The averaged runs of dkd differ in precision (bfloat16, float32)." in comparison.notes
