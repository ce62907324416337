"""COCO: its layout, its categories, and what is done with odd annotations and images."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.catalog import DATASETS
from core.specs import DatasetRef
from core.tasks.detection.data import DatasetError
from tests.core.tasks.detection.data import written_data as files
from tests.core.tasks.detection.data.written_data import annotation, loaded

TRAIN = "coco/annotations/instances_train2017.json"


class TestLayout:
    def test_the_usual_folders_are_found(self, tmp_path: Path) -> None:
        root = files.coco(tmp_path / "COCO-2017")
        with pytest.raises(DatasetError, match="4 classes with background, but the catalog says 81"):
            loaded("coco", tmp_path, path="")
        categories = [{"id": identity, "name": f"kind {identity}"} for identity in range(1, 91) if identity % 9]
        for path in root.glob("annotations/*.json"):
            content = json.loads(path.read_text())
            rows = [row | {"category_id": 89} for row in content["annotations"]]
            files.write(path, content | {"categories": categories, "annotations": rows})
        data = loaded("coco", tmp_path, path="")
        assert (len(data.train), len(data.test)) == (6, 4)
        assert (data.num_classes, set(data.train.objects.labels.tolist())) == (81, {80})
        assert data.test.paths[0] == "val2017/0.png"
        assert data.flip
        assert not loaded("coco", tmp_path, path="", flip=False).flip

    def test_any_folder_with_names_of_its_own(self, tmp_path: Path) -> None:
        root = tmp_path / "some/helmets"
        files.write(root / "a.json", files.coco_split(root / "photos/a", 3))
        files.write(root / "b.json", files.coco_split(root / "photos/b", 2))
        names = {"train_annotations": "a.json", "test_annotations": "b.json"}
        folders = {"train_images": "photos/a", "test_images": "photos/b"}
        data = loaded("coco", tmp_path, path="some/helmets", **names, **folders)
        assert (len(data.train), len(data.test)) == (3, 2)

    def test_missing_data_say_what_to_put_where(self, tmp_path: Path) -> None:
        (tmp_path / "coco.zip").write_text("")
        with pytest.raises(DatasetError) as caught:
            loaded("coco", tmp_path, path="")
        text = str(caught.value)
        assert str(tmp_path) in text
        assert "coco/ with annotations/instances_train2017.json" in text
        assert "coco.zip, an archive that has to be unpacked there" in text

    def test_missing_parts_of_a_folder_are_named(self, tmp_path: Path) -> None:
        files.write(tmp_path / "mine/a.json", {})
        with pytest.raises(DatasetError, match=r"b\.json, train2017, val2017 missing.*contains a\.json"):
            loaded("coco", tmp_path, path="mine", train_annotations="a.json", test_annotations="b.json")
        with pytest.raises(DatasetError, match=r"There is no folder .*/none"):
            loaded("coco", tmp_path, path="none")

    def test_a_link_out_of_the_data_folder_is_refused(self, tmp_path: Path) -> None:
        files.coco(tmp_path / "outside")
        (tmp_path / "data").mkdir()
        (tmp_path / "data/link").symlink_to(tmp_path / "outside")
        with pytest.raises(DatasetError, match="DKD_DATA_ROOTS"):
            loaded("coco", tmp_path / "data", path="link")

    @pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png"])
    def test_a_file_name_that_leads_out_is_refused(self, tmp_path: Path, name: str) -> None:
        images = [{"id": 1, "file_name": name, "width": 8, "height": 8}]
        files.coco(tmp_path / "coco", [annotation(1, 1, (0, 0, 4, 4))], images=images)
        with pytest.raises(DatasetError, match=r"file name .*secret\.png' of image 1 leads out of train2017"):
            loaded("coco", tmp_path)

    def test_facts_are_those_of_coco_2017_only_without_a_folder(self) -> None:
        def facts(**params: Any) -> Any:
            return DATASETS["coco"].facts(DatasetRef(name="coco", params=params).parsed_params)

        usual = facts()
        assert (usual.num_classes, usual.image_size, usual.train_size, usual.test_size) == (81, 800, 118_287, 5_000)
        assert facts(path="mine") is None
        assert facts(train_images="mine") is None


class TestCategories:
    def test_ids_with_holes_become_labels_in_their_order(self, tmp_path: Path) -> None:
        files.coco(tmp_path / "coco")
        data = loaded("coco", tmp_path)
        assert data.classes == ("cat", "dog", "bird")
        assert data.category_ids == (2, 7, 90)
        assert data.num_classes == 4
        assert data.train.objects.labels.tolist() == [1, 2, 3, 1, 2]
        assert data.ground_truth(data.test).classes == ("cat", "dog", "bird")

    def test_categories_that_differ_between_the_splits_are_refused(self, tmp_path: Path) -> None:
        categories = [{"id": 2, "name": "cat"}, {"id": 7, "name": "wolf"}, {"id": 90, "name": "bird"}]
        files.coco(tmp_path / "coco", categories=categories)
        with pytest.raises(
            DatasetError, match=r"categories .* differ: 7 'dog', 7 'wolf' are in one of .*train2017\.json"
        ):
            loaded("coco", tmp_path)

    @pytest.mark.parametrize(
        ("second", "text"),
        [({"id": 2, "name": "dog"}, "two categories have the id 2"), ({"id": 3, "name": "cat"}, "have the name cat")],
    )
    def test_a_category_that_is_listed_twice_is_refused(self, tmp_path: Path, second: Any, text: str) -> None:
        files.coco(tmp_path / "coco", categories=[{"id": 2, "name": "cat"}, second])
        with pytest.raises(DatasetError, match=text):
            loaded("coco", tmp_path)


class TestObjects:
    def test_boxes_ids_and_areas_are_those_of_the_json(self, tmp_path: Path) -> None:
        rows = [
            annotation(1, 12, (1.5, 2.25, 10, 20), area=77.5),
            annotation(2, 10, (4, 5, 16, 10), 7),
            annotation(3, 12, (3, 3, 9, 8), 90),
        ]
        files.coco(tmp_path / "coco", rows)
        data = loaded("coco", tmp_path)
        truth = data.ground_truth(data.train)
        assert truth.image.tolist() == [0, 2, 2]
        assert truth.boxes.tolist() == [[4, 5, 20, 15], [1.5, 2.25, 11.5, 22.25], [3, 3, 12, 11]]
        assert truth.labels.tolist() == [2, 1, 3]
        assert truth.area.tolist() == [160, 77.5, 72]
        assert truth.ids.tolist() == [10, 11, 12, 13, 14, 15]
        assert truth.images == 6
        assert truth.names == data.train.paths
        assert truth.sizes is not None
        assert np.array_equal(truth.sizes, data.train.originals)

    def test_crowds_are_ignored_and_empty_images_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = [
            annotation(1, 10, (4, 5, 16, 10)),
            annotation(2, 10, (0, 0, 20, 20), iscrowd=1),
            annotation(3, 11, (4, 5, 16, 10), ignore=1),
        ]
        files.coco(tmp_path / "coco", rows)
        with caplog.at_level(logging.INFO):
            data = loaded("coco", tmp_path)
        assert data.train.objects.ignored.tolist() == [False, True, True]
        assert data.ground_truth(data.train).crowds.tolist() == [False, True, False]
        assert "2 objects are crowds or difficult" in caplog.text
        (batch,) = data.batches(6, 0, 0, "none")
        by_sample = dict(zip(batch.index.tolist(), batch.targets, strict=True))
        assert [len(by_sample[sample].labels) for sample in range(6)] == [2, 1, 0, 0, 0, 0]
        assert [len(by_sample[sample].trained.labels) for sample in range(6)] == [1, 0, 0, 0, 0, 0]

    def test_boxes_are_cut_off_at_the_border_and_dropped_without_area(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        # The first image is 40 px wide and 30 px high.
        rows = [
            annotation(1, 10, (-3, 20, 10, 50)),
            annotation(2, 10, (4, 5, 0, 10)),
            annotation(3, 10, (4, 5, 5, -2)),
            annotation(4, 10, (41, 2, 5, 5)),
            annotation(5, 10, (4, 5, float("nan"), 2)),
            annotation(6, 11, (4, 5, 16, 10)),
        ]
        files.coco(tmp_path / "coco", rows)
        for _ in range(2):  # also from the pack
            caplog.clear()
            data = loaded("coco", tmp_path)
            assert data.train.objects.boxes.tolist() == [[0, 20, 7, 30], [4, 5, 20, 15]]
            assert data.train.objects.area.tolist() == [70, 160]
            assert "1 boxes reach out of their image" in caplog.text
            assert "4 boxes have no area within their image and are left out" in caplog.text
            assert "(for example in train2017/0.png)" in caplog.text

    def test_annotations_with_one_id(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rows = [
            annotation(1, 10, (4, 5, 16, 10)),
            annotation(1, 10, (4, 5, 16, 10)),
            annotation(1, 10, (2, 2, 5, 5)),
            annotation(1, 11, (4, 5, 16, 10)),
            annotation(2, 12, (4, 5, 16, 10)),
        ]
        files.coco(tmp_path / "coco", rows)
        data = loaded("coco", tmp_path)
        assert np.diff(data.train.objects.first).tolist() == [2, 1, 1, 0, 0, 0]
        assert "1 annotations repeat another one with the same id and are left out" in caplog.text
        assert "2 annotations have the id of another one and other content" in caplog.text

    def test_images_with_one_id_or_one_file_are_refused(self, tmp_path: Path) -> None:
        content = files.coco_split(tmp_path / "coco/train2017", 6)
        images = [image | {"id": 10} if image["id"] == 12 else image for image in content["images"]]
        files.coco(tmp_path / "coco", images=images, annotations=[annotation(1, 10, (1, 1, 9, 9))])
        with pytest.raises(DatasetError, match=rf"{TRAIN} is not .*: two images have the id 10"):
            loaded("coco", tmp_path)
        images = [image | {"file_name": "1.png"} if image["id"] == 12 else image for image in content["images"]]
        files.coco(tmp_path / "coco", images=images)
        with pytest.raises(DatasetError, match=r"two images have the file train2017/1\.png"):
            loaded("coco", tmp_path)

    def test_a_split_without_a_usable_box_is_refused(self, tmp_path: Path) -> None:
        files.coco(tmp_path / "coco", [annotation(1, 10, (4, 5, 16, 10), iscrowd=1), annotation(2, 10, (1, 1, 0, 0))])
        with pytest.raises(
            DatasetError, match=r"training split has no box .* 6 images have 1 boxes, all of them crowds"
        ):
            loaded("coco", tmp_path)
        files.coco(tmp_path / "coco", [annotation(2, 10, (1, 1, 0, 0))])
        with pytest.raises(DatasetError, match=r"training split .* 6 images have no boxes with an area within them"):
            loaded("coco", tmp_path)

    def test_images_in_both_splits_are_reported(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        files.coco(tmp_path / "coco")
        loaded("coco", tmp_path, test_annotations="annotations/instances_train2017.json", test_images="train2017")
        assert "6 images are in both the training and the test split" in caplog.text


class TestFormat:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            ([], "it is a list, as results are, and not a mapping with images, annotations and categories"),
            ("text", "it is a str"),
            ({"images": []}, "it has no list annotations and no list categories"),
            ({"images": {}, "annotations": [], "categories": []}, "it has no list images"),
            ({"images": [], "annotations": [], "categories": []}, "it has no categories"),
        ],
    )
    def test_a_json_that_is_no_coco_is_refused(self, tmp_path: Path, content: Any, text: str) -> None:
        files.write(files.coco(tmp_path / "coco") / "annotations/instances_train2017.json", content)
        with pytest.raises(DatasetError, match=rf"{TRAIN} is not in COCO's format for detection: {text}"):
            loaded("coco", tmp_path)

    @pytest.mark.parametrize(
        ("row", "text"),
        [
            (
                {"image_id": 10, "caption": "a cat"},
                r"annotations\[0\] needs category_id, a whole number, and has nothing",
            ),
            (annotation(1, 10, ()) | {"bbox": None}, r"annotations\[0\] needs bbox, a list, and has None"),
            (annotation(1, 10, (1, 2, 3)), r"the bbox of annotations\[0\] is not four numbers: \[1, 2, 3\]"),
            (annotation(1, 99, (1, 2, 3, 4)), r"annotations are of images that it does not list: image_id 99"),
            (annotation(1, 10, (1, 2, 3, 4), 5), r"annotations\[0\] has the category 5, which it does not list"),
            (annotation(1, 10, (1, 2, 3, 4)) | {"image_id": "10"}, r"needs image_id, a whole number, and has '10'"),
            (annotation(1, 10**30, (1, 2, 3, 4)), r"image_id of annotations\[0\] has more than 64 bits"),
            (annotation(1, 10, (1, 2, 3, 4), iscrowd="0"), r"iscrowd of annotations\[0\] is not 0 or 1: '0'"),
            (annotation(1, 10, (1, 2, 3, 4), ignore=2), r"ignore of annotations\[0\] is not 0 or 1: '2'"),
        ],
    )
    def test_annotations_that_are_not_of_objects_are_refused(self, tmp_path: Path, row: Any, text: str) -> None:
        files.coco(tmp_path / "coco", [row])
        with pytest.raises(DatasetError, match=text):
            loaded("coco", tmp_path)

    @pytest.mark.parametrize(("text", "reason"), [('{"images": [', "line 1"), ("[" * 100_000, "recursion")])
    def test_a_file_that_is_no_json_is_named(self, tmp_path: Path, text: str, reason: str) -> None:
        (files.coco(tmp_path / "coco") / "annotations/instances_train2017.json").write_text(text)
        with pytest.raises(DatasetError, match=rf"{TRAIN} is not JSON: .*{reason}"):
            loaded("coco", tmp_path)

    def test_a_file_name_that_is_no_text_is_refused(self, tmp_path: Path) -> None:
        files.coco(tmp_path / "coco", images=[{"id": 10, "file_name": "\ud800.png"}])
        with pytest.raises(DatasetError, match=rf"{TRAIN} .*file_name of images\[0\] has a half of a character in it"):
            loaded("coco", tmp_path)

    @pytest.mark.parametrize("width", [float("nan"), float("inf"), 10**400, "40"])
    def test_a_size_that_is_no_number_is_that_of_the_file(self, tmp_path: Path, width: Any) -> None:
        images = [{"id": 10, "file_name": "0.png", "width": width, "height": 30}]
        files.coco(tmp_path / "coco", [annotation(1, 10, (4, 5, 16, 10))], images=images)
        assert loaded("coco", tmp_path).train.originals.tolist() == [[30, 40]]

    @pytest.mark.parametrize("area", [-5, float("inf"), 10**400, "100", None])
    def test_an_area_that_is_none_is_that_of_the_box(self, tmp_path: Path, area: Any) -> None:
        files.coco(tmp_path / "coco", [annotation(1, 10, (4, 5, 16, 10), area=area)])
        assert loaded("coco", tmp_path).train.objects.area.tolist() == [160]


class TestImages:
    def test_missing_and_damaged_images_are_named(self, tmp_path: Path) -> None:
        root = files.coco(tmp_path / "coco")
        (root / "train2017/3.png").write_bytes((root / "train2017/3.png").read_bytes()[:60])
        with pytest.raises(DatasetError, match=r"1 image\(s\) cannot be read: .*train2017/3\.png"):
            loaded("coco", tmp_path)
        (root / "train2017/3.png").unlink()
        with pytest.raises(DatasetError, match=r"train2017/3\.png cannot be read: No such file"):
            loaded("coco", tmp_path)
        assert not list((tmp_path / ".packed").glob("*/pack.json"))

    def test_another_size_than_the_annotations_is_refused(self, tmp_path: Path) -> None:
        root = files.coco(tmp_path / "coco")
        files.photo(root / "train2017/0.png", (41, 30))
        with pytest.raises(DatasetError, match=r"0\.png .*has 41×30 px, and its annotations are for 40×30 px"):
            loaded("coco", tmp_path)

    def test_sizes_that_the_json_leaves_out_are_those_of_the_files(self, tmp_path: Path) -> None:
        images = [{"id": 10, "file_name": "0.png"}, {"id": 11, "file_name": "1.png", "width": 0, "height": 0}]
        files.coco(tmp_path / "coco", [annotation(1, 11, (4, 5, 16, 10))], images=images)
        assert loaded("coco", tmp_path).train.originals.tolist() == [[30, 40], [20, 60]]

    def test_boxes_of_a_rotated_file_are_of_its_stored_pixels(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        root = files.coco(tmp_path / "coco", [annotation(1, 10, (4, 5, 16, 10))])
        files.photo(root / "train2017/0.png", (40, 30), (4, 5, 20, 15), orientation=6)
        with caplog.at_level(logging.INFO):
            data = loaded("coco", tmp_path)
        image = data.train.image(0)
        assert image.shape == (3, 30, 40)
        assert image[:, 5:15, 4:20].min() == 255
        assert int((image > 0).sum()) == 3 * 10 * 16
        assert "1 images have an EXIF orientation, which is not applied" in caplog.text

    def test_a_rotated_file_whose_annotations_are_of_the_upright_image_is_turned(self, tmp_path: Path) -> None:
        images = [{"id": 10, "file_name": "0.png", "width": 30, "height": 40}]
        root = files.coco(tmp_path / "coco", [annotation(1, 10, (15, 4, 10, 16))], images=images)
        # Orientation 6 is shown after a turn by 90° clockwise: (x, y) of 40×30 comes to (30 - y, x).
        files.photo(root / "train2017/0.png", (40, 30), (4, 5, 20, 15), orientation=6)
        image = loaded("coco", tmp_path).train.image(0)
        assert image.shape == (3, 40, 30)
        assert image[:, 4:20, 15:25].min() == 255
        assert int((image > 0).sum()) == 3 * 10 * 16

    def test_images_of_unequal_size_are_stored_no_larger_than_in_their_files(self, tmp_path: Path) -> None:
        files.coco(tmp_path / "coco")
        data = loaded("coco", tmp_path, min_size=32, max_size=45)
        assert data.train.originals.tolist() == [[30, 40], [20, 60], [48, 32], [25, 25], [70, 90], [30, 40]]
        assert data.train.stored.tolist() == [[30, 40], [15, 45], [45, 30], [25, 25], [32, 41], [30, 40]]
        (batch,) = data.evaluation_batches(data.test, 4)
        assert batch.sizes == ((32, 42), (15, 45), (45, 30), (32, 32))
        assert batch.originals == ((30, 40), (20, 60), (48, 32), (25, 25))
        expected = torch.tensor([[4 * 45 / 60, 5 * 15 / 20, 20 * 45 / 60, 15 * 15 / 20]])
        torch.testing.assert_close(batch.targets[1].boxes, expected)
