"""SSD, RetinaNet and FCOS: losses, gradients and detections are those of torchvision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from core.tasks.detection import models
from core.tasks.detection.models.detector import Detector, NoRegionsError
from tests.core.tasks.detection.models.detector_inputs import (
    SIZES,
    KeyedDraws,
    given_to_torchvision,
    images,
    objects_for_torchvision,
    reference,
    targets,
)

DRAWS = KeyedDraws([11, 12, 13])
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("ssd", {}),
    ("ssd", {"backbone": "wrn_16_1", "extra_levels": 0}),
    ("retinanet", {"backbone": "resnet8", "fpn_channels": 16}),
    ("retinanet", {"backbone": "resnet8", "fpn_channels": 32, "form": "v2"}),
    ("fcos", {"backbone": "resnet8", "fpn_channels": 32}),
]


def built(name: str, seed: int = 0, **params: Any) -> Detector:
    torch.manual_seed(seed)
    return models.build(name, num_classes=4, **params)


def sharpened(detector: Detector) -> Detector:
    """Make the outputs of a new network differ from place to place, and the scores of some pass the thresholds."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "cls_logits.weight" in name or "bbox_reg.weight" in name:
                parameter.mul_(30)
            if "cls_logits.bias" in name:
                parameter.zero_()
    return detector


def in_torchvisions_form(detector: Detector, batch: Tensor) -> dict[str, Tensor]:
    """Return a detector's losses by torchvision's names."""
    regions, own = detector.train_step(detector.features(batch, SIZES), SIZES, targets(), DRAWS)
    if regions is None:
        names = {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"}
        return {names[name]: term.total / term.count for name, term in own.items()}
    assert regions.labels is not None
    assert regions.weight is not None
    found = (regions.labels > 0).sum()
    loss = F.cross_entropy(regions.logits, regions.labels, reduction="none")
    assert own["box"].count == regions.weight.sum()
    return {"bbox_regression": own["box"].total / found, "classification": (loss * regions.weight).sum() / found}


@pytest.mark.parametrize(("name", "params"), KINDS, ids=str)
def test_losses_and_gradients_are_those_of_torchvision(name: str, params: dict[str, Any]) -> None:
    detector = built(name, **params)
    parameters = list(detector.parameters())
    ours = in_torchvisions_form(detector, images())
    gradients = torch.autograd.grad(torch.stack([*ours.values()]).sum(), parameters)
    theirs = reference(detector)(given_to_torchvision(images(), SIZES), objects_for_torchvision(targets()))
    theirs = {key: value for key, value in theirs.items() if key in ours}
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=2e-6, atol=1e-6, msg=key)
    expected = torch.autograd.grad(torch.stack([*theirs.values()]).sum(), parameters)
    for gradient, wanted in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "params"), KINDS, ids=str)
def test_detections_are_those_of_torchvision(name: str, params: dict[str, Any]) -> None:
    detector = sharpened(built(name, **params)).eval()
    if not detector.gives_regions:
        with torch.no_grad():  # torchvision finds class 0 too, if it has a high score
            last: Any = detector.get_submodule("network.head.classification_head.cls_logits")
            last.bias[0::4] = -50.0
    ours = detector.detect(detector.features(images(), SIZES), SIZES)
    with torch.no_grad():
        theirs = reference(detector)(given_to_torchvision(images(), SIZES))
    assert sum(len(image.scores) for image in ours) > 30
    for image, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(image.boxes, expected["boxes"])
        torch.testing.assert_close(image.scores, expected["scores"])
        assert torch.equal(image.labels, expected["labels"])


@pytest.mark.parametrize(("name", "params"), KINDS, ids=str)
def test_every_parameter_has_a_gradient(name: str, params: dict[str, Any]) -> None:
    detector = built(name, **params)
    torch.autograd.backward([*in_torchvisions_form(detector, images()).values()])
    assert [key for key, parameter in detector.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("name", "params"), KINDS, ids=str)
def test_a_batch_without_objects_has_finite_losses_and_gradients(name: str, params: dict[str, Any]) -> None:
    detector = built(name, **params)
    nothing = (targets()[1],) * 3
    regions, own = detector.train_step(detector.features(images(), SIZES), SIZES, nothing, DRAWS)
    if regions is not None:
        assert regions.weight is not None
        assert not regions.weight.any()
    total = torch.stack([term.total for term in own.values()]).sum()
    torch.autograd.backward(total)
    assert total.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in detector.parameters() if parameter.grad is not None)


@pytest.mark.parametrize(("name", "params"), KINDS, ids=str)
def test_under_autocast_terms_are_float32(name: str, params: dict[str, Any]) -> None:
    detector = built(name, **params)
    with torch.autocast("cpu", torch.bfloat16):
        batch = images().contiguous(memory_format=torch.channels_last)
        features = detector.features(batch, SIZES)
        regions, own = detector.train_step(features, SIZES, targets(), DRAWS)
        found = sharpened(detector).eval().detect(features, SIZES)
    assert {term.total.dtype for term in own.values()} == {torch.float32}
    assert regions is None or regions.logits.dtype == regions.boxes.dtype == torch.float32
    assert found[0].scores.dtype == torch.float32


class TestSSD:
    def test_regions_are_the_anchors(self) -> None:
        detector = built("ssd").eval()
        features = detector.features(images(), SIZES)
        anchors = detector.propose(features, SIZES)
        regions = detector.regions(features, anchors, SIZES)
        assert len(regions.boxes) == 3 * len(anchors[0]) == len(regions.logits)
        assert regions.offsets.shape == (len(regions.boxes), 4, 4)
        assert torch.equal(regions.offsets[:, 0], regions.offsets[:, 3])
        assert regions.image.bincount().tolist() == [len(anchors[0])] * 3
        trained, _ = detector.train_step(features, SIZES, targets(), DRAWS)
        assert trained is not None
        torch.testing.assert_close(trained.logits, regions.logits)

    def test_other_boxes_are_refused(self) -> None:
        detector = built("ssd").eval()
        features = detector.features(images(), SIZES)
        with pytest.raises(NoRegionsError, match="its own anchors only"):
            detector.regions(features, [torch.tensor([[0.0, 0.0, 20.0, 20.0]])] * 3, SIZES)

    def test_three_negatives_for_each_positive_and_the_hardest_ones(self) -> None:
        detector = built("ssd")
        regions, _ = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), DRAWS)
        assert regions is not None
        assert regions.labels is not None
        assert regions.weight is not None
        assert regions.offset_target is not None
        found, chosen = regions.labels > 0, regions.weight > 0
        assert chosen[found].all()
        loss = F.cross_entropy(regions.logits, regions.labels, reduction="none").detach()
        for image in range(3):
            own = regions.image == image
            negative = own & ~found
            assert int((chosen & negative).sum()) == 3 * int((own & found).sum())
            if image != 1:
                assert loss[chosen & negative].min() >= loss[negative & ~chosen].max()
        assert (regions.offset_target[~found] == 0).all()

    @pytest.mark.parametrize(
        ("name", "theirs", "size", "strides"),
        [
            ("ssd300", "ssd300_vgg16", 300, {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 100, "p8": 300}),
            (
                "ssdlite320",
                "ssdlite320_mobilenet_v3_large",
                320,
                {"p4": 16, "p5": 32, "p6": 64, "p7": 128, "p8": 256, "p9": 512},
            ),
        ],
    )
    def test_keys_colours_and_size_are_those_of_torchvision(
        self, name: str, theirs: str, size: int, strides: dict[str, int]
    ) -> None:
        detector = models.build(name, num_classes=91)
        with torch.device("meta"):
            published: Any = torchvision.models.get_model(theirs, weights=None, weights_backbone=None, num_classes=91)
        ours = {key.removeprefix("network."): value.shape for key, value in detector.state_dict().items()}
        assert ours == {key: value.shape for key, value in published.state_dict().items()}
        assert repr(published.anchor_generator) == repr(detector.network.anchor_generator)  # type: ignore[union-attr]
        assert detector.fixed_size == (size, size) == tuple(published.transform.fixed_size)
        assert detector.mean.flatten().tolist() == pytest.approx(published.transform.image_mean)
        assert detector.std.flatten().tolist() == pytest.approx(published.transform.image_std)
        assert detector.strides == strides

    def test_ssdlite_finds_what_torchvisions_finds(self) -> None:
        torch.manual_seed(1)
        published: Any = torchvision.models.get_model(
            "ssdlite320_mobilenet_v3_large", weights=None, weights_backbone=None, num_classes=4
        ).eval()
        for key, value in published.state_dict().items():
            if key.endswith("running_var"):  # so that the maps of new weights are not all but 0
                value.fill_(0.01)
        detector = built("ssdlite320").eval()
        detector.load_state_dict({f"network.{key}": value for key, value in published.state_dict().items()})
        size = (320, 320)
        batch = images([size])
        with torch.no_grad():
            (expected,) = published([batch[0]])
        (found,) = detector.detect(detector.features(batch, [size]), [size])
        assert len(found.scores) > 100
        assert found.scores.std() > 0.01
        torch.testing.assert_close(found.boxes, expected["boxes"])
        torch.testing.assert_close(found.scores, expected["scores"])


class TestDense:
    @pytest.mark.parametrize("name", ["retinanet", "fcos"])
    def test_there_are_no_regions(self, name: str) -> None:
        detector = built(name, backbone="resnet8", fpn_channels=32)
        assert not detector.gives_regions
        features = detector.features(images(), SIZES)
        with pytest.raises(NoRegionsError, match="no logits of regions"):
            detector.propose(features, SIZES)
        with pytest.raises(NoRegionsError, match="no logits of regions"):
            detector.regions(features, [torch.zeros(0, 4)] * 3, SIZES)

    @pytest.mark.parametrize(
        ("name", "params", "theirs"),
        [
            ("retinanet", {}, "retinanet_resnet50_fpn"),
            ("retinanet", {"form": "v2"}, "retinanet_resnet50_fpn_v2"),
            ("fcos", {}, "fcos_resnet50_fpn"),
        ],
    )
    def test_keys_and_anchors_are_those_of_torchvisions_published_detectors(
        self, name: str, params: dict[str, Any], theirs: str
    ) -> None:
        with torch.device("meta"):
            detector: Any = models.build(name, num_classes=91, **params)
            published: Any = torchvision.models.get_model(theirs, weights=None, weights_backbone=None, num_classes=91)
        ours = {key.removeprefix("network."): value.shape for key, value in detector.state_dict().items()}
        assert ours == {key: value.shape for key, value in published.state_dict().items()}
        assert detector.network.anchor_generator.sizes == published.anchor_generator.sizes
        assert detector.strides == {"p3": 8, "p4": 16, "p5": 32, "p6": 64, "p7": 128}

    def test_the_background_is_never_detected(self) -> None:
        detector: Any = sharpened(built("retinanet", backbone="resnet8", fpn_channels=16)).eval()
        with torch.no_grad():
            detector.network.head.classification_head.cls_logits.bias[0::4] = 50.0  # of class 0
        found = detector.detect(detector.features(images(), SIZES), SIZES)
        assert all((image.labels > 0).all() for image in found)

    def test_fcos_refuses_channels_that_have_no_groups(self) -> None:
        with pytest.raises(ValueError, match="multiple of 32"):
            built("fcos", backbone="resnet8", fpn_channels=16)
