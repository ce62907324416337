"""The measurements of a network after each epoch and at the end of a training, as the training engine calls them.

No function changes the network. Results are numbers by metric name, as listed in ``core.catalog.metrics``.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from core.catalog.tasks import COLLAPSE_IMAGES
from core.tasks.classification.data import Dataset, Split
from core.tasks.classification.diagnostics.accuracy import top_accuracies
from core.tasks.classification.diagnostics.calibration import expected_calibration_error, negative_log_likelihood
from core.tasks.classification.diagnostics.collapse import Features, neural_collapse
from core.tasks.classification.diagnostics.fidelity import CONDITIONAL_METRICS, fidelity
from core.tasks.classification.diagnostics.inference import eval_mode, predict, predict_logits, to_floats
from core.tasks.classification.diagnostics.robustness import RobustnessInputs, robustness, stylised_accuracy
from core.tasks.classification.models import Network
from core.tasks.hashing import permutation

_FEATURE_IMAGES = 50_000
_FEATURE_VALUES = 2**26  # half a gigabyte in float64


def epoch_report(
    model: nn.Module, dataset: Dataset, teacher_logits: Tensor | None = None, logits: Tensor | None = None
) -> dict[str, float]:
    """Measure a network with one forward pass over the test and validation images.

    The metrics are ``test/top1``, ``test/top5``, ``test/loss`` (the NLL) and ``calibration/ece``; with a teacher also
    ``fidelity/*``, and with a validation split ``val/top1``, ``val/top5`` and ``val/loss``.

    Args:
        model: the network.
        dataset: the data set.
        teacher_logits: the teacher's logits of the test images (N, C), which never change and are computed once by
            ``core.tasks.classification.diagnostics.inference.predict_logits``.
        logits: the network's own logits of the test images (N, C); computed here if they are None.
    """
    if logits is None:
        logits = predict_logits(model, dataset, dataset.test)
    labels = dataset.test.labels
    values = _scores("test", logits, labels)
    values["calibration/ece"] = expected_calibration_error(logits, labels)
    if teacher_logits is not None:
        values |= fidelity(logits, teacher_logits, labels)
    if dataset.val:
        values |= _scores("val", predict_logits(model, dataset, dataset.val), dataset.val.labels)
    return to_floats(values, may_miss=CONDITIONAL_METRICS)


def collapse_report(model: Network, dataset: Dataset) -> dict[str, float]:
    """Measure ``collapse/*`` on training images without augmentation, as in the paper.

    At most 50,000 images are used (fewer for long features: 32,768 at D = 2,048), the same ones each time.
    """
    limit = min(_FEATURE_IMAGES, _FEATURE_VALUES // model.linear.in_features)
    split = dataset.train
    if len(split) > limit:
        split = subset(split, torch.from_numpy(permutation(len(split), seed=0, epoch=0)[:limit]).sort().values)
    with eval_mode(model):
        features = predict(model.features, dataset, split)
        # In eval mode only the linear layer is between the features and the logits (dropout is off).
        classes = model.linear(features.to(model.linear.weight.dtype)).argmax(1)
    values = to_floats(neural_collapse(Features(features, classes, split.labels), model.linear.weight))
    return values | {COLLAPSE_IMAGES: float(len(split))}


def final_report(
    model: Network, teacher: nn.Module | None, dataset: Dataset, perturbed: RobustnessInputs | None = None
) -> dict[str, float]:
    """Measure the finished network: ``collapse/*`` always, ``robustness/*`` if requested.

    Args:
        model: the network.
        teacher: is measured on the same perturbed images; None for a network without a teacher.
        dataset: the data set.
        perturbed: the images of the robustness measurements. They take 13 forward passes over the test images for each
            network, and one over the stylised images.
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
    """Return the samples ``index`` (N,) of a split, without a copy of its images."""
    indices = index if split.indices is None else split.indices[index.to(split.indices.device)]
    labels = split.labels[index.to(split.labels.device)]
    return replace(split, labels=labels, indices=indices.to(split.images.device))
