"""The Run page against a real backend, without a browser: runs of the recorded lab, and runs that a test trains."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.catalog import TASKS
from core.catalog.tasks import CLASSIFICATION
from core.events import Event, Log, Metrics, Record
from core.protocol.worker import Claim, EventBatch
from dashboard.markup import escape
from tests import recorded_lab
from tests.dashboard.conftest import button, charts, connected, curve_names, tables, texts, visit
from tests.dashboard.recorded import lab, recorded, run_of
from tests.dashboard.stand import STEPS, Stand, standing

__all__ = ["lab", "recorded"]

ALIGN = {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}


def look(run_id: str, view: str) -> AppTest:
    """Return a view of the page, selected through the session state; a browser test opens views by their URL."""
    app = visit("run", id=run_id)
    app.session_state["part"] = view
    return app.run()


def recorded_run(lab: Stand, label: str) -> str:
    return run_of(lab.client.experiment(recorded_lab.METHODS), label)


def report(stand: Stand, claim: Claim, *events: Event) -> None:
    """Send events of a run after the two of ``Stand.start``."""
    records = [Record(seq=seq, time=1000.0 + seq, event=event) for seq, event in enumerate(events, 3)]
    stand.worker.send_events("worker-one", claim.run_id, EventBatch(attempt=claim.attempt, records=records))


def metrics(epoch: int, **values: float) -> Metrics:
    step = STEPS * epoch
    named = {name.replace("__", "/"): value for name, value in values.items()}
    return Metrics(step=step, epoch=float(epoch), elapsed=float(step), values=named)


class TestFinishedRun:
    def test_page_without_an_id_offers_the_newest_runs(self, recorded: Stand) -> None:
        app = visit("run")
        assert "Select a run" in texts(app)
        assert not app.exception

    def test_run_shows_its_results_and_the_panels_of_its_metrics(self, recorded: Stand) -> None:
        app = visit("run", id=recorded_run(recorded, "dkd_align (log)"))
        assert not app.exception
        assert app.title[0].value == escape("dkd_align (log) · seed 0")
        shown = texts(app)
        assert ":green-badge[succeeded]" in shown
        figures = {item.label: item.value for item in app.metric}
        assert figures["Test accuracy"].endswith(" %")
        assert figures["Training loss"].endswith(" nats")
        assert figures["Speed"].endswith(" images/s")
        assert "epoch 4/4: training loss" in shown, "the log's end"
        named = ("accuracy", "loss-and-its-terms", "gradient-similarity", "alignment-term", "learning-rate")
        assert charts(app) == {*(f"run.{name}" for name in named), "run.agreement-with-the-teacher"}

    @pytest.mark.parametrize(
        ("view", "words"),
        [
            ("Log", "The last 7 lines of 7."),
            ("Attempts", "node-1"),
            ("Spec", "reduction: log"),
            ("Environment", "torch"),
            ("Files", "weights.safetensors"),
            ("More measurements", "Final measurement"),
        ],
    )
    def test_selected_view_shows_its_content(self, recorded: Stand, view: str, words: str) -> None:
        app = look(recorded_run(recorded, "dkd_align (log)"), view)
        assert not app.exception
        facts = " ".join(table.value.to_string() for table in app.table)
        assert words in texts(app) + facts
        assert "run.accuracy" not in charts(app)

    def test_files_can_be_downloaded(self, recorded: Stand) -> None:
        app = look(recorded_run(recorded, "dkd"), "Files")
        names = [item.proto.label for item in app.get("download_button")]
        assert names == ["correlations.parquet", "items.parquet", "pictures.parquet", "weights.safetensors"]
        assert "weights.safetensors, attempt 1, " in texts(app)

    def test_a_teacher_has_no_chart_of_gradients(self, recorded: Stand) -> None:
        app = visit("run", id=recorded_run(recorded, "teacher"))
        drawn = charts(app)
        assert "run.accuracy" in drawn
        assert not {"run.gradient-similarity", "run.alignment-term"} & drawn

    def test_waiting_run_shows_its_reason(self, recorded: Stand) -> None:
        app = visit("run", id=run_of(recorded.client.experiment(recorded_lab.WAITING), "kd"))
        assert "Waits for its teacher" in texts(app)
        assert len(charts(app)) == 0

    def test_failed_run_shows_its_reason_and_last_lines(self, recorded: Stand) -> None:
        app = visit("run", id=run_of(recorded.client.experiment(recorded_lab.FAILED), "teacher"))
        assert "Failed: the teacher's weights: there is no file" in app.error[0].value
        assert "ERROR the teacher's weights" in texts(app)
        assert button(app, "Retry")

    def test_unknown_id_is_reported(self, recorded: Stand) -> None:
        app = visit("run", id="run-9999")
        assert "There is no run 'run-9999'" in texts(app)
        assert not app.exception


def test_items_of_a_plug_ins_data_have_the_name_of_its_task(
    lab: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(TASKS, "_entries", {**TASKS._entries, "classification": replace(CLASSIFICATION, item="text")})
    folder = tmp_path / "lab"
    recorded_lab.unpack(folder)
    with standing(folder) as running, connected(running, monkeypatch, tmp_path):
        run_id = recorded_run(running, "dkd")
        app = look(run_id, "Environment")
        assert next(item.value for item in app.metric if item.label == "Speed").endswith(" texts/s")
        facts = [row["Property"] for rows in tables(app) for row in rows]
        assert {"Training texts", "Test texts"} <= set(facts)
        assert not {"Training images", "Test images"} & set(facts)
        compared = visit("compare", experiment=running.client.experiment(recorded_lab.METHODS).id)
        assert "Test set: 901 texts (one text is 0.11 %)" in texts(compared)
        assert "Over the test texts" in texts(compared)
        compared.session_state["predictions"] = True
        for app in (
            look(run_id, "Predictions"),
            look(run_of(running.client.experiment(recorded_lab.COPY), "kd"), "Features"),
            compared.run(),
        ):
            assert not app.exception
            rows = [row for rows in tables(app) for row in rows]
            shown = texts(app) + str(rows)
            assert "test texts" in shown.lower()
            assert not re.search(r"\d images?\b|test images?\b", shown, re.IGNORECASE), shown
        kept = running.client.runs.predictions(run_id).images
        errors = [row["Expected calibration error"] for row in rows if "Expected calibration error" in row]
        assert len(errors) == 4
        assert all(error.endswith(f" % (of {kept:,} texts)") for error in errors), errors


class TestTrainingRun:
    @pytest.fixture(autouse=True)
    def worker(self, stand: Stand) -> None:
        stand.register()

    def test_running_run_shows_progress_and_time_left(self, stand: Stand) -> None:
        stand.submit("live")
        claim = stand.start(epoch=12)
        report(stand, claim, Log(message="epoch 12/20: test accuracy 90.00 %"))
        app = visit("run", id=claim.run_id)
        assert not app.exception
        assert app.title[0].value == escape("ce · seed 0")
        shown = texts(app)
        assert ":blue-badge[running]" in shown
        figures = {item.label: item.value for item in app.metric}
        assert figures["Test accuracy"] == "90.00 %"
        assert figures["Training time left"] == "1 min 20 s", "80 steps of a second each"
        assert "60 %, epoch 12.0 of 20" in [item.proto.text for item in app.get("progress")]
        assert "epoch 12/20: test accuracy" in shown, "the log's end"
        assert charts(app) == {"run.accuracy", "run.loss-and-its-terms"}
        assert button(app, "Cancel")

    def test_terms_their_shares_and_unknown_metrics_have_panels(self, stand: Stand) -> None:
        shares: Any = {"name": "dkd", "shares": {"nckd": 0.3}}
        stand.submit("shares", teacher={"model": "resnet8"}, methods=["kd", shares], seeds=[0])
        stand.finish(stand.start())
        stand.finish(stand.start())  # the run of KD
        claim = stand.start(epoch=1)
        assert claim.spec["method"]["name"] == "dkd"
        values = {"train__tckd": 0.5, "grad__share_nckd": 30.0, "train__weight_nckd": 2.0}
        report(stand, claim, metrics(2, train__loss=0.4, train__of_a_plugin=0.5, plugin__angle=0.5, **values))
        app = visit("run", id=claim.run_id)
        assert not app.exception
        assert {
            "run.loss-and-its-terms",
            "run.shares-of-the-gradient",
            "run.weights-that-give-shares",
            "run.other-measurements-of-the-training",
        } <= charts(app)
        assert curve_names(app, "run.shares-of-the-gradient") == ["NCKD term: share of the gradient"]
        app = look(claim.run_id, "More measurements")
        assert any(row["Final measurement"] == "Angle" for rows in tables(app) for row in rows)

    def test_pause_and_resume(self, stand: Stand) -> None:
        key = stand.submit("live")
        claim = stand.start(epoch=3)
        app = visit("run", id=claim.run_id)
        button(app, "Pause").click().run()
        assert ":gray-badge[pausing]" in texts(app)
        button(app, "Resume").click().run()
        assert "pausing" not in texts(app)
        assert stand.client.run(claim.run_id).state == "running"
        waiting = run_of(stand.client.experiment(key), "ce", seed=1)
        app = visit("run", id=waiting)
        button(app, "Pause").click().run()
        assert stand.client.run(waiting).state == "paused"

    def test_failed_and_cancelled_runs_can_be_retried(self, stand: Stand) -> None:
        key = stand.submit("live")
        claim = stand.start(epoch=3)
        stand.fail(claim, "the loss is not a number at step 45")
        app = visit("run", id=claim.run_id)
        assert "Failed: the loss is not a number at step 45" in app.error[0].value
        button(app, "Retry").click().run()
        assert stand.client.run(claim.run_id).state == "queued"
        assert not app.exception
        other = run_of(stand.client.experiment(key), "ce", seed=1)
        app = visit("run", id=other)
        button(app, "Cancel").click().run()
        assert stand.client.run(other).state == "cancelled"
        assert button(app, "Retry")

    def test_second_read_requests_news_only(self, stand: Stand) -> None:
        stand.submit("live")
        claim = stand.start(epoch=12)
        app = visit("run", id=claim.run_id)
        stand.requests.clear()
        app.run()
        assert [item for item in stand.requests if claim.run_id in item] == [f"GET /api/v1/runs/{claim.run_id}/news"]
