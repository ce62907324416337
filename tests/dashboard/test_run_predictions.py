"""The tab "Predictions" of the Run page and the section of Compare, against a real backend and without a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from backend.predictions import measures
from backend.predictions.networks import Compared, own
from core.items.table import Items
from core.protocol.predictions import ConfidenceBin, SeedsSummary
from dashboard import theme
from dashboard.charts.prediction_figures import (
    accuracy_figure,
    class_differences_figure,
    confusion_figure,
    correlation_figure,
    reliability_figure,
)
from dashboard.lists import prediction_rows
from tests.backend import predicted
from tests.dashboard.conftest import charts, connected, curve_names, tables, texts, visit
from tests.dashboard.stand import Stand, standing

PICTURES = (2, 5)
KD = {0: (0, 1, 1, 1, 1, 1, 0, 0), 1: predicted.STUDENT}
"""Predictions of KD by seed. On cats, one of four is right, and two of four; of DKD two of four, with both seeds."""
DIFFERENCE = np.array([[0.0, 0.1, 0.2], [0.1, 0.0, 0.3], [0.2, 0.3, 0.0]])


@dataclass(frozen=True)
class Lab:
    """A backend with experiments of two methods, whose runs were tested on eight images.

    Attributes:
        stand: The backend.
        complete: Every run kept its predictions, and pictures of two images.
        bare: No run kept any.
        special: DKD kept no confidences, and the classes of KD have hostile names.
        unfinished: One run trains, and one has failed.
    """

    stand: Stand
    complete: str
    bare: str
    special: str
    unfinished: str

    def run(self, experiment: str, label: str, seed: int = 0) -> str:
        """Return the id of a run."""
        runs = self.stand.client.experiment(experiment).runs
        return next(run.id for run in runs if run.label == label and (run.seed == seed or run.role == "teacher"))


def submit(stand: Stand, name: str, **changes: Any) -> str:
    return stand.submit(name, **{"teacher": {"model": "resnet8"}, "methods": ["dkd", "kd"], "seeds": [0], **changes})


def train(stand: Stand, experiment: str, results: dict[str, Items] | None = None) -> None:
    """Let every run of an experiment succeed, with the predictions of its method, if it has any."""
    for _ in stand.client.experiment(experiment).runs:
        claim = stand.start(epoch=20)
        method, seed = claim.spec["method"]["name"], claim.spec["seed"]
        if results is None:
            teacher = claim.spec["role"] == "teacher"
            classes = predicted.TEACHER if teacher else KD[seed] if method == "kd" else predicted.STUDENT
            kept: Items | None = predicted.items(classes, None if teacher else predicted.TEACHER)
        else:
            kept = results.get(method)
        if kept is not None:
            correlated = predicted.correlations([0.5, 0.2, 0.1], [0.4, 0.4, 0.1])
            predicted.write_files(stand.files(claim), kept, correlated=correlated, pictures=PICTURES)
        stand.finish(claim)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    hostile = replace(predicted.items(), classes=("<img src=x>", '"onload="', "$x$"))
    with standing(tmp_path_factory.mktemp("stand")) as stand:
        stand.register(slots=1)
        complete = submit(stand, "complete", seeds=[0, 1])
        train(stand, complete)
        bare = submit(stand, "bare", training={"epochs": 21})
        train(stand, bare, {})
        special = submit(stand, "special", training={"epochs": 22})
        train(stand, special, {"dkd": predicted.items(confidence=False), "kd": hostile})
        unfinished = stand.submit("unfinished", training={"epochs": 23})
        stand.fail(stand.start(epoch=3), "out of memory")
        stand.start(epoch=3)
        yield Lab(stand, complete, bare, special, unfinished)


@pytest.fixture
def lab(trained: Lab, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Lab]:
    with connected(trained.stand, monkeypatch, tmp_path):
        yield trained


def look(run: str, **state: Any) -> AppTest:
    """Return the tab, with the values of controls."""
    app = visit("run", id=run)
    app.session_state["part"] = "Predictions"
    for key, value in state.items():
        app.session_state[key] = value
    return app.run()


def cards(app: AppTest) -> list[str]:
    """Return the text of each image of the gallery."""
    bodies = [item.proto.body for item in app.get("html") if "dkd-thumbs" in item.proto.body]
    return [part for body in bodies for part in body.split("<figure>")[1:]]


def numbers(app: AppTest) -> list[int]:
    """Return the numbers of the images of the gallery, in their order."""
    return [int(number) for card in cards(app) for number in re.findall(r"image (\d)<", card)]


class TestTab:
    def test_figures_of_run_and_teacher(self, lab: Lab) -> None:
        app = look(lab.run(lab.complete, "dkd"))
        assert not app.exception
        assert {"run.accuracy-by-class", "run.confusion", "run.reliability", "run.correlations"} <= charts(app)
        assert curve_names(app, "run.accuracy-by-class") == ["teacher", "dkd"]

    def test_every_share_says_of_how_many_images(self, lab: Lab) -> None:
        networks, agreement, *_ = tables(look(lab.run(lab.complete, "dkd")))
        assert [row["Right"] for row in networks] == ["50.0 % (4 of 8 images)", "50.0 % (4 of 8 images)"]
        assert all(row["Expected calibration error"].endswith(" % (of 8 images)") for row in networks)
        same = "dkd predicts the same class as teacher"
        assert [(row["Images"], row[same], row["dkd is right"]) for row in agreement] == [
            ("all test images", "62.5 % (5 of 8 images)", "50.0 % (4 of 8 images)"),
            ("where teacher is right", "75.0 % (3 of 4 images)", "75.0 % (3 of 4 images)"),
            ("where teacher is wrong", "50.0 % (2 of 4 images)", "25.0 % (1 of 4 images)"),
        ]

    def test_images_on_which_they_differ_come_first(self, lab: Lab) -> None:
        app = look(lab.run(lab.complete, "dkd"))
        assert numbers(app) == [2, 5, 7]
        first, _, third = cards(app)
        assert "base64" in first
        assert "no picture kept" in third
        assert "dkd: dog 0.60, gives its class 0.10" in first
        assert "teacher: cat 0.80" in first
        assert "3 of 8 test images." in texts(app)

    def test_filters(self, lab: Lab) -> None:
        run = lab.run(lab.complete, "dkd")
        assert numbers(look(run, images="only dkd is right")) == [5]
        assert len(cards(look(run, images="all images", of_class="dog"))) == 3
        assert len(cards(look(run, images="all images", predicted="owl"))) == 1
        assert len(cards(look(run, images="all images", with_picture=True))) == 2
        least: dict[str, Any] = {"least-margin": 0.5}
        assert len(cards(look(run, images="all images", **least))) == 2
        assert "No test image is left" in texts(look(run, images="both are right", of_class="owl"))

    def test_another_run_is_a_reference(self, lab: Lab) -> None:
        app = look(lab.run(lab.complete, "dkd"), beside=lab.run(lab.complete, "kd"))
        assert not app.exception
        assert curve_names(app, "run.accuracy-by-class") == ["kd", "dkd"]
        assert numbers(app) == [1], "on the others, both methods predict the same"

    def test_teachers_own_run_has_no_reference_until_one_is_chosen(self, lab: Lab) -> None:
        teacher, run = lab.run(lab.complete, "teacher"), lab.run(lab.complete, "dkd")
        app = look(teacher)
        assert not app.exception
        assert "no teacher to compare its predictions with" in texts(app)
        assert curve_names(app, "run.accuracy-by-class") == ["teacher"]
        assert len(cards(app)) == 4, "the images that it gets wrong"
        assert curve_names(look(teacher, beside=run), "run.accuracy-by-class") == ["dkd", "teacher"]

    def test_run_of_an_earlier_version_says_so_in_one_sentence(self, lab: Lab) -> None:
        app = look(lab.run(lab.bare, "dkd"))
        assert not app.exception
        assert "This run kept no predictions of its test images" in texts(app)
        assert not charts(app)

    def test_run_without_confidences_has_everything_else(self, lab: Lab) -> None:
        app = look(lab.run(lab.special, "dkd"))
        assert "kept no confidences" in texts(app)
        assert "run.reliability" not in charts(app)
        assert "run.confusion" in charts(app)

    @pytest.mark.parametrize(
        ("state", "text"), [("running", "appear when the run has succeeded"), ("failed", "ended before it")]
    )
    def test_run_that_has_not_succeeded_asks_for_nothing(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, state: str, text: str
    ) -> None:
        monkeypatch.setattr("client.resources.runs.Runs.predictions", None)  # a call would be an exception
        runs = lab.stand.client.experiment(lab.unfinished).runs
        app = look(next(run.id for run in runs if run.state == state))
        assert not app.exception
        assert text in texts(app)

    def test_names_of_classes_are_escaped(self, lab: Lab) -> None:
        app = look(lab.run(lab.special, "kd"))
        assert not app.exception
        assert len(cards(app)) == 3
        for card in cards(app):
            assert "<img src=x>" not in card
            assert '"onload="' not in card


class TestCompare:
    def show(self, experiment: str, **more: Any) -> AppTest:
        app = visit("compare", experiment=experiment)
        app.session_state["predictions"] = True
        for key, value in more.items():
            app.session_state[key] = value
        return app.run()

    def test_nothing_is_read_until_it_is_wanted(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("client.resources.comparisons.Comparisons.predictions", None)
        app = visit("compare", experiment=lab.complete)
        assert not app.exception
        assert "Predictions" in [item.value for item in app.subheader]

    def test_methods_over_seeds(self, lab: Lab) -> None:
        app = self.show(lab.complete)
        assert not app.exception
        assert {"compare.reliability", "compare.classes", "compare.confusion", "compare.correlations.1"} <= charts(app)
        cells = [row["kd"] for rows in tables(app) for row in rows if row.get("Class") == "cat" and "kd" in row]
        assert re.search(r"^37\.5 % \(n = 2\); −12\.5\d* \[−171\.3\d*, \+146\.3\d*\]$", cells[0]), cells
        assert numbers(app) == [1], "the first seed"
        assert "kd: " in cards(app)[0]
        assert numbers(self.show(lab.complete, **{"look-seed": 1})) == [], "with the second seed they are equal"

    def test_teacher_is_a_counterpart(self, lab: Lab) -> None:
        app = self.show(lab.complete, **{"look-against": "teacher"})
        assert not app.exception
        assert "teacher: " in cards(app)[0]

    def test_experiment_of_an_earlier_version_says_so(self, lab: Lab) -> None:
        app = self.show(lab.bare)
        assert not app.exception
        assert "kept no predictions" in texts(app)


def confusion(own_classes: tuple[int, ...] = predicted.STUDENT) -> Any:
    found = Compared(own(predicted.items(own_classes)), own(predicted.items(predicted.TEACHER)), "teacher", ())
    return measures.confusion_reply("r", "teacher", predicted.CLASSES, [found], 100)


class TestFigures:
    def test_difference_of_confusions_is_in_points_of_the_class(self) -> None:
        [cells] = confusion_figure(confusion(), "difference", "image", diagonal=False).data
        assert list(cells.z[0]) == [None, 25, 0]
        assert (cells.zmin, cells.zmax) == (-100, 100)
        assert cells.customdata[0][1] == "+1"
        [cells] = confusion_figure(confusion(), "reference", "image", diagonal=True).data
        assert list(cells.z[0]) == [75, 25, 0]
        assert cells.customdata[0][0] == "3"

    def test_reliability_has_the_number_of_images_of_each_range(self) -> None:
        found = [ConfidenceBin(low=0.4, high=0.5, images=8, confidence=0.45, right=0.25)]
        _, line, bars = reliability_figure({"run": found}, {"run": "dkd"}, {"run": theme.TEACHER}, "image").data
        assert (list(line.x), list(line.y), list(bars.y)) == ([0.45], [25.0], [8])

    def test_map_of_correlations_has_a_common_scale_if_one_is_given(self) -> None:
        found = measures.correlation_reply("r", "teacher", predicted.CLASSES, [DIFFERENCE])
        [cells] = correlation_figure(found).data
        assert (cells.zmin, cells.zmax) == (0, 0.3)
        assert correlation_figure(found, 1.0).data[0].zmax == 1

    def test_class_without_an_interval_is_drawn(self) -> None:
        summary = SeedsSummary(n=1, mean=2.0, interval=None)
        [points] = class_differences_figure({"cat": summary}, "x", theme.TEACHER, {"cat": "cat (4)"}).data
        assert (list(points.x), list(points.y), list(points.error_x.array)) == ([2.0], ["cat (4)"], [0.0])

    def test_names_of_classes_are_escaped(self) -> None:
        bars, *_ = accuracy_figure({"run": {"<b>": 1.0}}, {"run": "dkd"}, ["<b>"], {"<b>": "4 <i>s"}).data
        assert list(bars.x) == ["&lt;b&gt;"]
        assert list(bars.customdata) == [" % of 4 &lt;i&gt;s"]
        assert bars.hovertemplate == "%{y:.2f}%{customdata}"


class TestRows:
    def test_most_frequent_confusions_say_of_how_many_images(self) -> None:
        names: Any = {"run": "dkd", "reference": "teacher"}
        first, *_ = prediction_rows.confusion_rows(confusion(), names, "run", "image")
        assert first == {
            "Class": "cat",
            "Predicted as": "dog",
            "dkd": "50.0 % (2 of 4 images)",
            "teacher": "25.0 % (1 of 4 images)",
            "Difference (images)": "+1",
        }

    def test_share_of_nothing_is_a_dash(self) -> None:
        assert prediction_rows.share_of(0, 0, "image") == "–"
        assert prediction_rows.error_of(None, 8, "image") == "–"
        assert prediction_rows.share_of(1, 1, "image") == "100.0 % (1 of 1 image)"
