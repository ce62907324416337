"""Comparisons with the repositories of logit methods, most of which are forks of mdistiller."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks.parity.checkout import Checkout
from benchmarks.parity.comparison import Comparison, Public, PublicLoss, copied
from benchmarks.parity.inputs import Inputs, Network
from benchmarks.parity.mdistiller import CODE, distiller
from benchmarks.parity.networks import STRONG, Answers

ONE_VIEW = {"image": "weak"}
TWO_VIEWS = {"image_weak": "weak", "image_strong": STRONG}


def settings(**sections: Any) -> Any:
    """Return settings for ``distiller`` from sections of values; a value that is a dict is a section of its own."""

    def section(values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return SimpleNamespace(**{name: section(value) for name, value in values.items()})

    return lambda inputs: section(sections)


def _logits(network: Network) -> Tensor:
    return network.outputs["logits"]


def criterion(module: str, kind: str, weight: float, root: str = "", *, label: bool = False, **of: Any) -> PublicLoss:
    """Return a loss that is a class which maps the logits of student and teacher to a scalar.

    Args:
        module: The module of the class.
        kind: The class.
        weight: By which its value is multiplied.
        root: The folder that imports start from.
        label: Whether it reads the labels too.
        of: The arguments of its constructor.
    """

    def loss(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
        criterion = getattr(checkout.module(module, root, ABSENT), kind)
        labels = (inputs.target,) if label else ()
        return Public(weight * criterion(**of)(_logits(inputs.student), _logits(inputs.teacher), *labels))

    return loss


class _Register:
    """Stands for a registry of mmengine, which the losses are no part of."""

    @staticmethod
    def register_module() -> Any:
        return _same


ABSENT = {"mmcls.registry": {"MODELS": _Register}}
"""What losses for mmcls import and use as a decorator only."""


def ctkd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return CTKD's loss at the end of its curriculum."""
    module = checkout.module("models.temp_global").Global_T()
    pairs = copied([module.global_T], [ours.theta])
    reversal = -1.0  # where the decay of its scripts ends
    student, teacher = _logits(inputs.student), _logits(inputs.teacher)
    temperature = 1 + 20 * torch.sigmoid(module(teacher, student, reversal))
    loss = checkout.module("distiller_zoo.KD").DistillKL()(student, teacher, temperature)
    return Public(0.9 * loss.mean(), pairs)


def skd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return SKD's loss with the default settings of its authors."""
    theirs = checkout.module("Distiller.SKD").SKD(Answers(inputs.student), Answers(inputs.teacher))
    *_, losses = theirs.forward_train("weak", inputs.target, epoch=1)
    return Public(losses["loss_kd"] + losses["loss_bc"])


def torchdistill_skd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return the two terms of SKD in torchdistill."""
    absent: dict[str, dict[str, object]] = {
        "torchdistill.losses.registry": dict.fromkeys(("register_loss_wrapper", "register_mid_level_loss"), _same),
        "torchdistill.common.constant": {"def_logger": logging.getLogger()},
    }
    module = checkout.module("torchdistill.losses.mid_level", absent=absent)
    paths = ("out", "output", "out", "output")
    sides = [{"out": {"output": _logits(network)}} for network in (inputs.student, inputs.teacher)]
    return Public(module.SKDInstanceLoss(*paths)(*sides) + module.SKDDirectionLoss(*paths)(*sides))


def _same(kind: Any) -> Any:
    return kind


_PRODUCT = "their 1e-8 is added to the product of the two norms, which is small over the samples of a class"
_STANDARDISED = "logit standardisation"

_KD = {"TEMPERATURE": 4.0, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9}}
_DKD = {"CE_WEIGHT": 1.0, "ALPHA": 1.0, "BETA": 8.0, "T": 4.0, "WARMUP": 20}
_PCD = {"CE_WEIGHT": 1.0, "ALPHA": 1.0, "T": 4.0, "STEPS": 3, "WARMUP": 20}
_GDKD = {"CE_WEIGHT": 1.0, "W0": 1.0, "W1": 1.0, "W2": 8.0, "T": 4.0, "WARMUP": 20}
_MLKD = {"CE_WEIGHT": 0.1, "KD_WEIGHT": 0.9, "TEMPERATURES": [4.0, 3.0, 5.0, 2.0, 6.0]}
_MASKS = {"ENABLE_MASK": True, "CONFIDENCE_PERCENTAGE": 0.5, "CLASS_CONFIDENCE_PERCENTAGE": 0.5}
_MLKD_OF_LS = {"standardise": True, "temperatures": (2.0, 3.0, 5.0, 2.0, 6.0)}
_MLKD_OF_LS |= dict.fromkeys(("instance_weight", "batch_weight", "class_weight"), 9.0)
_ABKD = SimpleNamespace(TRAINER=SimpleNamespace(PROMPTKD=SimpleNamespace(TEMPERATURE=4.0)), ab_alpha=0.8, ab_beta=0.3)


def _standardised(name: str, terms: tuple[str, ...] = ("loss_kd",), **more: Any) -> PublicLoss:
    """Return a distiller of the repository of logit standardisation, with it."""
    sections = {"DKD": _DKD, "EXPERIMENT": {"LOGIT_STAND": True}} | more
    return distiller(name, settings=settings(**sections), terms=terms, batch=TWO_VIEWS if len(terms) > 1 else ONE_VIEW)


_LEVELS = ("loss_kd", "loss_cc", "loss_bc")
_PLAIN = {"LOGIT_STAND": False}

COMPARISONS = (
    Comparison("kd", "lskd", _standardised("KD", KD=_KD), {"standardise": True}, part=_STANDARDISED),
    Comparison("dkd", "lskd", _standardised("DKD"), {"standardise": True}, part=_STANDARDISED),
    Comparison(
        "mlkd",
        "lskd",
        _standardised("MLKD", _LEVELS, KD={"TEMPERATURE": 2.0, "LOSS": {"CE_WEIGHT": 0.1, "KD_WEIGHT": 9.0}}),
        CODE | _MLKD_OF_LS,
        part=_STANDARDISED,
    ),
    Comparison("mlkd", "mlkd", distiller("KD_ours", settings=settings(KD=_KD), terms=_LEVELS, batch=TWO_VIEWS), CODE),
    Comparison(
        "mlkd",
        "gdkd",
        distiller("MLKD", settings=settings(MLKD=_MLKD | _MASKS)),
        CODE | {"strong_view": False},
        part="one view, masks",
    ),
    Comparison(
        "mlkd",
        "gdkd",
        distiller("MLKD", settings=settings(MLKD=_MLKD | _MASKS | {"ENABLE_MASK": False})),
        {"strong_view": False},
        part="one view, no masks",
    ),
    Comparison(
        "gdkd",
        "gdkd",
        distiller("GDKD", settings=settings(GDKD=_GDKD | {"TOPK": 5, "STRATEGY": "best", "KL_TYPE": "forward"})),
    ),
    Comparison("gdkd3", "gdkd", distiller("GDKD3", settings=settings(GDKD3=_GDKD | {"TOPK": 4}))),
    Comparison(
        "dist",
        "gdkd",
        distiller("DIST", settings=settings(DIST={"CE_WEIGHT": 1.0, "T": 4.0, "BETA": 2.0, "GAMMA": 2.0})),
        reason=_PRODUCT,
    ),
    Comparison(
        "dist",
        "dist",
        criterion("losses.dist_kd", "DIST", 1.0, "segmentation", beta=2.0, gamma=2.0),
        {"temperature": 1.0},
        reason=_PRODUCT,
    ),
    Comparison(
        "nkd", "cls_kd", criterion("mmcls.models.dis_losses.nkd", "NKDLoss", 1.0, label=True, name="", use_this=True)
    ),
    Comparison("rld", "rld", distiller("RLD", settings=settings(RLD=_DKD | {"ALPHA_T": 4.0}, EXPERIMENT=_PLAIN))),
    Comparison(
        "ldrld",
        "ldrld",
        criterion(
            "distiller_zoo.LDRLD", "LDRLD", 1.0, label=True, alpha=10.5, beta=7, k=7, temperature=4, ce_loss_weight=0
        ),
    ),
    Comparison("pcd", "pcd", distiller("PCD", settings=settings(PCD=_PCD, EXPERIMENT=_PLAIN)), CODE),
    Comparison("ctkd", "ctkd", ctkd),
    Comparison("abkd", "abkd", criterion("losses.abkl", "ABKL", 32.0, "base_to_new_classification", cfg=_ABKD)),
    Comparison("skd", "skd", skd, CODE | {"instance_weight": 0.9, "direction_weight": 0.9}),
    Comparison("skd", "torchdistill", torchdistill_skd),
)
