"""The file with a run's detections, and comparisons of two runs by it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.items.average_precision import paired_ap_bootstrap
from core.items.boxes import Detections, GroundTruth
from core.items.calibration import score_bins
from core.items.detection_file import encode_detections, read_detections
from core.items.detection_table import (
    ALL_KINDS,
    DETECTIONS_NAME,
    KINDS,
    SOURCES,
    DetectionTable,
    ap_difference,
    detection_table,
)
from core.items.file import encode_items, read_items, with_digest
from core.items.statistics import paired_differences
from core.items.table import Items, ItemsError
from core.tasks.detection.metrics.calibration import detection_calibration_error
from core.tasks.detection.metrics.errors import judge
from tests.core.tasks.detection.metrics.random_boxes import random_detections, random_truth


def judged(detections: Detections, truth: GroundTruth, seed: int) -> tuple[Detections, np.ndarray, np.ndarray]:
    """Detections with random kinds; right ones and those with an error of the box have an object."""
    generator = np.random.default_rng(seed)
    kind = generator.integers(0, len(KINDS), len(detections)).astype(np.uint8)
    about = np.where(kind < 2, generator.integers(0, len(truth), len(detections)), -1)
    return detections, kind, about


def table_of(seed: int = 0, *, images: int = 30, teacher: bool = True) -> DetectionTable:
    truth = replace(
        random_truth(0, images), sizes=np.full((images, 2), 400), names=tuple(f"é {n}" for n in range(images))
    )
    sources = {"student": judged(random_detections(truth, seed + 1), truth, seed)}
    scores = {"student": {"ap": 41.5, "ap_class/cell": 50.0}}
    if teacher:
        sources["teacher"] = judged(random_detections(truth, 99), truth, 99)
        scores["teacher"] = {"ap": 45.0}
    table = detection_table(truth, sources, scores)
    return replace(table, task="detection", data="0123456789abcdef", fingerprint=f"fingerprint of {seed}")


def written(table: DetectionTable, folder: Path) -> Path:
    path = folder / DETECTIONS_NAME
    path.write_bytes(encode_detections(table))
    return path


def check_equal(first: DetectionTable, second: DetectionTable) -> None:
    for name, value in vars(first).items():
        other = getattr(second, name)
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype, name
            np.testing.assert_array_equal(value, other, name)
        else:
            assert value == other, name


class TestTable:
    def test_rows_are_ordered_by_image_source_and_score(self) -> None:
        table = table_of()
        keys = list(zip(table.item.tolist(), table.source.tolist(), strict=True))
        assert keys == sorted(keys)
        for image in range(table.images):
            rows = table.rows_of(image)
            assert set(table.item[rows].tolist()) <= {image}
            for source in (1, 2):
                scores = table.score[rows][table.source[rows] == source]
                assert (np.diff(scores) <= 0).all()

    def test_objects_and_detections_are_those_that_it_was_made_of(self) -> None:
        truth = random_truth(0)
        detections = random_detections(truth, 1)
        table = table_of()
        back = table.truth()
        for name in ("image", "boxes", "labels", "ignored", "area", "ids"):
            np.testing.assert_array_equal(getattr(back, name), getattr(truth, name), name)
        np.testing.assert_array_equal(back.crowds, truth.crowds)
        kept = detections.part(detections.scores >= 0.05)
        assert len(kept) < len(detections)
        for name in ("image", "boxes", "labels", "scores"):
            np.testing.assert_array_equal(getattr(table.found("student"), name), getattr(kept, name), name)

    def test_matched_rows_are_the_objects_that_the_detections_are_about(self) -> None:
        truth = random_truth(0)
        detections, _, about = judged(random_detections(truth, 1), truth, 0)
        kept = detections.scores >= 0.05
        table = table_of()
        rows = table.matched[table.source == SOURCES.index("student")]
        assert ((rows < 0) == (about[kept] < 0)).all()
        np.testing.assert_array_equal(table.boxes[rows[rows >= 0]], truth.boxes[about[kept][rows >= 0]])
        assert (table.source[rows[rows >= 0]] == 0).all()
        assert (table.matched[table.source == 0] == -1).all()

    def test_at_most_a_hundred_detections_of_an_image_are_kept(self) -> None:
        truth = random_truth(0, 2)
        detections = random_detections(truth, 1, per_image=700)
        table = detection_table(truth, {"student": judged(detections, truth, 0)}, {"student": {}})
        kept = table.found("student")
        assert np.bincount(kept.image).tolist() == [100, 100]
        for image in (0, 1):
            expected = detections.scores[detections.image == image][:100]
            np.testing.assert_array_equal(kept.scores[kept.image == image], expected)

    def test_run_without_teacher_has_none(self) -> None:
        with pytest.raises(ItemsError, match="without a teacher"):
            table_of(teacher=False).found("teacher")

    def test_bins_of_scores_give_the_calibration_error(self) -> None:
        truth = random_truth(0, 30)
        found = random_detections(truth, 5)
        judgement = judge(found, truth)
        bins = score_bins(detection_table(truth, {"student": (found, judgement.kind, judgement.object)}, {}), "student")
        assert len(bins) == 15
        error = sum(abs(right - score) for _, score, right in bins) / sum(count for count, _, _ in bins)
        assert 100 * error == pytest.approx(detection_calibration_error(found, judgement))

    def test_kinds_of_objects_are_told_apart(self) -> None:
        table = table_of()
        words = np.array(ALL_KINDS)[table.kind]
        assert set(words[table.source == 0].tolist()) == {"object", "difficult", "crowd"}
        assert set(words[table.source > 0].tolist()) == set(KINDS)


class TestFile:
    @pytest.mark.parametrize("teacher", [True, False])
    def test_file_round_trip_keeps_the_results(self, tmp_path: Path, teacher: bool) -> None:
        table = table_of(teacher=teacher)
        check_equal(read_detections(written(table, tmp_path)), table)

    def test_file_without_any_row_is_read(self, tmp_path: Path) -> None:
        truth = random_truth(0, 3)
        empty = replace(
            truth, **{n: getattr(truth, n)[:0] for n in ("image", "boxes", "labels", "ignored", "area", "crowd")}
        )
        nothing = judged(random_detections(truth, 1).part(np.zeros(0, np.int64)), empty, 0)
        table = detection_table(empty, {"student": nothing}, {"student": {}})
        assert len(table) == 0
        check_equal(read_detections(written(table, tmp_path)), table)

    def test_equal_results_give_equal_bytes(self) -> None:
        assert encode_detections(table_of()) == encode_detections(table_of())

    def test_a_detection_takes_less_than_thirty_bytes(self) -> None:
        table = table_of(images=1000)
        assert len(encode_detections(table)) / len(table) < 30

    def test_other_programs_read_the_kinds_as_words(self, tmp_path: Path) -> None:
        rows = pq.read_table(written(table_of(), tmp_path)).to_pylist()
        assert {row["source"] for row in rows} == set(SOURCES)
        assert {row["kind"] for row in rows} == set(ALL_KINDS)

    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ItemsError, match="cannot be read: No such file"):
            read_detections(tmp_path / DETECTIONS_NAME)

    def test_per_item_results_are_not_detections_and_the_reverse(self, tmp_path: Path) -> None:
        items = tmp_path / "items.parquet"
        items.write_bytes(encode_items(Items({"item": np.arange(3)})))
        with pytest.raises(ItemsError, match="not with the detections of a run"):
            read_detections(items)
        with pytest.raises(ItemsError, match="not with the per-item results of a run"):
            read_items(written(table_of(), tmp_path))

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"an HTML page", b"PAR1" + bytes(100) + b"PAR1"])
    def test_file_that_is_no_parquet_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / DETECTIONS_NAME).write_bytes(content)
        with pytest.raises(ItemsError, match="damaged, or not a Parquet file"):
            read_detections(tmp_path / DETECTIONS_NAME)

    def test_damaged_byte_is_noticed(self, tmp_path: Path) -> None:
        table = table_of()
        content = bytearray(encode_detections(table))
        path = tmp_path / DETECTIONS_NAME
        unnoticed = 0
        for at in range(4, len(content), len(content) // 60):
            damaged = bytearray(content)
            damaged[at] ^= 0x55
            path.write_bytes(damaged)
            try:
                back = read_detections(path)
            except ItemsError:
                continue
            unnoticed += not np.array_equal(back.boxes, table.boxes)
        assert not unnoticed

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"version": 2}, "format version 2, and this program reads version 1"),
            ({"count": 3}, "not of the 3 images"),
            ({"count": "many"}, "not those of detections"),
            ({"classes": ["cell"]}, "none of its 1 classes"),
            ({"classes": 7}, "not those of detections"),
            ({"ids": [1]}, "does not describe each of its images"),
            ({"names": ["a"]}, "does not describe each of its images"),
            ({"sizes": [[1, 2]]}, "does not describe each of its images"),
            ({"sizes": [1, 2, 3]}, "not those of detections"),
            ({"scores": [1]}, "not those of detections"),
            ({"scores": {"student": {"ap": "high"}}}, "not those of detections"),
        ],
    )
    def test_description_that_does_not_fit_is_an_error(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        path = written(table_of(), tmp_path)
        content = pq.read_table(path)
        description = json.loads(content.schema.metadata[b"dkd_detections"]) | changes
        rewritten(path, content, description)
        with pytest.raises(ItemsError, match=re.escape(message)):
            read_detections(path)

    @pytest.mark.parametrize(
        ("column", "value", "message"),
        [
            ("matched", 10**6, "a row that does not exist"),
            ("matched", -2, "a row that does not exist"),
            ("item", 29, "not ordered by image"),
            ("label", 0, "none of its 5 classes"),
            ("x1", float("nan"), "a box or a score is not finite"),
            ("y2", float("inf"), "a box or a score is not finite"),
            ("kind", "odd", "not those of detections"),
            ("source", "peer", "not those of detections"),
            ("score", None, "not those of detections"),
            ("score", "x", "not those of detections"),
        ],
    )
    def test_column_that_does_not_fit_is_an_error(
        self, tmp_path: Path, column: str, value: object, message: str
    ) -> None:
        path = written(table_of(), tmp_path)
        content = pq.read_table(path)
        values = content.column(column).to_pylist()
        if value == "x":
            values = ["x"] * len(values)
        values[0] = value
        changed = content.set_column(content.column_names.index(column), column, pa.array(values))
        rewritten(path, changed, json.loads(content.schema.metadata[b"dkd_detections"]))
        with pytest.raises(ItemsError, match=message):
            read_detections(path)


def rewritten(path: Path, content: Any, description: dict[str, Any]) -> None:
    pq.write_table(content.replace_schema_metadata({b"dkd_detections": json.dumps(description)}), path)
    path.write_bytes(with_digest(path.read_bytes()))


class TestComparison:
    def test_difference_is_that_of_the_detections_in_the_files(self, tmp_path: Path) -> None:
        first, second = table_of(0), table_of(5)
        result = ap_difference([read_detections(written(first, tmp_path))], [second], 3, resamples=30)
        truth = random_truth(0)
        found = [random_detections(truth, seed) for seed in (1, 6)]
        kept = [detections.part(detections.scores >= 0.05) for detections in found]
        assert result == paired_ap_bootstrap(kept[:1], kept[1:], truth, 3, resamples=30)
        assert result.low < result.mean < result.high

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"task": "other"}, "their task differ"),
            ({"data": "fedcba"}, "their data differ"),
            ({"classes": ("a", "b", "c", "d", "e")}, "their classes differ"),
        ],
    )
    def test_runs_on_other_data_are_not_compared(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ItemsError, match=message):
            ap_difference([table_of(0)], [table_of(0), replace(table_of(1), **changes)], 0)

    def test_runs_with_other_objects_are_not_compared(self) -> None:
        other = table_of(1)
        moved = other.boxes.copy()
        moved[other.source == 0] += 1
        with pytest.raises(ItemsError, match="the objects of their images differ"):
            ap_difference([table_of(0), replace(other, boxes=moved)], [table_of(2)], 0)

    def test_no_runs_are_not_compared(self) -> None:
        with pytest.raises(ItemsError, match="no runs"):
            ap_difference([], [table_of(0)], 0)
        with pytest.raises(ItemsError, match="no runs"):
            ap_difference([table_of(0)], [], 0)

    def test_counts_of_images_are_compared_if_their_objects_are_equal(self) -> None:
        with pytest.raises(ItemsError, match="no column 'predicted'"):
            paired_differences(of_images([1, 2]), of_images([1, 2]), "top1")
        with pytest.raises(ItemsError, match="their columns 'objects' differ"):
            paired_differences(of_images([1, 2]), of_images([1, 3]), "top1")


def of_images(objects: list[int]) -> Items:
    return Items({"item": np.arange(len(objects)), "objects": np.array(objects)}, "detection", "0123")
