"""SemCKD (Chen et al. 2021): cross-layer distillation with semantic calibration."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.semckd import SemCKDParams
from core.distill.features.adapters import Layers, conv_bn_relu
from core.distill.features.steps import (
    kd_term,
    pooled_to_smaller,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    with_cross_entropy,
)
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled

_FACTOR = 4  # queries and keys have a quarter of the batch size


class SemCKD(Objective):
    """CE + kd_weight·KD + weight·mean over samples and student's stages s of Σ_t α_st·MSE(p_st(f_s), f_t).

    α_s of a sample is a softmax over the teacher's stages of ⟨query_s, key_t⟩. Queries and keys are a multilayer
    perceptron of the sample's row in the batch's matrix of similarities f·fᵀ, normalised to length 1. p_st is a 1×1, a
    3×3 and a 1×1 convolution with twice the teacher's channels inside, and the larger of two maps is averaged to the
    size of the smaller. The mean over the student's stages and the weight are those of the authors' code.

    The perceptron's inputs are the places of a batch. So its width is the batch size, and α depends on the order in
    which a batch's samples come; this is so in the paper. The authors' code leaves out an epoch's last batch if it is
    smaller; here the missing places are zeros. Samples beyond the batch size, which a mixture's second labels are, have
    a row but no place.
    """

    scope = "batch"

    def __init__(self, params: SemCKDParams, setting: Setting) -> None:
        super().__init__()
        student, teacher = setting.student.taps, teacher_shape(setting).taps
        if not setting.batch_size:
            raise ObjectiveError("SemCKD needs to know the batch size")
        widths = [require_map("student_taps", *item)[0] for item in student.items()]
        channels = [require_map("teacher_taps", *item)[0] for item in teacher.items()]
        self._places = setting.batch_size
        self.queries = nn.ModuleList(_embedding(self._places) for _ in widths)
        self.keys = nn.ModuleList(_embedding(self._places) for _ in channels)
        self.projections = nn.ModuleList(_projection(*pair) for pair in product(widths, channels))
        self._params = params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params = step.rows, self._params
        students, teachers = list(student_taps(step).values()), list(teacher_taps(step).values())
        with autocast_disabled(rows):
            attention = self._attention(rows, students, teachers)
            distances = [
                self._distance(projection, rows, *pair)
                for projection, pair in zip(self.projections, product(students, teachers), strict=True)
            ]
            attended = attention.flatten(1) * torch.stack(distances, dim=1)
            semckd = rows.weigh(attended.sum(1) / len(students)).mean()
        kd = {"kd": (params.kd_weight, kd_term(rows, params.temperature))} if params.kd_weight else {}
        return with_cross_entropy(rows, params.ce_weight, kd | {"semckd": (params.weight, semckd)})

    def _attention(self, rows: Rows, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Return α (B, stages of the student, stages of the teacher)."""
        queries, keys = (
            torch.stack([embedding(self._similarities(rows, maps)) for embedding, maps in zip(*pair, strict=True)], 1)
            for pair in ((self.queries, students), (self.keys, teachers))
        )
        # An all-zero embedding has the length 1e-12.
        return (F.normalize(queries, dim=2) @ F.normalize(keys, dim=2).transpose(1, 2)).softmax(2)

    def _similarities(self, rows: Rows, maps: Tensor) -> Tensor:
        """Return the similarity of each sample to that in each place of the batch (B, places)."""
        flat = maps.flatten(1)
        others = flat
        if rows.weight32 is not None:  # rows of weight 0, which are zeros, have the last places
            others = flat[(rows.weight32 == 0).int().argsort(stable=True)]
        similarities = flat @ others[: self._places].T
        return F.pad(similarities, (0, self._places - similarities.shape[1]))

    def _distance(self, projection: nn.Module, rows: Rows, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the mean squared distance of each sample's maps (B,)."""
        student, teacher = pooled_to_smaller(student, teacher)
        projected: Tensor = projection(student, rows.share)
        return (projected - teacher).square().flatten(1).mean(1)


def _embedding(places: int) -> nn.Sequential:
    width = max(places // _FACTOR, 1)
    return nn.Sequential(nn.Linear(places, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))


def _projection(width: int, channels: int) -> Layers:
    inner = 2 * channels
    return Layers(
        conv_bn_relu(width, inner, 1), conv_bn_relu(inner, inner, 3), nn.Conv2d(inner, channels, 1, bias=False)
    )
