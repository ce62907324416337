"""Comparisons with the repositories of methods that read a classifier, regions, or distributions of a map."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.parity.checkout import Checkout
from benchmarks.parity.comparison import Comparison, Public, PublicLoss, copied
from benchmarks.parity.inputs import REGIONS, Inputs, Network
from benchmarks.parity.logits import settings
from benchmarks.parity.mdistiller import CODE, LATE, distiller
from core.catalog.taps import FEATURES


def simkd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return SimKD's loss of the last maps."""
    student, teacher = inputs.student.stages[-1], inputs.teacher.stages[-1]
    theirs = checkout.module("models.util").SimKD(s_n=student.shape[1], t_n=teacher.shape[1])
    pairs = copied(theirs.transfer, ours.projector)
    projected, target, _ = theirs(student, teacher, inputs.teacher.linear)
    return Public(F.mse_loss(projected, target), pairs)


def srrl_of_toolbox(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return SRRL's loss in SimKD's toolbox, which reads the pooled features."""
    student, teacher = inputs.student.outputs[FEATURES], inputs.teacher.outputs[FEATURES]
    theirs = checkout.module("models.util").SRRL(s_n=student.shape[1], t_n=teacher.shape[1])
    pairs = copied(theirs.transfer, ours.connector)
    features, logits = theirs(student, inputs.teacher.linear)
    return Public(F.mse_loss(features, teacher) + F.mse_loss(logits, inputs.teacher.outputs["logits"]), pairs)


def srrl(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return SRRL's loss of its authors, in which the teacher's features are the mean of its map."""
    module, student = checkout.module("distiller_zoo.AIN"), inputs.student.stages[-1]
    features = inputs.teacher.outputs[FEATURES]
    theirs = module.transfer_conv(student.shape[1], features.shape[1])
    pairs = copied(theirs, ours.connector)
    connected = theirs(student)
    of_features = module.statm_loss()(connected, features.view(*features.shape, 1, 1))
    logits = inputs.teacher.linear(connected.mean((2, 3)))
    return Public(of_features + F.mse_loss(logits, inputs.teacher.outputs["logits"]), pairs)


class _ActivationMaps(nn.Module):
    """A network whose last layer is a 1×1 convolution with a map for each class, as CAT-KD rewrites it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._given = network

    def forward(self, image: Any) -> tuple[Tensor, dict[str, list[Tensor]]]:
        weight = self._given.linear.weight
        maps = F.conv2d(self._given.stages[-1], weight.view(*weight.shape, 1, 1))
        return maps.mean((2, 3)), {"feats": [maps]}


def cat_kd(resolution: int, *, normalise: bool) -> PublicLoss:
    """Return CAT-KD's loss with the weight 15."""
    off = dict.fromkeys(("IF_BINARIZE", "IF_OnlyTransferPartialCAMs", "CAMs_Nums", "Strategy"), 0)
    values = {"CE_WEIGHT": 1.0, "CAT_loss_weight": 15.0, "CAM_RESOLUTION": resolution}
    config = settings(CAT_KD={"LOSS": values, "onlyCAT": False, "IF_NORMALIZE": normalise, **off})

    def loss(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
        kind = checkout.module("mdistiller.distillers.CAT_KD").CAT_KD
        theirs = kind(_ActivationMaps(inputs.student), _ActivationMaps(inputs.teacher), config(inputs))
        _, losses = theirs.forward_train(image=None, target=inputs.target)
        return Public(losses["loss_CAT"])

    return loss


class _WithRegions(nn.Module):
    """A network that returns the logits of the regions (B, C, N)."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._given = network

    def forward(self, image: Any) -> tuple[Tensor, Tensor]:
        return self._given.outputs["logits"], self._given.outputs[REGIONS].transpose(1, 2)


def regions(name: str, file: str) -> PublicLoss:
    """Return a loss on the logits of regions."""
    config = settings(DKD={"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 8.0, "T": 4.0, "WARMUP": 20}, warmup=20, M="[1,2]")

    def loss(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
        kind = getattr(checkout.module(f"mdistiller.distillers.{file}"), name)
        theirs = kind(_WithRegions(inputs.student), _WithRegions(inputs.teacher), config(inputs))
        _, losses = theirs.forward_train(image=None, target=inputs.target, epoch=LATE)
        return Public(losses["loss_kd"])

    return loss


def wkd_l(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return WKD-L's loss with the costs of this package."""
    module = checkout.module("mdistiller.distillers.WKD")
    sides = inputs.student.outputs["logits"], inputs.teacher.outputs["logits"]
    loss = module.wkd_logit_loss_with_speration(*sides, inputs.target, 8.0, 600.0, ours.cost.float(), 0.05, 10)
    return Public(loss)


def wkd_f(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return WKD-F's loss of the last maps."""
    module, student, teacher = checkout.module("mdistiller.distillers.WKD"), inputs.student.stages[-1], inputs.teacher
    theirs = module.ConvReg(student.shape, teacher.stages[-1].shape)
    pairs = copied(
        [*theirs.conv.parameters(), *theirs.bn.parameters()], [*ours.projector.parameters(), *ours.norm.parameters()]
    )
    mean, deviation = module.wkd_feature_loss(theirs(student), teacher.stages[-1])
    return Public(0.08 * (4 * mean + deviation), pairs)


def deepkd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return DeepKD's two terms with a mask of 55 classes."""
    config = settings(
        DKD={"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 8.0, "T": 4.0, "WARMUP": 20},
        EXPERIMENT={"LOGIT_STAND": False},
        SOLVER={"TRAINER": "deepkd", "DEEPKD": {"TOPK": 55}},
    )
    return distiller("DKD", settings=config, terms=("loss_tckd", "loss_nckd"))(checkout, inputs, ours)


_SIZES = ("equal", "teacher wider, smaller maps", "teacher wider, larger maps")
_FLOAT = "their distributions and transport are in float32 whatever the logits are"

COMPARISONS = (
    Comparison("simkd", "simkd", simkd, {}, _SIZES),
    Comparison("srrl", "simkd", srrl_of_toolbox, {"student_tap": FEATURES}, ("equal", "teacher wider")),
    Comparison("srrl", "srrl", srrl, {}, _SIZES),
    Comparison("cat_kd", "cat_kd", cat_kd(2, normalise=False), {}, _SIZES),
    Comparison(
        "cat_kd", "cat_kd", cat_kd(4, normalise=True), {"resolution": 4, "normalise": True}, _SIZES, part="norm 1"
    ),
    Comparison("sd_dkd", "sdd", regions("SDD_DKD", "SDD_DKD")),
    Comparison("sd_nkd", "sdd", regions("SDD_NKDLoss", "SDD_nkd"), CODE),
    Comparison("wkd_l", "wkd", wkd_l, {"cost": "classifier"}, reason=_FLOAT),
    Comparison("wkd_f", "wkd", wkd_f, {}, ("equal", "teacher wider, smaller maps")),
    Comparison("deepkd", "deepkd", deepkd, CODE | {"mask": "static"}, part="loss"),
)
