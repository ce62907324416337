"""The tools' answers: short, whatever the size of the API's reply."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from client.agents import describe, short
from core import catalog
from core.protocol.comparisons import MethodResult
from core.protocol.public import Catalog, Experiment, LogLine, LogsReply, StateCounts
from core.protocol.result_tables import ResultTable, TableCell, TableRow
from core.specs import ExperimentSpec
from tests.client import fakes
from tests.client.fakes import NOW
from tests.client.test_referee import _pair

MOST_CHARACTERS = 30_000
"""Of any answer as JSON."""


@pytest.fixture(scope="module")
def whole_catalog() -> Catalog:
    return Catalog(**catalog.describe(), experiment_schema=ExperimentSpec.model_json_schema())


def _large_experiment() -> Experiment:
    runs = [
        fakes.run_summary(number, state="failed" if number == 700 else "succeeded", reason="x" * 3000)
        for number in range(1000)
    ]
    return fakes.experiment(runs=runs, counts=StateCounts(succeeded=999, failed=1))


def _large_table() -> ResultTable:
    cells = [TableCell(label=f"method {number}", n=5, mean=90.123456789) for number in range(100)]
    row: dict[str, Any] = {"title": "t" * 500, "dataset": "d", "teacher": "a", "student": "b", "experiments": ["x"]}
    rows = [TableRow(**row, seeds=list(range(200)), teacher_seeds=[0], cells=cells) for _ in range(200)]
    return ResultTable(
        metric="test/top1",
        title="accuracy",
        unit="%",
        better="higher",
        epoch="last",
        test="sign_flip",
        baseline="kd",
        methods=["kd"],
        rows=rows,
        tests=1,
        notes=["n" * 1000] * 50,
    )


def test_answers_are_bounded() -> None:
    groups = [MethodResult(label=f"m{number}", method="kd", n=8, missing=list(range(100))) for number in range(200)]
    pairs = [_pair(label=f"method {number}", sentence="s" * 2000) for number in range(200)]
    comparison = fakes.comparison(groups=groups, paired=pairs, notes=[f"{number}" + "n" * 1000 for number in range(50)])
    lines = [LogLine(number=number, attempt=1, time=NOW, level="info", message="m" * 2000) for number in range(200)]
    answers: list[BaseModel] = [
        describe.experiment_status(_large_experiment()),
        describe.lab_status([fakes.experiment()] * 500, StateCounts(), 3),
        describe.comparison(comparison),
        describe.table(_large_table()),
    ]
    assert max(len(answer.model_dump_json()) for answer in answers) < MOST_CHARACTERS
    # 200 lines of 300 characters is what a caller may request at most.
    logs = describe.logs(fakes.run(), LogsReply(run_id="run-1", lines=lines))
    assert len(logs.model_dump_json()) < 70_000
    assert describe.comparison(comparison).omitted == 200 - short.MOST_ROWS


def test_failed_runs_are_listed_first() -> None:
    status = describe.experiment_status(_large_experiment())
    assert status.runs[0].state == "failed"
    assert status.omitted == 1000 - short.MOST_ITEMS
    assert len(status.runs[0].reason) <= 200


def test_control_characters_are_escaped() -> None:
    assert short.text("a\x1b[2Jb\n c") == "a\\x1b[2Jb c"


def test_every_part_of_the_catalog_can_be_listed_and_read(whole_catalog: Catalog) -> None:
    parts = (
        *("methods", "models", "datasets", "optimizers", "augmentations", "metrics", "tasks", "examples"),
        "spec",
    )
    for part in parts:
        listing = describe.catalog_list(whole_catalog, part, "")
        assert listing.entries, part
        assert len(listing.model_dump_json()) < MOST_CHARACTERS
        for line in listing.entries:
            answer = describe.catalog_entry(whole_catalog, part, line.name)
            assert answer is not None, (part, line.name)
            assert len(answer.model_dump_json()) < MOST_CHARACTERS
    assert describe.catalog_entry(whole_catalog, "methods", "nothing") is None


def test_a_method_is_read_with_the_schema_of_its_parameters(whole_catalog: Catalog) -> None:
    answer = describe.catalog_entry(whole_catalog, "methods", "dkd")
    assert answer is not None
    assert answer.entry is not None
    assert "beta" in answer.entry["params"]["properties"]


def test_search_selects_entries(whole_catalog: Catalog) -> None:
    names = [line.name for line in describe.catalog_list(whole_catalog, "methods", "DKD").entries]
    assert "dkd" in names
    assert "ce" not in names


def test_a_field_of_the_spec_comes_with_its_definitions_or_with_their_names(
    whole_catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entry(name: str) -> dict[str, Any]:
        answer = describe.catalog_entry(whole_catalog, "spec", name)
        assert answer is not None
        assert answer.entry is not None
        return answer.entry

    assert entry("tags")["$defs"] == {}
    resources = entry("resources")
    assert resources["$defs"]["Resources"] == entry("Resources")["schema"]
    answers = iter([False, True])
    monkeypatch.setattr(short, "fits", lambda _: next(answers))
    assert entry("resources")["definitions"] == sorted(resources["$defs"])
