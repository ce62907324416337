"""Every page while the backend is unavailable or refuses the dashboard's settings, without a browser."""

from __future__ import annotations

import pytest

from tests.dashboard.conftest import button, charts, field, texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec


class TestOutage:
    @pytest.mark.parametrize("path", ["", "new", "runs", "run", "compare", "teachers", "workers"])
    def test_without_a_backend_every_page_says_so_and_how_to_get_one(self, server: FakeServer, path: str) -> None:
        server.stop()
        app = visit(path)
        assert "The backend does not answer." in texts(app)
        assert "dkd up" in texts(app)
        assert not app.exception

    def test_page_keeps_its_data_during_an_outage_and_recovers(self, server: FakeServer) -> None:
        backend = server.backend
        backend.submit(digits_spec())
        backend.advance("run-0001-000", 5)
        app = visit("run", id="run-0001-000")
        server.stop()
        app.run()
        assert "has not answered since" in texts(app)
        assert len(charts(app)) == 3
        backend.advance("run-0001-000", 5)
        server.start()
        app.run()
        assert "has not answered since" not in texts(app)
        assert "epoch 10/30" in texts(app)

    def test_a_form_survives_an_outage(self, server: FakeServer) -> None:
        app = visit("new")
        button(app, "Digits demo").click().run()
        field(app, ".name").set_value("kept").run()
        server.stop()
        field(app, ".seeds").set_value("0-5").run()
        assert not app.exception
        server.start()
        app.run()
        assert field(app, ".name").value == "kept"
        assert "**This experiment has 19 runs.**" in texts(app)

    def test_starting_while_the_backend_is_away_makes_nothing_and_says_so(self, server: FakeServer) -> None:
        app = visit("new")
        button(app, "Digits demo").click().run()
        server.stop()
        button(app, "Start 10 runs").click().run()
        assert not app.exception
        assert "the experiment was not created" in texts(app)
        server.start()
        app.run()
        button(app, "Start 10 runs").click().run()
        assert len(server.backend.experiments) == 1

    def test_refused_token_names_the_setting(self, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        backend.token = "another"
        app = visit("runs")
        assert "does not accept the dashboard's token" in texts(app)
        assert "DKD_API_TOKEN" in texts(app)
        assert not app.exception

    def test_invalid_backend_address_is_reported(self, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_API_URL", "not an address")
        app = visit("runs")
        assert "cannot reach the backend with its settings" in texts(app)
        assert not app.exception
