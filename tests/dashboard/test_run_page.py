"""The Run page against a fake backend, without a browser."""

from __future__ import annotations

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from core.catalog import TASKS
from core.catalog.tasks import CLASSIFICATION
from dashboard.markup import escape
from tests.dashboard.conftest import button, charts, curve_names, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec


class TestRun:
    def look(self, run_id: str, view: str) -> AppTest:
        """Return a view of the page, selected through the session state; a browser test opens views by their URL."""
        app = visit("run", id=run_id)
        app.session_state["part"] = view
        return app.run()

    def test_page_without_an_id_offers_the_newest_runs(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        app = visit("run")
        assert "Select a run" in texts(app)
        assert not app.exception

    def test_running_run_shows_progress_metrics_and_charts(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 30)
        backend.advance("run-0001-002", 12)
        app = visit("run", id="run-0001-002")
        shown = texts(app)
        assert not app.exception
        assert app.title[0].value == escape("dkd_align (sample) · seed 0")
        assert ":blue-badge[running]" in shown
        metrics = {item.label: item.value for item in app.metric}
        assert metrics["Test accuracy"].endswith(" %")
        assert metrics["Training loss"].endswith(" nats")
        assert metrics["Training time left"] == "7 s"
        assert "epoch 12/30" in shown
        assert "epoch 12/30: test accuracy" in shown, "the log's end"
        drawn = charts(app)
        named = ("accuracy", "loss-and-its-terms", "gradient-similarity", "alignment-term", "learning-rate")
        assert {*(f"run.{name}" for name in named), "run.agreement-with-the-teacher"} == drawn
        assert button(app, "Cancel")

    def test_terms_their_shares_and_unknown_metrics_have_panels(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec(methods=["kd", {"name": "dkd", "shares": {"nckd": 0.3}}]))
        backend.advance("run-0001-002", 12)
        run = backend.runs["run-0001-002"]
        assert run.plan.spec.method.name == "dkd"
        run.points += [(name, 30, 2.0, 1.0, 0.5) for name in ("train/of_a_plugin", "plugin/angle")]
        app = visit("run", id=run.id)
        assert not app.exception
        assert {
            "run.loss-and-its-terms",
            "run.shares-of-the-gradient",
            "run.weights-that-give-shares",
            "run.other-measurements-of-the-training",
        } <= charts(app)
        assert curve_names(app, "run.shares-of-the-gradient") == ["NCKD term: share of the gradient"]
        app = self.look(run.id, "More measurements")
        assert any(row["Final measurement"] == "Angle" for rows in tables(app) for row in rows)

    @pytest.mark.parametrize(
        ("view", "words"),
        [
            ("Log", "The last 2 lines"),
            ("Attempts", "bench-1"),
            ("Spec", "reduction: sample"),
            ("Environment", "2.14.0"),
            ("Files", "has no files yet"),
            ("More measurements", ""),
        ],
    )
    def test_selected_view_shows_its_content(self, backend: FakeBackend, view: str, words: str) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-002", 1)
        app = self.look("run-0001-002", view)
        assert not app.exception
        facts = " ".join(table.value.to_string() for table in app.table)
        assert words in texts(app) + facts
        assert "run.accuracy" not in charts(app)

    def test_items_of_a_plug_ins_data_have_the_name_of_its_task(
        self, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            TASKS, "_entries", {**TASKS._entries, "classification": replace(CLASSIFICATION, item="text")}
        )
        backend.submit(digits_spec(seeds=[0]))
        for run in list(backend.runs):
            backend.advance(run, 30)
        app = self.look("run-0001-001", "Environment")
        assert next(item.value for item in app.metric if item.label == "Speed").endswith(" texts/s")
        facts = [row["Property"] for rows in tables(app) for row in rows]
        assert {"Training texts", "Test texts"} <= set(facts)
        assert not any("images" in fact for fact in facts)
        compared = visit("compare", experiment="exp-0001")
        assert "Test set: 899 texts (one text is 0.11 %)" in texts(compared)
        assert "Over the test texts" in texts(compared)

    def test_files_can_be_downloaded(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 30)
        app = self.look("run-0001-000", "Files")
        assert [item.proto.label for item in app.get("download_button")] == ["weights.safetensors"]
        assert "21 kB" in texts(app)

    def test_pause_and_resume(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 3)
        app = visit("run", id="run-0001-000")
        button(app, "Pause").click().run()
        assert ":gray-badge[pausing]" in texts(app)
        button(app, "Resume").click().run()
        assert "pausing" not in texts(app)
        assert backend.runs["run-0001-000"].state == "running"
        app = visit("run", id="run-0001-001")
        button(app, "Pause").click().run()
        assert backend.runs["run-0001-001"].state == "paused"

    def test_a_teacher_has_no_chart_of_gradients(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 3)
        app = visit("run", id="run-0001-000")
        drawn = charts(app)
        assert "run.accuracy" in drawn
        assert not {"run.gradient-similarity", "run.alignment-term"} & drawn

    def test_failed_run_shows_its_reason_and_last_lines(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 3)
        backend.end("run-0001-000", "failed", "the loss is not a number at step 45")
        app = visit("run", id="run-0001-000")
        assert "Failed: the loss is not a number at step 45" in app.error[0].value
        assert "ERROR the loss is not a number" in texts(app)
        button(app, "Retry").click().run()
        assert backend.runs["run-0001-000"].state == "queued"
        assert not app.exception

    def test_waiting_run_shows_its_reason(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        app = visit("run", id="run-0001-001")
        assert "waits for its teacher" in texts(app)
        assert len(charts(app)) == 0

    def test_cancelled_run_can_be_retried(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        app = visit("run", id="run-0001-001")
        button(app, "Cancel").click().run()
        assert backend.runs["run-0001-001"].state == "cancelled"
        assert button(app, "Retry")

    def test_unknown_id_is_reported(self, backend: FakeBackend) -> None:
        app = visit("run", id="run-9999")
        assert "There is no run 'run-9999'" in texts(app)
        assert not app.exception

    def test_second_read_requests_new_points_only(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 20)
        app = visit("run", id="run-0001-000")
        before = backend.sent
        app.run()
        first = backend.sent - before
        assert first < len(backend.metrics("run-0001-000", [], 0).model_dump_json())
