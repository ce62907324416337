"""SemCKD (Chen et al. 2021): cross-layer distillation with semantic calibration.

Each stage f_s of the student is compared with every stage F_t of the teacher, weighted by attention of each sample:

    L = w_CE·CE + w_KD·KD + β·mean_i mean_s Σ_t α_ist·mean (p_st(f_is) − F_it)²
    α_is = softmax over t of ⟨query_is, key_it⟩

Queries and keys are a multilayer perceptron of the sample's row in the batch's matrix of similarities f·fᵀ, scaled to
length 1. p_st is a 1×1, a 3×3 and a 1×1 convolution with twice the teacher's channels inside. If two maps differ in
size, the larger is averaged to the size of the smaller. The mean over the student's stages, and β = 400 with it, are
those of the authors' code.

The inputs of the perceptron are the places of a batch. So its width is the batch size, and α depends on the order in
which the samples of a batch come; this is so in the paper. The authors' code leaves out an epoch's last batch if it is
smaller; here the missing places are zeros, and so are those of rows of weight 0, which come last. Rows beyond the batch
size, which the second labels of mixtures are, have a query and a key and no place.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.semckd import SemCKDParams
from core.distill.features.adapters import Layers, conv_bn_relu
from core.distill.features.common import kd_part, map_pairs, matched, mean_over_rows, present, sum_of_parts, unit
from core.distill.objective import Objective, ObjectiveError, Setting, Step
from core.distill.rows import Rows
from core.distill.terms import LossTerms, autocast_disabled

_FACTOR = 4
"""Queries and keys have a quarter of the batch size."""


class SemCKD(Objective):
    """CE and KD plus the weighted distance of all pairs of stages."""

    scope = "batch"

    def __init__(self, params: SemCKDParams, setting: Setting) -> None:
        super().__init__()
        assert setting.teacher is not None
        map_pairs(setting)  # for its checks
        if not setting.batch_size:
            raise ObjectiveError("SemCKD needs to know the batch size")
        widths = [shape[0] for shape in setting.student.taps.values()]
        channels = [shape[0] for shape in setting.teacher.taps.values()]
        self._params, self._places = params, setting.batch_size
        self.queries = nn.ModuleList(_embedding(self._places) for _ in widths)
        self.keys = nn.ModuleList(_embedding(self._places) for _ in channels)
        self.projections = nn.ModuleList(_projection(*pair) for pair in product(widths, channels))

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        assert step.teacher is not None
        rows, params = step.rows, self._params
        with autocast_disabled(rows):
            students = [present(rows, tap) for tap in step.student.taps.values()]
            teachers = [present(rows, tap.detach()) for tap in step.teacher.taps.values()]
            distances = [
                self._distance(projection, rows, *matched(*pair))
                for projection, pair in zip(self.projections, product(students, teachers), strict=True)
            ]
            attended = self._attention(rows, students, teachers).flatten(1) * torch.stack(distances, dim=1)
            semckd = mean_over_rows(rows, attended.sum(1) / len(students))
            kd = kd_part(rows, params.kd_weight, params.temperature)
            return sum_of_parts(rows, params.ce_weight, kd | {"semckd": (params.weight, semckd)})

    def _attention(self, rows: Rows, students: list[Tensor], teachers: list[Tensor]) -> Tensor:
        """Return α (B, stages of the student, stages of the teacher)."""
        queries, keys = (
            torch.stack([embedding(self._similarities(rows, maps)) for embedding, maps in zip(*pair, strict=True)], 1)
            for pair in ((self.queries, students), (self.keys, teachers))
        )
        return (unit(queries) @ unit(keys).transpose(1, 2)).softmax(2)

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
