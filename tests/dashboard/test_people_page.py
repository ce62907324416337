"""The pages for admins and the chooser of the project, against a real backend, without a browser."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import button, tables, texts, visit
from tests.dashboard.stand import Stand


def chooser(app: AppTest) -> Any:
    """Return the chooser of the project; None if it is not drawn."""
    return next((item for item in app.sidebar.selectbox if item.label == "Project"), None)


def box(app: AppTest, label: str) -> Any:
    return next(item for item in app.main.selectbox if item.label == label)


def typed(app: AppTest, label: str, value: str, number: int = 0) -> None:
    [item for item in app.text_input if item.label == label][number].set_value(value)


@pytest.fixture
def shared(stand: Stand) -> Stand:
    """A lab with two projects, a person, and an experiment in each project."""
    client = stand.client
    client.projects.create("detection", title="Detectors")
    client.people.create("anna", mail="anna@lab.example")
    client.projects.set_role("detection", "anna", "submitter")
    stand.submit("in default")
    client.submit({**client.experiment("in default").spec, "name": "in detection"}, project="detection")
    return stand


def test_a_lab_of_one_person_sees_no_project(stand: Stand) -> None:
    key = stand.submit("first")
    app = visit("experiment", id=key)
    assert chooser(app) is None
    assert "project" not in texts(app)


def test_the_chooser_limits_the_pages_and_what_they_create(shared: Stand) -> None:
    app = visit("runs", view="Experiments")
    assert len(app.dataframe[0].value) == 2
    chooser(app).set_value("detection").run()
    assert not app.exception
    assert len(app.dataframe[0].value) == 1
    assert app.session_state["project.chosen"] == "detection"
    app = visit("experiment", id=shared.client.experiment("in detection").id)
    assert "in the project detection" in texts(app)


def test_a_link_into_another_project_says_so(shared: Stand) -> None:
    app = visit("experiment", id="in default")
    chooser(app).set_value("detection").run()
    assert "Only the project detection is shown; it may be in another one." in texts(app)


def test_people_are_added_and_disabled(shared: Stand) -> None:
    app = visit("people")
    assert not app.exception
    assert "This dashboard uses a token of its own" in texts(app)
    people, places, _ = tables(app)
    assert people[0]["Roles"] == "detection: submitter"
    assert [row["Name"] for row in places] == ["default", "detection"]
    typed(app, "Name", "bert")
    typed(app, "Mail (optional)", "bert@lab.example")
    button(app, "Add").click().run()
    assert shared.client.people.get("bert").mail == "bert@lab.example"
    st.cache_data.clear()
    app.run()
    typed(app, "Name", "a b")
    button(app, "Add").click().run()
    assert "name: " in texts(app)
    assert len(shared.client.people().items) == 2
    app.selectbox(key="people.person").set_value("bert").run()
    button(app, "Disable").click().run()
    assert shared.client.people.get("bert").disabled_at is not None
    assert button(app, "Accept tokens again")


def test_roles_are_given_changed_and_removed(shared: Stand) -> None:
    shared.client.people.create("bert")
    app = visit("people", project="detection")
    assert not app.exception
    box(app, "Role of anna").set_value("admin").run()
    assert shared.client.projects.members("detection").items[0].role == "admin"
    button(app, "Remove").click().run()
    assert shared.client.projects.members("detection").items == []
    button(app, "Archive the project").click().run()
    assert shared.client.projects.get("detection").archived_at is not None
    button(app, "Open the project again").click().run()
    assert shared.client.projects.get("detection").archived_at is None


def test_quota_is_shown_and_set(shared: Stand) -> None:
    app = visit("people", project="detection")
    assert not app.exception
    assert [row["Limit"] for row in tables(app)[2]] == ["no limit"] * 3
    next(item for item in app.number_input if item.label == "Slots at once").set_value(4)
    next(item for item in app.number_input if item.label == "Stored files (GB)").set_value(1.5)
    button(app, "Set").click().run()
    quota = shared.client.projects.quota("detection")
    assert (quota.slots_limit, quota.gpu_hours_limit, quota.disk_bytes_limit) == (4, None, 1_500_000_000)
    app = visit("people", project="detection")
    assert [row["Limit"] for row in tables(app)[2]] == ["4", "no limit", "1.5 GB"]
    next(item for item in app.number_input if item.label == "Slots at once").set_value(None)
    button(app, "Set").click().run()
    assert shared.client.projects.quota("detection").slots_limit is None


def test_experiment_is_moved_where_the_roles_allow_it(shared: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    key = shared.client.experiment("in detection").id
    app = visit("experiment", id=key)
    assert app.selectbox(key=f"experiment.move.{key}").options == ["default"]
    button(app, "Move to this project").click().run()
    assert shared.client.experiment(key).project == "default"
    token = shared.client.tokens.create("annas", ["submit"], person="anna").token
    shared.client.experiments.update(key, project="detection")
    monkeypatch.setattr("dashboard.server.login.token", lambda: token)
    monkeypatch.setattr("dashboard.server.login.mode", lambda: "token")
    st.cache_data.clear()
    st.cache_resource.clear()
    app = visit("experiment", id=key)
    assert not app.exception
    assert "Move to this project" not in [item.label for item in app.button]


def test_the_audit_log_is_shown_and_filtered(shared: Stand) -> None:
    app = visit("audit")
    assert not app.exception
    [rows] = tables(app)
    assert {row["Action"] for row in rows} >= {"experiments.submit", "projects.create", "people.create_person"}
    assert {row["From"] for row in rows} == {"127.0.0.1"}
    app = visit("audit", action="projects.", place="detection")
    [rows] = tables(app)
    assert [row["Action"] for row in rows] == ["projects.set_role", "projects.create"]
    assert "No entry matches these filters." in texts(visit("audit", who="nobody"))


@pytest.mark.parametrize("page", ["people", "audit"])
def test_pages_of_admins_need_an_admin(shared: Stand, page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    token = shared.client.tokens.create("reader", ["read"]).token
    monkeypatch.setattr("dashboard.server.login.token", lambda: token)
    monkeypatch.setattr("dashboard.server.login.mode", lambda: "none")
    st.cache_data.clear()
    st.cache_resource.clear()
    assert "needs the token of an admin" in texts(visit(page))
