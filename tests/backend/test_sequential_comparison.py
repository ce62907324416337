"""Comparisons, tables and claims of experiments whose seeds are added until they are decided."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from backend.db import Database
from backend.settings import Settings
from client.rendering.comparisons import render_comparison
from core.protocol.comparisons import Comparison, Overview
from core.protocol.result_tables import ResultTable
from tests.backend import rows
from tests.backend.campaigns import Campaign, clear_and_noisy
from tests.backend.finished_experiments import compare


@pytest.fixture
def campaign(database: Database, settings: Settings) -> Campaign:
    made = Campaign(database, settings)
    made.grow(clear_and_noisy)
    return made


def text_of(comparison: Comparison) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_comparison(comparison))
    return " ".join(capture.get().split())


def test_the_looks_decide_and_no_p_of_a_fixed_number_is_shown(campaign: Campaign, api: TestClient) -> None:
    comparison = compare(api, campaign.id)
    looks = comparison.sequential
    assert looks is not None
    assert comparison.by_looks
    assert comparison.tests == 2
    for pair, looked in zip(comparison.paired, looks.comparisons, strict=True):
        last = looked.looks[-1]
        assert pair.interval is not None
        assert (pair.interval.low, pair.interval.high) == (last.low, last.high)
        assert (pair.sign_flip_p, pair.sign_flip_p_holm, pair.needed) == (None, None, None)
        assert pair.sentence.startswith(looked.sentence)
        assert pair.missing == []
    assert [pair.verdict for pair in comparison.paired] == ["better", "unclear"]
    assert [group.missing for group in comparison.groups] == [[], [], []]
    assert comparison.complete
    assert any("2 were not needed" in note for note in comparison.notes)
    text = text_of(comparison)
    assert "interval over all looks" in text
    assert "clear is better than kd: after 8 of at most 10 seeds" in text
    assert "Not every run has ended" not in text


def test_while_seeds_may_be_added_the_numbers_may_change(
    database: Database, settings: Settings, api: TestClient
) -> None:
    growing = Campaign(database, settings)
    growing.finish(clear_and_noisy)
    comparison = compare(api, growing.id)
    assert not comparison.complete
    assert [pair.verdict for pair in comparison.paired] == ["unclear", "unclear"]
    assert "clear against kd is not decided after 3 of at most 10 seeds" in comparison.paired[0].sentence


def test_another_baseline_is_shown_and_not_tested(campaign: Campaign, api: TestClient) -> None:
    comparison = compare(api, campaign.id, baseline="clear")
    assert not comparison.by_looks
    assert comparison.sequential is not None
    assert [pair.verdict for pair in comparison.paired] == [None, None]
    assert all("decide only against the first method" in pair.sentence for pair in comparison.paired)


def test_other_metrics_are_tested_with_a_note(campaign: Campaign, api: TestClient) -> None:
    for run_id in campaign.runs().values():
        rows.insert_records(campaign.database, run_id, rows.metrics(30, {"test/ece": 3.0}))
    answer = api.get("/api/v1/comparisons/overview", params={"experiment": campaign.id})
    overview = Overview.model_validate(answer.json())
    by_metric = {row.metric: row.cells for row in overview.rows}
    assert {cell.verdict for cell in by_metric["test/top1"]} == {None}
    if other := [cells for metric, cells in by_metric.items() if metric != "test/top1"]:
        assert any(cell.verdict is not None for cells in other for cell in cells)
    assert any("after each seed" in note for note in overview.notes)


def test_a_table_shows_the_rows_without_a_test_and_queues_nothing(campaign: Campaign, api: TestClient) -> None:
    answer = api.get("/api/v1/comparisons/table", params={"experiment": [campaign.id]})
    table = ResultTable.model_validate(answer.json())
    (row,) = table.rows
    assert [(cell.p, cell.verdict, cell.missing) for cell in row.cells] == [(None, None, [])] * 3
    assert row.commands == []
    assert any("Seeds were added until the comparisons were decided in rows" in note for note in table.notes)


def test_text_forms_name_the_interval(campaign: Campaign, api: TestClient) -> None:
    answer = api.get("/api/v1/comparisons", params={"experiment": campaign.id, "format": "markdown"})
    assert "Interval over all looks" in answer.text


def test_listed_seeds_are_compared_as_before(database: Database, settings: Settings, api: TestClient) -> None:
    listed = Campaign(database, settings, seeds=[0, 1, 2])
    listed.grow(clear_and_noisy)
    comparison = compare(api, listed.id)
    assert comparison.sequential is None
    assert not comparison.by_looks
    assert comparison.paired[0].sign_flip_p is not None
    assert "95 % t interval" in text_of(comparison)
