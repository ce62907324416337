"""The Results page: result table, published numbers, claims."""

from __future__ import annotations

import re

import pytest

from core.protocol.comparisons import MissingPair, PaperClaim
from core.protocol.result_tables import PublishedNumber, PublishedValue, ResultTable, TableCell, TableRow
from dashboard.lists import published_rows, result_rows
from dashboard.markup import escape
from tests import recorded_lab
from tests.dashboard.conftest import texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec
from tests.dashboard.recorded import lab, recorded
from tests.dashboard.stand import Stand

__all__ = ["lab", "recorded"]


def test_cell_is_bold_only_if_better_and_links_to_its_runs() -> None:
    cell = TableCell(label="a", n=3, mean=93.8, sd=0.92, verdict="better", run_ids=["r1", "r2"])
    text = result_rows.cell_text(cell).replace("\u00a0", " ")
    assert text == "[**93.80 ± 0.92 (3)**](compare?run=r1&run=r2)"
    assert "**" not in result_rows.cell_text(cell.model_copy(update={"verdict": "unclear"}))
    assert "↓" in result_rows.cell_text(cell.model_copy(update={"verdict": "worse"}))


def test_cell_shows_missing_seeds_and_published_values() -> None:
    published = [PublishedValue(source="s", method="dkd", value=71.97)]
    lacking = TableCell(label="a", n=0, missing=[MissingPair(seed=1, label="a", state="failed")], published=published)
    assert result_rows.cell_text(lacking).replace("\u00a0", " ") == "– · 1 missing \\[71.97\\]"


def test_seeds_of_runs_that_have_not_ended_are_not_missing() -> None:
    states = ("waiting", "queued", "running", "cancelled", "not planned")
    pairs = [
        MissingPair(seed=seed, label="a", run_id="" if state == "not planned" else f"r{seed}", state=state)
        for seed, state in enumerate(states)
    ]
    cell = TableCell(label="a", n=1, mean=90.0, missing=pairs)
    assert result_rows.cell_text(cell).replace("\u00a0", " ").endswith("(1) · 2 missing · 3 to come")
    only_to_come = cell.model_copy(update={"missing": pairs[:3]})
    assert "missing" not in result_rows.cell_text(only_to_come)


def test_missing_seeds_are_gathered_by_reason() -> None:
    missing = [MissingPair(seed=seed, label="kd", state="not planned") for seed in (3, 4)]
    missing.append(MissingPair(seed=5, label="kd", run_id="r", state="queued"))
    row = TableRow(
        title="t",
        dataset="d",
        teacher="t",
        student="s",
        experiments=[],
        seeds=[],
        teacher_seeds=[],
        cells=[TableCell(label="kd", n=1, missing=missing)],
    )
    assert result_rows.missing_lines(row) == ["kd: seeds 3, 4 (not planned)"]
    assert result_rows.missing_count(row) == 2


def test_claims_are_grouped_by_number() -> None:
    claims = [
        PaperClaim(number=2, claim="Two.", verdict="holds", reason="because", case="equal scale"),
        PaperClaim(number=1, claim="One.", verdict="does not hold", reason="no"),
        PaperClaim(number=2, claim="Two.", verdict="cannot tell", reason="few", label="a", baseline="b", n=1),
    ]
    lines = result_rows.claim_lines(claims)
    assert [title for title, _ in lines] == ["1. One.", "2. Two."]
    assert lines[1][1] == [
        ":green-badge[✓ holds] **equal scale:** because",
        ":gray-badge[? cannot tell] **a against b (1 pair):** few",
    ]


def number(method: str, printed: str, value: float, **more: object) -> PublishedNumber:
    return PublishedNumber(
        source="table",
        dataset="cifar100",
        teacher="t",
        student="s",
        printed=printed,
        method=method,
        value=value,
        **more,
    )


def test_published_numbers_are_grouped_by_family_after_the_teacher() -> None:
    numbers = [
        *(number("crd", "CRD", 71.0), number("kd", "KD", 70.0), number("", "DistPro", 73.0)),
        *(number("dkd", "dkd", 72.0), number("teacher", "Teacher", 75.0)),
    ]
    family_of = {"kd": "logits", "dkd": "decoupled", "crd": "contrastive"}
    rows = published_rows.rows(numbers, {"dkd": "DKD", "kd": "KD"}, family_of)
    assert [(row["Family"], row["Method"]) for row in rows] == [
        ("", "Teacher"),
        ("Logits", "KD"),
        ("Decoupled", "DKD"),
        ("Contrastive", "CRD"),
        ("Other methods", "DistPro"),
    ]


def test_published_numbers_of_several_metrics_are_metric_by_metric() -> None:
    numbers = [
        number(method, printed, value, metric=metric, confirmed=False)
        for metric, value in (("test/ap", 35.05), ("test/ap50", 56.6))
        for method, printed in (("dkd", "DKD"), ("teacher", "Teacher"))
    ]
    family_of, titles = {"dkd": "decoupled"}, {"test/ap": "Test AP (%)", "test/ap50": "Test AP at IoU 0.5 (%)"}
    rows = published_rows.rows(numbers, {}, family_of, titles)
    assert [(row["Metric"], row["Family"], row["Method"], row["Published"]) for row in rows] == [
        ("Test AP (%)", "", "Teacher", "35.05 (unconfirmed)"),
        ("", "Decoupled", "DKD", "35.05 (unconfirmed)"),
        ("Test AP at IoU 0.5 (%)", "", "Teacher", "56.60 (unconfirmed)"),
        ("", "Decoupled", "DKD", "56.60 (unconfirmed)"),
    ]
    one = published_rows.rows(numbers[:2], {}, family_of, titles)
    assert "Metric" not in one[0]


def test_an_unconfirmed_number_is_marked_in_a_cell() -> None:
    published = [PublishedValue(source="s", method="dkd", value=35.05, confirmed=False)]
    assert result_rows.cell_text(TableCell(label="a", n=0, published=published)) == "– \\[35.05 unconfirmed\\]"


def test_many_methods_of_the_result_table_are_rows() -> None:
    labels = [f"method {index}" for index in range(12)]
    cells = [TableCell(label=label, method=label.replace(" ", "_"), n=2, mean=70.0) for label in labels]
    row = TableRow(
        title="cifar100 t→s",
        dataset="cifar100",
        teacher="t",
        student="s",
        teacher_top1=75.0,
        experiments=[],
        seeds=[],
        teacher_seeds=[],
        cells=cells[:-1],
    )
    other = row.model_copy(update={"title": "cifar100 t→u", "cells": cells[-1:]})
    table = ResultTable(
        metric="test/top1",
        title="Test accuracy",
        unit="%",
        better="higher",
        epoch="last",
        test="sign_flip",
        baseline=labels[0],
        methods=labels,
        rows=[row, other],
        tests=0,
        notes=[],
    )
    families = {f"method_{index}": "features" if index % 2 else "logits" for index in range(12)}
    shown = result_rows.table_rows(table, families)
    assert [row["Method"] for row in shown][:3] == ["teacher", "method 0", "method 2"]
    assert [row["Family"] for row in shown if row["Family"]] == ["Logits", "Features"]
    assert shown[0]["cifar100 t→s"] == "75.00"
    assert shown[-1]["cifar100 t→s"] == "–", "the last method is not in this row"


class TestRecordedLab:
    def test_table_has_values_with_links_and_what_is_to_come(self, recorded: Stand) -> None:
        app = visit("results")
        assert not app.exception
        rows = {row["Setting"]: row for row in app.table[0].value.to_dict("records")}
        row = next(row for title, row in rows.items() if escape(f"({recorded_lab.METHODS})") in title)
        for run_id in runs_of(recorded, "dkd"):
            assert run_id in row["dkd"]
        assert "compare?run=" in row["dkd"]
        waiting = next(row for title, row in rows.items() if "resnet56" in title)
        assert "2\u00a0to\u00a0come" in waiting["kd"]
        assert "Bold: better than ce over the same seeds" in texts(app)

    def test_seeds_of_a_failed_teacher_are_missing(self, recorded: Stand) -> None:
        app = visit("results")
        assert "missing run" in app.expander[0].label
        assert "dkd retry" in texts(app)

    def test_claims_are_judged(self, recorded: Stand) -> None:
        app = visit("results")
        assert re.search(r":\w+-badge\[. (holds|does not hold|cannot tell)\]", texts(app))

    def test_baseline_is_that_of_the_url_or_the_backends_default(self, recorded: Stand) -> None:
        plain = visit("results")
        options = plain.selectbox(key="baseline").options
        assert options == ["automatic (ce)", *recorded_lab.LABELS]
        assert "Bold: better than ce " in texts(plain)
        chosen = visit("results", baseline="dkd_align (log)")
        assert not chosen.exception
        assert "Bold: better than dkd_align (log) " in texts(chosen).replace("\\", "")

    def test_with_experiments_of_two_tasks_one_is_chosen(self, recorded: Stand) -> None:
        app = visit("results")
        assert not app.exception
        assert "**Test accuracy (%)**" in texts(app)
        assert "cifar100: resnet56 → resnet20" in app.selectbox(key="pair").options
        app.segmented_control(key="task").set_value("Object detection").run()
        assert not app.exception
        assert "**Test AP (%)**" in texts(app)
        assert "**Test accuracy (%)**" not in texts(app)
        assert all(option.startswith("coco: ") for option in app.selectbox(key="pair").options)
        linked = visit("results", task="Object detection")
        assert "**Test AP (%)**" in texts(linked)

    def test_link_selects_a_pair_of_networks(self, recorded: Stand) -> None:
        app = visit("results", pair="cifar100: resnet56 → resnet20")
        assert not app.exception
        assert app.selectbox(key="pair").value == "cifar100: resnet56 → resnet20"
        numbers = app.table[1].value.to_dict("records")
        assert "71.97" in {row["Published"] for row in numbers}
        assert {row["Here, last epoch"] for row in numbers} == {"–"}

    @pytest.mark.parametrize("test", ["exact sign-flip", "paired t"])
    def test_link_restores_the_settings(self, recorded: Stand, test: str) -> None:
        app = visit("results", tags="paper, first", test=test)
        assert "No experiment has the tags" in texts(app)
        assert not app.exception


def runs_of(lab: Stand, label: str) -> list[str]:
    return [run.id for run in lab.client.experiment(recorded_lab.METHODS).runs if run.label == label]


def test_results_without_experiments_show_published_numbers_and_link_to_the_form(stand: Stand) -> None:
    app = visit("results")
    assert not app.exception
    assert "There are no results yet" in texts(app)
    [numbers] = (table.value.to_dict("records") for table in app.table)
    assert numbers
    assert {row["Here, last epoch"] for row in numbers} == {"–"}


class TestPublishedBesideResults:
    """With a fake backend: no lab of minutes has results beside published ones."""

    def test_page_shows_table_missing_seeds_and_claims(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        *others, run = backend.runs.values()
        for other in others:
            backend.advance(other.id, 30)
        app = visit("results")
        [row], _ = (table.value.to_dict("records") for table in app.table)
        assert "1\u00a0to\u00a0come" in row[escape("dkd_align (log)")]
        assert not app.expander, "nothing is missing yet"
        backend.end(run.id, "failed", "out of memory")
        app = visit("results")
        assert not app.exception
        assert "1 missing run" in app.expander[0].label
        [row], numbers = (table.value.to_dict("records") for table in app.table)
        assert "compare?run=run-0001-001" in row["dkd"]
        assert "**" in row[escape("dkd_align (sample)")]
        assert "1\u00a0missing" in row[escape("dkd_align (log)")]
        assert "dkd retry run-1" in texts(app)
        kd, dkd, new = numbers
        assert (kd["Source"], kd["Epoch"], kd["Runs"]) == ("first table (reprinted by 1\u00a0other)", "last", "–")
        assert (dkd["Epoch"], dkd["Runs"]) == ("best test", "5")
        assert "compare?run=run-0001-001" in dkd["Here, last epoch"]
        assert "30\u00a0epochs" in dkd["Here, last epoch"]
        best = float(dkd["Here, best test epoch"].removeprefix("[").split("\u00a0")[0])
        assert dkd["Here − published"] == f"+{best - 96:.2f}", "at the epoch that the source states"
        assert (new["Epoch"], new["Here − published"]) == ("–", "–")
        shown = texts(app)
        assert "**1. What is claimed, 1.**" in shown
        assert ":gray-badge[? cannot tell] **dkd\\_align (log) against dkd (3 pairs):** the reason of 3" in shown

    def test_with_one_task_nothing_is_chosen_and_all_published_numbers_can_be_seen(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        app = visit("results", pair="coco: faster_rcnn resnet101 → faster_rcnn resnet18")
        assert not app.exception
        assert not [item for item in app.segmented_control if item.key == "task"]
        assert app.selectbox(key="pair").value == "coco: faster_rcnn resnet101 → faster_rcnn resnet18"
        assert "KD" in {row["Method"] for row in app.table[1].value.to_dict("records")}

    def test_page_recovers_after_an_outage(self, server: FakeServer) -> None:
        server.stop()
        app = visit("results")
        assert "The backend does not answer." in texts(app)
        server.start()
        app.run()
        assert "There are no results yet" in texts(app)
