"""The tabs "Log" and "Machine" of the Run page, against a fake backend and without a browser."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from client import Client
from dashboard.views import run_log
from tests.dashboard.conftest import button, charts, curve_names, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec

RUN = "run-0001-000"


@pytest.fixture
def running(backend: FakeBackend) -> FakeBackend:
    """A run of three epochs with a long log, of which every hundredth line is a warning."""
    backend.submit(digits_spec())
    backend.advance(RUN, 3)
    run = backend.runs[RUN]
    for number in range(500):
        backend.log(run, f"batch {number} <b>of</b> many", "info" if number % 100 else "warning")
    return backend


def look(part: str = "Log", **state: Any) -> AppTest:
    """Return a tab, with the values of controls."""
    app = visit("run", id=RUN)
    app.session_state["part"] = part
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def shown(app: AppTest) -> str:
    """Return the HTML of the log."""
    [log] = [item.proto.body for item in app.get("html") if "dkd-tail" in item.proto.body]
    return str(log)


class TestLog:
    def test_newest_lines_and_the_number_of_all(self, running: FakeBackend) -> None:
        app = look()
        assert not app.exception
        assert "The last 200 lines of 504." in texts(app)
        assert "batch 499 " in shown(app)
        assert "batch 299 " not in shown(app)
        assert "&lt;b&gt;of&lt;/b&gt;" in shown(app), "text of the log is no markup"

    def test_search_marks_every_hit_in_the_whole_log(self, running: FakeBackend) -> None:
        app = look(search="BATCH 7")
        assert not app.exception
        assert "The last 11 lines of 11 matching." in texts(app)
        assert shown(app).count("<mark>batch 7</mark>") == 11

    def test_signs_of_markup_and_of_patterns_are_searched_literally(self, running: FakeBackend) -> None:
        assert shown(look(search="<B>of</b> m")).count("<mark>&lt;b&gt;of&lt;/b&gt; m</mark>") == 200
        assert "No line of the log matches" in texts(look(search="batch .*"))

    def test_levels(self, running: FakeBackend) -> None:
        app = look(levels=["warning"])
        assert "The last 5 lines of 5 matching." in texts(app)
        assert shown(app).count(" WARNING batch ") == 5

    def test_pages_lead_to_the_first_line_and_back(self, running: FakeBackend) -> None:
        app = look()
        for _ in range(2):
            app = button(app, "Older lines").click().run()
        assert "104 lines before line 105, of 504." in texts(app)
        assert "training resnet20 on digits" in shown(app)
        assert not [item for item in app.button if item.label == "Older lines"]
        app = button(app, "Newest lines").click().run()
        assert "The last 200 lines of 504." in texts(app)

    def test_another_search_begins_with_its_newest_lines(self, running: FakeBackend) -> None:
        app = button(look(), "Older lines").click().run()
        app.text_input(key="search").set_value("batch 4").run()
        assert "The last 111 lines of 111 matching." in texts(app)

    def test_link_may_contain_any_text(self, running: FakeBackend) -> None:
        app = look(search="\x00\x07" + "x" * 5000)
        assert not app.exception
        assert "No line of the log matches" in texts(app)

    def test_times_are_in_the_chosen_zone(self, running: FakeBackend) -> None:
        time = running.runs[RUN].lines[-1].time
        assert f"{time:%Y-%m-%d %H:%M:%S}" in shown(look(zone="UTC"))
        assert "Times are in UTC." in texts(look(zone="UTC"))

    def test_zone_of_the_browser(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Context:
            timezone: str | None = "Asia/Kathmandu"
            timezone_offset: int | None = -345

        monkeypatch.setattr("dashboard.views.run_log.st.context", Context())
        zone, name = run_log._chosen_zone()
        assert name == "Asia/Kathmandu"
        assert zone.utcoffset(_any_time()) == timedelta(hours=5, minutes=45)
        Context.timezone = "Not/A_Zone"
        assert run_log._chosen_zone()[0] == timezone(timedelta(hours=5, minutes=45))
        Context.timezone = Context.timezone_offset = None
        assert run_log._chosen_zone()[0] is UTC

    def test_whole_log_is_written(self, running: FakeBackend, server: Any, tmp_path: Path) -> None:
        path = tmp_path / "log.txt"
        with Client(server.url, "t") as client:
            run_log.write_log(client, RUN, timezone(timedelta(hours=2)), path)
        lines = path.read_text().splitlines()
        assert len(lines) == 504
        assert lines[-1].endswith("+02:00 attempt 1 INFO batch 499 <b>of</b> many")
        assert " attempt 1 WARNING batch 400 " in lines[404]


def _any_time() -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC)


class TestMachine:
    def add(self, backend: FakeBackend, values: dict[str, float], epochs: int = 3) -> None:
        run = backend.runs[RUN]
        for epoch in range(1, epochs + 1):
            run.points += [(name, 15 * epoch, float(epoch), 10.0 * epoch, value) for name, value in values.items()]

    def test_curves_beside_the_training(self, running: FakeBackend) -> None:
        self.add(running, {"machine/cpu_use": 80.0, "machine/memory": 1.5, "machine/received": 3.0})
        app = look("Machine")
        assert not app.exception
        assert {"run.loss-and-its-terms", "run.processors-and-memory", "run.disk-and-network"} <= charts(app)
        assert curve_names(app, "run.processors-and-memory") == ["Processor time of the run", "Memory of the run"]
        assert {"Of the machine": "Processor time of the run", "Newest value": "80.00 %"} in tables(app)[0]
        assert "Energy of the machine's processors: not measured." in texts(app)

    def test_machine_is_in_no_other_tab(self, running: FakeBackend) -> None:
        self.add(running, {"machine/cpu_use": 80.0})
        for part in ("Curves", "More measurements"):
            assert not any("processors" in key for key in charts(look(part)))

    def test_single_report_is_a_table_without_charts(self, running: FakeBackend) -> None:
        self.add(running, {"machine/cpu_use": 80.0}, epochs=1)
        app = look("Machine")
        assert charts(app) == set()
        assert tables(app)[0] == [{"Of the machine": "Processor time of the run", "Newest value": "80.00 %"}]

    def test_run_without_measurements_says_so(self, running: FakeBackend) -> None:
        assert "There are no measurements of the machine yet." in texts(look("Machine"))
        running.end(RUN, "failed", "no reason")
        assert "This run has no measurements of its machine." in texts(look("Machine"))

    def test_teachers_part_gpu_hours_and_energy(self, running: FakeBackend) -> None:
        run = running.runs[RUN]
        run.attempts[-1] = run.attempts[-1].model_copy(update={"device": "cuda:0 NVIDIA H200"})
        self.add(running, {"train/loss": 0.5, "speed/teacher_seconds": 6.0, "machine/gpu_energy": 12.5})
        shown = texts(look("Machine"))
        assert "Training has taken 30 s; 6 s of it (20 %) were for the teacher's outputs." in shown
        assert "on 1 GPU" in shown
        assert "Energy of the GPUs: 12.50 Wh." in shown
