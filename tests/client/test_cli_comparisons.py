"""``dkd compare``, ``claims`` and ``table``: their requests, their output, and the input that they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.cli.app import run
from core.protocol.comparisons import (
    Interval,
    MissingPair,
    Overview,
    OverviewCell,
    OverviewRow,
    PaperClaim,
    PaperClaims,
)
from core.protocol.costs import CostValue, MethodCost
from core.protocol.over_images import (
    ComparedOverImages,
    DifferenceOverImages,
    ImageInterval,
    MethodOverImages,
    SeedOverImages,
)
from core.protocol.result_tables import PublishedValue, ResultTable, TableCell, TableRow
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fakes import FakeBackend, page, problem

PATH = "GET /api/v1/comparisons"


def _table(**changes: Any) -> ResultTable:
    base = TableCell(label="dkd", n=3, mean=71.5, sd=0.2, run_ids=["r1"])
    align = TableCell(
        label="align",
        n=2,
        mean=72.5,
        sd=0.25,
        pairs=2,
        mean_difference=1.0,
        p=0.001,
        p_holm=0.002,
        verdict="better",
        missing=[MissingPair(seed=4, label="align", run_id="r9", state="failed")],
        published=[PublishedValue(source="a paper", method="dkd_align", value=73.25)],
    )
    row = TableRow(
        title="cifar100 resnet56→resnet20",
        dataset="cifar100",
        teacher="resnet56",
        student="resnet20",
        teacher_top1=72.0,
        experiments=["one"],
        seeds=[0, 1, 4],
        teacher_seeds=[0],
        cells=[base, align],
        commands=["dkd retry r9"],
    )
    values: dict[str, Any] = {
        "metric": "test/top1",
        "title": "Test accuracy",
        "unit": "%",
        "better": "higher",
        "epoch": "last",
        "test": "sign_flip",
        "baseline": "dkd",
        "methods": ["dkd", "align"],
        "rows": [row],
        "tests": 1,
        "notes": ["A note."],
    }
    return ResultTable.model_validate(values | changes)


def _claims() -> PaperClaims:
    return PaperClaims(
        experiment="small",
        experiments=["small"],
        condition="one teacher (seed 0)",
        claims=[
            PaperClaim(number=1, claim="It is so.", case="always", verdict="holds", reason="1 against 1"),
            PaperClaim(
                number=3, claim="And so.", label="align", baseline="dkd", verdict="cannot tell", reason="few", n=5
            ),
        ],
        notes=["Holm is over 1 test."],
    )


def _overview() -> Overview:
    cells = [
        OverviewCell(label="dkd", n=6, mean=0.5, sd=0.01),
        OverviewCell(
            label="align",
            n=6,
            mean=0.4,
            sd=0.02,
            pairs=6,
            mean_difference=-0.1,
            interval=Interval(low=-0.15, high=-0.05),
            sign_flip_p=0.03,
            verdict="better",
        ),
    ]
    row = OverviewRow(metric="test/loss", title="Loss", unit="nats", better="lower", cells=cells)
    return Overview(
        experiment="small",
        experiments=["small"],
        epoch="last",
        baseline="dkd",
        condition="one teacher",
        rows=[row],
        notes=["None is adjusted."],
    )


def test_compare_sends_its_options_as_query_parameters(backend: FakeBackend) -> None:
    backend.answers[PATH] = fakes.comparison()
    words = ["compare", "one", "two", "--metric", "test/loss", "--which", "best-val", "--target", "90"]
    assert run([*words, "--difference", "0.5", "--baseline", "kd"]) == 0
    query = backend.requests[-1].url.params
    assert query.get_list("experiment") == ["one", "two"]
    assert {key: query[key] for key in ("metric", "which", "target", "difference", "baseline")} == {
        "metric": "test/loss",
        "which": "best_val",
        "target": "90.0",
        "difference": "0.5",
        "baseline": "kd",
    }


def test_compare_prints_times_with_the_teachers_part_apart(backend: FakeBackend, capsys: Captured) -> None:
    costs = [
        MethodCost(
            label=label,
            uses_teacher=True,
            runs=2,
            seconds=CostValue(mean=100 + part, n=2),
            student_seconds=CostValue(mean=100, n=2),
            teacher_seconds=CostValue(mean=part, n=2),
        )
        for label, part in (("kd", 60.0), ("dkd", 2.0))
    ]
    backend.answers[PATH] = fakes.comparison(costs=costs)
    assert run(["compare", "small"]) == 0
    out = capsys.readouterr().out
    assert "training without the teacher's part" in out
    assert out.count("1 min 40 s") == 2
    assert "1 min 00 s, 38 %" in out
    assert "It depends on the order of the runs and not on the method" in out
    assert "Energy was not measured" in out


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["compare", "small"], ""),
        (["compare", "small", "--all"], "/overview"),
        (["claims", "small"], "/claims"),
        (["table", "small"], "/table"),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "markdown", "latex"])
def test_csv_markdown_and_latex_come_from_the_backend(
    backend: FakeBackend, capsys: Captured, words: list[str], path: str, kind: str
) -> None:
    backend.answers[PATH + path] = fakes.text(f"the {kind}\n")
    assert run([*words, "--format", kind]) == 0
    assert capsys.readouterr().out == f"the {kind}\n"
    assert backend.requests[-1].url.params["format"] == kind


def test_compare_all_prints_every_metric(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[f"{PATH}/overview"] = _overview()
    assert run(["compare", "small", "--all"]) == 0
    out = capsys.readouterr().out
    assert "Loss (nats) ↓" in out
    assert "0.500 ± 0.010" in out
    assert "−0.10 [−0.15, −0.05]" in out
    assert "None is adjusted." in out
    assert run(["compare", "small", "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["cells"][1]["verdict"] == "better"


def test_claims_prints_verdicts(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[f"{PATH}/claims"] = _claims()
    assert run(["claims", "small", "--difference", "0.3"]) == 0
    out = capsys.readouterr().out
    assert "holds  always: 1 against 1." in out
    assert "cannot tell  align against dkd (5 pairs): few." in out
    assert backend.requests[-1].url.params["difference"] == "0.3"
    assert run(["claims", "small", "--json"]) == 0
    assert [item["number"] for item in json.loads(capsys.readouterr().out)["claims"]] == [1, 3]


def test_table_lists_missing_seeds_and_the_commands_that_queue_them(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[f"{PATH}/table"] = _table()
    words = ["table", "--tag", "paper", "--tag", "two", "--dataset", "cifar100", "--test", "t", "--seeds", "0-2,4"]
    assert run([*words, "--which", "oracle"]) == 0
    out = capsys.readouterr().out
    assert "71.50 ± 0.20 (3)" in out
    assert "72.50 ± 0.25 (2) [73.25]" in out
    assert "In brackets, as published: a paper." in out
    assert "align: no value for seed 4 (failed)." in out
    assert "\ndkd retry r9\n" in out  # on a separate line, to be pasted
    query = backend.requests[-1].url.params
    assert (query.get_list("tag"), query.get_list("seed")) == (["paper", "two"], ["0", "1", "2", "4"])
    assert (query["dataset"], query["test"], query["which"]) == ("cifar100", "t", "oracle")


def test_an_empty_table_is_reported(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[f"{PATH}/table"] = _table(rows=[])
    assert run(["table", "--tag", "none"]) == 0
    assert "no experiment matches these filters" in capsys.readouterr().err


def _over_images(**changes: Any) -> ComparedOverImages:
    interval = ImageInterval(low=-0.5, high=1.75)
    numbers = {"value": 71.5, "baseline": 70.875, "difference": 0.625, "interval": interval}
    pairs = [SeedOverImages(seed=seed, run_id=f"r{seed}", baseline_run_id="b", **numbers) for seed in (0, 1)]
    pooled = DifferenceOverImages(**numbers)
    method = MethodOverImages(
        label="align", method="dkd_align", pooled=pooled, pairs=pairs, sentence="It contains zero."
    )
    values: dict[str, Any] = {
        "baseline": "dkd",
        "metric": "test/ap",
        "title": "Test AP",
        "unit": "%",
        "images": 500,
        "resamples": 1000,
        "evaluated": 4,
        "pending": 0,
        "methods": [method],
        "notes": ["A note of the test."],
    }
    return ComparedOverImages(**values | changes)


class TestOverImages:
    def test_rows_follow_the_test_over_seeds_and_are_named_apart(self, backend: FakeBackend, capsys: Captured) -> None:
        backend.answers[PATH] = fakes.comparison()
        backend.answers[f"{PATH}/images"] = _over_images()
        assert run(["compare", "small", "--images"]) == 0
        out = capsys.readouterr().out
        assert "t interval" in out.partition("over the test images")[0]
        over = out.partition("over the test images")[2]
        assert "bootstrap interval over images" in over
        assert "all 2" in over
        assert over.count("+0.62 [−0.50, +1.75]") == 3
        assert "align against dkd: It contains zero." in over
        assert "A note of the test." in over

    def test_request_is_repeated_until_every_run_is_evaluated(self, backend: FakeBackend, capsys: Captured) -> None:
        replies = iter([_over_images(evaluated=1, pending=3), _over_images()])
        backend.answers[f"{PATH}/images"] = lambda _: next(replies)
        assert run(["compare", "small", "--images", "--json"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["pending"] == 0
        assert "1 of 4 runs are evaluated" in err

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--all"], "leave --all, --metric and --which out"),
            (["--metric", "test/nll"], "leave --all, --metric and --which out"),
            (["--which", "oracle"], "leave --all, --metric and --which out"),
            (["--format", "csv"], "--images has no --format csv: choose text or json"),
        ],
    )
    def test_options_without_a_meaning_are_refused(
        self, backend: FakeBackend, capsys: Captured, more: list[str], message: str
    ) -> None:
        assert run(["compare", "small", "--images", *more]) == 2
        assert message in capsys.readouterr().err
        assert not backend.requests

    def test_runs_without_files_say_so_below_the_comparison(self, backend: FakeBackend, capsys: Captured) -> None:
        backend.answers[PATH] = fakes.comparison()
        backend.answers[f"{PATH}/images"] = problem(404, "this run kept no detections")
        assert run(["compare", "small", "--images"]) == 1
        out, err = capsys.readouterr()
        assert "t interval" in out
        assert "kept no detections" in err
        assert "dkd experiments" not in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "small", "--which", "best"], "--which best: must be one of last, best-val, oracle"),
        (["compare", "small", "--format", "pdf"], "--format pdf: must be one of text, json, csv, markdown, latex"),
        (["compare", "small", "--json", "--format", "csv"], "contradict each other"),
        (["table", "--test", "bootstrap"], "--test bootstrap: must be one of sign-flip, t"),
        (["table", "--seeds", "4-0"], "--seeds 4-0: expected a list such as 0-4 or 0,1,2"),
        (["table", "--seeds", "0-99999"], "at most 1,000"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    backend: FakeBackend, capsys: Captured, words: list[str], message: str
) -> None:
    assert run(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert not backend.requests


@pytest.mark.parametrize(("words", "path"), [(["compare"], ""), (["claims"], "/claims"), (["table"], "/table")])
def test_an_unknown_name_comes_with_similar_names(
    backend: FakeBackend, capsys: Captured, words: list[str], path: str
) -> None:
    backend.answers[PATH + path] = problem(404, "there is no experiment 'smal'")
    backend.answers["GET /api/v1/experiments"] = page(fakes.experiment())
    assert run([*words, "smal"]) == 1
    assert "there is no experiment 'smal'; did you mean small?" in capsys.readouterr().err


def test_an_unknown_metric_is_refused(backend: FakeBackend, capsys: Captured) -> None:
    message = "unknown metric 'test/top'; did you mean test/top1?"
    backend.answers[PATH] = problem(422, message, ("metric", message))
    assert run(["compare", "small", "--metric", "test/top"]) == 2
    assert capsys.readouterr().err == f"dkd: metric: {message}\n"
