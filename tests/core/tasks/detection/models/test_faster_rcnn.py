"""Faster R-CNN: losses, gradients and detections are those of torchvision for the same samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from core.tasks.detection import models
from core.tasks.detection.models.detector import CANVAS, DEEPEST, Detector
from core.tasks.detection.models.sampling import DrawnSampler
from core.tasks.detection.types import Regions
from tests.core.tasks.detection.models.detector_inputs import (
    SIZES,
    KeyedDraws,
    given_to_torchvision,
    images,
    objects_for_torchvision,
    reference,
    targets,
)

TINY: dict[str, Any] = {"backbone": "resnet8", "fpn_channels": 16, "head_width": 32}
DRAWS = KeyedDraws([11, 12, 13])


def built(seed: int = 0, **params: Any) -> Detector:
    torch.manual_seed(seed)
    return models.build("faster_rcnn", num_classes=4, **{**TINY, **params})


def sharpened(detector: Detector) -> Detector:
    """Make the outputs of a new network differ from box to box, as after a training."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "cls_logits" in name or "cls_score" in name or "bbox_pred" in name:
                parameter.mul_(20)
    return detector


class TestTraining:
    @pytest.mark.parametrize("params", [{}, {"form": "v2"}, {"backbone": "wrn_16_1", "stem_stride": 1}], ids=str)
    def test_losses_and_gradients_are_those_of_torchvision(self, params: dict[str, Any]) -> None:
        # In float64, because batch norm over the regions of a new network multiplies what float32 rounds.
        detector = sharpened(built(**params)).double()
        batch = images().double()
        objects = tuple(replace(target, boxes=target.boxes.double()) for target in targets())
        features = detector.features(batch, SIZES)
        regions, own = detector.train_step(features, SIZES, objects, DRAWS)
        assert regions is not None
        assert regions.labels is not None
        ours = {
            "loss_objectness": own["objectness"].total / own["objectness"].count,
            "loss_rpn_box_reg": own["rpn_box"].total / own["rpn_box"].count,
            "loss_box_reg": own["box"].total / own["box"].count,
            "loss_classifier": F.cross_entropy(regions.logits, regions.labels),
        }
        parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(torch.stack([*ours.values()]).sum(), parameters)
        network = reference(detector)
        network.rpn.fg_bg_sampler = DrawnSampler(256, 0.5, DRAWS, "rpn")
        network.roi_heads.fg_bg_sampler = DrawnSampler(128, 0.25, DRAWS, "roi")
        theirs = network(given_to_torchvision(batch, SIZES), objects_for_torchvision(objects))
        assert theirs.keys() == ours.keys()
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, rtol=1e-6, atol=1e-7, check_dtype=False, msg=name)
        expected = torch.autograd.grad(torch.stack([*theirs.values()]).sum(), parameters)
        for gradient, wanted in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, wanted, rtol=1e-9, atol=1e-12)

    def test_regions_carry_what_the_objective_reads(self) -> None:
        detector = built()
        regions, own = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
        assert isinstance(regions, Regions)
        assert regions.labels is not None
        assert regions.offset_target is not None
        rows = len(regions.boxes)
        assert own.keys() == set(detector.terms)
        assert regions.logits.shape == (rows, 4)
        assert regions.offsets.shape == (rows, 4, 4)
        assert regions.image.bincount(minlength=3).max() <= 128
        assert (regions.offset_target[regions.labels == 0] == 0).all()
        found = regions.labels > 0
        # The ignored object of the first image is of class 2, and the second image has none.
        assert set(regions.labels[found & (regions.image == 0)].tolist()) == {1, 3}
        assert not found[regions.image == 1].any()
        # A region that is an object has no distance from it.
        assert (regions.offset_target[found].abs().sum(1) == 0).sum() == 4
        height = torch.tensor([size[0] for size in SIZES])[regions.image]
        assert (regions.boxes[:, 3] <= height).all()

    def test_order_of_images_changes_nothing_but_the_order(self) -> None:
        detector = built().eval()  # batch norm in training mode adds in another order
        detector.get_submodule("network.rpn").train()
        order = [2, 0, 1]
        batch, objects = images(), targets()
        sizes = [SIZES[number] for number in order]
        one, _ = detector.train_step(detector.features(batch, SIZES), SIZES, objects, DRAWS)
        shuffled = KeyedDraws([DRAWS.keys[number] for number in order])
        features = detector.features(batch[order], sizes)
        other, _ = detector.train_step(features, sizes, [objects[number] for number in order], shuffled)
        assert one is not None
        assert other is not None
        for place, number in enumerate(order):
            mine, theirs = one.image == number, other.image == place
            torch.testing.assert_close(one.boxes[mine], other.boxes[theirs])
            assert one.labels is not None
            assert other.labels is not None
            assert torch.equal(one.labels[mine], other.labels[theirs])

    @pytest.mark.parametrize("objects", [True, False])
    def test_every_parameter_has_a_gradient_even_without_objects(self, objects: bool) -> None:
        detector = built()
        found = targets() if objects else (targets()[1],) * 3
        regions, own = detector.train_step(detector.features(images(), SIZES), SIZES, found, DRAWS)
        assert regions is not None
        assert regions.labels is not None
        loss = F.cross_entropy(regions.logits, regions.labels)
        torch.autograd.backward([loss, *(term.total for term in own.values())])
        assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
        assert all(parameter.grad.isfinite().all() for parameter in detector.parameters() if parameter.grad is not None)

    def test_under_autocast_terms_and_logits_are_float32(self) -> None:
        detector = built()
        exact, _ = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
        with torch.autocast("cpu", torch.bfloat16):
            batch = images().contiguous(memory_format=torch.channels_last)
            features = detector.features(batch, SIZES)
            assert features["p1"].dtype == torch.bfloat16
            regions, own = detector.train_step(features, SIZES, targets(), DRAWS)
            found = detector.eval().detect(features, SIZES)
        assert regions is not None
        assert exact is not None
        assert {term.total.dtype for term in own.values()} == {torch.float32}
        assert regions.logits.dtype == regions.offsets.dtype == regions.boxes.dtype == torch.float32
        assert found[0].boxes.dtype == torch.float32
        # Objects are among the regions with all their digits: pixels are not rounded to eight bits.
        wanted = targets()[2].boxes
        assert (regions.boxes[None] == wanted[:, None]).all(-1).any(1).all()

    def test_torchs_random_state_is_neither_read_nor_changed(self) -> None:
        detector = built()
        results = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            regions, _ = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
            assert torch.equal(torch.get_rng_state(), state)
            assert regions is not None
            results.append(regions.boxes)
        assert torch.equal(*results)


class TestEvaluation:
    @pytest.mark.parametrize("params", [{}, {"form": "v2"}, {"backbone": "vgg8"}], ids=str)
    def test_detections_are_those_of_torchvision(self, params: dict[str, Any]) -> None:
        detector = sharpened(built(**params)).eval()
        batch = images()
        ours = detector.detect(detector.features(batch, SIZES), SIZES)
        with torch.no_grad():
            theirs = reference(detector)(given_to_torchvision(batch, SIZES))
        assert sum(len(image.scores) for image in ours) > 30
        for image, expected in zip(ours, theirs, strict=True):
            torch.testing.assert_close(image.boxes, expected["boxes"])
            torch.testing.assert_close(image.scores, expected["scores"])
            assert torch.equal(image.labels, expected["labels"])
            assert (image.scores.diff() <= 0).all()

    def test_find_is_detection_on_images_without_padding(self) -> None:
        detector = built().eval()
        batch = images([(64, 64)])
        (one,) = detector.find(batch)
        (other,) = detector.detect(detector.features(batch, [(64, 64)]), [(64, 64)])
        assert torch.equal(one.boxes, other.boxes)

    def test_padding_of_any_value_changes_nothing(self) -> None:
        detector = sharpened(built()).eval()
        batch = images()
        filled = batch.clone()
        filled[0, :, 96:] = 0.7
        one, other = (detector.detect(detector.features(each, SIZES), SIZES)[0] for each in (batch, filled))
        assert torch.equal(one.boxes, other.boxes)

    def test_proposals_are_those_of_evaluation_in_training_mode(self) -> None:
        detector = built(rpn_post_nms_top_n_train=40, rpn_post_nms_top_n_test=20)
        features = detector.features(images(), SIZES)
        assert [len(boxes) for boxes in detector.propose(features, SIZES)] == [20] * 3
        assert detector.get_submodule("network.rpn").training
        assert not any(boxes.requires_grad for boxes in detector.propose(features, SIZES))

    def test_regions_of_any_boxes(self) -> None:
        detector = built().eval()
        boxes = [torch.tensor([[1.0, 2.0, 30.0, 40.0]]), torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 128.0, 128.0]])]
        regions = detector.regions(detector.features(images(), SIZES), boxes, SIZES)
        assert regions.image.tolist() == [0, 2]
        assert regions.labels is None
        alone = detector.regions(detector.features(images()[2:], SIZES[2:]), boxes[2:], SIZES[2:])
        torch.testing.assert_close(regions.logits[1:], alone.logits)

    def test_no_boxes_at_all(self) -> None:
        detector = built().eval()
        regions = detector.regions(detector.features(images(), SIZES), [torch.zeros(0, 4)] * 3, SIZES)
        assert regions.logits.shape == (0, 4)
        assert regions.offsets.shape == (0, 4, 4)


class TestPyramids:
    @pytest.mark.parametrize(
        ("params", "strides", "sides"),
        [
            ({}, {"p1": 2, "p2": 4, "p3": 8}, [32, 16, 8]),
            ({"stem_stride": 1}, {"p0": 1, "p1": 2, "p2": 4}, [64, 32, 16]),
            ({"backbone": "resnet18"}, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}, [16, 8, 4, 2, 1]),
            ({"backbone": "mobilenet_v2"}, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}, [16, 8, 4, 2, 1]),
            ({"backbone": "mobilenet_v3_large"}, {"p5": 32, "p5b": 32, "p6": 64}, [2, 2, 1]),
            ({"backbone": "timm:resnet10t"}, {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}, [16, 8, 4, 2, 1]),
            (
                {"backbone": "timm:test_efficientnet"},
                {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64},
                [16, 8, 4, 2, 1],
            ),
            ({"backbone": "vgg8"}, {"p1": 2, "p2": 4, "p3": 8, "p4": 16}, [32, 16, 8, 4]),
            ({"backbone": "resnet18_cifar"}, {"p1": 2, "p2": 4, "p3": 8, "p4": 16}, [32, 16, 8, 4]),
        ],
        ids=str,
    )
    def test_levels_are_named_after_their_strides(
        self, params: dict[str, Any], strides: dict[str, int], sides: list[int]
    ) -> None:
        detector = built(**params).eval()
        with torch.no_grad():
            features = detector.features(torch.zeros(1, 3, 64, 64), [(64, 64)])
        assert detector.strides == strides
        assert list(features) == [*strides, DEEPEST, CANVAS]
        assert [features[name].shape[2] for name in detector.levels] == sides
        assert {features[name].shape[1] for name in detector.levels} == {16}
        assert features[CANVAS].tolist() == [64, 64]

    @pytest.mark.parametrize(
        ("mine", "theirs"),
        [
            ({"backbone": "resnet50"}, "fasterrcnn_resnet50_fpn"),
            ({"backbone": "resnet50", "form": "v2"}, "fasterrcnn_resnet50_fpn_v2"),
            ({"backbone": "mobilenet_v3_large"}, "fasterrcnn_mobilenet_v3_large_fpn"),
        ],
        ids=str,
    )
    def test_keys_and_shapes_are_those_of_torchvisions_published_detectors(
        self, mine: dict[str, Any], theirs: str
    ) -> None:
        with torch.device("meta"):
            detector = models.build("faster_rcnn", num_classes=91, **mine)
            published = torchvision.models.get_model(theirs, weights=None, weights_backbone=None, num_classes=91)
        ours = {key.removeprefix("network."): value.shape for key, value in detector.state_dict().items()}
        assert ours == {key: value.shape for key, value in published.state_dict().items()}

    def test_students_below_a_million_parameters(self) -> None:
        with torch.device("meta"):
            detector = models.build("faster_rcnn", num_classes=11, backbone="resnet8", fpn_channels=64)
        assert sum(parameter.numel() for parameter in detector.parameters()) == 658_582

    def test_equal_seeds_give_equal_weights(self) -> None:
        one, same, other = built(1).state_dict(), built(1).state_dict(), built(2).state_dict()
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert not all(torch.equal(one[key], other[key]) for key in one)


class TestNormalisation:
    @pytest.mark.parametrize("backbone", ["resnet8", "wrn_16_1", "timm:test_efficientnet"])
    @pytest.mark.parametrize("norm", ["frozen", "group"])
    def test_no_batch_norm_is_left_in_the_backbone(self, norm: str, backbone: str) -> None:
        detector = built(norm=norm, backbone=backbone)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in detector.modules())
        regions, _ = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
        assert regions is not None
        assert regions.logits.isfinite().all()

    def test_frozen_batch_norm_is_batch_norm_in_eval_mode(self) -> None:
        normal, frozen = (
            built(backbone="timm:test_efficientnet").eval(),
            built(backbone="timm:test_efficientnet", norm="frozen"),
        )
        for each in (normal, frozen):
            with torch.no_grad():
                for key, value in each.state_dict().items():
                    if key.endswith(("running_mean", "running_var")):
                        value.add_(0.3)
        one, other = (each.features(images(), SIZES)["p2"] for each in (normal, frozen))
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("backbone", ["resnet8", "resnet18", "mobilenet_v2", "timm:resnet10t", "wrn_16_1"])
    def test_frozen_stages_stay_as_they_are(self, backbone: str) -> None:
        detector = built(backbone=backbone, frozen_stages=2).train()
        before = {key: value.clone() for key, value in detector.state_dict().items()}
        regions, own = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
        assert regions is not None
        torch.autograd.backward([regions.logits.sum(), *(term.total for term in own.values())])
        fixed = [name for name, parameter in detector.named_parameters() if not parameter.requires_grad]
        moved = {key for key, value in detector.state_dict().items() if not torch.equal(value, before[key])}
        # Statistics of later stages follow the batch, those of the first two do not.
        assert moved
        assert not {key.rpartition(".")[0] for key in moved} & {name.rpartition(".")[0] for name in fixed}
        assert any("conv" in name or "weight" in name for name in fixed)
        trained = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
        assert any(name.startswith("network.backbone.body") for name in trained)


class TestBadParameters:
    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({"backbone": "resnet80"}, "unknown backbone 'resnet80'; did you mean"),
            ({"backbone": "hub:x/y"}, "unknown backbone"),
            ({"backbone": "timm:no_such_net"}, "unknown timm model"),
            ({"backbone": "timm:vit_tiny_patch16_224"}, "does not"),
            ({"anchor_sizes": [[16], [32]]}, r"anchor_sizes is for 2 levels, and resnet8 has 3: p1, p2, p3"),
            ({"anchor_sizes": [[16], [32, 40], [64]]}, "same number of sizes"),
            ({"rpn_bg_iou_thresh": 0.8}, r"rpn_bg_iou_thresh \(0.8\) must not be above rpn_fg_iou_thresh \(0.7\)"),
            ({"convention": "detectron2", "form": "v2"}, "form v1"),
            ({"backbone_weights": "imagenet"}, "resnet8 has no published weights"),
            ({"mean": [0.5, 0.5, 0.5]}, "given together"),
        ],
        ids=str,
    )
    def test_message_names_the_parameter(self, params: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            built(**params)

    def test_a_classifier_is_no_detector(self) -> None:
        with pytest.raises(ValueError, match="resnet8 is no detector"):
            models.build("resnet8", num_classes=4)
        with pytest.raises(ValueError, match="at least one class"):
            models.build("faster_rcnn", num_classes=1)
