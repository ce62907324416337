"""Weights of torchvision, of detectron2 and of backbones in our detectors."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FasterRCNN
from torchvision.ops import FrozenBatchNorm2d, roi_align

from core.tasks.classification.models import build as build_classifier
from core.tasks.classification.models.weights import SuppliedWeights, read_weights
from core.tasks.detection import models
from core.tasks.detection.models.boxes import ExactAnchors
from core.tasks.detection.models.detector import Detector
from core.tasks.detection.models.detectron2 import background_first, from_detectron2
from core.tasks.detection.models.weights import (
    COCO_CLASSES,
    COCO_LOGITS,
    Classes,
    load_backbone,
    load_content,
    load_supplied,
    select_classes,
)
from core.tasks.detection.types import ImageDetections
from core.weights.errors import WeightsError
from tests.core.tasks.detection.models.detector_inputs import (
    SIZES,
    KeyedDraws,
    WithoutResizing,
    given_to_torchvision,
    images,
    targets,
)

IMAGENET: tuple[list[float], list[float]] = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
NO_LIMIT = 10**10


def built(name: str = "faster_rcnn", num_classes: int = 4, **params: Any) -> Detector:
    torch.manual_seed(0)
    return models.build(name, num_classes=num_classes, **params)


def tiny(num_classes: int = 4, **params: Any) -> Detector:
    return built(num_classes=num_classes, **{"backbone": "resnet8", "fpn_channels": 16, "head_width": 32, **params})


@pytest.fixture(scope="module")
def published() -> Any:
    """A torchvision Faster R-CNN of which no statistic is that of a new network."""
    torch.manual_seed(3)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    network: Any = FasterRCNN(backbone, num_classes=4)
    with torch.no_grad():
        for key, value in network.state_dict().items():
            if "running_var" in key or (".bn" in key and key.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.dim() == 1:
                value.uniform_(-0.1, 0.1)
        network.rpn.head.cls_logits.weight.mul_(20)
        network.roi_heads.box_predictor.cls_score.weight.mul_(20)
    network.transform = WithoutResizing(1, 1, *IMAGENET)
    return network.eval()


def as_detectron2(state: Mapping[str, Tensor], std: list[float]) -> dict[str, Tensor]:
    """Return torchvision's weights as detectron2 would store them: the inverse of the map that is tested."""
    rules = (
        (r"backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
        (r"backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
        (r"backbone\.body\.layer1\.", "backbone.bottom_up.res2."),
        (r"backbone\.body\.layer2\.", "backbone.bottom_up.res3."),
        (r"backbone\.body\.layer3\.", "backbone.bottom_up.res4."),
        (r"backbone\.body\.layer4\.", "backbone.bottom_up.res5."),
        (r"backbone\.fpn\.inner_blocks\.0\.0\.", "backbone.fpn_lateral2."),
        (r"backbone\.fpn\.inner_blocks\.1\.0\.", "backbone.fpn_lateral3."),
        (r"backbone\.fpn\.inner_blocks\.2\.0\.", "backbone.fpn_lateral4."),
        (r"backbone\.fpn\.inner_blocks\.3\.0\.", "backbone.fpn_lateral5."),
        (r"backbone\.fpn\.layer_blocks\.0\.0\.", "backbone.fpn_output2."),
        (r"backbone\.fpn\.layer_blocks\.1\.0\.", "backbone.fpn_output3."),
        (r"backbone\.fpn\.layer_blocks\.2\.0\.", "backbone.fpn_output4."),
        (r"backbone\.fpn\.layer_blocks\.3\.0\.", "backbone.fpn_output5."),
        (r"rpn\.head\.conv\.0\.0\.", "proposal_generator.rpn_head.conv."),
        (r"rpn\.head\.cls_logits\.", "proposal_generator.rpn_head.objectness_logits."),
        (r"rpn\.head\.bbox_pred\.", "proposal_generator.rpn_head.anchor_deltas."),
        (r"roi_heads\.box_head\.fc6\.", "roi_heads.box_head.fc1."),
        (r"roi_heads\.box_head\.fc7\.", "roi_heads.box_head.fc2."),
        (r"(backbone.*\.)bn(\d)\.", r"\1conv\2.norm."),
        (r"(backbone.*\.)downsample\.0\.", r"\1shortcut."),
        (r"(backbone.*\.)downsample\.1\.", r"\1shortcut.norm."),
    )
    converted = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        stored = value.clone()
        if name.startswith("roi_heads.box_predictor.cls_score."):
            stored = torch.cat([value[1:], value[:1]])
        elif name.startswith("roi_heads.box_predictor.bbox_pred."):
            stored = value[4:]
        elif name == "backbone.bottom_up.stem.conv1.weight":
            stored = value.flip(1) / (255 * torch.tensor(std[::-1]).view(1, 3, 1, 1))
        converted[name] = stored
    return converted


def assert_same(found: ImageDetections, expected: Mapping[str, Tensor]) -> None:
    """Check that detections are equal, except the order of those with all but equal scores."""
    assert len(found.scores) == len(expected["scores"])
    torch.testing.assert_close(found.scores, expected["scores"], rtol=1e-4, atol=1e-5)
    equal = (found.boxes[:, None] - expected["boxes"]).abs().amax(2) < 0.01
    equal &= found.labels[:, None] == expected["labels"]
    assert equal.any(1).all()
    assert equal.any(0).all()


class TestDetectron2:
    def test_detections_are_those_of_the_torchvision_model_that_the_weights_were_made_of(self, published: Any) -> None:
        state = from_detectron2(as_detectron2(published.state_dict(), IMAGENET[1]), *IMAGENET)
        detector = built(backbone="resnet18").eval()
        missing, unexpected = detector.get_submodule("network").load_state_dict(state, strict=False)
        assert not unexpected
        assert all(key.endswith("num_batches_tracked") for key in missing)
        found = detector.detect(detector.features(images(), SIZES), SIZES)
        with torch.no_grad():
            expected = published(given_to_torchvision(images(), SIZES))
        assert sum(len(image.scores) for image in found) > 30
        for image, theirs in zip(found, expected, strict=True):
            assert_same(image, theirs)

    @pytest.mark.parametrize("kind", ["pkl", "pth"])
    def test_a_file_of_its_model_zoo_is_loaded(self, published: Any, tmp_path: Path, kind: str) -> None:
        stored = as_detectron2(published.state_dict(), IMAGENET[1])
        stored["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
        stored["roi_heads.mask_head.deconv.weight"] = torch.ones(2, 2)
        path = tmp_path / f"model_final_280758.{kind}"
        if kind == "pkl":
            arrays = {key: value.numpy() for key, value in stored.items()}
            path.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}))
        else:
            torch.save({"model": stored, "iteration": 269_999}, path)
        detector = built(backbone="resnet18", convention="detectron2", norm="frozen")
        supplied = read_weights(path, path.name, NO_LIMIT)
        notes = load_supplied(detector, supplied, Classes(), allow_download=False)
        assert any("detectron2" in note for note in notes)
        ours = detector.state_dict()
        for key, value in published.state_dict().items():
            if key.endswith("num_batches_tracked"):
                continue
            if "bbox_pred" in key and "roi_heads" in key:
                assert torch.equal(ours[f"network.{key}"][4:], value[4:])
                assert not ours[f"network.{key}"][:4].any()
            else:
                torch.testing.assert_close(ours[f"network.{key}"], value, rtol=1e-6, atol=0, msg=key)

    def test_background_comes_first_in_logits_and_offsets(self) -> None:
        theirs = torch.tensor([[10.0], [20.0], [30.0], [99.0]])  # three classes, then the background
        assert background_first(theirs).flatten().tolist() == [99, 10, 20, 30]
        state = {
            "roi_heads.box_predictor.cls_score.bias": theirs.flatten(),
            "roi_heads.box_predictor.bbox_pred.bias": torch.arange(1.0, 13.0),
        }
        ours = from_detectron2(state, *IMAGENET)
        assert ours["roi_heads.box_predictor.cls_score.bias"].tolist() == [99, 10, 20, 30]
        offsets = ours["roi_heads.box_predictor.bbox_pred.bias"].view(4, 4)
        assert offsets.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]

    @pytest.mark.parametrize("order", ["bgr", "rgb"])
    def test_colours_are_converted_in_the_first_convolution(self, order: str) -> None:
        weight = torch.randn(2, 3, 3, 3)
        image = torch.rand(1, 3, 8, 8)
        rgb_mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
        rgb_std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1) if order == "rgb" else torch.ones(3, 1, 1)
        theirs = (255 * image - rgb_mean) / rgb_std
        if order == "bgr":
            theirs = theirs.flip(1)
        stored = {"backbone.bottom_up.stem.conv1.weight": weight}
        if order == "rgb":
            stored |= {"pixel_mean": rgb_mean, "pixel_std": rgb_std}
        converted = from_detectron2(stored, *IMAGENET)
        assert list(converted) == ["backbone.body.conv1.weight"]
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in IMAGENET)
        ours = F.conv2d((image - mean) / std, converted["backbone.body.conv1.weight"], padding=1)
        torch.testing.assert_close(ours, F.conv2d(theirs, weight, padding=1), rtol=1e-4, atol=1e-2)

    def test_another_mean_is_refused_with_its_value(self) -> None:
        stored = {
            "backbone.bottom_up.stem.conv1.weight": torch.ones(1, 3, 1, 1),
            "pixel_mean": torch.tensor([127.5, 127.5, 127.5]),
        }
        with pytest.raises(WeightsError, match=r"mean \(0.5000, 0.5000, 0.5000\)"):
            from_detectron2(stored, *IMAGENET)

    def test_offsets_that_do_not_depend_on_the_class_are_refused(self) -> None:
        state = {
            "roi_heads.box_predictor.cls_score.bias": torch.zeros(4),
            "roi_heads.box_predictor.bbox_pred.bias": torch.zeros(4),
        }
        with pytest.raises(WeightsError, match="do not depend on the class"):
            from_detectron2(state, *IMAGENET)

    def test_a_network_that_computes_otherwise_refuses_them(self, published: Any) -> None:
        stored = as_detectron2(published.state_dict(), IMAGENET[1])
        with pytest.raises(WeightsError, match="set the model's parameter convention to detectron2"):
            load_content(built(backbone="resnet18"), {"model": stored})

    def test_regions_are_pooled_with_its_shift(self) -> None:
        detector: Any = tiny(convention="detectron2").eval()
        boxes = [
            torch.tensor([[3.0, 4.0, 21.0, 30.0], [0.0, 0.0, 100.0, 90.0]]),
            torch.tensor([[7.0, 8.0, 70.0, 60.0]]),
        ]
        features = detector.features(images(SIZES[1:]), SIZES[1:])
        pooled = detector.network.roi_heads.box_roi_pool(features, boxes, SIZES[1:])
        for row, (image, box, level) in enumerate(((0, boxes[0][0], 1), (0, boxes[0][1], 3), (1, boxes[1][0], 3))):
            scale = 1 / 2**level
            region = torch.cat([torch.tensor([float(image)]), box])[None]
            expected = roi_align(features[f"p{level}"], region, 7, scale, sampling_ratio=-1, aligned=True)
            torch.testing.assert_close(pooled[row : row + 1], expected)

    def test_anchors_have_its_sides_and_strides(self) -> None:
        from torchvision.models.detection.image_list import ImageList

        generator = ExactAnchors([[30.0, 50.0]], [[0.5, 2.0]], [64])
        (anchors,) = generator(ImageList(torch.zeros(1, 3, 100, 100), [(100, 100)]), [torch.zeros(1, 1, 2, 2)])
        root = 2**0.5
        halves = [(15 * root, 15 / root), (15 / root, 15 * root), (25 * root, 25 / root), (25 / root, 25 * root)]
        expected = [[-width, -height, width, height] for width, height in halves]
        torch.testing.assert_close(anchors[:4], torch.tensor(expected))
        torch.testing.assert_close(anchors[4:8], torch.tensor(expected) + torch.tensor([64.0, 0, 64, 0]))

    def test_losses_of_boxes_are_l1(self) -> None:
        detector = tiny(convention="detectron2")
        regions, own = detector.train_step(detector.features(images(), SIZES), SIZES, targets(), KeyedDraws([1, 2, 3]))
        assert regions is not None
        assert regions.labels is not None
        assert regions.offset_target is not None
        rows = torch.where(regions.labels > 0)[0]
        distance = (regions.offsets[rows, regions.labels[rows]] - regions.offset_target[rows]).abs()
        torch.testing.assert_close(own["box"].total, distance.sum())

    def test_bottlenecks_have_their_stride_in_the_first_convolution(self) -> None:
        with torch.device("meta"):
            theirs: Any = models.build("faster_rcnn", num_classes=4, convention="detectron2")
            ours: Any = models.build("faster_rcnn", num_classes=4)
        block, usual = (each.network.backbone.body["layer2"][0] for each in (theirs, ours))
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
        assert (usual.conv1.stride, usual.conv2.stride) == ((1, 1), (2, 2))
        first = theirs.network.backbone.body["layer1"][0]
        assert first.conv1.stride == first.conv2.stride == (1, 1)


class TestTorchvision:
    def test_a_state_dict_of_torchvision_is_loaded(self, published: Any, tmp_path: Path) -> None:
        path = tmp_path / "model_25.pth"
        torch.save({"model": published.state_dict(), "epoch": 25}, path)
        detector = built(backbone="resnet18").eval()
        load_supplied(detector, read_weights(path, path.name, NO_LIMIT), Classes(), allow_download=False)
        found = detector.detect(detector.features(images(), SIZES), SIZES)
        with torch.no_grad():
            expected = published(given_to_torchvision(images(), SIZES))
        for image, theirs in zip(found, expected, strict=True):
            assert_same(image, theirs)

    def test_keys_of_its_earlier_versions_are_known(self) -> None:
        detector = built("retinanet", backbone="resnet8", fpn_channels=16)
        earlier = {}
        for key, value in detector.state_dict().items():
            name = key.removeprefix("network.")
            name = re.sub(r"(fpn\.\w+_blocks\.\d)\.0\.", r"\1.", name)
            name = re.sub(r"(head\.\w+_head\.conv)\.(\d)\.0\.", lambda match: f"{match[1]}.{2 * int(match[2])}.", name)
            earlier[name] = torch.full_like(value, 0.5) if value.dim() < 2 else torch.randn(value.shape)
        other = built("retinanet", backbone="resnet8", fpn_channels=16)
        load_content(other, earlier)
        assert torch.equal(
            other.state_dict()["network.head.regression_head.conv.2.0.weight"],
            earlier["head.regression_head.conv.4.weight"],
        )
        rpn = {key: value for key, value in tiny().state_dict().items() if "rpn.head.conv" in key}
        assert all(
            tiny().map_published_key(key.removeprefix("network.").replace("conv.0.0.", "conv.")) == key for key in rpn
        )

    @pytest.mark.parametrize("norm", ["frozen", "batch"])
    def test_frozen_batch_norm_without_a_constant(self, norm: str) -> None:
        theirs: Any = tiny(backbone="resnet18", norm="frozen").eval()
        state = {key.removeprefix("network."): value for key, value in theirs.state_dict().items()}
        for key, value in state.items():
            if key.endswith("running_var"):
                value.uniform_(1e-5, 1e-4)
                state[key.replace("running_var", "weight")].uniform_(2e-3, 6e-3)
        detector = tiny(backbone="resnet18", norm=norm).eval()
        load_content(detector, state, name="fasterrcnn_resnet50_fpn_coco-258fb6c6.pth")
        with torch.no_grad():
            ours, kept = (each.features(images(), SIZES)["p2"] for each in (detector, theirs))
            overwrite_eps(theirs, 0.0)
            wanted = theirs.features(images(), SIZES)["p2"]
        assert any(isinstance(module, FrozenBatchNorm2d) and module.eps == 0 for module in theirs.modules())
        torch.testing.assert_close(ours, wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))
        assert (kept - wanted).std() > 0.01 * wanted.std()

    def test_published_weights_come_from_the_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        detector = built("ssdlite320", num_classes=91)
        pretrained = SuppliedWeights("pretrained")
        with pytest.raises(WeightsError, match=r"ssdlite320_mobilenet_v3_large_coco-a79551df.pth"):
            load_supplied(detector, pretrained, Classes(), allow_download=False)
        theirs = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=91
        )
        folder = tmp_path / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        torch.save(theirs.state_dict(), folder / "ssdlite320_mobilenet_v3_large_coco-a79551df.pth")
        load_supplied(detector, pretrained, Classes(), allow_download=False)
        ours = detector.state_dict()
        assert all(torch.equal(ours[f"network.{key}"], value) for key, value in theirs.state_dict().items())
        others = Classes(wanted=tuple(f"thing {number}" for number in range(90)))
        with pytest.raises(WeightsError, match=r"other classes than the data set: .*thing 0"):
            load_supplied(detector, pretrained, others, allow_download=False)

    def test_a_detector_without_published_weights_says_so(self) -> None:
        with pytest.raises(WeightsError, match="no published weights"):
            load_supplied(tiny(), SuppliedWeights("pretrained"), Classes(), allow_download=False)


class TestClasses:
    def test_there_are_80_classes_among_91_logits(self) -> None:
        assert (len(COCO_LOGITS), len(COCO_CLASSES)) == (91, 80)
        assert (COCO_LOGITS[0], COCO_LOGITS[1], COCO_LOGITS[90]) == ("__background__", "person", "toothbrush")
        assert COCO_LOGITS[12] == "N/A"

    @pytest.mark.parametrize(
        ("name", "params"),
        [
            ("faster_rcnn", {"backbone": "resnet8", "fpn_channels": 16, "head_width": 32}),
            ("ssd", {}),
            ("ssdlite320", {}),
            ("retinanet", {"backbone": "resnet8", "fpn_channels": 16}),
            ("fcos", {"backbone": "resnet8", "fpn_channels": 32}),
        ],
        ids=str,
    )
    def test_scores_of_classes_move_with_them(self, name: str, params: dict[str, Any]) -> None:
        torch.manual_seed(7)
        theirs = models.build(name, num_classes=91, **params).eval()
        ours = built(name, 81, **params).eval()
        notes = load_content(ours, theirs.state_dict())
        assert notes == ("took COCO's 80 classes of the weights' 90",)
        indices = [0, *(COCO_LOGITS.index(each) for each in COCO_CLASSES)]
        size = ours.fixed_size or (64, 64)
        batch = images([size])
        with torch.no_grad():
            outputs = []
            for each in (ours, theirs):
                features = each.features(batch, [size])
                if each.gives_regions:
                    boxes = theirs.propose(features, [size])
                    regions = each.regions(features, boxes, [size])
                    outputs.append((regions.logits, regions.offsets))
                else:
                    maps = [features[level] for level in each.levels]
                    found = each.get_submodule("network.head")(maps)
                    outputs.append((found["cls_logits"][0], found["bbox_regression"][0][:, None].expand(-1, 91, -1)))
        (logits, offsets), (all_logits, all_offsets) = outputs
        torch.testing.assert_close(logits, all_logits[:, indices])
        torch.testing.assert_close(offsets[:, : len(indices)], all_offsets[:, indices][:, : offsets.shape[1]])

    def test_classes_are_taken_by_name_in_the_order_of_the_data(self) -> None:
        theirs, ours = tiny(91), tiny(3)
        notes = load_content(ours, theirs.state_dict(), Classes(wanted=("toothbrush", "person")))
        assert notes == ("took 2 of the weights' 90 classes, in the order of the data set",)
        key = "network.roi_heads.box_predictor.cls_score.bias"
        assert torch.equal(ours.state_dict()[key], theirs.state_dict()[key][[0, 90, 1]])

    def test_named_classes_in_another_order(self) -> None:
        theirs, ours = tiny(4), tiny(4)
        classes = Classes(wanted=("c", "a", "b"), given=("a", "b", "c"))
        load_content(ours, theirs.state_dict(), classes)
        key = "network.roi_heads.box_predictor.bbox_pred.bias"
        expected = theirs.state_dict()[key].view(4, 4)[[0, 3, 1, 2]].flatten()
        assert torch.equal(ours.state_dict()[key], expected)

    @pytest.mark.parametrize(
        ("count", "classes", "message"),
        [
            (4, Classes(wanted=("a", "b", "x"), given=("a", "b", "c")), "only in the data set: x"),
            (5, Classes(), "4 classes, not 3"),
            (91, Classes(wanted=("a", "b", "x")), "80 classes, not 3"),
        ],
    )
    def test_other_classes_are_refused_unless_they_may_be_new(self, count: int, classes: Classes, message: str) -> None:
        theirs, ours = tiny(count).state_dict(), tiny(4)
        with pytest.raises(WeightsError, match=message):
            load_content(ours, theirs, classes)
        fresh = {key: value.clone() for key, value in ours.state_dict().items() if "box_predictor" in key}
        load_content(ours, theirs, Classes(classes.wanted, classes.given, other=True))
        assert all(torch.equal(ours.state_dict()[key], value) for key, value in fresh.items())
        key = "network.rpn.head.cls_logits.weight"
        assert torch.equal(ours.state_dict()[key], theirs[key])

    def test_equal_numbers_of_unnamed_classes_are_taken_as_they_are(self) -> None:
        theirs, ours = tiny(4).state_dict(), tiny(4)
        load_content(ours, theirs, Classes(wanted=("a", "b", "c")))
        assert all(torch.equal(ours.state_dict()[key], value) for key, value in theirs.items())

    def test_selection_keeps_what_is_before_and_after_the_classes(self) -> None:
        values = torch.arange(2 * 3 * 4).view(24, 1)
        chosen = select_classes(values, 2, 4, [2, 0]).flatten().tolist()
        assert chosen == [8, 9, 10, 11, 0, 1, 2, 3, 20, 21, 22, 23, 12, 13, 14, 15]


class TestBackbones:
    @pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "vgg8"])
    def test_a_classifier_of_the_catalog_starts_the_backbone(self, name: str) -> None:
        torch.manual_seed(5)
        classifier = build_classifier(name, num_classes=10, image_size=32)
        detector = tiny(backbone=name)
        with pytest.raises(WeightsError, match="do not match"):
            load_content(detector, classifier.state_dict())
        notes = load_content(detector, {"state_dict": classifier.state_dict()}, Classes(other=True))
        assert notes == ("the weights are of a network for classification: only the backbone starts from them",)
        body = detector.get_submodule("network.backbone.body").state_dict()
        theirs = classifier.state_dict()
        assert all(torch.equal(value, theirs[key]) for key, value in body.items() if not key.startswith("activations"))

    @pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
    def test_a_classifier_of_torchvision_starts_the_backbone(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        torch.manual_seed(5)
        classifier = torchvision.models.get_model(name, weights=None)
        detector = tiny(backbone=name, norm="frozen", backbone_weights="imagenet")
        with pytest.raises(WeightsError, match="downloads are off"):
            load_backbone(detector, allow_download=False)
        url = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].url
        path = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
        path.parent.mkdir(parents=True)
        torch.save(classifier.state_dict(), path)
        load_backbone(detector, allow_download=False)
        theirs = classifier.state_dict()
        prefix = "features." if name == "mobilenet_v2" else ""
        body = detector.get_submodule("network.backbone.body").state_dict()
        assert body
        assert all(torch.equal(value, theirs[prefix + key]) for key, value in body.items())

    def test_weights_of_nothing_known_name_the_keys(self) -> None:
        with pytest.raises(WeightsError, match=r"missing: network\.backbone\.body"):
            load_content(tiny(), {"encoder.weight": torch.randn(3, 3)}, Classes(other=True))

    def test_frozen_and_trained_batch_norm_read_each_others_weights(self) -> None:
        trained, frozen = tiny(), tiny(norm="frozen")
        load_content(frozen, trained.state_dict())
        load_content(trained, frozen.state_dict())
