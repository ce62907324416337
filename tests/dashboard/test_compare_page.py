"""The Compare page with several experiments, single runs, other axes and other metrics."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import charts, curve_names, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, digits_spec, scenes_spec


@pytest.fixture
def done(backend: FakeBackend) -> FakeBackend:
    """Create two finished experiments that differ only in their seeds, and one with another student."""
    backend.submit(digits_spec())
    backend.submit(digits_spec(name="more seeds", seeds=[3, 4]))
    backend.submit(digits_spec(name="other student", student={"model": "resnet8"}))
    for run in list(backend.runs.values()):
        backend.advance(run.id, 30)
    return backend


def several(*names: str, **more: str) -> AppTest:
    return visit("compare", experiment=list(names), **more)


def test_experiments_that_differ_in_seeds_are_one_comparison(done: FakeBackend) -> None:
    app = several("exp-0001", "exp-0002")
    assert not app.exception
    assert "n = 5 when all runs are done" in texts(app)
    assert any("forest" in key for key in charts(app))
    assert "Fidelity, collapse" in texts(app), "the groups of metrics that were measured"


def test_experiments_that_differ_in_more_are_drawn_and_not_tested(done: FakeBackend) -> None:
    app = several("exp-0001", "exp-0003")
    assert not app.exception
    assert "cannot be tested together" in texts(app)
    assert "differ in student.model" in texts(app)
    assert not any("forest" in key for key in charts(app))
    assert any(key.startswith("compare.") for key in charts(app))


def test_single_runs_are_drawn_and_lead_to_their_pages(done: FakeBackend) -> None:
    app = visit("compare", run=["run-0001-001", "run-0001-002"])
    assert not app.exception
    assert "Comparing **2 runs** selected by the link" in texts(app)
    assert "compare.runs" in charts(app)
    labels = [item.proto.label for item in app.get("page_link")]
    assert sum("seed 0" in label for label in labels) == 2


def test_metrics_are_those_that_were_measured_by_panel(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    box = app.selectbox(key="metric")
    assert box.value == "test/top1"
    assert "Accuracy · Test accuracy (%)" in box.options
    assert "Loss and its terms · Training loss, weighted (nats)" in box.options
    assert not any("NC4" in option for option in box.options)
    box.set_value("train/loss").run()
    assert not app.exception
    assert "compare.exp-0001" in charts(app)


def test_every_metric_can_be_chosen_before_one_is_measured(backend: FakeBackend) -> None:
    backend.submit(digits_spec())
    app = visit("compare", experiment="exp-0001")
    assert not app.exception
    assert any("NC4" in option for option in app.selectbox(key="metric").options)


def test_former_link_to_a_metric_without_data_is_reported_as_missing(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", metric="NC4: disagreement with the nearest class mean (%)")
    assert not app.exception
    assert app.selectbox(key="metric").value == "collapse/nc4"
    assert "No run has reported this metric" in texts(app)


def test_runs_without_gpus_have_no_gpu_seconds(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", x="GPU-seconds")
    assert "did not request GPUs" in texts(app)
    assert "Each epoch is drawn at the mean time of its seeds" in texts(app)
    assert not app.exception


def test_link_sets_smoothing_and_the_two_axes_chart(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", smoothing="0.5", figure="author's two axes", log="true")
    assert not app.exception
    assert "weight 0.5" in texts(app)
    assert "Dashed, right axis: Test accuracy (%)" in texts(app)


def test_changed_target_requests_the_comparison_once(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    assert "Epochs to 9" in texts(app)
    before = done.requests.count("GET /api/v1/comparisons")
    app.slider(key="target").set_value(80).run()
    assert done.requests.count("GET /api/v1/comparisons") == before + 1
    app.run()
    assert done.requests.count("GET /api/v1/comparisons") == before + 1
    assert not app.exception


def test_an_accuracy_can_be_the_target(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", goal="accuracy")
    app.slider(key="accuracy").set_value(60).run()
    assert "Epochs to 60.00 %" in texts(app)
    assert "Epochs to 60.00 %" in tables(app)[0][0]
    assert not app.exception


def test_without_a_teacher_the_target_is_an_accuracy(backend: FakeBackend) -> None:
    backend.submit(digits_spec(teacher=None, methods=["ce"]))
    app = visit("compare", experiment="exp-0001")
    assert not app.exception
    assert [item.label for item in app.slider if item.key in ("target", "accuracy")] == ["Target: Test accuracy (%)"]


def test_another_baseline_and_epoch_are_requested_from_the_backend(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", against="dkd_align (log)", at="best validation")
    assert not app.exception
    result = tables(app)[0]
    differences = {row["Method"]: row["Difference to dkd_align (log) (percentage points)"] for row in result}
    assert differences["dkd_align (log)"] == "baseline"
    assert differences["dkd"] not in ("baseline", "–")
    assert "accuracy at the epoch with the best validation result" in texts(app)
    assert app.query_params["against"] == "dkd_align (log)"


def test_difference_to_detect_is_sent_to_the_backend(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    assert "To see a difference" not in texts(app)
    app.number_input(key="difference").set_value(0.5).run()
    assert "To see a difference of 0.50 points" in texts(app)
    again = visit("compare", experiment="exp-0001", difference="0.25")
    assert "To see a difference of 0.25 points" in texts(again)
    assert not app.exception
    assert not again.exception


def test_unknown_baseline_in_the_link_is_ignored(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001", against="nkd")
    assert not app.exception
    assert not app.error
    assert "baseline" in {row["Difference to dkd (percentage points)"] for row in tables(app)[0]}


def test_compare_without_a_selection_draws_nothing(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    app.multiselect[0].set_value([]).run()
    assert "Select an experiment" in texts(app)
    assert not tables(app)
    assert not app.exception


def test_metrics_are_chosen_by_group(done: FakeBackend) -> None:
    app = visit("compare", experiment="exp-0001")
    [table] = [rows for rows in tables(app) if "Metric" in rows[0]]
    assert [row["Metric"] for row in table] == ["Agreement (%)", "NC1: variability within classes"]
    assert "(3); " in table[0]["dkd_align (log)"]
    assert "+0.0033 [+0.0024, +0.0043]" in table[1]["dkd_align (log)"].replace("\u00a0", " ")


class TestOtherData:
    """Runs of one label that were trained on other images have separate curves."""

    def test_single_runs_on_other_images_are_not_averaged(self, done: FakeBackend) -> None:
        done.images = {"run-0001-001": "a" * 64, "run-0002-001": "b" * 64}
        assert done.runs["run-0001-001"].plan.label == done.runs["run-0002-001"].plan.label == "dkd"
        app = visit("compare", run=["run-0001-001", "run-0002-001"])
        assert not app.exception
        assert sum("images aaaaaaaa" in name for name in curve_names(app, "compare.runs")) == 1
        assert sum("images bbbbbbbb" in name for name in curve_names(app, "compare.runs")) == 1

    def test_runs_without_recorded_images_are_distinguished_from_others(self, done: FakeBackend) -> None:
        done.images = {"run-0001-001": "a" * 64}
        app = visit("compare", run=["run-0001-001", "run-0002-001"])
        names = curve_names(app, "compare.runs")
        assert any(name.endswith("images not recorded, 898 training and 899 test images") for name in names)

    def test_single_runs_on_equal_images_have_no_description_of_their_data(self, done: FakeBackend) -> None:
        done.images = dict.fromkeys(("run-0001-001", "run-0002-001"), "a" * 64)
        app = visit("compare", run=["run-0001-001", "run-0002-001"])
        assert not any("images" in name for name in curve_names(app, "compare.runs"))

    def test_runs_that_a_comparison_leaves_out_are_a_curve_of_their_own(self, done: FakeBackend) -> None:
        done.set_aside = {"run-0001-001": "images bbbbbbbb"}
        app = visit("compare", experiment="exp-0001")
        assert not app.exception
        names = curve_names(app, "compare.exp-0001")
        assert {"dkd", "dkd · images bbbbbbbb"} <= set(names)
        assert "dkd_align (log)" in names

    def test_experiments_that_are_not_compared_are_drawn_by_data_set(self, done: FakeBackend) -> None:
        done.set_aside = {"run-0001-001": "images bbbbbbbb"}
        app = several("exp-0001", "exp-0003")
        assert "cannot be tested together" in texts(app)
        names = curve_names(app, "compare.exp-0001.exp-0003")
        assert "dkd · digits-dkd-vs-dkd-align · images bbbbbbbb" in names
        assert {"dkd · digits-dkd-vs-dkd-align", "dkd · other student"} <= set(names)


class TestTasks:
    @pytest.fixture
    def both(self, backend: FakeBackend) -> FakeBackend:
        """Create a finished experiment of classification and one of detection."""
        backend.submit(digits_spec())
        backend.submit(scenes_spec())
        for run in list(backend.runs.values()):
            backend.advance(run.id, 30)
        return backend

    def test_experiments_of_two_tasks_are_not_compared_and_both_are_named(self, both: FakeBackend) -> None:
        app = several("exp-0001", "exp-0002")
        assert not app.exception
        assert (
            "digits-dkd-vs-dkd-align is classification on digits, judged by test accuracy; scenes is object detection "
            "on digit_scenes, judged by test AP. Results of different tasks are not compared"
        ) in texts(app).replace("\\", "")
        assert not charts(app)
        assert not any("comparisons" in request for request in both.requests)

    def test_runs_of_two_tasks_are_not_compared(self, both: FakeBackend) -> None:
        app = visit("compare", run=["run-0001-001", "run-0002-001"])
        assert not app.exception
        shown = texts(app).replace("\\", "")
        assert "dkd · seed 0 of digits-dkd-vs-dkd-align is classification on digits" in shown
        assert "kd · seed 0 of scenes is object detection on digit_scenes" in shown
        assert not charts(app)
        labels = [item.proto.label for item in app.get("page_link")]
        assert sum("seed 0" in label for label in labels) == 2, "they lead to their pages"

    def test_detection_is_shown_by_ap(self, both: FakeBackend) -> None:
        app = visit("compare", experiment="exp-0002")
        assert not app.exception
        assert app.selectbox(key="metric").value == "test/ap"
        assert "accuracy" not in texts(app)
        absolute = visit("compare", experiment="exp-0002", goal="absolute")
        assert [item.label for item in absolute.slider if item.key == "accuracy"] == ["Target: Test AP (%)"]


class TestOneExperiment:
    def test_compare_without_experiments_says_so(self, backend: FakeBackend) -> None:
        app = visit("compare")
        assert "nothing to compare yet" in texts(app)
        assert not app.exception

    def test_the_newest_experiment_is_shown_first_and_the_address_names_it(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        backend.submit(digits_spec(name="second"))
        app = visit("compare")
        assert app.query_params["experiment"] == "exp-0002"

    def test_compare_before_the_first_epoch_has_no_curves(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        app = visit("compare", experiment="exp-0001")
        assert "Curves appear here automatically" in texts(app)
        assert "**0 of 10** runs done" in texts(app)
        assert "No run of a method has succeeded yet" in texts(app)
        assert not app.exception

    def test_finished_experiment_shows_results_and_charts(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        for run in list(backend.runs.values()):
            backend.advance(run.id, 30)
        app = visit("compare", experiment="digits-dkd-vs-dkd-align")
        shown = texts(app)
        assert not app.exception
        assert "**10 of 10** runs done" in shown
        assert "3 pairs cannot tell" in shown
        assert "Test set: 899 images (one image is 0.11 %)" in shown
        assert "Teacher: 98" in shown
        assert len(charts(app)) == 3
        assert [row["n"] for row in tables(app)[0]] == ["3", "3", "3"]

    def test_an_experiment_that_has_ended_is_not_polled(self, backend: FakeBackend) -> None:
        backend.submit(digits_spec())
        for run in list(backend.runs.values()):
            backend.advance(run.id, 30)
        app = visit("compare", experiment="exp-0001")
        metrics = sum("metrics" in request for request in backend.requests)
        app.run()
        assert sum("metrics" in request for request in backend.requests) == metrics

    def test_unknown_experiment_is_reported(self, backend: FakeBackend) -> None:
        app = visit("compare", experiment="nowhere")
        assert "There is no experiment 'nowhere'" in texts(app)
        assert not app.exception
