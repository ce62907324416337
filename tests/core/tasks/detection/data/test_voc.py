"""Pascal VOC: its layout, its coordinates, and what is done with odd annotations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from core.catalog import DATASETS
from core.specs import DatasetRef
from core.tasks.detection.data import DatasetError
from tests.core.tasks.detection.data import written_data as files
from tests.core.tasks.detection.data.written_data import loaded, voc, xml

KINDS = tuple(f"kind {number:02}" for number in range(20, 0, -1))
"""As many as the classes of VOC, in the reverse of their order."""


class TestLayout:
    def test_the_folders_of_2007_are_found(self, tmp_path: Path) -> None:
        voc(tmp_path / "VOCdevkit/VOC2007", {"trainval": 22, "test": 3}, classes=KINDS)
        data = loaded("voc", tmp_path)
        assert (len(data.train), len(data.test)) == (22, 3)
        assert data.train.paths[0] == "VOC2007/JPEGImages/trainval_0.jpg"
        assert data.classes == tuple(reversed(KINDS))
        assert data.category_ids == tuple(range(1, 21))
        assert data.train.ids.tolist() == list(range(22))

    def test_2012_tests_on_its_validation_images(self, tmp_path: Path) -> None:
        voc(tmp_path / "VOC2012", {"train": 21, "val": 2, "trainval": 6}, classes=KINDS)
        data = loaded("voc", tmp_path, year="2012")
        assert (len(data.train), len(data.test)) == (21, 2)
        assert len(loaded("voc", tmp_path, year="2012", train="trainval").train) == 6

    def test_both_years_are_trained_on_together(self, tmp_path: Path) -> None:
        voc(tmp_path / "VOCdevkit/VOC2007", {"trainval": 5, "test": 3}, classes=KINDS[:5])
        voc(tmp_path / "VOCdevkit/VOC2012", {"trainval": 15}, classes=KINDS[5:])
        data = loaded("voc", tmp_path, year="2007+2012")
        assert (len(data.train), len(data.test)) == (20, 3)
        assert data.classes == tuple(reversed(KINDS))
        assert data.train.paths[5] == "VOC2012/JPEGImages/trainval_0.jpg"

    def test_any_folder_in_the_layout(self, tmp_path: Path) -> None:
        root = voc(tmp_path / "cells", {"mine": 3, "other": 2})
        (root / "Annotations").rename(root / "xml")
        (root / "JPEGImages").rename(root / "photos")
        (root / "ImageSets/Main").rename(root / "lists")
        names = {"annotations": "xml", "images": "photos", "lists": "lists", "train": "mine", "test": "other"}
        data = loaded("voc", tmp_path, path="cells", **names)
        assert (len(data.train), len(data.test)) == (3, 2)

    def test_missing_data_say_what_to_put_where(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"VOCdevkit/ with VOC2007, VOC2012|VOCdevkit/ with VOC2007"):
            loaded("voc", tmp_path)
        voc(tmp_path / "cells", {"trainval": 3})
        with pytest.raises(DatasetError, match=r"ImageSets/Main/test\.txt missing.* contains Annotations/, ImageSets/"):
            loaded("voc", tmp_path, path="cells")

    def test_facts_are_those_of_voc_only_without_a_folder(self) -> None:
        def facts(**params: Any) -> Any:
            return DATASETS["voc"].facts(DatasetRef(name="voc", params=params).parsed_params)

        assert (facts().num_classes, facts().train_size, facts().test_size) == (21, 5_011, 4_952)
        assert facts(year="2007+2012").train_size == 16_551
        assert facts(path="bccd") is None
        assert facts(train="train") is None

    def test_both_years_have_no_other_folder(self) -> None:
        with pytest.raises(ValidationError, match=r"stands for its own folders"):
            DatasetRef(name="voc", params={"year": "2007+2012", "path": "mine"})


class TestAnnotations:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return voc(tmp_path / "cells", {"trainval": 3, "test": 2})

    def rewrite(self, root: Path, text: str, name: str = "trainval_0") -> None:
        (root / f"Annotations/{name}.xml").write_text(text)

    def test_coordinates_count_from_one_and_include_the_last_pixel(self, root: Path, tmp_path: Path) -> None:
        self.rewrite(root, xml([("dog", (1, 1, 40, 30)), ("cat", (5, 6, 20, 15)), ("cat", (2.5, 3, 4, 4))]))
        objects = loaded("voc", tmp_path, path="cells").train.objects.of(0)
        assert objects.boxes.tolist() == [[0, 0, 40, 30], [4, 5, 20, 15], [1.5, 2, 4, 4]]
        assert objects.labels.tolist() == [2, 1, 1]
        assert objects.area.tolist() == [1200, 160, 5]

    def test_difficult_objects_are_ignored(self, root: Path, tmp_path: Path) -> None:
        self.rewrite(root, xml([("dog", (1, 1, 9, 9)), ("cat", (5, 6, 20, 15))], difficult=[1]))
        assert loaded("voc", tmp_path, path="cells").train.objects.of(0).ignored.tolist() == [False, True]

    def test_flags_may_be_words(self, root: Path, tmp_path: Path) -> None:
        text = xml([("dog", (1, 1, 9, 9)), ("dog", (1, 1, 9, 9))], difficult=[1])
        self.rewrite(
            root, text.replace("<difficult>0<", "<difficult>False<").replace("<difficult>1<", "<difficult>true<")
        )
        assert loaded("voc", tmp_path, path="cells").train.objects.of(0).ignored.tolist() == [False, True]

    def test_an_image_without_objects_or_size_is_kept(self, root: Path, tmp_path: Path) -> None:
        self.rewrite(root, xml([], size=None))
        data = loaded("voc", tmp_path, path="cells")
        assert len(data.train.objects.of(0).labels) == 0
        assert data.train.originals[0].tolist() == [30, 40]

    def test_boxes_out_of_the_image_and_without_area(
        self, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.rewrite(root, xml([("dog", (0, 0, 50, 9)), ("dog", (9, 9, 8, 12)), ("cat", (60, 1, 70, 9))]))
        objects = loaded("voc", tmp_path, path="cells").train.objects.of(0)
        assert objects.boxes.tolist() == [[0, 0, 40, 9]]
        assert "1 boxes reach out" in caplog.text
        assert "2 boxes have no area" in caplog.text

    def test_a_class_of_the_test_split_alone_is_refused(self, root: Path, tmp_path: Path) -> None:
        self.rewrite(root, xml([("wolf", (1, 1, 9, 9))]), "test_1")
        with pytest.raises(DatasetError, match=r"wolf \(for example in .*test_1\.xml\); .* has cat, dog"):
            loaded("voc", tmp_path, path="cells")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("<annotation>", "no element found"),
            (xml([("", (1, 1, 2, 2))]), "an object has no name"),
            ("<annotation><object><name>dog</name></object></annotation>", "an object has no bndbox/xmin"),
            (xml([("dog", (1, 1, 2, 2))]).replace("<xmax>2<", "<xmax>two<"), "could not convert"),
            (xml([("dog", (1, 1, 2, 2))]).replace("<width>40<", "<width>nan<"), "NaN"),
            (xml([("dog", (1, 1, 2, 2))]).replace("<width>40<", "<width>inf<"), "infinity"),
            ('<?xml version="1.0" encoding="none"?><annotation/>', "unknown encoding"),
            (
                xml([("dog", (1, 1, 2, 2))]).replace("<difficult>0<", "<difficult>maybe<"),
                "difficult of an object is not",
            ),
        ],
    )
    def test_an_xml_that_is_not_valid_is_named(self, root: Path, tmp_path: Path, text: str, reason: str) -> None:
        self.rewrite(root, text)
        with pytest.raises(DatasetError, match=rf"trainval_0\.xml is not an annotation in VOC's format: .*{reason}"):
            loaded("voc", tmp_path, path="cells")

    def test_listed_images_need_a_file_and_annotations(self, root: Path, tmp_path: Path) -> None:
        (root / "Annotations/trainval_1.xml").rename(root / "aside.xml")
        with pytest.raises(
            DatasetError, match=r"trainval_1 is listed in .*trainval\.txt, but there is no .*trainval_1\.xml"
        ):
            loaded("voc", tmp_path, path="cells")
        (root / "aside.xml").rename(root / "Annotations/trainval_1.xml")
        (root / "JPEGImages/trainval_1.jpg").unlink()
        with pytest.raises(DatasetError, match=r"trainval_1 is listed .* has no image of this name"):
            loaded("voc", tmp_path, path="cells")

    def test_an_image_that_is_listed_twice_is_refused(self, root: Path, tmp_path: Path) -> None:
        with (root / "ImageSets/Main/trainval.txt").open("a") as out:
            out.write("trainval_1\n")
        with pytest.raises(DatasetError, match=r"trainval_1\.jpg is listed twice in trainval"):
            loaded("voc", tmp_path, path="cells")

    def test_lists_may_have_the_column_of_a_class_and_images_other_formats(self, root: Path, tmp_path: Path) -> None:
        (root / "JPEGImages/trainval_0.jpg").unlink()
        files.photo(root / "JPEGImages/trainval_0.png", (40, 30))
        (root / "ImageSets/Main/trainval.txt").write_text("trainval_0  1\ntrainval_1 -1\n\n")
        assert loaded("voc", tmp_path, path="cells").train.paths == (
            "JPEGImages/trainval_0.png",
            "JPEGImages/trainval_1.jpg",
        )
