"""Comparisons with RepDistiller: its losses, and the layers that its training builds around them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.parity.checkout import Checkout
from benchmarks.parity.choices import negatives_of_two_steps, signs_of_positive_sums
from benchmarks.parity.comparison import Comparison, Public, PublicLoss, copied
from benchmarks.parity.inputs import ANY, Inputs, Network
from benchmarks.parity.mdistiller import CODE, MEMORY, NORM
from benchmarks.public_code import NEGATIVES
from core.catalog.taps import FEATURES, STEM

Read = Callable[[Network], Any]


def _stages(network: Network) -> list[Tensor]:
    return network.stages


def _features(network: Network) -> Tensor:
    return network.outputs[FEATURES]


def loss_of(name: str, file: str, read: Read, weight: float, **arguments: Any) -> PublicLoss:
    """Return a loss without layers of its own.

    Args:
        name: The class.
        file: Its file in ``distiller_zoo``.
        read: What it reads of a network.
        weight: Its weight in ``scripts/run_cifar_distill.sh``.
        arguments: Those of its constructor.
    """

    def loss(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
        criterion = getattr(checkout.module(f"distiller_zoo.{file}"), name)(**arguments)
        return Public(weight * _sum(criterion(read(inputs.student), read(inputs.teacher))))

    return loss


def _sum(losses: Tensor | list[Tensor]) -> Tensor:
    return torch.stack([loss.mean() for loss in losses]).sum() if isinstance(losses, list) else losses.mean()


def fitnet(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return FitNet's loss at the second stage."""
    student, teacher = inputs.student.stages[1], inputs.teacher.stages[1]
    regressor = checkout.module("models.util").ConvReg(student.shape, teacher.shape)
    pairs = copied(regressor, ours.regressors)
    criterion = checkout.module("distiller_zoo.FitNet").HintLoss()
    return Public(100 * criterion(regressor(student), teacher), pairs)


def vid(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return VID's loss, whose variances are trained here."""
    kind = checkout.module("distiller_zoo.VID").VIDLoss
    losses, pairs = [], []
    for number, (student, teacher) in enumerate(zip(inputs.student.stages, inputs.teacher.stages, strict=True)):
        width, channels = student.shape[1], teacher.shape[1]
        criterion = kind(width, channels, channels)
        pairs += copied(criterion.regressor, ours.regressors[number])
        pairs += copied([criterion.log_scale], [ours.get_parameter(f"rho{number}")])
        losses.append(criterion(student, teacher))
    return Public(_sum(losses), pairs)


def cc(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return CC's loss with its two linear layers."""
    criterion = checkout.module("distiller_zoo.CC").Correlation()
    embed = checkout.module("models.util").LinearEmbed
    student, teacher = _features(inputs.student), _features(inputs.teacher)
    layers = embed(student.shape[1]), embed(teacher.shape[1])
    pairs = copied(layers[0], ours.student_layer) + copied(layers[1], ours.teacher_layer)
    return Public(0.02 * criterion(layers[0](student), layers[1](teacher)), pairs)


def kdsvd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return KDSVD's loss, with this package's signs of the singular vectors."""
    with signs_of_positive_sums():
        return loss_of("KDSVD", "KDSVD", _stages, 1)(checkout, inputs, ours)


def fsp(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return FSP's loss, which has the stem as the first map."""
    maps = [[network.outputs[STEM], *network.stages] for network in (inputs.student, inputs.teacher)]
    criterion = checkout.module("distiller_zoo.FSP").FSP(*([one.shape for one in side] for side in maps))
    return Public(50 * _sum(criterion(*maps)))


def ab(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return AB's loss of the first stage, with its connectors in training mode."""
    student, teacher = inputs.student.preactivations, inputs.teacher.preactivations
    shapes = [[one.shape for one in side] for side in (student, teacher)]
    connector = checkout.module("models.util").Connector(*shapes).train()
    pairs = copied(connector, ours.connectors)
    criterion = checkout.module("distiller_zoo.AB").ABLoss(len(student))
    return Public(_sum(criterion(connector(student), teacher)), pairs)


def ft_first(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return the reconstruction error of the paraphraser, which is the loss of FT's first stage."""
    teacher = inputs.teacher.stages[-1]
    paraphraser = checkout.module("models.util").Paraphraser(teacher.shape)
    pairs = copied(paraphraser.encoder, ours.encoder) + copied(paraphraser.decoder, ours.decoder)
    return Public(nn.functional.mse_loss(paraphraser(teacher)[1], teacher), pairs)


def ft(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return FT's loss of the second stage."""
    module, student, teacher = checkout.module("models.util"), inputs.student.stages[-1], inputs.teacher.stages[-1]
    paraphraser, translator = module.Paraphraser(teacher.shape), module.Translator(student.shape, teacher.shape)
    pairs = copied(translator, ours.translator)
    copied(paraphraser.encoder, ours.encoder)
    with torch.no_grad():
        factor = paraphraser(teacher, is_factor=True)
    criterion = checkout.module("distiller_zoo.FT").FactorTransfer()
    return Public(200 * criterion(translator(student), factor), pairs)


def crd(checkout: Checkout, inputs: Inputs, ours: Any) -> Public:
    """Return the loss of CRD's second step on the same samples."""
    student, teacher = _features(inputs.student), _features(inputs.teacher)
    widths = {"s_dim": student.shape[1], "t_dim": teacher.shape[1], "feat_dim": 128, "n_data": len(inputs.labels)}
    options = SimpleNamespace(**widths, nce_k=NEGATIVES, nce_t=0.07, nce_m=0.5)
    criterion = checkout.module("crd.criterion").CRDLoss(options)
    pairs = copied(criterion.embed_s, ours.student_layer) + copied(criterion.embed_t, ours.teacher_layer)
    first, second = negatives_of_two_steps(criterion.contrast, inputs, ours)
    with torch.no_grad():
        criterion(student, teacher, inputs.index, first)
    return Public(0.8 * criterion(student, teacher, inputs.index, second).mean(), pairs)


_STEM_TOO = {"student_taps": ("stem", "stages"), "teacher_taps": ("stem", "stages")}


def _logits(network: Network) -> Tensor:
    return network.outputs["logits"]


COMPARISONS = (
    Comparison("kd", "repdistiller", loss_of("DistillKL", "KD", _logits, 0.9, T=4)),
    Comparison("fitnet", "repdistiller", fitnet, CODE, ANY),
    Comparison("at", "repdistiller", loss_of("Attention", "AT", _stages, 1000), CODE, ANY),
    Comparison("nst", "repdistiller", loss_of("NSTLoss", "NST", _stages, 50), {}, ANY),
    Comparison("pkt", "repdistiller", loss_of("PKT", "PKT", _features, 30_000), CODE, ANY, reason=NORM),
    Comparison("rkd", "repdistiller", loss_of("RKDLoss", "RKD", _features, 1), {}, ANY),
    Comparison("sp", "repdistiller", loss_of("Similarity", "SP", lambda one: one.stages[-1:], 3000), {}, ANY),
    Comparison("cc", "repdistiller", cc, CODE, ANY),
    Comparison("vid", "repdistiller", vid, {}, ANY),
    Comparison("kdsvd", "repdistiller", kdsvd, {}, ("equal", "smaller maps")),
    Comparison("fsp", "repdistiller", fsp, CODE | _STEM_TOO, ("equal", "smaller maps")),
    Comparison("ab", "repdistiller", ab, {}, ANY, epoch=0, part="first stage"),
    Comparison("ft", "repdistiller", ft_first, CODE, ANY, epoch=0, part="first stage"),
    Comparison("ft", "repdistiller", ft, CODE | {"weight": 200.0}, ANY, part="second stage"),
    Comparison("crd", "repdistiller", crd, {"negatives": NEGATIVES}, ("equal", "teacher wider"), reason=MEMORY),
)
