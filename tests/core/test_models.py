"""The networks: parameter counts, features and stages, initialisation and limits."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from core import catalog
from core.catalog import MODELS, ModelEntry, UnknownNameError
from core.specs import SpecError, parse_experiment, warnings_of
from core.tasks.classification import models

# Trainable parameters at 100 classes, counted in the networks of the distillation literature (mdistiller).
CIFAR = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "resnet18_cifar": 11_220_132,
    "resnet34_cifar": 21_328_292,
    "resnet50_cifar": 23_705_252,
    "resnet101_cifar": 42_697_380,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "shufflenet_v1": 949_258,
    "shufflenet_v2": 1_355_528,
    "mobilenet_v2_half": 812_836,
}
# At 1000 classes: torchvision's documentation of each, and 4.2 million for MobileNetV1 (arXiv 1704.04861, table 8).
IMAGENET = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "shufflenet_v2_x1_0": 2_278_604,
    "mobilenet_v2": 3_504_872,
    "convnext_tiny": 28_589_128,
    "swin_s": 49_606_258,
    "mobilenet_v1": 4_231_976,
}
DEEP = {"resnet110", "resnet101_cifar", "resnet50_cifar", "resnet34_cifar", "vgg19", "vgg16", "resnet101", "resnet34"}
"""Built of the same parts as their smaller relatives, so only counted."""


CLASSIFIERS = [entry for entry in MODELS if "classification" in entry.tasks]


def built(name: str, classes: int = 5, size: int = 32, channels: int = 3, **params: object) -> models.Network:
    torch.manual_seed(0)
    return models.build(name, num_classes=classes, image_size=size, in_channels=channels, **params)


class TestCounts:
    @pytest.mark.parametrize("name", CIFAR)
    def test_cifar_networks_have_the_parameter_counts_of_the_literature(self, name: str) -> None:
        with torch.device("meta"):
            assert models.count_parameters(built(name, 100)) == CIFAR[name]

    @pytest.mark.parametrize("name", sorted(set(IMAGENET) - {"swin_s", "convnext_tiny"}))
    def test_imagenet_networks_have_the_published_parameter_counts(self, name: str) -> None:
        with torch.device("meta"):
            assert models.count_parameters(built(name, 1000, 224)) == IMAGENET[name]

    @pytest.mark.parametrize("name", ["swin_s", "convnext_tiny"])
    def test_transformers_have_the_published_parameter_counts(self, name: str) -> None:
        assert models.count_parameters(built(name, 1000, 224)) == IMAGENET[name]

    def test_parameter_count_of_every_catalog_model_is_tested(self) -> None:
        counted = {*CIFAR, *IMAGENET, "small_cnn", "timm:vit_small_patch16_224"}
        assert {entry.name for entry in CLASSIFIERS} == counted


class TestFeaturesAndStages:
    @pytest.mark.parametrize("name", sorted(({*CIFAR, *IMAGENET, "small_cnn"}) - DEEP))
    @pytest.mark.parametrize("channels", [1, 3])
    def test_features_give_the_logits_and_stages_shrink(self, name: str, channels: int) -> None:
        network = built(name, channels=channels).eval()
        images = torch.randn(2, channels, 32, 32)
        with torch.no_grad():
            logits, features, stages = network(images), network.features(images), network.stages(images)
            torch.testing.assert_close(network.linear(features), logits)
        assert features.shape == (2, network.linear.in_features)
        assert logits.shape == (2, 5)
        assert all(maps.dim() == 4 and maps.shape[2] == maps.shape[3] for maps in stages.values())
        sides = [maps.shape[2] for maps in stages.values()]
        assert sides == sorted(sides, reverse=True)
        assert "stage1" in stages

    @pytest.mark.parametrize(
        ("name", "shapes"),
        [
            ("resnet8x4", {"stem": (32, 32), "stage1": (64, 32), "stage2": (128, 16), "stage3": (256, 8)}),
            ("wrn_16_2", {"stem": (16, 32), "stage1": (32, 32), "stage2": (64, 16), "stage3": (128, 8)}),
            ("shufflenet_v1", {"stem": (24, 32), "stage1": (240, 16), "stage2": (480, 8), "stage3": (960, 4)}),
            (
                "swin_s",
                {"stem": (96, 8), "stage1": (96, 8), "stage2": (192, 4), "stage3": (384, 2), "stage4": (768, 1)},
            ),
            (
                "vgg8",
                {"stage1": (64, 32), "stage2": (128, 16), "stage3": (256, 8), "stage4": (512, 4), "stage5": (512, 4)},
            ),
        ],
    )
    def test_stages_have_names_and_shapes(self, name: str, shapes: dict[str, tuple[int, int]]) -> None:
        with torch.no_grad():
            stages = built(name).eval().stages(torch.randn(2, 3, 32, 32))
        assert {key: (maps.shape[1], maps.shape[2]) for key, maps in stages.items()} == shapes

    def test_vgg_halves_larger_images_once_more(self) -> None:
        with torch.no_grad():
            stages = built("vgg8", size=64).eval().stages(torch.randn(1, 3, 64, 64))
        assert [maps.shape[2] for maps in stages.values()] == [64, 32, 16, 8, 4]

    @pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "shufflenet_v2", "mobilenet_v2_half", "timm:test_vit"])
    def test_every_parameter_has_a_gradient(self, name: str) -> None:
        network = built(name)
        network(torch.randn(4, 3, 32, 32)).square().sum().backward()
        still = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
        assert still == []


class TestInitialisation:
    @pytest.mark.parametrize("name", ["resnet20", "resnet18_cifar", "wrn_16_2", "vgg8"])
    def test_convolutions_are_he_normal_by_fan_out(self, name: str) -> None:
        large = [m for m in built(name).modules() if isinstance(m, nn.Conv2d) and m.weight.numel() > 4000]
        assert large
        for module in large:
            side = module.kernel_size[0]
            expected = math.sqrt(2 / (side * side * module.out_channels))
            assert module.weight.std().item() == pytest.approx(expected, rel=0.08)
            assert module.bias is None or not module.bias.any()

    @pytest.mark.parametrize("name", ["vgg8", "mobilenet_v2_half"])
    def test_initial_linear_weights_are_small(self, name: str) -> None:
        linear = built(name).linear
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.08)
        assert not linear.bias.any()

    def test_initial_linear_biases_of_wide_resnets_are_zero(self) -> None:
        assert not built("wrn_16_1").linear.bias.any()

    def test_other_networks_keep_the_initialisation_of_torch(self) -> None:
        for name in ("shufflenet_v1", "shufflenet_v2", "mobilenet_v1"):
            convolution = built(name).get_submodule("layers.stage2.0")
            weight = max((p for p in convolution.parameters() if p.dim() == 4), key=torch.Tensor.numel)
            bound = 1 / math.sqrt(weight[0].numel())  # kaiming_uniform with a = √5
            assert weight.abs().max().item() == pytest.approx(bound, rel=0.05)

    def test_first_layer_for_grey_images_keeps_the_activation_scale(self) -> None:
        grey, colour = built("resnet18", channels=1), built("resnet18")
        images = torch.randn(8, 1, 32, 32)
        first, second = (
            net.get_submodule("stem.0")(images) for net, images in ((grey, images), (colour, torch.randn(8, 3, 32, 32)))
        )
        assert first.std().item() == pytest.approx(second.std().item(), rel=0.15)


class TestLimits:
    @pytest.mark.parametrize("name", [entry.name for entry in CLASSIFIERS if entry.name not in DEEP | {"swin_s"}])
    def test_smallest_image_is_accepted_and_a_smaller_one_refused(self, name: str) -> None:
        entry = MODELS[name]
        params = {"patch_size": 4} if name.startswith("timm:") else {}
        network = built(name, size=entry.min_image_size, **params)
        size = entry.min_image_size
        with torch.no_grad():  # in training mode, where batch norm needs more than one value a channel
            assert network(torch.randn(2, 3, size, size)).shape == (2, 5)
        with pytest.raises(ValueError, match=f"at least {size} px"):
            built(name, size=size - 1)

    def test_unsupported_channels_are_refused(self) -> None:
        entry = ModelEntry(name="x", title="X", summary="", target="", min_image_size=4, channels=(3,))
        assert entry.refusal(8, 3) is None
        assert "3 channels" in str(entry.refusal(8, 1))

    def test_spec_error_names_the_network_that_needs_larger_images(self) -> None:
        with pytest.raises(SpecError, match=r"student.model: resnet18 needs images of at least 32 px; digits has"):
            parse_experiment(spec(student={"model": "resnet18"}))

    def test_spec_warns_about_a_network_for_large_images(self) -> None:
        dataset = {"name": "synthetic", "params": {"image_size": 32}}
        warnings = warnings_of(parse_experiment(spec(dataset=dataset, student={"model": "shufflenet_v2_x1_0"})))
        assert [(warning.path, "shufflenet_v2 is its variant" in warning.message) for warning in warnings] == [
            ("student.model", True)
        ]


def spec(**changes: object) -> dict[str, object]:
    return {
        "name": "models",
        "dataset": "digits",
        "student": {"model": "small_cnn"},
        "methods": ["ce"],
        "seeds": [0, 1, 2],
        "training": {"epochs": 1},
    } | changes


class TestTimm:
    def test_vit_s_at_32_px_with_patches_of_4(self) -> None:
        network = built("timm:vit_small_patch16_224", 100, 32, patch_size=4).eval()
        assert models.count_parameters(network) == 21_376_996  # 64 patches and the class token: 65 positions
        with torch.no_grad():
            stages = network.stages(torch.randn(1, 3, 32, 32))
        assert [tuple(maps.shape) for maps in stages.values()] == [(1, 384, 8, 8)] * 12

    @pytest.mark.parametrize(
        "name", ["timm:test_vit", "timm:test_resnet", "timm:test_convnext", "timm:test_efficientnet"]
    )
    def test_timm_networks_return_features_and_stages(self, name: str) -> None:
        network = built(name, channels=1).eval()
        images = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(network.linear(network.features(images)), network(images))
            assert all(maps.dim() == 4 for maps in network.stages(images).values())

    def test_timm_name_is_valid_without_torch_or_timm(self) -> None:
        code = (
            "import sys; from core.catalog import MODELS; assert 'timm:anything_at_all' in MODELS; "
            "assert not {'timm', 'torch'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize("name", ["timm:", "timm:hf-hub:someone/something", "timm:../x", "timm:A b"])
    def test_timm_names_with_other_sources_are_refused(self, name: str) -> None:
        assert name not in MODELS
        with pytest.raises(UnknownNameError):
            MODELS[name]

    def test_unknown_timm_name_suggests_similar_names(self) -> None:
        with pytest.raises(ValueError, match=r"did you mean.*timm:vit_small_patch16_224"):
            built("timm:vit_smal_patch16_224")
        with pytest.raises(ValueError, match="no weights 'nowhere' of resnet18; it has: a1_in1k"):
            built("timm:resnet18.nowhere")

    def test_unsupported_timm_option_is_explained(self) -> None:
        with pytest.raises(ValueError, match=r"timm:resnet18 cannot be built with.*patch_size"):
            built("timm:resnet18", patch_size=4)
        with pytest.raises(ValueError, match="patches of 4 px"):
            built("timm:vit_small_patch16_224", size=30, patch_size=4)
        with pytest.raises(ValueError, match="does not end in a linear layer"):
            built("timm:levit_128s", size=224)


class TestCatalog:
    def test_unknown_model_suggests_similar_names(self) -> None:
        with pytest.raises(UnknownNameError, match=r"did you mean.*wrn_40_2"):
            MODELS["wrn40_2"]

    def test_catalog_describes_limits_and_pretrained_weights(self) -> None:
        described = {entry["name"]: entry for entry in catalog.describe()["models"]}
        assert described["resnet50"]["pretrained"] is True
        assert described["resnet50"]["usual_image_size"] == 224
        assert described["resnet56"]["pretrained"] is False
        assert described["mobilenet_v2_half"]["min_image_size"] == 16
