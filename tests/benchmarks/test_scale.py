"""The simulated lab at scale: its audit finds what is wrong, and a tiny lab runs through."""

from __future__ import annotations

import json

import pytest

from benchmarks.scale import command, report
from benchmarks.scale.load import Load
from benchmarks.scale.memory import growth

TINY = Load(
    workers=2,
    slots=4,
    queued=60,
    owners=3,
    projects=3,
    dashboards=5,
    seconds=8.0,
    run_seconds=1.0,
    report_seconds=0.5,
    heartbeat_seconds=1.0,
    refresh_seconds=0.5,
)


@pytest.mark.services
def test_a_tiny_lab_loses_no_run() -> None:
    found = command.measure(TINY, "nothing")
    audit = found["audit"]
    assert {name: count for name, count in audit.items() if name.endswith("_wrong") and count} == {}
    assert audit["runs"] == TINY.queued
    assert audit["succeeded"] > 0
    assert audit["queued"] >= 20  # those of the project whose quota is no slots
    assert found["errors"] == {}
    assert {"claim", "heartbeat", "report", "finish", "overview", "list of runs"} <= found["requests"].keys()
    assert len(found["memory"]) == TINY.replicas
    assert "No run was lost" in report.markdown(json.loads(json.dumps(found)))


@pytest.mark.parametrize(
    ("samples", "an_hour"),
    [
        ([(0.0, 100.0), (1800.0, 200.0), (3600.0, 210.0)], 20.0),
        ([(0.0, 100.0)], 0.0),
        ([(float(second), 50.0) for second in range(10)], 0.0),
    ],
)
def test_growth_is_that_of_the_second_half(samples: list[tuple[float, float]], an_hour: float) -> None:
    assert growth(samples) == pytest.approx(an_hour)


def test_what_is_wrong_stands_in_the_table() -> None:
    wrong = {"runs": 2, "succeeded": 1, "training": 0, "queued": 0, "missing_runs_wrong": 1, "lost_attempts_wrong": 0}
    text = report.markdown(
        {
            "machine": "a machine",
            "beside": "",
            "load": vars(TINY),
            "requests": {"claim": report.quantiles([1.0, 2.0, 300.0])},
            "errors": {"claim: refused": 2},
            "audit": wrong,
            "memory": [],
        }
    )
    assert "WRONG: missing runs: 1" in text
    assert "2 × claim: refused" in text
    assert "is not met: 300.0 ms" in text


@pytest.mark.parametrize("words", [["--workers", "0"], ["--slots", "many"]])
def test_bad_sizes_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(words)
    assert "error" in capsys.readouterr().err
