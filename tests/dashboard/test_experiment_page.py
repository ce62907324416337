"""The Experiment page against a real backend, without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from common.formatting import NOTHING
from core.protocol.public import TimeLeft
from dashboard.views.experiment import estimate_sentence, left_text
from dashboard.views.experiment_lineage import stages
from tests.dashboard.conftest import button, tables, texts, visit
from tests.dashboard.stand import Stand


def look(key: str, section: str) -> AppTest:
    app = visit("experiment", id=key)
    app.session_state["section"] = section
    return app.run()


def press(app: AppTest, label: str) -> AppTest:
    clicked: AppTest = button(app, label).click().run()
    return clicked


def test_active_experiment_shows_progress_time_left_and_its_runs(stand: Stand) -> None:
    stand.register()
    key = stand.submit("first", notes="Why **this**", tags=["paper"])
    claim = stand.start(epoch=4)
    app = visit("experiment", id=key)
    assert not app.exception
    metrics = {item.label: item.value for item in app.metric}
    assert (metrics["Runs done"], metrics["Training"], metrics["Waiting"]) == ("0 of 2", "1", "1")
    assert metrics["Time left"] == "6 min 00 s", "160 s of the first run, and 200 s of the second on the same worker"
    assert "This assumes 1 run at once" in texts(app)
    assert "<strong>this</strong>" in texts(app)
    [frame] = app.dataframe
    assert list(frame.value["Run"]) == [f"run?id={run.id}" for run in stand.client.experiment(key).runs]
    assert f"run?id={claim.run_id}" in list(frame.value["Run"])
    assert "Test accuracy (%) (of 899 images)" in frame.value


def test_runs_from_which_settings_are_chosen_are_no_results(stand: Stand) -> None:
    """Lineage, features and predictions show results alone."""
    experiment = stand.client.experiment(stand.submit("first"))
    trial, result = experiment.runs
    mixed = experiment.model_copy(update={"runs": [trial.model_copy(update={"trial": True}), result]})
    assert mixed.results == [result]
    students = next(stage for stage in stages(mixed, "%", {}) if stage.title == "Students")
    assert [box.text for box in students.boxes] == ["0 of 1 done"]


def test_page_without_an_id_lists_the_newest_and_an_unknown_one_is_explained(stand: Stand) -> None:
    assert "There are no experiments yet." in texts(visit("experiment"))
    stand.submit("first")
    assert "Select an experiment" in texts(visit("experiment"))
    assert "The link may be old." in texts(visit("experiment", id="nothing"))


def test_actions_change_the_experiment(stand: Stand) -> None:
    key = stand.submit("first")
    app = visit("experiment", id=key)
    assert button(app, "Delete …").disabled
    assert button(app, "Retry").disabled
    press(app, "Pause")
    assert stand.client.experiment(key).counts.paused == 2
    press(app.run(), "Resume")
    assert stand.client.experiment(key).counts.queued == 2
    press(app.run(), "Cancel")
    assert stand.client.experiment(key).state == "cancelled"
    app.run()
    press(app, "Archive")
    assert stand.client.experiment(key).archived_at is not None
    assert button(app.run(), "Retry").disabled, "nobody would see its runs in the lists"
    press(app, "Unarchive")
    assert stand.client.experiment(key).archived_at is None
    press(app.run(), "Retry")
    assert stand.client.experiment(key).state == "active"


def test_notes_are_edited_and_a_change_by_another_person_is_not_lost(stand: Stand) -> None:
    key = stand.submit("first", notes="old")
    app = press(visit("experiment", id=key), "Edit notes")
    assert app.text_area[0].value == "old"
    app.text_area[0].set_value("new **text**")
    press(app, "Save")
    assert stand.client.experiment(key).notes == "new **text**"
    app.run()
    press(app, "Edit notes")
    stand.client.change_experiment(key, notes="theirs")
    app.text_area[0].set_value("mine")
    press(app, "Save")
    assert stand.client.experiment(key).notes == "theirs"
    assert "have been changed meanwhile" in texts(app)
    press(app, "Save")
    assert stand.client.experiment(key).notes == "mine"
    press(app.run(), "Edit notes")
    press(app, "Discard")
    assert not app.text_area


def test_tags_are_added_and_removed(stand: Stand) -> None:
    key = stand.submit("first", tags=["paper"])
    app = visit("experiment", id=key)
    [field] = [item for item in app.multiselect if item.label == "Tags"]
    assert field.value == ["paper"]
    field.set_value([]).run()
    assert stand.client.experiment(key).tags == []


def test_differences_to_the_parent_and_lineage_are_shown(stand: Stand) -> None:
    first = stand.submit("first")
    copy = stand.client.clone(first, name="second", changes={"training.epochs": 7})
    app = look(copy.id, "Differences")
    assert not app.exception
    [rows] = tables(app)
    assert {"Field": "training.epochs", "first": "20", "second (this)": "7"} in rows
    app = look(copy.id, "Lineage")
    assert not app.exception
    assert f'href="experiment?id={first}"' in texts(app)
    assert 'href="runs?dataset=digits"' in texts(app)
    assert f'href="experiment?id={copy.id}"' in texts(look(first, "Lineage")), "a copy of it"


def test_differences_to_an_archived_one_and_to_one_that_is_not_listed(stand: Stand) -> None:
    old, new = stand.submit("old", tags=["a"]), stand.submit("new", training={"epochs": 7})
    stand.client.archive_experiment(old)
    [choice] = look(new, "Differences").selectbox
    assert choice.options == ["old (archived)"]
    for entered in ("old", old):
        app = look(new, "Differences")
        app.query_params["other"] = entered
        assert {"Field": "training.epochs", "old": "20", "new (this)": "7"} in tables(app.run())[-1]
    app.query_params["other"] = "nothing"  # AppTest cannot enter an option that is not listed
    assert not app.run().exception
    assert "There is no experiment nothing; it may have been deleted." in texts(app)


def test_archived_ones_are_marked_in_the_choice_however_they_were_found(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, old = stand.submit("parent"), stand.submit("old", training={"epochs": 7})
    copy = stand.submit("copy", training={"epochs": 8})
    stand.client.change_experiment(copy, parent=parent)
    for key in (parent, old):
        stand.client.archive_experiment(key)
    listed = type(stand.client.experiments).list
    app = look(copy, "Differences")
    assert app.selectbox[0].options == ["parent (the parent, archived)", "old (archived)"]
    monkeypatch.setattr(type(stand.client.experiments), "__call__", lambda self, **query: listed(self, text="none"))
    app = look(copy, "Differences")
    app.query_params["other"] = "old"
    [choice] = app.run().selectbox
    assert choice.options == ["parent (the parent, archived)", "old (archived)"], "it is older than the list"


def test_spec_is_shown(stand: Stand) -> None:
    app = look(stand.submit("first"), "Spec")
    assert not app.exception
    assert "name: first" in texts(app)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (None, NOTHING),
        (TimeLeft(seconds=None, parallel=1, runs=1, unknown=1), NOTHING),
        (TimeLeft(seconds=60.0, parallel=1, runs=2), "1 min 00 s"),
        (TimeLeft(seconds=60.0, parallel=1, runs=2, unknown=1), "> 1 min 00 s"),
    ],
)
def test_time_left_without_an_estimate_of_every_run_is_a_lower_bound(estimate: TimeLeft | None, text: str) -> None:
    assert left_text(estimate) == text


def test_sentence_names_what_the_estimate_assumes() -> None:
    estimate = TimeLeft(seconds=600.0, teacher_seconds=120.0, parallel=2, runs=5, paused=1, unknown=2)
    sentence = estimate_sentence(estimate)
    assert "The last teacher ends after 2 min" in sentence
    assert "2 runs at once" in sentence
    assert "1 paused run counted" in sentence
    assert "2 runs without an estimate not counted" in sentence
