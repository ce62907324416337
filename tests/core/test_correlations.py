"""Correlations of logits, their file, and the pictures of classification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.items.correlation_file import encode_correlations, read_correlations
from core.items.correlations import Correlations
from core.items.picture_choice import MOST_THUMBNAILS, THUMBNAIL_SIDE
from core.items.table import Items, ItemsError
from core.tasks.classification.data import Split
from core.tasks.classification.diagnostics.correlations import correlations
from core.tasks.classification.diagnostics.thumbnails import thumbnail_items, thumbnails


def logits(classes: int, count: int = 200, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


class TestCorrelations:
    def test_values_are_pearsons(self) -> None:
        values = logits(5) @ logits(5, 5, 1)
        expected = np.corrcoef(values.double().numpy().T)
        found = Correlations({"student": correlations(values)})
        np.testing.assert_allclose(found.matrix("student"), expected, atol=1e-3)

    def test_constant_class_is_no_number(self) -> None:
        values = logits(3)
        values[:, 1] = 2.0
        found = Correlations({"student": correlations(values)}).matrix("student")
        assert np.isnan(found[0, 1])
        assert np.isfinite(found[0, 2])
        assert found[1, 1] == 1

    @pytest.mark.parametrize("classes", [1, 2, 7, 100])
    def test_number_of_classes_follows_from_the_number_of_pairs(self, classes: int) -> None:
        assert Correlations({"student": correlations(logits(classes))}).size == classes


class TestFile:
    def test_file_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        values = {"student": correlations(logits(3)), "teacher": correlations(logits(3, seed=1))}
        written = Correlations(values, "0123", "of a run", ("a", "b", "c"))
        (tmp_path / "file").write_bytes(encode_correlations(written))
        found = read_correlations(tmp_path / "file")
        assert (found.images, found.fingerprint, found.classes) == ("0123", "of a run", ("a", "b", "c"))
        for name, expected in values.items():
            np.testing.assert_array_equal(found.networks[name], expected)

    def test_thousand_classes_take_two_megabytes(self) -> None:
        values = {name: correlations(logits(1_000, seed=seed)) for seed, name in enumerate(("student", "teacher"))}
        assert len(encode_correlations(Correlations(values))) < 2.1e6

    def test_damaged_file_is_refused(self, tmp_path: Path) -> None:
        content = bytearray(encode_correlations(Correlations({"student": correlations(logits(4))})))
        content[20] ^= 1
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ItemsError, match="damaged"):
            read_correlations(tmp_path / "file")

    def test_number_of_pairs_that_is_of_no_classes_is_refused(self, tmp_path: Path) -> None:
        wrong = Correlations({"student": np.zeros(4, np.float16)})
        (tmp_path / "file").write_bytes(encode_correlations(wrong))
        with pytest.raises(ItemsError, match="not those of its classes"):
            read_correlations(tmp_path / "file")

    def test_per_item_results_are_not_correlations(self, tmp_path: Path) -> None:
        from core.items.file import encode_items

        (tmp_path / "file").write_bytes(encode_items(Items({"item": np.arange(3)})))
        with pytest.raises(ItemsError, match="not with the correlations"):
            read_correlations(tmp_path / "file")


class TestThumbnails:
    def test_differences_from_the_teacher_come_before_errors(self) -> None:
        target = torch.tensor([0, 0, 0, 0])
        own = torch.eye(2)[[0, 1, 1, 0]]
        teacher = torch.eye(2)[[0, 1, 0, 1]]
        chosen = thumbnail_items(own, target, teacher)
        assert set(chosen[:2]) == {2, 3}
        assert chosen[2:] == [1]
        assert thumbnail_items(own, target) in ([1, 2], [2, 1])

    def test_number_is_limited_and_the_order_is_the_same_in_every_run(self) -> None:
        target = torch.zeros(4_000, dtype=torch.int64)
        wrong = torch.tensor([0.0, 1.0]).repeat(4_000, 1)
        chosen = thumbnail_items(wrong, target)
        assert len(set(chosen)) == MOST_THUMBNAILS
        half = wrong.clone()
        half[::2] = torch.tensor([1.0, 0.0])
        other = thumbnail_items(half, target)
        assert [item for item in chosen if item % 2] == [item for item in other if item in set(chosen)]

    @pytest.mark.parametrize("channels", [1, 3])
    def test_large_images_become_small_and_grey_ones_have_three_channels(self, channels: int) -> None:
        images = torch.full((3, channels, 200, 200), 90, dtype=torch.uint8)
        split = Split(images, torch.zeros(3, dtype=torch.int64), center_crop=160)
        pictures = thumbnails(split, [2, 0])
        assert [number for number, _ in pictures] == [2, 0]
        assert {picture.shape for _, picture in pictures} == {(THUMBNAIL_SIDE, THUMBNAIL_SIDE, 3)}
        assert all((picture == 90).all() for _, picture in pictures)

    def test_small_images_keep_their_size(self) -> None:
        split = Split(torch.zeros((2, 3, 32, 32), dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
        assert thumbnails(split, [1])[0][1].shape == (32, 32, 3)
