"""Per-item results: their file, and the statistics of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.items import file
from core.items.file import encode_items, read_items
from core.items.statistics import (
    Disagreement,
    bootstrap_mean,
    bootstrap_mean_of_whole_numbers,
    check_same_data,
    confusion_matrix,
    disagreement,
    item_scores,
    paired_differences,
    teacher_disagreement,
)
from core.items.table import ITEMS_NAME, Items, ItemsError


def items_of(count: int = 10_000, num_classes: int = 100, *, seed: int = 0, teacher: bool = True) -> Items:
    """Random results in random order, which compress worse than those of sorted images."""
    generator = np.random.default_rng(seed)
    target = np.random.default_rng(99).integers(num_classes, size=count)
    classes = np.min_scalar_type(num_classes - 1)

    def predicted(accuracy: float) -> np.ndarray:
        right = generator.random(count) < accuracy
        return np.where(right, target, generator.integers(num_classes, size=count)).astype(classes)

    probability, teacher_probability = generator.beta(2, 1, size=(2, count)).astype(np.float16)
    columns = {
        "item": np.arange(count).astype(np.min_scalar_type(count - 1)),
        "target": target.astype(classes),
        "predicted": predicted(0.7),
        "probability": probability,
        "nll": generator.exponential(0.8, count).astype(np.float16),
        "top5": generator.random(count) < 0.9,
    }
    if teacher:
        columns |= {
            "teacher_predicted": predicted(0.75),
            "teacher_probability": teacher_probability,
            "kl": generator.exponential(0.5, count).astype(np.float16),
        }
    names = tuple(f"class {number}" for number in range(num_classes))
    return Items(columns, "classification", "0123456789abcdef", f"fingerprint of {seed}", names)


def written(items: Items, folder: Path) -> Path:
    path = folder / ITEMS_NAME
    path.write_bytes(encode_items(items))
    return path


class TestFile:
    def test_ten_thousand_items_with_teacher_take_less_than_twelve_bytes_each(self) -> None:
        assert len(encode_items(items_of())) / 10_000 < 12

    @pytest.mark.parametrize(("count", "teacher"), [(1, True), (7, False), (300, True)])
    def test_file_round_trip_keeps_the_results(self, tmp_path: Path, count: int, teacher: bool) -> None:
        items = items_of(count, teacher=teacher)
        back = read_items(written(items, tmp_path))
        assert replace(back, columns={}) == replace(items, columns={})
        assert list(back.columns) == list(items.columns)
        for name, values in items.columns.items():
            assert back.columns[name].dtype == values.dtype, name
            np.testing.assert_array_equal(back.columns[name], values)

    def test_equal_results_give_equal_bytes(self) -> None:
        assert encode_items(items_of()) == encode_items(items_of())

    def test_nan_and_infinity_are_kept(self, tmp_path: Path) -> None:
        items = items_of(3)
        items.columns["nll"][:] = [np.nan, np.inf, 0]
        np.testing.assert_array_equal(read_items(written(items, tmp_path)).columns["nll"], items.columns["nll"])

    def test_class_name_that_is_not_utf8_is_kept(self, tmp_path: Path) -> None:
        items = replace(items_of(3, 1), classes=("caf\udce9",))
        assert read_items(written(items, tmp_path)).classes == ("caf\udce9",)

    def test_missing_file_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ItemsError, match="cannot be read: No such file"):
            read_items(tmp_path / ITEMS_NAME)

    @pytest.mark.parametrize("content", [b"", b"PAR1", b"an HTML page", b"PAR1" + bytes(100) + b"PAR1"])
    def test_other_content_is_an_error(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / ITEMS_NAME).write_bytes(content)
        with pytest.raises(ItemsError, match="damaged, or not a Parquet file"):
            read_items(tmp_path / ITEMS_NAME)

    def test_truncated_file_is_an_error(self, tmp_path: Path) -> None:
        path = written(items_of(500), tmp_path)
        content = path.read_bytes()
        for size in range(0, len(content), 97):
            path.write_bytes(content[:size])
            with pytest.raises(ItemsError, match="damaged, or not a Parquet file"):
                read_items(path)

    def test_changed_byte_is_an_error_wherever_it_is(self, tmp_path: Path) -> None:
        path = written(items_of(60, 5), tmp_path)
        content = path.read_bytes()
        digest = content.index(b"dkd-items-sha256")
        unnoticed = []
        for position in (*range(0, digest, 11), *range(digest, len(content))):
            changed = content[position] ^ (0xFF if position % 2 else 0x01)
            path.write_bytes(content[:position] + bytes([changed]) + content[position + 1 :])
            try:
                read_items(path)
            except ItemsError:
                continue
            unnoticed.append(position)
        assert not unnoticed

    def test_file_of_an_earlier_version_has_no_digest_and_is_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        items = items_of(60, 5)
        monkeypatch.setattr(file, "with_digest", lambda content: content)
        monkeypatch.setattr(file, "DIGEST", {})
        assert len(read_items(written(items, tmp_path))) == 60

    def test_other_programs_read_the_file(self, tmp_path: Path) -> None:
        items = items_of(60, 5)
        table = pq.read_table(written(items, tmp_path))
        assert table.column_names == list(items.columns)
        np.testing.assert_array_equal(table["predicted"].to_numpy(), items.columns["predicted"])

    def test_other_parquet_file_is_an_error(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"item": [1, 2]}), tmp_path / ITEMS_NAME)
        with pytest.raises(ItemsError, match="not with the per-item results of a run"):
            read_items(tmp_path / ITEMS_NAME)

    def test_newer_version_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("core.items.file.SCHEMA_VERSION", 7)
        path = written(items_of(3), tmp_path)
        monkeypatch.undo()
        with pytest.raises(ItemsError, match="format version 7, and this program reads version 1"):
            read_items(path)

    def test_column_of_texts_is_an_error(self, tmp_path: Path) -> None:
        items = items_of(3)
        path = written(replace(items, columns={**items.columns, "kl": np.array(["a", "b", "c"])}), tmp_path)
        with pytest.raises(ItemsError, match="column 'kl' has values that are no numbers"):
            read_items(path)


class TestScores:
    def test_missing_column_is_an_error_that_names_the_others(self) -> None:
        with pytest.raises(ItemsError, match="no column 'kl', only item, target, predicted"):
            item_scores(items_of(5, teacher=False), "kl")

    def test_paired_differences_are_those_of_each_item(self) -> None:
        first, second = items_of(50), items_of(50, seed=1)
        expected = [
            float(a == t) - float(b == t)
            for a, b, t in zip(
                first.columns["predicted"], second.columns["predicted"], first.columns["target"], strict=True
            )
        ]
        assert paired_differences(first, second, "top1").tolist() == expected

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"images": "another"}, "their data differ: '0123456789abcdef', 'another'"),
            ({"task": "detection"}, "their task differ"),
            ({"columns": items_of(9).columns}, "they have 10 and 9 items"),
            ({"columns": {**items_of(10).columns, "target": np.zeros(10, np.uint8)}}, "their columns 'target' differ"),
            ({"columns": {**items_of(10).columns, "item": np.arange(10)[::-1]}}, "their columns 'item' differ"),
        ],
    )
    def test_runs_on_different_data_are_not_compared(self, change: dict[str, Any], reason: str) -> None:
        first = items_of(10)
        second = replace(first, **change)
        for compare in (check_same_data, disagreement, lambda a, b: paired_differences(a, b, "nll")):
            with pytest.raises(ItemsError, match=f"cannot be compared item by item: .*{reason}"):
                compare(first, second)


class TestBootstrap:
    def test_interval_is_that_of_the_normal_approximation(self) -> None:
        values = np.random.default_rng(3).normal(1.0, 2.0, 2_000)
        interval = bootstrap_mean(values, seed=0)
        half = 1.959964 * values.std() / np.sqrt(len(values))
        assert interval.mean == values.mean()
        # The standard error of a 2.5 % quantile of 10,000 resamples is 1.3 % of the interval's half width.
        assert interval.low == pytest.approx(values.mean() - half, abs=0.06 * half)
        assert interval.high == pytest.approx(values.mean() + half, abs=0.06 * half)

    def test_all_resamples_of_two_values_have_their_exact_distribution(self) -> None:
        # The mean of a resample of (0, 1) is 0, ½ or 1 with probabilities ¼, ½ and ¼.
        values = np.array([0.0, 1.0])
        narrow, wide = (bootstrap_mean(values, seed=0, level=level) for level in (0.4, 0.6))
        assert (narrow.low, narrow.high) == (0.5, 0.5)
        assert (wide.low, wide.high) == (0.0, 1.0)

    def test_interval_depends_on_the_seed(self) -> None:
        values = np.random.default_rng(3).normal(size=100)
        assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
        assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)

    def test_resamples_are_drawn_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = np.random.default_rng(3).normal(size=100)
        at_once = bootstrap_mean(values, seed=1, resamples=1_000)
        monkeypatch.setattr("core.items.statistics._RESAMPLED_VALUES", 700)
        assert bootstrap_mean(values, seed=1, resamples=1_000) == at_once

    def test_no_items_are_an_error(self) -> None:
        with pytest.raises(ItemsError, match="no items"):
            bootstrap_mean(np.array([]), seed=0)


class TestBootstrapOfWholeNumbers:
    def test_distribution_is_that_of_drawn_items(self) -> None:
        values = np.random.default_rng(3).integers(-2, 3, 300)
        one, other = bootstrap_mean(values.astype(np.float64), seed=0), bootstrap_mean_of_whole_numbers(values, seed=0)
        assert one.mean == pytest.approx(other.mean)
        half = (one.high - one.low) / 2
        assert (one.low, one.high) == pytest.approx((other.low, other.high), abs=0.06 * half)

    def test_equal_values_have_an_interval_of_no_width(self) -> None:
        found = bootstrap_mean_of_whole_numbers(np.ones(7, np.int64), seed=0)
        assert (found.mean, found.low, found.high) == (1.0, 1.0, 1.0)

    def test_no_items_are_an_error(self) -> None:
        with pytest.raises(ItemsError, match="no items"):
            bootstrap_mean_of_whole_numbers(np.zeros(0, np.int64), seed=0)


class TestCounts:
    def test_confusion_matrix_counts_targets_in_rows(self) -> None:
        columns = {"target": np.array([0, 0, 2, 2, 2], np.uint8), "predicted": np.array([0, 1, 2, 2, 0], np.uint8)}
        items = Items({"item": np.arange(5), **columns}, classes=("a", "b", "c", "never"))
        expected = [[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
        assert confusion_matrix(items).tolist() == expected
        assert confusion_matrix(replace(items, classes=())).tolist() == [row[:3] for row in expected[:3]]

    def test_confusion_matrix_of_the_teacher(self) -> None:
        items = items_of(500, 7)
        matrix = confusion_matrix(items, "teacher_predicted")
        assert matrix.shape == (7, 7)
        assert matrix.sum() == 500
        assert matrix.trace() == (items.columns["teacher_predicted"] == items.columns["target"]).sum()

    def test_disagreement_counts_each_combination_once(self) -> None:
        combinations = np.array(list(itertools.product(range(3), repeat=3)))  # target, first, second
        columns = dict(zip(("target", "predicted", "teacher_predicted"), combinations.T, strict=True))
        items = Items({"item": np.arange(27), **columns})
        # For each of 3 targets: 1 pair is right twice, 2 + 2 are right once, 2 have the same error and 2 do not.
        expected = Disagreement(3, 6, 6, 6, 6)
        assert teacher_disagreement(items) == expected
        other = replace(items, columns={**items.columns, "predicted": columns["teacher_predicted"]})
        assert disagreement(items, other) == expected
        assert disagreement(items, items) == Disagreement(9, 0, 0, 18, 0)
