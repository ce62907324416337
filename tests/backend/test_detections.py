"""Detections and pictures of finished runs over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.artifacts import run_results as reader
from backend.artifacts.run_files import FolderStore, StoredFile
from backend.artifacts.run_results import RunResults
from backend.settings import Settings
from core.items.detection_table import DETECTIONS_NAME
from core.items.table import ItemsError
from tests.backend import boxes
from tests.backend.lab import Json, Lab, plain

JPEG = b"\xff\xd8\xff"


@pytest.fixture
def claim(lab: Lab) -> Json:
    lab.register()
    lab.submit(plain())
    return lab.claim()


@pytest.fixture
def run(lab: Lab, claim: Json, settings: Settings) -> str:
    """A run that has succeeded, with its files; return its id."""
    boxes.write_files(Path(settings.artifacts, claim["folder"]))
    lab.succeed(claim)
    run_id: str = claim["run_id"]
    return run_id


def images(lab: Lab, run: str, **query: Any) -> Json:
    answer = lab.admin.get(f"/api/v1/runs/{run}/detections", params=query)
    assert answer.status_code == 200, answer.text
    page: Json = answer.json()
    return page


def items(lab: Lab, run: str, **query: Any) -> list[int]:
    page = images(lab, run, **query)
    found = [image["item"] for image in page["items"]]
    assert page["total"] == len(found)
    return found


class TestImages:
    def test_images_have_counts_of_both_networks(self, lab: Lab, run: str) -> None:
        page = images(lab, run)
        assert (page["images"], page["pictures"], page["classes"]) == (4, 2, ["cat", "dog"])
        assert page["scores"] == {
            "student": {"ap": 40.0, "ap_class/cat": 50.0, "errors/missed": 9.0},
            "teacher": {"ap": 60.0},
        }
        first, second, third, fourth = page["items"]
        assert first == {
            "item": 0,
            "id": 7,
            "name": "a.jpg",
            "width": 100,
            "height": 80,
            "picture": True,
            "objects": 2,
            "counts": {"student": {"right": 1, "missed": 1}, "teacher": {"right": 2}},
        }
        assert second["counts"] == {"student": {"classification": 1}, "teacher": {"right": 1, "duplicate": 1}}
        assert (third["objects"], third["counts"]) == (0, {"student": {}, "teacher": {}})
        # A crowd is not missed, and does not count as an object.
        assert (fourth["objects"], fourth["counts"]["student"]) == (1, {"ignored": 1, "missed": 1})
        assert page["counts"]["student"] == {"right": 1, "classification": 1, "ignored": 1, "missed": 2}
        assert set(page["kinds"]) == {"right", "classification", "localisation", "both", "duplicate", "background",
                                      "ignored", "missed"}  # fmt: skip

    def test_calibration_has_the_bins_with_detections_that_count(self, lab: Lab, run: str) -> None:
        calibration = images(lab, run, score=0.9, kind="right")["calibration"]
        # Of the student, scores of 0.2 (background), 0.3 and 0.9 (right) and 0.8 (wrong class); 0.7 is on a crowd.
        found = [
            (round(15 * part["low"]), round(15 * part["high"]), part["detections"], part["right"])
            for part in calibration["student"]
        ]
        assert found == [(3, 4, 1, 0.0), (4, 5, 1, 1.0), (12, 13, 1, 0.0), (13, 14, 1, 1.0)]
        assert [part["score"] for part in calibration["student"]] == pytest.approx([0.2, 0.3, 0.8, 0.9])
        assert [part["right"] for part in calibration["teacher"]] == [0.0, 1.0, 1.0]

    def test_lower_score_shows_more(self, lab: Lab, run: str) -> None:
        first = images(lab, run, score=0.2)["items"][0]
        assert first["counts"]["student"] == {"right": 2, "background": 1}
        assert images(lab, run, score=0.3)["items"][0]["counts"]["student"] == {"right": 2}

    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ({"kind": "right"}, [0]),
            ({"kind": "right", "source": "teacher"}, [0, 1]),
            ({"kind": "missed"}, [0, 3]),
            ({"kind": "missed", "score": 0.3}, [3]),
            ({"kind": "missed", "source": "teacher"}, [3]),
            ({"kind": "missed", "label": "dog"}, [0]),
            ({"kind": "background"}, []),
            ({"kind": "background", "score": 0}, [0]),
            ({"label": "cat"}, [0, 1, 3]),
            ({"label": "dog"}, [0, 1, 3]),
            ({"kind": "classification", "label": "dog"}, []),
            ({"pictured": True}, [0, 2]),
            ({"pictured": True, "label": "cat"}, [0]),
        ],
    )
    def test_filters(self, lab: Lab, run: str, query: Json, expected: list[int]) -> None:
        assert items(lab, run, **query) == expected

    def test_pages_follow_each_other(self, lab: Lab, run: str) -> None:
        seen: list[int] = []
        cursor: str | None = None
        for _ in range(3):
            page = images(lab, run, limit=1, label="dog", **({"cursor": cursor} if cursor else {}))
            assert page["total"] == 3
            seen += [image["item"] for image in page["items"]]
            cursor = page["next_cursor"]
        assert (seen, cursor) == ([0, 1, 3], None)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"cursor": "x"}, "cursor"),
            ({"cursor": "LTE"}, "cursor"),
            ({"label": "horse"}, "label"),
            ({"kind": "odd"}, "kind"),
            ({"score": 1.5}, "score"),
            ({"score": "nan"}, "score"),
        ],
    )
    def test_bad_queries_are_refused(self, lab: Lab, run: str, query: Json, path: str) -> None:
        answer = lab.admin.get(f"/api/v1/runs/{run}/detections", params=query)
        assert answer.status_code == 422
        assert [error["path"] for error in answer.json()["errors"]] == [path]


class TestImage:
    def test_image_has_its_objects_and_detections(self, lab: Lab, run: str) -> None:
        image = lab.admin.get(f"/api/v1/runs/{run}/detections/1").json()
        assert (image["name"], image["width"], image["height"], image["picture"]) == ("b.jpg", 100, 80, False)
        assert image["objects"] == [
            {"box": [10.0, 10.0, 50.0, 50.0], "label": "dog", "kind": "object", "missed_by": []}
        ]
        assert [
            (found["source"], found["label"], found["kind"], found["matched"]) for found in image["detections"]
        ] == [
            ("student", "cat", "classification", 0),
            ("teacher", "dog", "right", 0),
            ("teacher", "dog", "duplicate", 0),
        ]
        assert image["detections"][0]["score"] == pytest.approx(0.8)
        assert image["detections"][0]["box"] == [1.0, 1.0, 41.0, 51.0]

    def test_score_decides_what_is_missed(self, lab: Lab, run: str) -> None:
        def missed(score: float) -> list[list[str]]:
            image = lab.admin.get(f"/api/v1/runs/{run}/detections/0", params={"score": score}).json()
            assert all(found["score"] >= score - 1e-6 for found in image["detections"])
            return [found["missed_by"] for found in image["objects"]]

        assert missed(0.0) == [[], []]
        assert missed(0.5) == [[], ["student"]]
        assert missed(0.92) == [["student"], ["student", "teacher"]]

    def test_pictures_are_jpeg_files(self, lab: Lab, run: str) -> None:
        answer = lab.admin.get(f"/api/v1/runs/{run}/pictures/2")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
        assert answer.content.startswith(JPEG)

    @pytest.mark.parametrize(
        "path", ["detections/4", "detections/-1", "detections/x", "pictures/1", "pictures/4", "detections/9999999999"]
    )
    def test_other_images_are_404(self, lab: Lab, run: str, path: str) -> None:
        assert lab.admin.get(f"/api/v1/runs/{run}/{path}").status_code == 404


class TestRun:
    @pytest.mark.parametrize("path", ["detections", "detections/0", "pictures/0"])
    def test_run_that_has_not_succeeded_has_none_yet(
        self, lab: Lab, claim: Json, settings: Settings, path: str
    ) -> None:
        boxes.write_files(Path(settings.artifacts, claim["folder"]))
        answer = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
        assert "this run is running" in answer.json()["detail"]
        assert lab.admin.get(f"/api/v1/runs/none/{path}").status_code == 404

    def test_run_without_detections_is_404(self, lab: Lab, claim: Json) -> None:
        lab.succeed(claim)
        answer = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/detections")
        assert (answer.status_code, answer.json()["detail"]) == (404, "this run kept no detections")

    def test_run_without_pictures_and_teacher_has_its_boxes(self, lab: Lab, claim: Json, settings: Settings) -> None:
        boxes.write_files(Path(settings.artifacts, claim["folder"]), pictures=False, teacher=False)
        lab.succeed(claim)
        page = images(lab, claim["run_id"])
        assert (page["pictures"], list(page["counts"])) == (0, ["student"])
        assert not any(image["picture"] for image in page["items"])

    def test_damaged_file_is_a_conflict_that_names_no_path(self, lab: Lab, claim: Json, settings: Settings) -> None:
        folder = Path(settings.artifacts, claim["folder"])
        boxes.write_files(folder)
        whole = (folder / DETECTIONS_NAME).read_bytes()
        (folder / DETECTIONS_NAME).write_bytes(whole[:-50])
        lab.succeed(claim)
        answer = lab.admin.get(f"/api/v1/runs/{claim['run_id']}/detections")
        assert answer.status_code == 409
        assert "damaged" in answer.json()["detail"]
        assert str(settings.artifacts) not in answer.text

    def test_files_of_other_attempts_are_not_read(self, lab: Lab, claim: Json, settings: Settings) -> None:
        boxes.write_files(Path(settings.artifacts, claim["folder"]).with_name("attempt-9"))
        lab.succeed(claim)
        assert lab.admin.get(f"/api/v1/runs/{claim['run_id']}/detections").status_code == 404


class CountingStore(FolderStore):
    """A store that counts how often a file is read."""

    reads = 0

    def blocks(self, file: StoredFile, start: int, stop: int) -> Iterator[bytes]:
        self.reads += 1
        return super().blocks(file, start, stop)

    def files(self, run_id: str, attempts: Sequence[int]) -> list[StoredFile]:
        return super().files(run_id, attempts)


class TestCache:
    @pytest.fixture
    def store(self, tmp_path: Path) -> CountingStore:
        for run in ("a", "b"):
            boxes.write_files(tmp_path / "runs" / run / "attempt-1")
        return CountingStore(tmp_path)

    def test_file_is_read_once(self, store: CountingStore) -> None:
        kept = RunResults(store)
        first = kept.table("a", 1)
        assert first is not None
        assert kept.table("a", 1) is first
        assert store.reads == 1

    def test_oldest_is_dropped_beyond_the_limit(self, store: CountingStore) -> None:
        kept = RunResults(store, kept_bytes=1)
        for run in ("a", "b", "b", "a"):
            assert kept.table(run, 1) is not None
        assert store.reads == 3

    def test_too_large_files_are_refused(self, store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reader, "_MOST_BYTES", 100)
        with pytest.raises(ItemsError, match="100 is the limit here"):
            RunResults(store).table("a", 1)
        monkeypatch.setattr(reader, "MOST_FILE_BYTES", 50)
        with pytest.raises(ItemsError, match=r"detections.parquet: it has [\d,]+ bytes, and 50 is the limit"):
            RunResults(store).table("a", 1)
