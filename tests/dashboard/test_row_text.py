"""Table rows and texts: numbers have units and n, and missing values are dashes."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from common.durations import age_text, duration_text
from common.formatting import convergence_text, size_text, value_text
from core.protocol.public import Convergence, GpuUse, MethodResult, MetricValue, PairedDifference, TeacherInfo
from dashboard import wording
from dashboard.lists import row_text
from tests.dashboard.fakes import FakeBackend, digits_spec

GLUE = "\u00a0"
TOP1 = {"test/top1": "Test accuracy (%)"}


@pytest.fixture
def backend() -> FakeBackend:
    made = FakeBackend()
    made.submit(digits_spec())
    return made


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (-1, "–"),
        (0, "0 s"),
        (0.004, "< 0.01 s"),
        (0.24, "0.24 s"),
        (0.6, "1 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (4 * 86_400 + 3 * 3600, "4 d 03 h"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration_text(seconds) == text


def test_percentages_and_signs() -> None:
    assert value_text(97.331, "%", 2) == "97.33 %"
    assert value_text(None, "%", 2) == "–"
    assert value_text(math.nan, "%", 2) == "not a number"


def test_counts_agree_with_their_nouns() -> None:
    assert [wording.counted(number, "run") for number in (0, 1, 2, 1000)] == [
        "0 runs",
        "1 run",
        "2 runs",
        "1,000 runs",
    ]


def test_running_run_shows_whole_minutes(backend: FakeBackend) -> None:
    run = backend.summary(backend.runs["run-0001-000"])
    started = datetime(2026, 1, 1, tzinfo=UTC)
    going = run.model_copy(update={"state": "running", "started_at": started})
    shown = {row_text.run_rows([going], started + timedelta(seconds=at), TOP1)[0]["Duration"] for at in range(120, 179)}
    assert shown == {"2 min 00 s"}


def test_run_rows_say_state_progress_and_reason(backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 15)
    backend.end("run-0001-000", "failed", "out of memory")
    row = row_text.run_rows([backend.summary(backend.runs["run-0001-000"])], datetime.now(UTC), TOP1)[0]
    assert row["State"].endswith("failed")
    assert row["Progress"] == 50
    assert row["Reason"] == "out of memory"
    waiting = row_text.run_rows([backend.summary(backend.runs["run-0001-001"])], datetime.now(UTC), TOP1)[0]
    assert (waiting["Test accuracy (%)"], waiting["Started"], waiting["Progress"]) == (None, None, 0)


def test_each_task_has_a_column_of_its_headline_metric(backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 30)
    classes = backend.summary(backend.runs["run-0001-000"])
    order = classes.model_copy(
        update={
            "dataset": "shelves",
            "headline": "test/tau",
            "latest": {"test/tau": MetricValue(value=0.5, step=1, epoch=1)},
        }
    )
    first, second = row_text.run_rows([classes, order], datetime.now(UTC), TOP1 | {"test/tau": "Kendall's τ"})
    assert list(first) == list(second)
    assert (first["Test accuracy (%)"], first["Kendall's τ"]) == (classes.latest["test/top1"].value, None)
    assert (second["Test accuracy (%)"], second["Kendall's τ"]) == (None, 0.5)


def test_results_of_teachers_are_headed_by_the_metric_of_their_task() -> None:
    teacher = TeacherInfo(
        run_id="t", fingerprint="f", model="resnet8", dataset="shelves", seed=0, state="succeeded", headline="test/tau",
        top1=0.9, students=1, experiments=1, created_at=datetime.now(UTC),
    )  # fmt: skip
    [row] = row_text.teacher_rows([teacher], {"t": "trained here"}, {"test/tau": "Kendall's τ"})
    assert row["Kendall's τ"] == 0.9
    assert "Test accuracy (%)" not in row


def finished(backend: FakeBackend) -> None:
    for run in list(backend.runs.values()):
        backend.advance(run.id, 30)


def test_the_result_table_has_mean_sd_n_epochs_and_the_paired_difference(backend: FakeBackend) -> None:
    finished(backend)
    rows = row_text.comparison_rows(backend.comparison("exp-0001"))
    first, second = rows[0], rows[1]
    assert [row["Method"] for row in rows] == ["dkd", "dkd_align (sample)", "dkd_align (log)"]
    assert f"{GLUE}±{GLUE}" in first["Mean ± sd (%)"]
    assert first["n"] == "3"
    assert first["Epochs to 95 % of the teacher"].replace(GLUE, " ") == "12 (3 of 3)"
    assert first["Difference to dkd (percentage points)"] == "baseline"
    assert second["Difference to dkd (percentage points)"][0] in "+−"
    assert second["95 % CI (percentage points)"].startswith("[")
    assert second["p (uncorrected)"] == "0.25 (min. possible 0.25)"


def test_result_table_without_results_shows_dashes(backend: FakeBackend) -> None:
    row = row_text.comparison_rows(backend.comparison("exp-0001"))[1]
    assert set(row.values()) - {"dkd_align (sample)", "0"} == {"–"}


def test_unreached_target_is_shown_as_later_than_the_last_epoch() -> None:
    never = Convergence(target=93.0, reached=1, of=3, median_epochs=None, max_epochs=30)
    assert convergence_text(never).replace(GLUE, " ") == "> 30 (1 of 3)"
    assert convergence_text(never.model_copy(update={"of": 0})) == "–"


def test_one_run_has_no_sd() -> None:
    assert row_text.mean_sd(MethodResult(label="a", method="a", n=1, mean=95.0)) == "95.00"


def test_p_is_shown_with_the_smallest_p_of_n_pairs() -> None:
    pair = PairedDifference(label="a", baseline="b", n=6, seeds=[], sign_flip_p=0.0625, smallest_p=0.03125, sentence="")
    assert row_text.uncorrected_p_text(pair) == "0.062 (min. possible 0.031)"


def test_progress_is_shown_for_each_method(backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 30)
    backend.advance("run-0001-001", 15)
    rows = {row["Method"]: row for row in row_text.state_rows(backend.experiment("exp-0001"))}
    assert rows["teacher"]["Done"].replace(GLUE, " ") == "1 of 1"
    assert rows["dkd"]["Running"] == "1"
    assert rows["dkd"]["Pending"] == "2"
    assert rows["dkd"]["Progress"] == "17 %"


def test_planned_runs_are_counted_by_method_and_a_shared_teacher_is_not_trained_again(backend: FakeBackend) -> None:
    preview = backend.preview(digits_spec(name="another").model_dump(mode="json"))
    assert row_text.planned_count(preview) == 10
    assert [row["Runs"] for row in row_text.planned_rows(preview)] == ["1", "3", "3", "3"]
    first = preview.runs[0].model_copy(update={"shared": True})
    shared = preview.model_copy(update={"runs": [first, *preview.runs[1:]]})
    assert row_text.planned_count(shared) == 9
    assert row_text.planned_rows(shared)[0]["Runs"] == "reused"


def test_attempt_rows_contain_outcome_and_reason(backend: FakeBackend) -> None:
    backend.advance("run-0001-000", 2)
    backend.end("run-0001-000", "failed", "out of memory")
    backend.retry("run-0001-000")
    backend.advance("run-0001-000", 2)
    rows = row_text.attempt_rows(backend.run("run-0001-000").attempts, datetime.now(UTC))
    assert [(row["Outcome"], row["Reason"]) for row in rows] == [("failed", "out of memory"), ("running", "–")]


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (40_000_000, "40 MB"), (2 * 1024**3, "2.1 GB")]
)
def test_size(number: int, text: str) -> None:
    assert size_text(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "just now"),
        (4, "just now"),
        (70, "70 s ago"),
        (300, "5 min ago"),
        (10_000, "3 h ago"),
        (400_000, "5 d ago"),
    ],
)
def test_ago(seconds: float, text: str) -> None:
    now = datetime.now(UTC)
    assert age_text(now - timedelta(seconds=seconds), now) == text


def test_gpu_without_driver_values_is_shown_with_dashes() -> None:
    known = GpuUse(index=1, name="H200", use=42.4, memory_used=10_000_000_000, memory_total=150_000_000_000, foreign=2)
    rows = row_text.gpu_rows([GpuUse(index=0), known])
    assert rows == [
        {"GPU": "0", "Utilization": "–", "Memory": "–", "Other processes": "0"},
        {"GPU": "1 · H200", "Utilization": "42 %", "Memory": "9.3 of 139.7 GiB", "Other processes": "2"},
    ]
