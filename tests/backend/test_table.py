"""The result table: rows, bold cells, missing seeds, and published numbers."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
from fastapi.testclient import TestClient

from backend.comparisons import statistics
from backend.db import Database
from client.cli.options import set_field
from core.catalog import MODELS
from core.papers import PUBLISHED
from core.papers.decoupled_gradient_kd import results
from core.protocol.result_tables import BesidePublished, PublishedTable, ResultTable, TableCell
from core.specs import load_text, parse_experiment
from tests.backend import rows

METHODS = ["dkd", {"name": "dkd_align", "label": "align", "params": {"reduction": "log", "epsilon": 6.0}}]


def _table(api: TestClient, **query: Any) -> ResultTable:
    answer = api.get("/api/v1/comparisons/table", params=query)
    assert answer.status_code == 200, answer.text
    return ResultTable.model_validate(answer.json())


def _row(database: Database, gains: list[float], **changes: Any) -> str:
    """Create an experiment in which align has these gains over dkd, one per seed."""
    spec = {"methods": METHODS, "seeds": list(range(len(gains)))} | changes
    experiment = rows.experiment(database, **spec)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        if label == "teacher":
            rows.succeed(database, run_id, [50, 80, 91, 90])
        else:
            rows.succeed(database, run_id, [50, 60, 70, 80.0 + seed + gains[seed] * (label == "align")])
    return experiment


def _cell(table: ResultTable, row: int, label: str) -> TableCell:
    return next(cell for cell in table.rows[row].cells if cell.label == label)


CLEAR = [1.0 + 0.1 * seed for seed in range(8)]
MIXED = [1.0, -0.8, 0.3, -0.2, 0.5, -0.6, 0.1, 0.2]


def test_bold_requires_holm_over_the_whole_table(database: Database, api: TestClient) -> None:
    _row(database, CLEAR, name="clear")
    _row(database, [-gain for gain in CLEAR], name="worse", student={"model": "resnet8"})
    _row(database, MIXED, name="mixed", student={"model": "resnet20"})
    table = _table(api)
    assert [row.title for row in table.rows] == [
        "digits resnet8→small_cnn",
        "digits resnet8→resnet8",
        "digits resnet8→resnet20",
    ]
    assert (table.baseline, table.methods, table.tests) == ("dkd", ["dkd", "align"], 3)
    cells = [_cell(table, row, "align") for row in range(3)]
    assert [cell.verdict for cell in cells] == ["better", "worse", "unclear"]
    assert [cell.p_holm for cell in cells] == statistics.holm(
        [statistics.sign_flip_p(g) for g in (CLEAR, CLEAR, MIXED)]
    )
    assert _cell(table, 0, "dkd").verdict is None
    assert len(cells[0].run_ids) == 8
    tex = api.get("/api/v1/comparisons/table", params={"format": "latex"}).text
    assert tex.count("\\textbf{") == 1
    assert "\\textbf{84.85" in tex
    assert "\\downarrow" in tex


def test_another_row_can_remove_a_bold_cell(database: Database, api: TestClient) -> None:
    six = CLEAR[:6]  # p = 0.031, which suffices for a single test
    _row(database, six, name="alone")
    assert _cell(_table(api), 0, "align").verdict == "better"
    _row(database, MIXED[:6], name="another", student={"model": "resnet8"})
    table = _table(api)
    assert _cell(table, 0, "align").p_holm == pytest.approx(2 / 32)
    assert _cell(table, 0, "align").verdict == "unclear"
    assert any("No cell can be bold yet" in note and "7 seeds could" in note for note in table.notes)
    assert _cell(_table(api, test="t"), 0, "align").verdict == "better"


def test_oracle_values_are_never_bold(database: Database, api: TestClient) -> None:
    _row(database, CLEAR)
    table = _table(api, which="oracle")
    cell = _cell(table, 0, "align")
    assert cell.mean == pytest.approx(84.85)
    assert (cell.p, cell.verdict, table.tests) == (None, None, 0)
    assert any("nothing is bold" in note for note in table.notes)


def test_rows_merge_seeds_and_separate_trainings(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:3], name="first")
    _row(database, CLEAR[:5], name="more", seeds=[3, 4], training={"epochs": 4, "features_every": 2})
    _row(database, CLEAR[:2], name="longer", training={"epochs": 5})
    table = _table(api)
    assert [(row.experiments, row.seeds) for row in table.rows] == [
        (["first", "more"], [0, 1, 2, 3, 4]),
        (["longer"], [0, 1]),
    ]
    assert (
        table.rows[0].title == "digits resnet8→small_cnn (first and 1 more)"
    )  # otherwise two rows would have the same title
    assert _cell(table, 0, "align").n == 5


def test_table_filters_select_rows(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:2], name="a", tags=["paper", "one"])
    _row(database, CLEAR[:2], name="b", tags=["paper"], student={"model": "resnet8"})
    assert len(_table(api, tag="paper").rows) == 2
    assert [row.experiments for row in _table(api, tag=["paper", "one"]).rows] == [["a"]]
    assert [row.experiments for row in _table(api, student="resnet8").rows] == [["b"]]
    assert _table(api, dataset="cifar10").rows == []
    assert [row.experiments for row in _table(api, experiment=["a", "b"], tag="one").rows] == [["a"]]


def test_table_uses_present_tags_and_omits_archived_experiments(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:2], name="a", tags=["paper"])
    _row(database, CLEAR[:2], name="b", tags=["draft"], student={"model": "resnet8"})
    for name, tags in (("a", ["old"]), ("b", ["draft", "paper"])):
        assert api.patch(f"/api/v1/experiments/{name}", json={"tags": tags}).status_code == 200
    assert [row.experiments for row in _table(api, tag="paper").rows] == [["b"]]
    assert [row.experiments for row in _table(api, experiment=["a", "b"], tag="old").rows] == [["a"]]
    assert api.post("/api/v1/experiments/b/archive").status_code == 200
    assert _table(api, tag="paper").rows == []
    assert [row.experiments for row in _table(api, experiment="b").rows] == [["b"]], "a name is a name"


def test_default_baseline_is_the_method_of_most_rows(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:2], name="a")
    _row(database, CLEAR[:2], name="b", methods=METHODS[::-1], student={"model": "resnet8"})
    assert _table(api, baseline="align").baseline == "align"
    unnamed = _table(api)
    assert unnamed.baseline == unnamed.methods[0], "both have both"
    assert any("No baseline was named" in note for note in unnamed.notes)
    _row(database, CLEAR[:2], name="c", methods=METHODS[1:], student={"model": "resnet14"})
    assert _table(api).baseline == "align"
    assert _table(api, experiment="a").notes == _table(api, experiment="a", baseline=_table(api).methods[0]).notes
    assert api.get("/api/v1/comparisons/table", params={"baseline": "nobody"}).status_code == 422


def _queued_by(command: str, specs: dict[str, Any]) -> dict[str, Any]:
    """Return the spec that a command of the table submits, parsed by the command line."""
    export, _, submit = command.partition(" | ")
    words, changes = shlex.split(export), shlex.split(submit)
    assert words[:2] == ["dkd", "export"]
    assert words[3:] == ["--format", "spec"]
    data = specs[words[2]]
    assert changes[:3] == ["dkd", "submit", "-"]
    for flag, change in zip(changes[3::2], changes[4::2], strict=True):
        assert flag == "--set"
        data = set_field(data, change)
    return parse_experiment(load_text(str(data).replace("None", "null"))).model_dump(mode="json")


def test_missing_seeds_have_a_command_that_queues_them(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, name="it's mine", methods=METHODS, seeds=[0, 1])
    ids = rows.run_ids(database, experiment)
    for key in (("dkd", 0), ("align", 0), ("dkd", 1)):
        rows.succeed(database, ids[key], [50, 60, 70, 80.0])
    rows.change(database, ids["align", 1], state="failed", reason="out of memory")
    (row,) = _table(api, seed=[0, 1, 2, 4]).rows
    align = next(cell for cell in row.cells if cell.label == "align")
    assert [(item.seed, item.state) for item in align.missing] == [
        (1, "failed"),
        (2, "not planned"),
        (4, "not planned"),
    ]
    retry, submit = row.commands
    assert retry == f"dkd retry {ids['align', 1]}"
    stored = api.get(f"/api/v1/experiments/{experiment}").json()["spec"]
    queued = _queued_by(submit, {"it's mine": stored})
    assert queued["seeds"] == [2, 4]
    assert queued["methods"] == stored["methods"]
    # The submitted experiment belongs to the row.
    more = rows.experiment(database, **{key: value for key, value in queued.items() if value is not None})
    assert [item.experiments for item in _table(api).rows] == [["it's mine", queued["name"]]]
    assert more != experiment


def test_seeds_of_runs_that_have_not_ended_are_not_reported_as_missing(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, methods=METHODS, seeds=[0, 1])
    ids = rows.run_ids(database, experiment)
    rows.succeed(database, ids["dkd", 0], [50, 60, 70, 80.0])
    table = _table(api)
    assert all(item.to_come for cell in table.rows[0].cells for item in cell.missing)
    assert not [note for note in table.notes if "missing" in note]
    rows.change(database, ids["align", 1], state="cancelled")
    assert [note for note in _table(api).notes if "missing" in note]


def test_commands_use_the_id_if_a_name_begins_with_a_dash(database: Database, api: TestClient) -> None:
    experiment = _row(database, CLEAR[:2], name="-x")
    (row,) = _table(api, seed=[0, 1, 2]).rows
    assert row.commands[0].startswith(f"dkd export {experiment} --format spec")


def test_a_method_that_only_some_experiments_have_is_queued_alone(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:2], name="both")
    first = rows.experiment(database, name="dkd alone", methods=["dkd"], seeds=[2])
    for (label, _), run_id in rows.run_ids(database, first).items():
        if label != "teacher":
            rows.succeed(database, run_id, [50, 60, 70, 80.0])
    (row,) = _table(api).rows
    (command,) = row.commands
    specs = {"both": api.get("/api/v1/experiments/both").json()["spec"]}
    queued = _queued_by(command, specs)
    assert queued["methods"] == specs["both"]["methods"][1:]
    assert queued["seeds"] == [2]


def test_published_numbers_are_shown_beside_measured_ones(database: Database, api: TestClient) -> None:
    changes = {"dataset": "cifar100", "teacher": {"model": "resnet56"}, "student": {"model": "resnet20"}}
    _row(database, CLEAR[:2], **changes)
    (row,) = _table(api).rows
    (dkd,) = row.cells[0].published
    assert (dkd.value, dkd.repeats, dkd.epoch) == (71.97, 5, "oracle")
    assert row.published[0].value == 72.34
    assert row.cells[1].published == []
    marked = api.get("/api/v1/comparisons/table", params={"format": "markdown"}).text
    assert re.search(r"80\.50 ± 0\.71 \(2\) \\\[71\.97\\\]", marked)
    assert _table(api, metric="test/loss").rows[0].published == []


def test_published_numbers_are_beside_results_of_the_same_networks_and_method(
    database: Database, api: TestClient
) -> None:
    pair = {"dataset": "cifar100", "teacher": {"model": "resnet56"}, "student": {"model": "resnet20"}}
    standardised = {"name": "kd", "label": "kd, standardised", "params": {"standardise": True}}
    experiment = rows.experiment(database, methods=["kd", standardised, "nkd"], seeds=[0, 1], **pair)
    for (label, seed), run_id in rows.run_ids(database, experiment).items():
        last = {"kd": 70.0, "kd, standardised": 71.0}.get(label, 60.0) + seed
        rows.succeed(database, run_id, [50.0, last + 0.5, last])
    answer = api.get("/api/v1/comparisons/published/measured", params={"teacher": "resnet56"}).json()
    reply = BesidePublished.model_validate(answer)
    assert {(item.teacher, item.student) for item in reply.items} == {("resnet56", "resnet20")}
    by_method = {item.printed: item for item in reply.items}
    kd = by_method["KD"]
    assert (kd.value, kd.source, kd.epoch, kd.repeats) == (70.66, "RepDistiller README", "last", None)
    assert "NORM README" in kd.reprinted
    [here] = kd.measured
    assert here.last
    assert here.oracle
    assert (here.label, here.last.mean, here.last.n, here.oracle.mean) == ("kd", 70.5, 2, 71.0)
    assert (here.epochs, here.experiments) == (4, ["rows"])
    assert [item.label for item in by_method["KD+LS"].measured] == ["kd, standardised"]
    assert by_method["KD+LS"].epoch == "oracle"
    assert by_method["FitNet"].measured == []
    [teacher] = by_method["Teacher"].measured
    assert teacher.last
    assert (teacher.label, teacher.last.mean, teacher.last.n, teacher.oracle) == ("teacher", 60.0, 1, None)
    counts = {(item.teacher, item.student): item.experiments for item in reply.settings}
    assert (counts["resnet56", "resnet20"], counts["resnet110", "resnet32"]) == (1, 0)
    assert reply.sources["RepDistiller README"].startswith("Last epoch")
    tagged = api.get("/api/v1/comparisons/published/measured", params={"tag": "paper", "student": "resnet20"}).json()
    assert not any(item["measured"] for item in tagged["items"])
    assert {item["teacher"] for item in tagged["items"]} == {"resnet56", "resnet110"}


def test_results_of_other_shares_are_in_rows_of_their_own(database: Database, api: TestClient) -> None:
    for name, shares in (("first", {"nckd": 0.3}), ("second", {"nckd": 0.4})):
        experiment = rows.experiment(database, name=name, methods=[{"name": "dkd", "shares": shares}], seeds=[0])
        for run_id in rows.run_ids(database, experiment).values():
            rows.succeed(database, run_id, [50.0, 60.0])
    assert [row.experiments for row in _table(api).rows] == [["first"], ["second"]]


def test_every_published_row_names_networks_of_the_catalog() -> None:
    for row in PUBLISHED:
        assert row.teacher in MODELS
        assert row.student in MODELS
        assert row.repeats.keys() | row.epoch.keys() <= row.values.keys()
    assert len(PUBLISHED) == 27


def test_table_without_experiments_has_no_rows(api: TestClient) -> None:
    table = _table(api)
    assert (table.rows, table.methods, table.baseline) == ([], [], "")


def test_invalid_table_query_is_refused(database: Database, api: TestClient) -> None:
    _row(database, CLEAR[:2])
    assert api.get("/api/v1/comparisons/table", params={"experiment": "nobody"}).status_code == 404
    answer = api.get("/api/v1/comparisons/table", params={"metric": "test/top"})
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "metric")


def test_published_rows_are_returned_as_printed(api: TestClient) -> None:
    answer = api.get("/api/v1/comparisons/published")
    assert answer.status_code == 200
    rows = PublishedTable.model_validate(answer.json()).rows
    assert len(rows) == len(PUBLISHED)
    author = [row for row in rows if row.source == results.SOURCE]
    assert len(author) == 14
    first = {item.method: (item.value, item.repeats) for item in author[0].values}
    assert first == {"dkd_align": (62.01, 1), "dkd": (61.07, 1)}
    assert (author[0].method, author[0].baseline) == ("dkd_align", "dkd")
