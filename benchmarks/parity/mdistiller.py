"""Comparisons with mdistiller: its distillers, given the outputs of networks in place of the networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.checkout import Checkout
from benchmarks.parity.choices import negatives_of_two_steps, signs_of_positive_sums
from benchmarks.parity.comparison import Comparison, Public, PublicLoss, copied
from benchmarks.parity.inputs import ANY, Inputs
from benchmarks.parity.networks import Answers, settings_of
from benchmarks.public_code import NEGATIVES

LATE = 1000
"""An epoch after every ramp."""
CODE = {"variant": "public_code"}
MEMORY = "their 1e-7 in each denominator, which adds 2e-7 for each of the 4096 samples to the loss"
NORM = "their 1e-7 is added to the norm of each vector"


def distiller(
    name: str,
    file: str = "",
    adapters: Callable[[Any, Any], list[tuple[Tensor, Tensor]]] = lambda theirs, ours: [],
    settings: Callable[[Inputs], Any] = lambda inputs: settings_of(inputs, NEGATIVES),
    terms: Sequence[str] = ("loss_kd",),
    batch: Mapping[str, Any] = MappingProxyType({"image": "weak"}),
) -> PublicLoss:
    """Return the loss of a distiller.

    Args:
        name: The class.
        file: Its file; named as the class if it is not given.
        adapters: Gives it the weights of this package's objective.
        settings: Returns its settings; the default ones of mdistiller if it is not given.
        terms: Which of its terms are added.
        batch: What its ``forward_train`` takes beside the labels.
    """

    def loss(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
        kind = getattr(checkout.module(f"mdistiller.distillers.{file or name}", absent=ABSENT), name)
        theirs = kind(Answers(inputs.student), Answers(inputs.teacher), settings(inputs))
        pairs = adapters(theirs, ours)
        _, losses = theirs.forward_train(target=inputs.target, epoch=LATE, **batch)
        return Public(torch.stack([losses[term].mean() for term in terms]).sum(), pairs)

    return loss


ABSENT: Mapping[str, Mapping[str, object]] = {"turtle": {"st": None}, "tqdm": {"tqdm": iter}}
"""What files of its forks import and do not use in a loss."""


def crd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return the loss of CRD's second step on the same samples."""
    module = checkout.module("mdistiller.distillers.CRD")
    student, teacher = Answers(inputs.student), Answers(inputs.teacher)
    theirs = module.CRD(student, teacher, settings_of(inputs, NEGATIVES), len(inputs.labels))
    pairs = copied(theirs.embed_s, ours.student_layer) + copied(theirs.embed_t, ours.teacher_layer)
    first, second = negatives_of_two_steps(theirs.contrast, inputs, ours)
    with torch.no_grad():
        theirs.crd_loss(student.features["pooled_feat"], teacher.features["pooled_feat"], inputs.index, first)
    batch = {"image": torch.zeros(1), "target": inputs.target, "index": inputs.index}
    _, losses = theirs.forward_train(**batch, contrastive_index=second)
    return Public(losses["loss_kd"].mean(), pairs)


def kdsvd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return KDSVD's loss, with this package's signs of the singular vectors."""
    with signs_of_positive_sums():
        return distiller("KDSVD")(checkout, inputs, ours)


def _of_vid(theirs: Any, ours: Any) -> list[tuple[Tensor, Tensor]]:
    """Copy this package's regressors and first variances into VID's; it does not train the variances."""
    copied(theirs.log_scales, [ours.get_buffer(f"rho{number}") for number in range(len(theirs.log_scales))])
    return copied(theirs.regressors, ours.regressors)


def copy_fusions(theirs: Any, ours: Any) -> list[tuple[Tensor, Tensor]]:
    """Copy this package's fusions into ReviewKD's, whose attention is the last layer of each in both."""
    pairs = []
    for public, own in zip(theirs.abfs, ours.fusions, strict=True):
        pairs += copied(public.conv1, own.reduce) + copied(public.conv2, own.expand)
        if own.attention is not None:
            pairs += copied(public.att_conv, own.attention)
    return pairs


_OTHER_SIZE = (
    "mdistiller resizes the teacher's map to the student's in any case, which repeats its values if it is smaller"
)

COMPARISONS = (
    Comparison("kd", "mdistiller", distiller("KD")),
    Comparison("dkd", "mdistiller", distiller("DKD")),
    Comparison("at", "mdistiller", distiller("AT"), CODE, ANY),
    Comparison("nst", "mdistiller", distiller("NST"), {}, ANY),
    Comparison("pkt", "mdistiller", distiller("PKT"), CODE, ANY, reason=NORM),
    Comparison("rkd", "mdistiller", distiller("RKD"), {}, ANY),
    Comparison("sp", "mdistiller", distiller("SP"), {}, ANY),
    Comparison(
        "kdsvd",
        "mdistiller",
        kdsvd,
        CODE,
        ("equal", "teacher wider"),
        reason="mdistiller decomposes in float32; in float64 its value differs by 2e-14, its gradient by 2e-10",
    ),
    Comparison(
        "fitnet", "mdistiller", distiller("FitNet", "", lambda a, b: copied(a.conv_reg, b.regressors)), CODE, ANY
    ),
    Comparison("vid", "mdistiller", distiller("VID", "", _of_vid), CODE, ANY),
    Comparison(
        "ofd",
        "mdistiller",
        distiller("OFD", "", lambda a, b: copied(a.connectors, b.connectors)),
        {},
        ("equal", "teacher wider", "teacher wider, larger maps"),
    ),
    Comparison(
        "ofd",
        "mdistiller",
        distiller("OFD", "", lambda a, b: copied(a.connectors, b.connectors)),
        {},
        ("teacher wider, smaller maps",),
        reason=_OTHER_SIZE,
        part="smaller maps of the teacher",
    ),
    Comparison("crd", "mdistiller", crd, {"negatives": NEGATIVES}, ("equal", "teacher wider"), reason=MEMORY),
    Comparison("reviewkd", "mdistiller", distiller("ReviewKD", "", copy_fusions), {"weight": 1.0}, ANY),
)
