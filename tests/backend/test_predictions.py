"""Predictions of finished runs over HTTP, one run at a time and over seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.comparisons import statistics
from backend.settings import Settings
from core.items.table import ITEMS_NAME, Items
from tests.backend import predicted
from tests.backend.lab import Json, Lab, plain, spec

Labels = dict[str, dict[int, Json]]


@pytest.fixture
def claim(lab: Lab) -> Json:
    lab.register()
    lab.submit(plain())
    return lab.claim()


@pytest.fixture
def run(lab: Lab, claim: Json, settings: Settings) -> str:
    """A run that has succeeded, with its files; return its id."""
    folder = Path(settings.artifacts, claim["folder"])
    near, far = predicted.correlations([0.5, 0.2, 0.1], [0.4, 0.4, 0.1]), [0, 5]
    predicted.write_files(folder, predicted.items(), correlated=near, pictures=far)
    lab.succeed(claim)
    run_id: str = claim["run_id"]
    return run_id


def get(lab: Lab, run: str, part: str = "", status: int = 200, **query: Any) -> Json:
    answer = lab.admin.get(f"/api/v1/runs/{run}/predictions{part}", params=query)
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


def found(lab: Lab, run: str, **query: Any) -> list[int]:
    page = get(lab, run, "/images", **query)
    assert page["total"] == len(page["items"])
    return sorted(image["item"] for image in page["items"])


class TestRun:
    def test_classes_are_counted_for_run_and_teacher(self, lab: Lab, run: str) -> None:
        reply = get(lab, run)
        assert (reply["reference"], reply["images"], reply["pictures"]) == ("teacher", 8, 2)
        assert reply["classes"] == ["cat", "dog", "owl"]
        of_run, of_teacher = reply["networks"]["run"], reply["networks"]["reference"]
        assert (of_run["right"], of_teacher["right"]) == (4, 4)
        assert [tuple(counts.values()) for counts in of_run["by_class"]] == [(4, 2, 4), (3, 2, 4), (1, 0, 0)]
        assert [counts["right"] for counts in of_teacher["by_class"]] == [3, 1, 0]

    def test_agreement_counts_images(self, lab: Lab, run: str) -> None:
        assert get(lab, run)["agreement"] == {
            "both_right": 3,
            "only_run_right": 1,
            "only_reference_right": 1,
            "same_error": 2,
            "different_errors": 1,
        }

    def test_calibration_has_the_ranges_with_images_and_their_numbers(self, lab: Lab, run: str) -> None:
        of_run = get(lab, run)["networks"]["run"]
        assert [(part["images"], part["right"]) for part in of_run["calibration"]] == [(4, 0.0), (4, 1.0)]
        # 4 of 8 images are 0.6 too confident, and 4 are 0.2 not confident enough.
        assert of_run["ece"] == pytest.approx(40, abs=0.1)

    def test_file_of_an_earlier_version_has_no_confidences(self, lab: Lab, claim: Json, settings: Settings) -> None:
        old = predicted.items(confidence=False)
        predicted.write_files(Path(settings.artifacts, claim["folder"]), old)
        lab.succeed(claim)
        of_run = get(lab, claim["run_id"])["networks"]["run"]
        assert (of_run["calibration"], of_run["ece"]) == (None, None)

    def test_network_without_a_teacher_has_no_reference(self, lab: Lab, claim: Json, settings: Settings) -> None:
        predicted.write_files(Path(settings.artifacts, claim["folder"]), predicted.items(teacher=None))
        lab.succeed(claim)
        reply = get(lab, claim["run_id"])
        assert (reply["reference"], reply["agreement"], list(reply["networks"])) == ("", None, ["run"])
        assert "no teacher" in get(lab, claim["run_id"], status=422, against="teacher")["detail"]
        assert "no teacher" in get(lab, claim["run_id"], "/images", status=422, kind="differ")["detail"]
        images = get(lab, claim["run_id"], "/images", kind="run_wrong")
        assert [image["margin"] for image in images["items"]] == [None] * 4


class TestConfusion:
    def test_pairs_that_occur_are_counted_for_both(self, lab: Lab, run: str) -> None:
        matrix = get(lab, run, "/confusion")
        cells = dict(
            zip(
                zip(matrix["target"], matrix["predicted"], strict=True),
                zip(matrix["run"], matrix["of_reference"], strict=True),
                strict=True,
            )
        )
        assert cells == {
            (0, 0): (2, 3),
            (0, 1): (2, 1),
            (1, 0): (1, 1),
            (1, 1): (2, 1),
            (1, 2): (0, 1),
            (2, 0): (1, 0),
            (2, 1): (0, 1),
        }
        assert (matrix["runs"], matrix["left_out"]) == (1, 0)

    def test_limit_keeps_the_largest(self, lab: Lab, run: str) -> None:
        matrix = get(lab, run, "/confusion", limit=2)
        assert (len(matrix["run"]), matrix["left_out"]) == (2, 5)
        assert min(map(max, zip(matrix["run"], matrix["of_reference"], strict=True))) == 2


class TestCorrelations:
    def test_difference_to_the_teacher_is_absolute(self, lab: Lab, run: str) -> None:
        reply = get(lab, run, "/correlations")
        assert (reply["reference"], reply["classes"], reply["classes_per_cell"]) == (
            "teacher",
            ["cat", "dog", "owl"],
            1,
        )
        expected = [[0, 0.1, 0.2], [0.1, 0, 0], [0.2, 0, 0]]
        np.testing.assert_allclose(reply["difference"], expected, atol=2e-3)
        assert reply["mean"] == pytest.approx(0.1, abs=1e-3)

    def test_run_that_kept_none_says_so(self, lab: Lab, claim: Json, settings: Settings) -> None:
        predicted.write_files(Path(settings.artifacts, claim["folder"]), predicted.items())
        lab.succeed(claim)
        assert "kept no correlations" in get(lab, claim["run_id"], "/correlations", status=404)["detail"]


class TestImages:
    def test_image_has_both_predictions_and_the_largest_margin_is_first(self, lab: Lab, run: str) -> None:
        page = get(lab, run, "/images")
        assert (page["total"], page["images"]) == (8, 8)
        first = page["items"][0]
        assert (first["item"], first["label"], first["picture"]) == (2, "cat", None)
        assert first["margin"] == pytest.approx(-0.7, abs=1e-3)
        assert (first["networks"]["run"]["label"], first["networks"]["run"]["right"]) == ("dog", False)
        assert (first["networks"]["reference"]["label"], first["networks"]["reference"]["right"]) == ("cat", True)
        assert page["items"][1]["item"] == 5
        assert page["items"][1]["picture"] == run

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"kind": "differ"}, [2, 5, 7]),
            ({"kind": "run_right"}, [5]),
            ({"kind": "reference_right"}, [2]),
            ({"kind": "both_wrong"}, [3, 6, 7]),
            ({"kind": "both_right"}, [0, 1, 4]),
            ({"kind": "run_wrong"}, [2, 3, 6, 7]),
            ({"label": "dog"}, [4, 5, 6]),
            ({"predicted": "owl"}, [5]),
            ({"predicted": "dog", "label": "cat"}, [2, 3]),
            ({"margin": 0.5}, [2, 5]),
            ({"pictured": True}, [0, 5]),
            ({"pictured": True, "kind": "differ"}, [5]),
            ({"kind": "both_right", "label": "owl"}, []),
        ],
    )
    def test_filters(self, lab: Lab, run: str, query: Json, expected: list[int]) -> None:
        assert found(lab, run, **query) == expected

    def test_pages_follow_each_other(self, lab: Lab, run: str) -> None:
        seen: list[int] = []
        cursor: str | None = None
        for _ in range(3):
            more: Json = {"cursor": cursor} if cursor else {}
            page = get(lab, run, "/images", limit=3, **more)
            seen += [image["item"] for image in page["items"]]
            cursor = page["next_cursor"]
        assert cursor is None
        assert sorted(seen) == list(range(8))

    def test_picture_of_a_listed_image_is_there(self, lab: Lab, run: str) -> None:
        answer = lab.admin.get(f"/api/v1/runs/{run}/pictures/5")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")

    @pytest.mark.parametrize(
        ("query", "path"),
        [({"label": "cow"}, "label"), ({"predicted": "cow"}, "predicted"), ({"cursor": "LTE"}, "cursor")],
    )
    def test_bad_values_are_named(self, lab: Lab, run: str, query: Json, path: str) -> None:
        assert [error["path"] for error in get(lab, run, "/images", status=422, **query)["errors"]] == [path]


class TestRefused:
    def test_run_that_has_not_succeeded(self, lab: Lab, claim: Json) -> None:
        assert "predictions are written when a run succeeds" in get(lab, claim["run_id"], status=409)["detail"]

    def test_run_of_an_earlier_version_says_so_in_one_sentence(self, lab: Lab, claim: Json) -> None:
        lab.succeed(claim)
        assert "kept no predictions" in get(lab, claim["run_id"], status=404)["detail"]

    def test_unknown_runs(self, lab: Lab, run: str) -> None:
        get(lab, "0" * 16, status=404)
        get(lab, run, status=404, against="0" * 16)

    def test_damaged_file_can_be_downloaded(self, lab: Lab, claim: Json, settings: Settings) -> None:
        folder = Path(settings.artifacts, claim["folder"])
        predicted.write_files(folder, predicted.items())
        content = bytearray((folder / ITEMS_NAME).read_bytes())
        content[30] ^= 1
        (folder / ITEMS_NAME).write_bytes(content)
        lab.succeed(claim)
        assert "damaged" in get(lab, claim["run_id"], status=409)["detail"]

    @pytest.mark.parametrize("column", ["target", "predicted", "teacher_predicted"])
    def test_numbers_that_are_no_classes(self, lab: Lab, claim: Json, settings: Settings, column: str) -> None:
        good = predicted.items()
        wrong = {**good.columns, column: np.full(8, 4_000_000_000, np.uint32)}
        hostile = Items(wrong, good.task, good.images, good.fingerprint, good.classes)
        predicted.write_files(Path(settings.artifacts, claim["folder"]), hostile)
        lab.succeed(claim)
        for part in ("", "/confusion", "/images"):
            assert "no classes" in get(lab, claim["run_id"], part, status=409)["detail"]

    def test_run_of_detection_has_no_predictions_of_this_kind(self, lab: Lab, claim: Json, settings: Settings) -> None:
        counts = Items({"item": np.arange(3), "right": np.zeros(3, np.int64)}, "detection")
        predicted.write_files(Path(settings.artifacts, claim["folder"]), counts)
        lab.succeed(claim)
        assert "does not predict one class" in get(lab, claim["run_id"], status=404)["detail"]


# The right images of each class, by label and seed: four cats, three dogs, one owl.
BASE = {0: (0, 0, 0, 1, 1, 1, 0, 0), 1: (0, 0, 1, 1, 1, 1, 0, 0), 2: (0, 1, 1, 1, 1, 0, 0, 0)}
OTHER = {0: (0, 0, 0, 0, 1, 1, 0, 2), 1: (0, 0, 0, 1, 1, 0, 0, 2), 2: (0, 0, 0, 1, 0, 0, 0, 2)}


@pytest.fixture
def runs(lab: Lab, settings: Settings) -> Labels:
    """An experiment whose teacher and students have succeeded; return the claims of the students by label and seed."""
    lab.register()
    lab.submit(spec(methods=["ce", "kd"], seeds=[0, 1, 2]))
    claims: Labels = {"ce": {}, "kd": {}}
    while claim := lab.try_claim():
        run = lab.run(claim["run_id"])
        folder = Path(settings.artifacts, claim["folder"])
        if run["role"] == "teacher":
            predicted.write_files(
                folder, predicted.items(predicted.TEACHER, None), correlated=predicted.correlations([0.4, 0.4, 0.1])
            )
        elif run["label"] == "ce":
            near = predicted.correlations([0.4, 0.4, 0.1 + 0.3 * (run["seed"] + 1)])
            predicted.write_files(folder, predicted.items(BASE[run["seed"]], None), correlated=near, pictures=[2])
        else:
            near = predicted.correlations([0.4, 0.4, 0.1], [0.4, 0.4, 0.1])
            predicted.write_files(folder, predicted.items(OTHER[run["seed"]]), correlated=near)
        lab.succeed(claim)
        if run["role"] == "student":
            claims[run["label"]][run["seed"]] = claim
    return claims


def compared(lab: Lab, part: str = "", status: int = 200, **query: Any) -> Json:
    answer = lab.admin.get(f"/api/v1/comparisons/predictions{part}", params={"experiment": "first", **query})
    assert answer.status_code == status, answer.text
    body: Json = answer.json()
    return body


class TestSeeds:
    def test_differences_by_class_are_paired_over_the_seeds(self, lab: Lab, runs: Labels) -> None:
        reply = compared(lab)
        assert (reply["baseline"], reply["images"], reply["images_by_class"]) == ("ce", 8, [4, 3, 1])
        base, other = reply["methods"]
        cats = [100 * sum(own[at] == 0 for at in range(4)) / 4 for own in OTHER.values()]
        of_base = [100 * sum(own[at] == 0 for at in range(4)) / 4 for own in BASE.values()]
        expected = statistics.summarize([one - two for one, two in zip(cats, of_base, strict=True)])
        paired = other["by_class"][0]["to_baseline"]
        assert other["by_class"][0]["accuracy"]["mean"] == pytest.approx(math.fsum(cats) / 3)
        assert (paired["n"], paired["mean"]) == (3, pytest.approx(expected.mean))
        assert expected.interval
        assert paired["interval"] == pytest.approx({"low": expected.interval.low, "high": expected.interval.high})
        assert base["by_class"][0]["to_baseline"] is None
        assert other["runs"] == {str(seed): claim["run_id"] for seed, claim in runs["kd"].items()}

    def test_teacher_is_that_of_the_students_also_for_a_method_without_one(self, lab: Lab, runs: Labels) -> None:
        reply = compared(lab)
        assert reply["teacher"]["by_class"] == pytest.approx([75, 100 / 3, 0])
        owl = reply["methods"][1]["by_class"][2]["to_teacher"]
        assert (owl["n"], owl["mean"], owl["interval"]) == (3, 100, None)
        cats = reply["methods"][0]["by_class"][0]["to_teacher"]
        assert (cats["n"], cats["mean"]) == (3, pytest.approx(-25))

    def test_correlations_are_compared_with_the_teachers_own_file_where_a_student_has_none(
        self, lab: Lab, runs: Labels
    ) -> None:
        base, other = compared(lab)["methods"]
        assert base["correlation"]["mean"] == pytest.approx(0.2, abs=2e-3)
        assert other["correlation"]["mean"] == pytest.approx(0, abs=1e-6)
        assert other["correlation_to_baseline"]["mean"] == pytest.approx(-0.2, abs=2e-3)
        matrix = compared(lab, "/correlations", label="ce")
        assert (matrix["runs"], matrix["difference"][1][2]) == (3, pytest.approx(0.6, abs=2e-3))

    def test_calibration_is_of_all_runs_together(self, lab: Lab, runs: Labels) -> None:
        base, _ = compared(lab)["methods"]
        assert sum(part["images"] for part in base["calibration"]) == 24
        assert base["ece"]["n"] == 3

    def test_confusion_is_summed_over_the_seeds_that_both_have(self, lab: Lab, runs: Labels) -> None:
        matrix = compared(lab, "/confusion", label="kd", against="ce")
        assert (matrix["runs"], matrix["reference"], sum(matrix["run"])) == (3, "ce", 24)
        to_teacher = compared(lab, "/confusion", label="ce")
        assert (to_teacher["reference"], sum(to_teacher["of_reference"])) == ("teacher", 24)

    def test_images_are_compared_with_another_run(self, lab: Lab, runs: Labels) -> None:
        one, two = runs["kd"][0]["run_id"], runs["ce"][0]["run_id"]
        page = get(lab, one, "/images", against=two, kind="run_right")
        assert [image["item"] for image in page["items"]] == [3, 7]
        pictured = get(lab, one, "/images", against=two, pictured=True)
        assert [(image["item"], image["picture"]) for image in pictured["items"]] == [(2, two)]

    def test_notes_say_what_many_intervals_are(self, lab: Lab, runs: Labels) -> None:
        assert any("exclude zero by chance" in note for note in compared(lab)["notes"])

    def test_unknown_method_is_refused(self, lab: Lab, runs: Labels) -> None:
        for part in ("/confusion", "/correlations"):
            assert "there is no method 'dkd'" in compared(lab, part, status=422, label="dkd")["detail"]
        assert "there is no method" in compared(lab, status=422, baseline="dkd")["detail"]

    def test_runs_without_files_are_named(self, lab: Lab, runs: Labels, settings: Settings) -> None:
        Path(settings.artifacts, runs["kd"][1]["folder"], ITEMS_NAME).unlink()
        reply = compared(lab)
        assert any("kd seed 1" in note and "kept no predictions" in note for note in reply["notes"])
        assert reply["methods"][1]["by_class"][0]["to_baseline"]["n"] == 2

    def test_runs_on_other_images_are_left_out(self, lab: Lab, runs: Labels, settings: Settings) -> None:
        folder = Path(settings.artifacts, runs["kd"][1]["folder"])
        predicted.write_files(folder, predicted.items(OTHER[1], images="fedcba9876543210"))
        reply = compared(lab)
        assert any("kd seed 1" in note and "data differ" in note for note in reply["notes"])
        assert "data differ" in get(lab, runs["kd"][1]["run_id"], status=422, against=runs["ce"][1]["run_id"])["detail"]

    def test_experiment_without_files_says_so(self, lab: Lab, runs: Labels, settings: Settings) -> None:
        for of_label in runs.values():
            for claim in of_label.values():
                Path(settings.artifacts, claim["folder"], ITEMS_NAME).unlink()
        assert "kept no predictions" in compared(lab, status=404)["detail"]
