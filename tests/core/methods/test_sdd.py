"""SDD against plain loops over the formula, in float64; and the logits of regions as a tap."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from core.catalog import METHODS
from core.catalog.methods.sdd import RegionParams, SDDKDParams, SDKDParams, SDNKDParams
from core.catalog.taps import region_grids, regions_tap, unknown_tap
from core.distill.features.sdd import SDDKD, SDKD, SDNKD
from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms
from core.errors import TrainingError
from core.tasks.classification import models
from core.tasks.classification.models.network import StagedNetwork, conv_bn_relu, pool_to_features
from core.tasks.classification.models.taps import Tapped, tap_once
from core.testing import MethodContract
from core.train.performance import ExecutionPlan
from core.train.teacher import LiveTeacher
from tests.core.task_of import task_of

Array = NDArray[np.float64]
SIZE, CLASSES = 5, 4
WEIGHT = [1.0, 0.0, 2.0, 0.5, 1.0]


def softmax(row: Array) -> Array:
    exponentials = np.exp(row - row.max())
    result: Array = exponentials / exponentials.sum()
    return result


def divergence(q: Array, p: Array) -> float:
    return sum(float(b) * (math.log(b) - math.log(a)) for a, b in zip(p, q, strict=True))


def of_region(z: Array, v: Array, target: int, params: RegionParams) -> float:
    """The weighted distillation terms of one region."""
    temperature = params.temperature
    p, q = softmax(z / temperature), softmax(v / temperature)
    others = [k for k in range(len(z)) if k != target]
    p_hat, q_hat = softmax(z[others] / temperature), softmax(v[others] / temperature)
    if isinstance(params, SDKDParams):
        return params.kd_weight * temperature**2 * divergence(q, p)
    if isinstance(params, SDDKDParams):
        p_two, q_two = (np.array([float(x[target]), 1 - float(x[target])]) for x in (p, q))
        tckd, nckd = divergence(q_two, p_two), divergence(q_hat, p_hat)
        return temperature**2 * (params.alpha * tckd + params.beta * nckd)
    assert isinstance(params, SDNKDParams)
    soft = -float(softmax(v)[target]) * math.log(softmax(z)[target])
    a, b = (p_hat, q_hat) if params.variant == "paper" else (p, q)
    cross = -sum(float(y) * math.log(x) for x, y in zip(a, b, strict=True))
    return params.target_weight * soft + params.gamma * temperature**2 * cross


def oracle(z: Array, regions: Array, teacher: Array, target: list[int], weight: list[float], params: Any) -> float:
    """The loss; ``z`` are the student's logits, ``regions`` and ``teacher`` (B, N, C) those of the regions."""
    total = 0.0
    for i, w in enumerate(weight):
        if w == 0:
            continue
        share = w / sum(weight)
        total += share * params.ce_weight * -math.log(softmax(z[i])[target[i]])
        whole_is_right = int(teacher[i, 0].argmax()) == target[i]
        for n in range(regions.shape[1]):
            is_right = int(teacher[i, n].argmax()) == target[i]
            factor = 1.0 if is_right == whole_is_right else params.complementary
            total += share * factor * of_region(regions[i, n], teacher[i, n], target[i], params) / regions.shape[1]
    return total


KINDS: list[tuple[type[Objective], Any]] = [
    (SDKD, SDKDParams()),
    (SDKD, SDKDParams(grids=(1, 2, 4), complementary=3.0, temperature=2.0, ce_weight=0.5, kd_weight=2.0)),
    (SDDKD, SDDKDParams(beta=2.0, alpha=0.5)),
    (SDNKD, SDNKDParams(gamma=2.0, temperature=1.5, target_weight=0.7)),
    (SDNKD, SDNKDParams(variant="public_code")),
]


def cells(params: RegionParams) -> int:
    return sum(grid * grid for grid in params.grids)


def build(kind: Any, params: Any, classes: int = CLASSES) -> Objective:
    shape = NetworkShape(classes, {regions_tap(params.grids): torch.Size((cells(params), classes))})
    objective: Objective = kind(params, Setting(shape, shape, 100))
    return objective


def problem(params: RegionParams, size: int = SIZE, classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The student's logits, those of its regions, those of the teacher's regions, and the labels."""
    generator = torch.Generator().manual_seed(11)

    def sample(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    student, regions = sample(size, classes).requires_grad_(), sample(size, cells(params), classes).requires_grad_()
    teacher, target = 2 * sample(size, cells(params), classes), torch.arange(size) % classes
    for row in range(size):  # the teacher is right for every other whole image
        teacher[row, 0, target[row]] += 9.0 if row % 2 == 0 else -9.0
    return student, regions, teacher, target


def step_of(
    params: RegionParams,
    student: Tensor,
    regions: Tensor,
    teacher: Tensor,
    target: Tensor,
    weight: list[float] | None = None,
    epoch: int | None = None,
) -> Step:
    weights = None if weight is None else torch.tensor(weight, dtype=student.dtype)
    tap = regions_tap(params.grids)
    rows = Rows(student, teacher[:, 0], target, weights)
    return Step(rows, Outputs(student, {tap: regions}), Outputs(teacher[:, 0], {tap: teacher}), epoch=epoch)


@pytest.mark.parametrize(("kind", "params"), KINDS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_value_and_gradient_are_those_of_the_oracle(kind: Any, params: Any, weight: list[float] | None) -> None:
    student, regions, teacher, target = problem(params)
    terms = build(kind, params)(step_of(params, student, regions, teacher, target, weight))
    arrays = [student.detach().numpy(), regions.detach().numpy()]
    labels, weights = target.tolist(), weight or [1.0] * SIZE

    def value(z: Array, r: Array) -> float:
        return oracle(z, r, teacher.numpy(), labels, weights, params)

    assert terms.total.item() == pytest.approx(value(*arrays), rel=1e-10)
    gradients = torch.autograd.grad(terms.total, [student, regions])
    step = 1e-6
    for place in ((0, (0, 1)), (0, (1, 3)), (1, (0, 0, 2)), (1, (2, 1, 0)), (1, (4, cells(params) - 1, 0))):
        which, index = place
        found = []
        for sign in (1, -1):
            moved = [array.copy() for array in arrays]
            moved[which][index] += sign * step
            found.append(value(*moved))
        expected = (found[0] - found[1]) / (2 * step)
        assert gradients[which][index].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_problem_has_regions_of_all_four_kinds() -> None:
    """Otherwise the weights of complementary regions would not be tested."""
    _, _, teacher, target = problem(RegionParams(grids=(1, 2)))
    right = teacher.argmax(2) == target.unsqueeze(1)
    pairs = {(bool(whole), bool(part)) for row in right for whole, part in ((row[0], part) for part in row[1:])}
    assert len(pairs) == 4


@pytest.mark.parametrize(("kind", "base"), [("sd_kd", "kd"), ("sd_dkd", "dkd"), ("sd_nkd", "nkd")])
def test_with_the_whole_image_alone_it_is_the_base_method(kind: str, base: str) -> None:
    entry, own = METHODS[base], METHODS[kind]
    params: Any = own.params.model_validate({"grids": (1,)})
    student, _, teacher, target = problem(params)
    regions = student.unsqueeze(1)
    total = build(own.load(), params)(step_of(params, student, regions, teacher, target, WEIGHT)).total
    settings = {"gamma": 8.0, "temperature": 4.0} if base == "nkd" else {}
    rows = Rows(student, teacher[:, 0], target, torch.tensor(WEIGHT, dtype=torch.float64))
    assert total.item() == pytest.approx(entry.load()(rows, entry.params(**settings), None).total.item(), rel=1e-10)


@pytest.mark.parametrize(("kind", "params"), KINDS[2:4])
def test_terms_grow_over_the_ramp(kind: Any, params: Any) -> None:
    parts = []
    for epoch in (0, 9, 19, 50):
        terms = build(kind, params)(step_of(params, *problem(params), epoch=epoch))
        parts.append(terms.total.item() - terms.parts["ce"].item())
    assert [part / parts[-1] for part in parts] == pytest.approx([1 / 20, 1 / 2, 1, 1])


@pytest.mark.parametrize(("kind", "params"), KINDS)
def test_half_precision_is_near_float32(kind: Any, params: Any) -> None:
    student, regions, teacher, target = problem(params, 8)
    method = build(kind, params)

    def total(dtype: torch.dtype) -> float:
        return float(
            method(step_of(params, student.to(dtype), regions.to(dtype), teacher.to(dtype), target)).total.detach()
        )

    assert total(torch.bfloat16) == pytest.approx(total(torch.float32), rel=0.05)


@pytest.mark.parametrize(("kind", "params"), KINDS)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_a_batch_of_one_and_extreme_logits_are_finite(kind: Any, params: Any, scale: float) -> None:
    student, regions, teacher, target = problem(params, 1)
    leaf = (scale * regions.detach()).float().requires_grad_()
    total = build(kind, params)(step_of(params, student.float(), leaf, -scale * teacher.float(), target)).total
    (gradient,) = torch.autograd.grad(total, leaf)
    assert total.isfinite()
    assert gradient.isfinite().all()


ALIGNED: list[tuple[type[Objective], Any]] = [
    (SDDKD, SDDKDParams(beta=2.0, align="sample", align_epsilon=3.0)),
    (SDDKD, SDDKDParams(beta=2.0, complementary=3.0, align="batch", align_epsilon=900.0)),
    (SDDKD, SDDKDParams(grids=(1, 2, 4), align="log", align_epsilon=0.5, align_log_floor=1e-6)),
    (SDNKD, SDNKDParams(gamma=2.0, temperature=1.5, align="sample", align_epsilon=3.0)),
    (SDNKD, SDNKDParams(variant="public_code", align="log", align_epsilon=0.5)),
]


def terms_of_region(z: Array, v: Array, target: int, params: Any) -> tuple[float, float]:
    """The two terms whose gradients are compared, without their weights."""
    if isinstance(params, SDDKDParams):
        weights: list[dict[str, float]] = [{"alpha": 1.0, "beta": 0.0}, {"alpha": 0.0, "beta": 1.0}]
    else:
        weights = [{"target_weight": 1.0, "gamma": 0.0}, {"target_weight": 0.0, "gamma": 1.0}]
    first, second = (of_region(z, v, target, params.model_copy(update=only)) for only in weights)
    return first, second


def distance(z: Array, v: Array, target: int, params: Any) -> float:
    """The mean squared difference of the gradients of both terms of one region."""
    h, total = 1e-5, 0.0
    for k in range(len(z)):
        slopes = []
        for term in range(2):
            sides = []
            for sign in (1, -1):
                moved = z.copy()
                moved[k] += sign * h
                sides.append(terms_of_region(moved, v, target, params)[term])
            slopes.append((sides[0] - sides[1]) / (2 * h))
        total += (slopes[0] - slopes[1]) ** 2
    return total / len(z)


def aligned_oracle(z: Array, regions: Array, teacher: Array, target: list[int], weight: list[float], p: Any) -> float:
    """The loss with the alignment term: A of all regions, with their weights, times what the other terms are times."""
    factors, distances = [], []
    for i, w in enumerate(weight):
        whole_is_right = int(teacher[i, 0].argmax()) == target[i]
        for n in range(regions.shape[1]):
            is_right = int(teacher[i, n].argmax()) == target[i]
            factors.append(w * (1.0 if is_right == whole_is_right else p.complementary))
            distances.append(distance(regions[i, n], teacher[i, n], target[i], p) if w else 0.0)
    shares = np.array(factors) / sum(factors)
    a = float((shares ** (3 if p.align == "batch" else 1) * np.array(distances)).sum())
    if p.align == "log":
        a = math.log(a + p.align_log_floor / float((shares**3).sum()))
    scale = sum(factors) / (sum(weight) * regions.shape[1])
    return oracle(z, regions, teacher, target, weight, p) - float(p.align_epsilon * scale * a)


@pytest.mark.parametrize(("kind", "params"), ALIGNED)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_alignment_is_the_distance_of_the_gradients_of_all_regions(
    kind: Any, params: Any, weight: list[float] | None
) -> None:
    student, regions, teacher, target = problem(params)
    terms = build(kind, params)(step_of(params, student, regions, teacher, target, weight))
    z, r = student.detach().numpy(), regions.detach().numpy()
    expected = aligned_oracle(z, r, teacher.numpy(), target.tolist(), weight or [1.0] * SIZE, params)
    assert terms.total.item() == pytest.approx(expected, rel=1e-7)
    assert torch.stack(list(terms.parts.values())).sum().item() == pytest.approx(terms.total.item(), rel=1e-12)


@pytest.mark.parametrize(("kind", "params"), ALIGNED)
def test_gradient_with_alignment_is_that_of_finite_differences(kind: Any, params: Any) -> None:
    student, regions, teacher, target = problem(params, 3)
    method = build(kind, params)

    def total(at: Tensor) -> Tensor:
        result: Tensor = method(step_of(params, student, at, teacher, target, [1.0, 0.0, 2.0])).total
        return result

    assert torch.autograd.gradcheck(total, (regions,), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(("name", "base"), [("sd_dkd", "dkd_align"), ("sd_nkd", "nkd")])
def test_with_the_whole_image_alone_the_term_is_that_of_the_base_method(name: str, base: str) -> None:
    own = {"grids": (1,), "align": "log", "align_epsilon_share": 0.2}
    params: Any = METHODS[name].params.model_validate(own)
    student, _, teacher, target = problem(params)
    leaf = student.detach().unsqueeze(1).requires_grad_()
    terms = build(METHODS[name].load(), params)(step_of(params, student, leaf, teacher, target, WEIGHT))
    settings: dict[str, Any] = {"reduction": "log", "epsilon_share": 0.2}
    if base == "nkd":
        settings = {"gamma": 8.0, "temperature": 4.0, "align": "log", "align_epsilon_share": 0.2}
    rows = Rows(student, teacher[:, 0], target, torch.tensor(WEIGHT, dtype=torch.float64))
    expected = METHODS[base].load()(rows, METHODS[base].params(**settings), None)
    assert terms.values["align"].item() == pytest.approx(expected.values["align"].item(), rel=1e-9)
    assert terms.diagnostics is not None
    assert expected.diagnostics is not None
    measured = terms.diagnostics({})
    for metric in ("grad/similarity", "grad/align_cosine", "grad/align_share"):
        ours = measured[metric].item()
        assert ours == pytest.approx(expected.diagnostics(expected.gradients)[metric].item(), rel=1e-8), metric
    assert measured["grad/align_share"].item() == pytest.approx(20.0)


def test_alignment_decays_and_follows_the_ramp() -> None:
    params = SDDKDParams(align="sample", align_epsilon=6.0, align_decay=0.5)
    plain = SDDKDParams()
    found: dict[int | None, LossTerms] = {}
    for epoch in (2, None):
        step = step_of(params, *problem(params), epoch=epoch)
        terms = build(SDDKD, params)(step)
        assert terms.total.item() == pytest.approx(build(SDDKD, plain)(step).total.item() + terms.parts["align"].item())
        found[epoch] = terms
    assert found[2].values["epsilon"].item() == pytest.approx(6 / 4)
    assert found[2].parts["align"].item() == pytest.approx(found[None].parts["align"].item() * (3 / 20) / 4)


@pytest.mark.parametrize(("kind", "params"), ALIGNED)
def test_alignment_of_a_batch_of_one_and_of_extreme_logits_is_finite(kind: Any, params: Any) -> None:
    for scale, weight in ((1.0, None), (0.0, None), (1e4, None), (1.0, [0.0])):
        student, regions, teacher, target = problem(params, 1)
        leaf = (scale * regions.detach()).float().requires_grad_()
        step = step_of(params, student.float(), leaf, -scale * teacher.float(), target, weight)
        total = build(kind, params)(step).total
        (gradient,) = torch.autograd.grad(total, leaf)
        assert total.isfinite()
        assert gradient.isfinite().all()


def test_grids_begin_with_the_whole_image() -> None:
    for grids in ((2,), (2, 1), (1, 4, 2), (1, 1)):
        with pytest.raises(ValueError, match="should begin with 1"):
            RegionParams(grids=grids)


class TestTap:
    """The logits of regions in networks."""

    def network(self, name: str = "small_cnn", **params: Any) -> models.Network:
        torch.manual_seed(0)
        return models.build(name, num_classes=5, image_size=16, in_channels=3, **params)

    def test_they_are_the_linear_layer_of_the_mean_over_each_cell(self) -> None:
        network = self.network(width=4).eval()
        images = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            regions = tap_once(network, [regions_tap((1, 2, 4))], images)[regions_tap((1, 2, 4))]
            maps = network.stages(images)["stage1"]
            number = 0
            for grid in (1, 2, 4):
                side = 8 // grid
                for row in range(grid):
                    for column in range(grid):
                        cell = maps[:, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                        torch.testing.assert_close(regions[:, number], network.linear(cell.mean((2, 3))))
                        number += 1
            assert regions.shape == (2, number, 5)
            torch.testing.assert_close(regions[:, 0], network(images))

    @pytest.mark.parametrize(
        ("name", "params"),
        [("resnet8", {}), ("wrn_16_2", {}), ("vgg8", {}), ("mobilenet_v2_half", {}), ("shufflenet_v2", {})],
    )
    def test_published_networks_have_them(self, name: str, params: dict[str, Any]) -> None:
        """The last map is after the head's convolution or batch norm, if there is one. Some maps are finer than 4×4."""
        network = self.network(name, **params).eval()
        with torch.no_grad():
            regions = tap_once(network, [regions_tap((1, 2, 4))], torch.randn(1, 3, 16, 16))[regions_tap((1, 2, 4))]
        assert regions.shape == (1, 21, 5)

    def test_gradient_reaches_the_map_and_the_linear_layer(self) -> None:
        network = self.network(width=4)
        tapped = Tapped(network, [regions_tap((1, 2))])
        _, regions = tapped(torch.randn(4, 3, 16, 16))
        regions[:, 1:].square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())

    def test_copy_of_a_tapped_teacher_reads_its_own_layer(self) -> None:
        network, tap = self.network(width=4).eval(), regions_tap((1, 2))
        plan = ExecutionPlan(threads=1, cuda_graphs=True)  # which makes the checker a copy
        live = LiveTeacher(network, plan, task_of(), (tap,))
        checker = live.uncompiled()
        assert isinstance(live._network, Tapped)
        live._network.network.linear.weight.data.zero_()  # type: ignore[union-attr, operator]
        images = torch.randn(2, 3, 16, 16)
        with torch.no_grad():
            _, regions = checker._network(images)
            torch.testing.assert_close(regions[:, 0], network(images))

    def test_network_with_a_layer_after_the_average_is_refused(self) -> None:
        stem, stage = nn.Identity(), nn.Sequential(*conv_bn_relu(3, 8, 3))
        head = nn.Sequential(*pool_to_features(), nn.LayerNorm(8))
        network = StagedNetwork(stem, [stage], head, nn.Linear(8, 5)).eval()
        with pytest.raises(TrainingError, match="another layer, so its regions have no logits"):
            tap_once(network, [regions_tap((1, 2))], torch.randn(1, 3, 8, 8))

    def test_network_without_an_average_is_refused(self) -> None:
        stage, linear = nn.Sequential(*conv_bn_relu(3, 8, 3)), nn.Linear(8 * 16 * 16, 5)
        network = StagedNetwork(nn.Identity(), [stage], nn.Flatten(), linear).eval()
        with pytest.raises(TrainingError, match="does not average a last map"):
            tap_once(network, [regions_tap((1, 2))], torch.randn(1, 3, 16, 16))

    def test_names_are_read_back(self) -> None:
        assert region_grids(regions_tap((1, 2, 4))) == (1, 2, 4)
        for name in ("features", "stage1", "regions:", "regions:x"):
            assert region_grids(name) == ()
        assert unknown_tap(regions_tap((1, 2)), ["stage1"]) is None
        assert unknown_tap("regions:x", ["stage1"])


class TestSDKD(MethodContract):
    method: ClassVar[Any] = {"name": "sd_kd"}


class TestSDDKD(MethodContract):
    method: ClassVar[Any] = {"name": "sd_dkd", "params": {"ramp_epochs": 1, "grids": [1, 2, 4]}}


class TestSDNKD(MethodContract):
    method: ClassVar[Any] = {"name": "sd_nkd", "params": {"ramp_epochs": 1}}


class TestSDDKDAligned(MethodContract):
    method: ClassVar[Any] = {"name": "sd_dkd", "params": {"ramp_epochs": 1, "align": "sample", "align_epsilon": 1.0}}


class TestSDNKDAligned(MethodContract):
    method: ClassVar[Any] = {"name": "sd_nkd", "params": {"ramp_epochs": 1, "align": "log", "align_epsilon": 0.2}}
