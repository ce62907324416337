"""The random outputs of two networks, and what this package and public code are given of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from core.catalog import METHODS
from core.catalog.taps import FEATURES, LAST_MAP, PREACTIVATION, STEM, STRONG_LOGITS, expand, regions_tap
from core.distill.objective import NetworkShape, Objective, Outputs, Setting, Step, build_objective
from core.distill.rows import Rows
from core.specs import MethodRef

BATCH, CLASSES, SAMPLES = 64, 100, 4096
REGIONS = regions_tap((1, 2))
Maps = tuple[tuple[int, int], ...]
"""Channels and height of the stages, from shallow to deep."""

_NARROW: Maps = ((16, 32), (32, 16), (64, 8))
SHAPES: Mapping[str, tuple[Maps, Maps]] = {
    "equal": (_NARROW, _NARROW),
    "teacher wider": (_NARROW, ((32, 32), (64, 16), (128, 8))),
    "teacher wider, smaller maps": (_NARROW, ((32, 16), (64, 8), (128, 4))),
    "teacher wider, larger maps": (((16, 16), (32, 8), (64, 4)), ((32, 32), (64, 16), (128, 8))),
    "smaller maps": (_NARROW, ((16, 16), (32, 8), (64, 4))),
}
"""By name, the stages of the student, which are those of a ResNet-20, and of the teacher."""
UNEQUAL = ("teacher wider", "teacher wider, smaller maps", "teacher wider, larger maps")
ANY = ("equal", *UNEQUAL)


@dataclass(frozen=True)
class Network:
    """The outputs of a network.

    Attributes:
        outputs: By the name of this package: ``logits``, the taps ``stem``, ``stage1``, ``stage1:preact``, …,
            ``features``, ``strong_logits``, and the logits of regions.
        norms: The batch norm before the activation of each stage.
        linear: The last layer.
    """

    outputs: Mapping[str, Tensor]
    norms: tuple[nn.BatchNorm2d, ...]
    linear: nn.Linear

    @property
    def stages(self) -> list[Tensor]:
        """The maps of the stages, after their activation."""
        return [self.outputs[name] for name in self.outputs if name.startswith("stage") and ":" not in name]

    @property
    def preactivations(self) -> list[Tensor]:
        """The maps of the stages before their activation."""
        return [self.outputs[name] for name in self.outputs if name.endswith(PREACTIVATION)]

    def taps(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Return the taps that a method of this package names."""
        known = [STEM, *(f"stage{number + 1}" for number in range(len(self.stages))), FEATURES]
        outputs = {LAST_MAP: self.stages[-1], **self.outputs}
        return {name: outputs[name] for name in expand(names, known)}

    def copy(self) -> Network:
        """Return new tensors with the same numbers, which receive gradients as these do."""
        copies = {
            name: tensor.detach().clone().requires_grad_(tensor.requires_grad) for name, tensor in self.outputs.items()
        }
        return replace(self, outputs=copies, linear=copy.deepcopy(self.linear))

    def tensors(self) -> list[Tensor]:
        """Return all tensors that may receive a gradient, in a fixed order."""
        return [*self.outputs.values(), *self.linear.parameters()]


@dataclass(frozen=True)
class Inputs:
    """The outputs of both networks for a batch.

    Attributes:
        student: The student's, which receive gradients.
        teacher: The teacher's.
        target: (B,), the labels.
        index: (B,), the indices of the samples.
        labels: The labels of all samples.
    """

    student: Network
    teacher: Network
    target: Tensor
    index: Tensor
    labels: Tensor

    def copy(self) -> Inputs:
        """Return the same numbers in new tensors."""
        return replace(self, student=self.student.copy(), teacher=self.teacher.copy())


def random_inputs(shapes: str) -> Inputs:
    """Return random outputs of networks with stages of some shapes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    student, teacher = SHAPES[shapes]
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    index = torch.randperm(SAMPLES, generator=generator)[:BATCH]
    own, other = _network(student, generator, trained=True), _network(teacher, generator, trained=False)
    return Inputs(own, other, labels[index], index, labels)


def _network(maps: Maps, generator: torch.Generator, *, trained: bool) -> Network:
    def sample(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    outputs = {"logits": sample(BATCH, CLASSES, scale=2), STRONG_LOGITS: sample(BATCH, CLASSES, scale=2)}
    outputs[STEM] = sample(BATCH, maps[0][0], maps[0][1], maps[0][1]).relu()
    norms = []
    for number, (channels, size) in enumerate(maps, start=1):
        before = sample(BATCH, channels, size, size)
        outputs |= {f"stage{number}{PREACTIVATION}": before, f"stage{number}": before.relu()}
        norm = nn.BatchNorm2d(channels).double()
        with torch.no_grad():
            norm.weight.copy_(0.5 + sample(channels).abs())
            norm.bias.copy_(sample(channels))
        norms.append(norm)
    outputs |= {FEATURES: sample(BATCH, maps[-1][0]).relu(), REGIONS: sample(BATCH, 5, CLASSES, scale=2)}
    linear = nn.Linear(maps[-1][0], CLASSES).double()
    with torch.no_grad():
        linear.weight.copy_(sample(CLASSES, maps[-1][0], scale=0.2))
        linear.bias.copy_(sample(CLASSES))
    leaves = {name: tensor.requires_grad_(trained) for name, tensor in outputs.items()}
    return Network(leaves, tuple(norms), linear.requires_grad_(trained))


def build(method: MethodRef, inputs: Inputs) -> Objective:
    """Return this package's objective of a method in float64, with the same weights at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = build_objective(method, _setting(method, inputs))
    return objective.double().train()


def step_of(method: MethodRef, inputs: Inputs, epoch: int | None) -> Step:
    """Return the input of this package's objective of a method."""
    taps = METHODS[method.name].taps_of(method.parsed_params)
    student, teacher = inputs.student, inputs.teacher
    rows = Rows(student.outputs["logits"], teacher.outputs["logits"], inputs.target)
    return Step(
        rows,
        Outputs(rows.student, student.taps(taps.student)),
        Outputs(teacher.outputs["logits"], teacher.taps(taps.teacher)),
        inputs.index,
        epoch,
    )


def _setting(method: MethodRef, inputs: Inputs) -> Setting:
    taps = METHODS[method.name].taps_of(method.parsed_params)

    def shape(network: Network, names: Sequence[str]) -> NetworkShape:
        shapes = {name: tensor.shape[1:] for name, tensor in network.taps(names).items()}
        norms = {
            f"stage{number}{PREACTIVATION}": (norm.weight.detach(), norm.bias.detach())
            for number, norm in enumerate(network.norms, start=1)
        }
        return NetworkShape(CLASSES, shapes, network.linear, norms, frozenset({LAST_MAP, f"stage{len(norms)}"}))

    student, teacher = shape(inputs.student, taps.student), shape(inputs.teacher, taps.teacher)
    return Setting(student, teacher, SAMPLES, inputs.labels, BATCH)
