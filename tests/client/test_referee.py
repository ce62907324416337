"""The referee: which decision and sentence each verdict of a comparison gives."""

from __future__ import annotations

from typing import Any

import pytest

from client.referee import rule, seeds_for_a_verdict, table_sentence
from core.protocol.comparisons import MissingPair, PairedDifference
from core.protocol.result_tables import ResultTable, TableCell, TableRow
from tests.client import fakes


def _pair(**changes: Any) -> PairedDifference:
    values: dict[str, Any] = {
        "label": "dkd",
        "baseline": "kd",
        "n": 8,
        "units": 8,
        "seeds": list(range(8)),
        "mean_difference": 0.5,
        "sign_flip_p": 0.01,
        "verdict": "better",
        "sentence": "The evidence.",
    }
    return PairedDifference.model_validate(values | changes)


@pytest.mark.parametrize(
    ("verdict", "decision"),
    [
        ("better", "keep"),
        ("worse", "discard"),
        ("unclear", "not supported"),
        ("higher", "not supported"),
        (None, "not supported"),
    ],
)
def test_only_a_better_verdict_is_kept(verdict: str | None, decision: str) -> None:
    (ruling,) = rule(fakes.comparison(paired=[_pair(verdict=verdict)], tests=1))
    assert ruling.decision == decision
    assert "The evidence." in ruling.sentence


def test_nothing_is_decided_before_all_runs_have_ended() -> None:
    (ruling,) = rule(fakes.comparison(paired=[_pair()], tests=1, complete=False))
    assert ruling.decision == "wait"
    assert ruling.sentence.startswith("Not every run has ended")


def test_a_ruling_says_how_many_seeds_a_verdict_needs() -> None:
    few = _pair(n=5, units=5, verdict="unclear", sign_flip_p=0.0625)
    (ruling,) = rule(fakes.comparison(paired=[few], tests=1))
    assert "No verdict is possible below 6 seeds" in ruling.sentence
    (ruling,) = rule(fakes.comparison(paired=[_pair(verdict="unclear")], tests=1))
    assert "No verdict is possible" not in ruling.sentence


def test_the_least_number_of_seeds_follows_from_the_smallest_p() -> None:
    for tests in (1, 2, 5, 12):
        n = seeds_for_a_verdict(tests)
        assert tests * 2.0 ** (1 - n) < 0.05 <= tests * 2.0 ** (2 - n)


def test_pairs_without_a_value_are_named() -> None:
    missing = [MissingPair(seed=8, label="dkd", run_id="r", state="failed", reason="NaN")]
    (ruling,) = rule(fakes.comparison(paired=[_pair(missing=missing)], tests=1))
    assert ruling.decision == "keep"
    assert "1 of 9 planned pairs" in ruling.sentence


def test_the_sentence_of_a_table_names_the_better_cells() -> None:
    def reply(verdict: Any) -> ResultTable:
        cells = [TableCell(label="kd", n=8), TableCell(label="dkd", n=8, verdict=verdict)]
        row = TableRow(
            title="digits a→b",
            dataset="digits",
            teacher="a",
            student="b",
            experiments=["x"],
            seeds=[0],
            teacher_seeds=[0],
            cells=cells,
        )
        return ResultTable(
            metric="test/top1",
            title="accuracy",
            unit="%",
            better="higher",
            epoch="last",
            test="sign_flip",
            baseline="kd",
            methods=["kd", "dkd"],
            rows=[row],
            tests=1,
            notes=[],
        )

    assert "dkd on digits a→b" in table_sentence(reply("better"))
    assert "keep the baselines" in table_sentence(reply("unclear"))
    assert "keep the baselines" in table_sentence(reply("worse"))
