"""FT (Kim et al. 2018): paraphrasing complex network, network compression via factor transfer."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.catalog.methods.ft import FTParams
from core.distill.features.adapters import BatchNorm, Layers
from core.distill.features.steps import (
    mean_over_rows,
    pooled_to_smaller,
    require_map,
    student_taps,
    teacher_shape,
    teacher_taps,
    weighted_sum,
    with_cross_entropy,
)
from core.distill.objective import Setting, Step, TwoStageObjective
from core.distill.terms import LossTerms, autocast_disabled

_SLOPE = 0.1


class FT(TwoStageObjective):
    """First the mean of (f_t − D(E(f_t)))², then CE + weight·mean |n(T(f_s)) − n(E(f_t))|^p.

    The paraphraser is an encoder E of three 3×3 convolutions, whose output is the factor, with k times the channels of
    the teacher's map, and a decoder D of three transposed ones; the translator T has the form of E. All have leaky ReLU
    of slope 0.1. n flattens a factor and normalises it to length 1 (equations 1, 3 and 4). The mean over the elements
    and the weight are those of the authors' code. The larger of two factors is averaged to the size of the smaller.

    The first stage trains E and D, with the student in eval mode and unchanged; the second trains the student and T.
    The authors' code trains the paraphraser for 6 epochs with the absolute error, CRD's benchmark for 30 with the
    squared one, which is the paper's.

    ``public_code``: CRD's benchmark normalises the map of the mean over the channels of the factor's squares, as AT
    does, and has batch norm in the translator.
    """

    def __init__(self, params: FTParams, setting: Setting) -> None:
        super().__init__(params.init_epochs, "none")
        (name, student), (target, teacher) = (
            next(iter(shape.taps.items())) for shape in (setting.student, teacher_shape(setting))
        )
        width, channels = require_map("student_tap", name, student)[0], require_map("teacher_tap", target, teacher)[0]
        factors = max(int(channels * params.rate), 1)
        self.encoder = _convolutions(nn.Conv2d, (channels, channels, factors, factors))
        self.decoder = _convolutions(nn.ConvTranspose2d, (factors, factors, channels, channels))
        self._public = params.variant == "public_code"
        self.translator = _convolutions(nn.Conv2d, (width, width, factors, factors), normalised=self._public)
        if self._public:
            self.scope = "batch"  # for the batch norm
        self._names, self._params = (name, target), params

    def forward(self, step: Step) -> LossTerms:
        """Return the loss of a step."""
        rows, params, (name, target) = step.rows, self._params, self._names
        paraphrased = teacher_taps(step)[target]
        with autocast_disabled(rows):
            if self.in_first_stage(step.epoch):
                error = self.decoder(self.encoder(paraphrased)) - paraphrased
                return weighted_sum({"reconstruction": (1.0, mean_over_rows(rows, error.square()))})
            with torch.no_grad():  # so that the optimiser leaves the paraphraser as it is
                factor = self.encoder(paraphrased)
            translated = self.translator(student_taps(step)[name], rows.share)
            own, others = map(self._normalised, pooled_to_smaller(translated, factor))
            ft = mean_over_rows(rows, (own - others).abs() ** params.power)
        return with_cross_entropy(rows, params.ce_weight, {"ft": (params.weight, ft)})

    def _normalised(self, factor: Tensor) -> Tensor:
        if self._public:
            factor = factor.square().mean(1)
        return F.normalize(factor.flatten(1))


def _convolutions(
    kind: type[nn.Conv2d] | type[nn.ConvTranspose2d], channels: tuple[int, ...], *, normalised: bool = False
) -> Layers:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [kind(before, after, 3, padding=1), *([BatchNorm(after)] if normalised else []), nn.LeakyReLU(_SLOPE)]
    return Layers(*layers)
