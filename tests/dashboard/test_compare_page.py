"""The Compare page on the recorded lab: several experiments, single runs, other axes and other metrics."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from tests import recorded_lab
from tests.dashboard.conftest import charts, curve_names, tables, texts, visit
from tests.dashboard.recorded import best_of, copy_with_results, lab, recorded, run_of
from tests.dashboard.stand import Stand

__all__ = ["lab", "recorded"]

COMPARISONS = "GET /api/v1/comparisons"


@pytest.fixture(scope="module")
def names(lab: Stand) -> dict[str, str]:
    """Return ids of experiments by what a test calls them; four are added to the recorded ones."""
    ids = {item.name: item.id for item in lab.client.experiments(limit=100).items}
    copies = {
        "more seeds": copy_with_results(lab, "more seeds", [3, 4]),
        "other data": copy_with_results(lab, "other data", [5], images="b" * 16),
        "no images": copy_with_results(lab, "no images", [6], images=None),
    }
    held_out = {"name": "digits", "params": {"val_fraction": 0.2, "evaluate": "validation"}}
    copies["held out"] = lab.submit("held out", dataset=held_out)
    return ids | copies | {"setting": best_of(lab)}


@pytest.fixture
def done(recorded: Stand, names: dict[str, str]) -> Stand:
    return recorded


def compare(names: dict[str, str], *of: str, **more: Any) -> AppTest:
    """Return the page of experiments."""
    return visit("compare", experiment=[names[name] for name in of or (recorded_lab.METHODS,)], **more)


def run(lab: Stand, name: str, label: str, seed: int = 0) -> str:
    return run_of(lab.client.experiment(name), label, seed)


def test_experiments_that_differ_in_seeds_are_one_comparison(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, recorded_lab.METHODS, "more seeds")
    assert not app.exception
    assert "n = 5 when all runs are done" in texts(app)
    assert any("forest" in key for key in charts(app))
    assert [row["n"] for row in tables(app)[0]] == ["5"] * 4
    assert "Fidelity, calibration, collapse, test" in texts(app), "the groups of metrics that were measured"


def test_experiments_that_differ_in_more_are_compared_as_settings(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, recorded_lab.METHODS, recorded_lab.COPY)
    assert not app.exception
    assert "Compared as settings: digits-methods-longer and digits-methods are not one experiment" in texts(
        app
    ).replace("\\", "")
    assert any(key.startswith("compare.") for key in charts(app))


def test_experiments_on_other_data_sets_are_drawn_and_not_tested(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, recorded_lab.METHODS, recorded_lab.WAITING)
    assert not app.exception
    assert "cannot be tested together" in texts(app)
    assert not any("forest" in key for key in charts(app))
    assert any(key.startswith("compare.") for key in charts(app))


def test_single_runs_are_drawn_and_lead_to_their_pages(done: Stand, names: dict[str, str]) -> None:
    app = visit("compare", run=[run(done, recorded_lab.METHODS, label) for label in ("ce", "dkd")])
    assert not app.exception
    assert "Comparing **2 runs** selected by the link" in texts(app)
    assert "compare.runs" in charts(app)
    labels = [item.proto.label for item in app.get("page_link")]
    assert sum("seed 0" in label for label in labels) == 2


def test_metrics_are_those_that_were_measured_by_panel(done: Stand, names: dict[str, str]) -> None:
    app = compare(names)
    box = app.selectbox(key="metric")
    assert box.value == "test/top1"
    assert "Accuracy · Test accuracy (%)" in box.options
    assert "Loss and its terms · Training loss, weighted (nats)" in box.options
    assert any("NC4" in option for option in box.options)
    assert not any("blur" in option for option in box.options)
    box.set_value("train/loss").run()
    assert not app.exception
    assert f"compare.{names[recorded_lab.METHODS]}" in charts(app)


def test_every_metric_can_be_chosen_before_one_is_measured(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, recorded_lab.WAITING)
    assert not app.exception
    assert any("blur" in option for option in app.selectbox(key="metric").options)


def test_former_link_to_a_metric_without_data_is_reported_as_missing(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, metric="Accuracy: Gaussian blur, severity 1 (%)")
    assert not app.exception
    assert app.selectbox(key="metric").value == "robustness/blur_1"
    assert "No run has reported this metric" in texts(app)


def test_experiment_on_held_out_images_is_judged_by_them(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, "held out")
    assert not app.exception
    assert app.selectbox(key="metric").value == "val/top1"
    assert [item.label for item in app.slider if item.key == "accuracy"] == ["Target: Validation accuracy (%)"]
    [own] = [item for item in done.client.experiment("held out").runs if item.seed == 0]
    shown = visit("run", id=own.id)
    assert "Validation accuracy" in [item.label for item in shown.metric]


def test_runs_without_gpus_have_no_gpu_seconds(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, x="GPU-seconds")
    assert "did not request GPUs" in texts(app)
    assert "Each epoch is drawn at the mean time of its seeds" in texts(app)
    assert not app.exception


def test_link_sets_smoothing_and_the_two_axes_chart(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, smoothing="0.5", figure="author's two axes", log="true")
    assert not app.exception
    assert "weight 0.5" in texts(app)
    assert "Dashed, right axis: Test accuracy (%)" in texts(app)


def test_changed_target_requests_the_comparison_once(done: Stand, names: dict[str, str]) -> None:
    app = compare(names)
    assert "Epochs to 8" in texts(app), "95 % of the teacher's"
    before = done.requests.count(COMPARISONS)
    app.slider(key="target").set_value(80).run()
    assert done.requests.count(COMPARISONS) == before + 1
    app.run()
    assert done.requests.count(COMPARISONS) == before + 1
    assert not app.exception


def test_an_accuracy_can_be_the_target(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, goal="accuracy")
    app.slider(key="accuracy").set_value(30).run()
    assert "Epochs to 30.00 %" in texts(app)
    assert "Epochs to 30.00 %" in tables(app)[0][0]
    assert not app.exception


def test_without_a_teacher_the_target_is_an_accuracy(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, "setting")
    assert not app.exception
    assert [item.label for item in app.slider if item.key in ("target", "accuracy")] == ["Target: Test accuracy (%)"]


def test_another_baseline_and_epoch_are_requested_from_the_backend(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, against="dkd_align (log)", at="best test (oracle)")
    assert not app.exception
    result = tables(app)[0]
    differences = {row["Method"]: row["Difference to dkd_align (log) (percentage points)"] for row in result}
    assert differences["dkd_align (log)"] == "baseline"
    assert differences["dkd"] not in ("baseline", "–")
    assert app.query_params["against"] == "dkd_align (log)"


def test_difference_to_detect_is_sent_to_the_backend(done: Stand, names: dict[str, str]) -> None:
    needed = "The spread of 3 pairs is too uncertain to estimate a number of seeds"
    app = compare(names)
    assert needed not in texts(app)
    app.number_input(key="difference").set_value(0.5).run()
    assert needed in texts(app)
    again = compare(names, difference="0.25")
    assert needed in texts(again)
    assert not app.exception
    assert not again.exception


def test_unknown_baseline_in_the_link_is_ignored(done: Stand, names: dict[str, str]) -> None:
    app = compare(names, against="nkd")
    assert not app.exception
    assert not app.error
    assert "baseline" in {row["Difference to ce (percentage points)"] for row in tables(app)[0]}


def test_compare_without_a_selection_draws_nothing(done: Stand, names: dict[str, str]) -> None:
    app = compare(names)
    app.multiselect[0].set_value([]).run()
    assert "Select an experiment" in texts(app)
    assert not tables(app)
    assert not app.exception


def test_metrics_of_all_groups_have_effects_in_their_own_decimals(done: Stand, names: dict[str, str]) -> None:
    app = compare(names)
    [table] = [rows for rows in tables(app) if "Metric" in rows[0]]
    rows = {row["Metric"]: row for row in table}
    size = done.client.comparison([names[recorded_lab.METHODS]]).test_size
    shares = {"Agreement with the teacher", "Expected calibration error, 15 bins", "Test accuracy"}
    assert {f"{share} (of {size:,} images) (%)" for share in shares} <= set(rows)
    assert "NC1: variability within classes" in rows
    nc1 = rows["NC1: variability within classes"]["dkd"].replace("\u00a0", " ")
    found = next(
        row for row in done.client.overview([names[recorded_lab.METHODS]]).rows if row.metric == "collapse/nc1"
    )
    [cell] = [cell for cell in found.cells if cell.label == "dkd"]
    assert cell.mean_difference
    assert f"({cell.n}); " in nc1
    assert "0.00 [" not in nc1, "an effect is not rounded to nothing"


class TestOtherData:
    """Runs of one label that were trained on other images have separate curves."""

    def test_single_runs_on_other_images_are_not_averaged(self, done: Stand, names: dict[str, str]) -> None:
        own, other = run(done, recorded_lab.METHODS, "dkd"), run(done, "other data", "dkd", 5)
        app = visit("compare", run=[own, other])
        assert not app.exception
        ending = f"images {done.client.run(own).images[:8]}"
        assert sum(ending in name for name in curve_names(app, "compare.runs")) == 1
        assert sum("images bbbbbbbb" in name for name in curve_names(app, "compare.runs")) == 1

    def test_runs_without_recorded_images_are_distinguished_from_others(
        self, done: Stand, names: dict[str, str]
    ) -> None:
        own = done.client.run(run(done, recorded_lab.METHODS, "dkd"))
        app = visit("compare", run=[own.id, run(done, "no images", "dkd", 6)])
        ending = f"images not recorded, {own.train_size} training and {own.test_size} test images"
        assert any(name.endswith(ending) for name in curve_names(app, "compare.runs"))

    def test_single_runs_on_equal_images_have_no_description_of_their_data(
        self, done: Stand, names: dict[str, str]
    ) -> None:
        app = visit("compare", run=[run(done, recorded_lab.METHODS, "dkd"), run(done, "more seeds", "dkd", 3)])
        assert not any("images" in name for name in curve_names(app, "compare.runs"))

    def test_runs_that_a_comparison_leaves_out_are_a_curve_of_their_own(
        self, done: Stand, names: dict[str, str]
    ) -> None:
        app = compare(names, recorded_lab.METHODS, "other data")
        assert not app.exception
        assert "The data changed between runs." in texts(app)
        assert "n = 3 when all runs are done" in texts(app)
        curves = curve_names(app, f"compare.{names[recorded_lab.METHODS]}.{names['other data']}")
        assert "dkd" in curves
        assert sum(name.startswith("dkd · images bbbbbbbb") for name in curves) == 1


class TestTasks:
    def test_experiments_of_two_tasks_are_not_compared_and_both_are_named(
        self, done: Stand, names: dict[str, str]
    ) -> None:
        app = compare(names, recorded_lab.METHODS, recorded_lab.DETECTION)
        assert not app.exception
        assert (
            f"{recorded_lab.METHODS} is classification on digits, judged by test accuracy; {recorded_lab.DETECTION} is "
            "object detection on digit_scenes, judged by test AP. Results of different tasks are not compared"
        ) in texts(app).replace("\\", "")
        assert not charts(app)
        assert not any("comparisons" in request for request in done.requests)

    def test_runs_of_two_tasks_are_not_compared(self, done: Stand, names: dict[str, str]) -> None:
        detector = run(done, recorded_lab.DETECTION, "pkd")
        app = visit("compare", run=[run(done, recorded_lab.METHODS, "dkd"), detector])
        assert not app.exception
        shown = texts(app).replace("\\", "")
        assert f"dkd · seed 0 of {recorded_lab.METHODS} is classification on digits" in shown
        assert f"pkd · seed 0 of {recorded_lab.DETECTION} is object detection on digit_scenes" in shown
        assert not charts(app)
        labels = [item.proto.label for item in app.get("page_link")]
        assert sum("seed 0" in label for label in labels) == 2, "they lead to their pages"

    def test_detection_is_shown_by_ap(self, done: Stand, names: dict[str, str]) -> None:
        app = compare(names, recorded_lab.DETECTION)
        assert not app.exception
        assert app.selectbox(key="metric").value == "test/ap"
        assert "accuracy" not in texts(app)
        assert not app.file_uploader, "detectors are not measured by their costs"
        absolute = compare(names, recorded_lab.DETECTION, goal="absolute")
        assert [item.label for item in absolute.slider if item.key == "accuracy"] == ["Target: Test AP (%)"]


class TestOneExperiment:
    def test_compare_without_experiments_says_so(self, stand: Stand) -> None:
        app = visit("compare")
        assert "nothing to compare yet" in texts(app)
        assert not app.exception

    def test_the_newest_experiment_is_shown_first_and_the_address_names_it(
        self, done: Stand, names: dict[str, str]
    ) -> None:
        app = visit("compare")
        assert app.query_params["experiment"] == done.client.experiments(limit=1).items[0].id

    def test_compare_before_the_first_epoch_has_no_curves(self, done: Stand, names: dict[str, str]) -> None:
        app = compare(names, recorded_lab.WAITING)
        assert "Curves appear here automatically" in texts(app)
        assert "**0 of 5** runs done" in texts(app)
        assert "No run of a method has succeeded yet" in texts(app)
        assert not app.exception

    def test_finished_experiment_shows_results_and_charts(self, done: Stand, names: dict[str, str]) -> None:
        app = visit("compare", experiment=recorded_lab.METHODS)
        shown = texts(app)
        found = done.client.comparison(recorded_lab.METHODS)
        assert not app.exception
        assert "**13 of 13** runs done" in shown
        assert all(pair.sentence in shown.replace("\\", "") for pair in found.paired)
        assert f"Test set: {found.test_size} images (one image is 0.11 %)" in shown
        assert f"Teacher: {found.teacher_top1:.2f}" in shown
        assert len(charts(app)) == 3
        assert [row["n"] for row in tables(app)[0]] == ["3"] * 4

    def test_an_experiment_that_has_ended_is_not_polled(self, done: Stand, names: dict[str, str]) -> None:
        app = compare(names)
        metrics = sum("metrics" in request for request in done.requests)
        app.run()
        assert sum("metrics" in request for request in done.requests) == metrics

    def test_unknown_experiment_is_reported(self, done: Stand, names: dict[str, str]) -> None:
        app = visit("compare", experiment="nowhere")
        assert "There is no experiment nowhere; it may have been deleted." in texts(app)
        assert not app.exception
        assert app.multiselect[0].value == [], "no other experiment is shown in its place"
