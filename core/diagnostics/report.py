"""What is measured of a network after an epoch, and once more at the end: the engine's way into the diagnostics.

Every function leaves the network as it was and gives numbers by metric name, as ``core.catalog.metrics`` lists them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from core.data import Dataset, Split
from core.data.hashing import permutation
from core.diagnostics.accuracy import top_accuracies
from core.diagnostics.calibration import expected_calibration_error, negative_log_likelihood
from core.diagnostics.collapse import Features, neural_collapse
from core.diagnostics.fidelity import CONDITIONAL_METRICS, fidelity
from core.diagnostics.inference import eval_mode, predict, predict_logits, to_floats
from core.diagnostics.robustness import RobustnessInputs, robustness, stylised_accuracy
from core.models import Network

_FEATURE_IMAGES = 50_000
_FEATURE_NUMBERS = 2**26  # half a gigabyte in float64


def epoch_report(model: nn.Module, dataset: Dataset, teacher_logits: Tensor | None = None) -> dict[str, float]:
    """What every epoch is worth knowing, at the price of one forward pass over the test and validation images.

    ``test/top1``, ``test/top5``, ``test/loss`` (which is the NLL), ``calibration/ece``; with a teacher ``fidelity/*``;
    with a validation split ``val/top1``, ``val/top5``, ``val/loss``.

    Args:
        teacher_logits: the teacher's on the test images (N, C); they never change, so they are made once, by
            ``core.diagnostics.inference.predict_logits``.
    """
    logits, labels = predict_logits(model, dataset, dataset.test), dataset.test.labels
    values = _scores("test", logits, labels)
    values["calibration/ece"] = expected_calibration_error(logits, labels)
    if teacher_logits is not None:
        values |= fidelity(logits, teacher_logits, labels)
    if dataset.val:
        values |= _scores("val", predict_logits(model, dataset, dataset.val), dataset.val.labels)
    return to_floats(values, may_miss=CONDITIONAL_METRICS)


def collapse_report(model: Network, dataset: Dataset) -> dict[str, float]:
    """``collapse/*`` on training images without augmentation, as the paper has it.

    Of more than 50,000 images (fewer where features are long: 32,768 at D = 2,048) that many are taken, the same ones
    each time.
    """
    most = min(_FEATURE_IMAGES, _FEATURE_NUMBERS // model.linear.in_features)
    split = dataset.train
    if len(split) > most:
        split = subset(split, torch.from_numpy(permutation(len(split), seed=0, epoch=0)[:most]).sort().values)
    with eval_mode(model):
        features = predict(model.features, dataset, split)
        # What stands between the features and the logits is the linear layer alone (dropout is off).
        classes = model.linear(features.to(model.linear.weight.dtype)).argmax(1)
    return to_floats(neural_collapse(Features(features, classes, split.labels), model.linear.weight))


def final_report(
    model: Network, teacher: nn.Module | None, dataset: Dataset, perturbed: RobustnessInputs | None = None
) -> dict[str, float]:
    """What is measured once, of the finished network: ``collapse/*`` always, ``robustness/*`` where it is asked for.

    Args:
        teacher: measured on the same perturbed images; None for a network that has none.
        perturbed: what robustness is measured on; 13 forward passes over the test images for each network, and one
            over the stylised ones.
    """
    values = collapse_report(model, dataset)
    if perturbed and perturbed.test_images:
        values |= robustness(model, teacher, dataset, dataset.test)
    if perturbed and perturbed.stylised:
        values |= stylised_accuracy(model, teacher, dataset, perturbed.stylised)
    return values


def _scores(split: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    values = top_accuracies(logits, labels) | {"loss": negative_log_likelihood(logits, labels)}
    return {f"{split}/{name}": value for name, value in values.items()}


def subset(split: Split, index: Tensor) -> Split:
    """The samples ``index`` (N,) of a split, without a copy of its images."""
    rows = index if split.indices is None else split.indices[index.to(split.indices.device)]
    labels = split.labels[index.to(split.labels.device)]
    return replace(split, labels=labels, indices=rows.to(split.images.device))
