import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from core.specs.regions import RegionOptions
from core.tasks.detection.fixed import FixedBoxes, decode_boxes, encode_boxes, on_grid
from core.tasks.detection.types import DetectionBatch, ImageTargets
from core.train.quantization import quantize

SIZE = (96, 160)
OBJECTS = torch.tensor([[20.0, 20.0, 60.0, 70.0], [100.0, 10.0, 130.0, 30.0]])
PROPOSALS = torch.tensor([[5.0, 5.0, 25.0, 25.0], [50.0, 50.0, 90.0, 90.0], [0.0, 0.0, 160.0, 96.0]])


def batch(keys: tuple[int, ...] = (7, 8), objects: Tensor = OBJECTS) -> DetectionBatch:
    count = len(keys)
    target = ImageTargets(objects, torch.ones(len(objects), dtype=torch.int64), torch.zeros(len(objects)).bool())
    return DetectionBatch(
        torch.zeros(count, 3, *SIZE), (SIZE,) * count, (SIZE,) * count, (target,) * count,
        torch.arange(count), count, torch.tensor(keys),
    )  # fmt: skip


def drawn(count: int = 8, share: float = 0.5, keys: tuple[int, ...] = (7, 8), **options: float) -> Tensor:
    choice = RegionOptions(boxes="fixed", fixed_count=count, jitter_share=share, **options)
    return FixedBoxes(choice).draw(batch(keys), [PROPOSALS] * len(keys))


def test_boxes_on_the_grid_survive_the_rounding_of_kept_vectors_exactly() -> None:
    corners = torch.rand(5, 64, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [160.0, 96.0, 160.0, 96.0]
    )
    boxes = on_grid(corners, SIZE)
    kept = quantize(encode_boxes(boxes, SIZE)).values
    assert torch.equal(decode_boxes(kept, SIZE), boxes)
    assert (boxes - corners).abs().max() <= 160 / 4095 / 2 + 1e-4


def test_boxes_are_moved_copies_of_the_objects_and_then_proposals() -> None:
    boxes = drawn()
    assert boxes.shape == (2, 8, 4)
    moved, proposed, missing = torch.split(boxes[0], [4, 3, 1])
    overlap = box_iou(moved, OBJECTS)
    assert overlap.argmax(1).tolist() == [0, 1, 0, 1]
    assert (overlap.max(1).values > 0.3).all()
    torch.testing.assert_close(proposed, PROPOSALS, atol=0.03, rtol=0)
    assert not missing.any()


def test_boxes_depend_on_the_view_alone() -> None:
    both, turned = drawn(), drawn(keys=(8, 7))
    assert torch.equal(both, turned.flip(0))
    assert not torch.equal(both[0], both[1])


def test_copies_are_moved_and_scaled_as_far_as_allowed() -> None:
    moved = drawn(2000, 1.0, jitter_shift=0.1, jitter_scale=0.5)[0][::2]
    size = moved[:, 2:] - moved[:, :2]
    factor = size / (OBJECTS[0, 2:] - OBJECTS[0, :2])
    centre = (moved[:, :2] + moved[:, 2:]) / 2 - (OBJECTS[0, :2] + OBJECTS[0, 2:]) / 2
    assert 1 / 1.5 - 0.01 <= factor.min() < 0.7
    assert 1.45 < factor.max() <= 1.5 + 0.01
    assert centre[:, 0].abs().max() == pytest.approx(4.0, abs=0.1)
    assert centre[:, 1].abs().max() == pytest.approx(5.0, abs=0.1)


def test_image_without_objects_has_proposals_alone() -> None:
    options = RegionOptions(boxes="fixed", fixed_count=4)
    boxes = FixedBoxes(options).draw(batch((7,), torch.zeros(0, 4)), [PROPOSALS])
    torch.testing.assert_close(boxes[0, :3], PROPOSALS, atol=0.03, rtol=0)
    assert not boxes[0, 3].any()


def test_image_without_proposals_has_moved_objects_alone() -> None:
    options = RegionOptions(boxes="fixed", fixed_count=4, jitter_share=0.5)
    boxes = FixedBoxes(options).draw(batch((7,)), [torch.zeros(0, 4)])
    assert ((boxes[0, :, 2:] - boxes[0, :, :2]) > 0).all()
