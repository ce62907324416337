import torch
from torchvision.models.detection._utils import BoxCoder

from core.tasks.detection.regions import RegionOutputs, label_boxes, objects_of, offset_targets, region_rows
from core.tasks.detection.types import DetectionBatch, ImageTargets, Regions

OBJECT = [10.0, 10.0, 30.0, 30.0]


def targets(*objects: tuple[list[float], int, bool]) -> ImageTargets:
    return ImageTargets(
        torch.tensor([box for box, *_ in objects]).view(-1, 4),
        torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
        torch.tensor([ignored for *_, ignored in objects], dtype=torch.bool),
    )


def regions(boxes: list[list[float]], labels: list[int] | None = None, weight: list[float] | None = None) -> Regions:
    count = len(boxes)
    return Regions(
        torch.tensor(boxes).view(-1, 4),
        torch.zeros(count, dtype=torch.int64),
        torch.arange(count * 3.0).view(count, 3),
        torch.zeros(count, 3, 4),
        None if labels is None else torch.tensor(labels),
        None if labels is None else torch.ones(count, 4),
        None if weight is None else torch.tensor(weight),
    )


class TestLabels:
    def test_box_has_the_class_of_the_object_that_it_overlaps_by_half(self) -> None:
        half, less = [10.0, 10.0, 30.0, 20.0], [10.0, 10.0, 30.0, 19.9]
        found = label_boxes([torch.tensor([half, less, OBJECT])], [targets((OBJECT, 2, False))])
        assert found.target.tolist() == [2, 0, 2]
        assert found.weight.tolist() == [1, 1, 1]
        assert found.matched.tolist() == [OBJECT, torch.tensor(less).tolist(), OBJECT]

    def test_box_on_an_ignored_object_has_no_weight(self) -> None:
        found = label_boxes([torch.tensor([OBJECT])], [targets((OBJECT, 2, True))])
        assert found.target.tolist() == [0]
        assert found.weight.tolist() == [0]

    def test_box_without_area_has_no_weight(self) -> None:
        found = label_boxes([torch.zeros(1, 4), torch.zeros(1, 4)], [targets((OBJECT, 2, False)), targets()])
        assert found.weight.tolist() == [0, 0]

    def test_image_without_objects_gives_background(self) -> None:
        assert label_boxes([torch.tensor([OBJECT])], [targets()]).target.tolist() == [0]


class TestRows:
    sampled = regions([OBJECT, OBJECT], [1, 0])
    given = regions([OBJECT])
    labels = label_boxes([torch.tensor([OBJECT])], [targets((OBJECT, 2, False))])

    def test_sampled_boxes_alone_have_no_weights(self) -> None:
        found = RegionOutputs.join(self.sampled, None, 3, torch.zeros(1))
        rows = region_rows(found, None, None, compares_sampled=True)
        assert rows.target.tolist() == [1, 0]
        assert rows.weight is None
        assert rows.label_weight is None

    def test_given_boxes_count_for_the_teacher_and_sampled_ones_for_the_label(self) -> None:
        found = RegionOutputs.join(self.sampled, self.given, 3, torch.zeros(1))
        rows = region_rows(found, torch.zeros(3, 3), self.labels, compares_sampled=False)
        assert rows.target.tolist() == [1, 0, 2]
        assert rows.weight is not None
        assert rows.weight.tolist() == [0, 0, 1]
        assert rows.label_weight is not None
        assert rows.label_weight.tolist() == [1, 1, 0]

    def test_union_compares_both(self) -> None:
        found = RegionOutputs.join(self.sampled, self.given, 3, torch.zeros(1))
        rows = region_rows(found, torch.zeros(3, 3), self.labels, compares_sampled=True)
        assert rows.weight is not None
        assert rows.weight.tolist() == [1, 1, 1]
        assert rows.label_weight is not None
        assert rows.label_weight.tolist() == [1, 1, 0]

    def test_weights_of_a_detector_are_kept(self) -> None:
        found = RegionOutputs.join(regions([OBJECT, OBJECT], [1, 0], [1.0, 0.0]), None, 3, torch.zeros(1))
        rows = region_rows(found, None, None, compares_sampled=True)
        assert rows.weight is not None
        assert rows.weight.tolist() == [1, 0]

    def test_detector_without_regions_has_no_rows(self) -> None:
        found = RegionOutputs.join(None, None, 3, torch.zeros(1))
        rows = region_rows(found, None, None, compares_sampled=True)
        assert rows.student.shape == (0, 3)
        assert rows.target.shape == (0,)


def test_offset_targets_are_those_of_the_box_coder() -> None:
    box = [12.0, 9.0, 30.0, 31.0]
    given = regions([box, [0.0, 0.0, 5.0, 5.0]])
    labels = label_boxes([given.boxes], [targets((OBJECT, 2, False))])
    found = offset_targets(RegionOutputs.join(None, given, 3, torch.zeros(1)), labels)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    moved = coder.decode_single(found[:1], given.boxes[:1])
    torch.testing.assert_close(moved, torch.tensor([OBJECT]))
    assert found[1].tolist() == [0, 0, 0, 0]


def test_objects_are_shares_of_the_padded_image_without_ignored_ones() -> None:
    batch = DetectionBatch(
        torch.zeros(2, 3, 100, 50),
        ((100, 50), (90, 40)),
        ((100, 50), (90, 40)),
        (targets(), targets((OBJECT, 2, False), (OBJECT, 1, True))),
        torch.arange(2),
        2,
        torch.zeros(2, dtype=torch.int64),
    )
    found = objects_of(batch)
    assert found.image.tolist() == [1]
    assert found.label.tolist() == [2]
    torch.testing.assert_close(found.boxes, torch.tensor([[0.2, 0.1, 0.6, 0.3]]))
