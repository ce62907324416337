"""Rows of tables about predictions; every share says of how many images it is, or of what the task calls its items."""

from __future__ import annotations

from collections.abc import Mapping

from common.formatting import NOTHING, difference_text, value_text
from core.protocol.predictions import (
    Agreement,
    ComparedPredictions,
    ConfusionMatrix,
    MethodPredictions,
    RunPredictions,
    SeedsSummary,
    Side,
)
from dashboard.wording import counted

_MOST_CONFUSIONS = 10


def share_of(count: int, total: int, item: str) -> str:
    """Return a share with its numbers, as "71.4 % (642 of 899 images)".

    Args:
        count: Number of items that count.
        total: Number of all.
        item: What an item of the data is called.
    """
    return f"{100 * count / total:.1f} % ({count:,} of {counted(total, item)})" if total else NOTHING


def error_of(value: float | None, total: int, item: str) -> str:
    """Return an expected calibration error with the number of items that it is of, as "2.31 % (of 899 images)"."""
    return NOTHING if value is None else f"{value_text(value, '%', 2)} (of {counted(total, item)})"


def accuracy_rows(found: RunPredictions, names: Mapping[Side, str], item: str) -> list[dict[str, str]]:
    """Return a row for each network."""
    return [
        {
            "Network": name,
            "Right": share_of(found.networks[side].right, found.images, item),
            "Expected calibration error": error_of(found.networks[side].ece, found.images, item),
        }
        for side, name in names.items()
    ]


def agreement_rows(agreement: Agreement, names: Mapping[Side, str], item: str) -> list[dict[str, str]]:
    """Return how often two networks predict the same class, on all items and by whether the reference is right."""
    run, reference = names["run"], names["reference"]
    right = agreement.both_right + agreement.only_reference_right
    wrong = agreement.only_run_right + agreement.same_error + agreement.different_errors
    rows = (
        (f"all test {item}s", agreement.both_right + agreement.same_error, agreement.both_right, right + wrong),
        (f"where {reference} is right", agreement.both_right, agreement.both_right, right),
        (f"where {reference} is wrong", agreement.same_error, agreement.only_run_right, wrong),
    )
    right_of_all = agreement.both_right + agreement.only_run_right
    return [
        {
            f"{item[:1].upper()}{item[1:]}s": title,
            f"{run} predicts the same class as {reference}": share_of(same, total, item),
            f"{run} is right": share_of(right_of_all if number == 0 else run_right, total, item),
        }
        for number, (title, same, run_right, total) in enumerate(rows)
    ]


def accuracy_by_class(found: RunPredictions, side: Side) -> dict[str, float]:
    """Return the accuracy on each class in %; classes without test images are left out."""
    return {
        name: 100 * counts.right / counts.images
        for name, counts in zip(found.classes, found.networks[side].by_class, strict=True)
        if counts.images
    }


def confusion_rows(matrix: ConfusionMatrix, names: Mapping[Side, str], shown: str, item: str) -> list[dict[str, str]]:
    """Return the largest entries beside the diagonal: the most frequent confusions, or the largest differences."""
    totals: dict[int, int] = {}
    for target, count in zip(matrix.target, matrix.run, strict=True):
        totals[target] = totals.get(target, 0) + count
    theirs = matrix.of_reference
    entries = []
    for at, (target, predicted) in enumerate(zip(matrix.target, matrix.predicted, strict=True)):
        own, other = matrix.run[at], theirs[at] if theirs is not None else 0
        size = {"run": own, "reference": other}.get(shown, abs(own - other))
        if target != predicted and size:
            entries.append((size, target, predicted, own, other))
    entries.sort(key=lambda entry: -entry[0])
    rows = []
    for _, target, predicted, own, other in entries[:_MOST_CONFUSIONS]:
        total = totals.get(target, 0)
        row = {
            "Class": matrix.classes[target],
            "Predicted as": matrix.classes[predicted],
            names["run"]: share_of(own, total, item),
        }
        if theirs is not None:
            row[names["reference"]] = share_of(other, total, item)
            row[f"Difference ({item}s)"] = f"{own - other:+,}".replace("-", "−")
        rows.append(row)
    return rows


def class_rows(found: ComparedPredictions, labels: list[str], item: str) -> list[dict[str, str]]:
    """Return the accuracy of teacher and methods on each class, with the paired differences to the baseline."""
    methods = {method.label: method for method in found.methods}
    rows = []
    for at, name in enumerate(found.classes):
        row = {"Class": name, f"Test {item}s": f"{found.images_by_class[at]:,}"}
        if found.teacher:
            row["teacher"] = value_text(found.teacher.by_class[at], "%", 1)
        for label in labels:
            row[label] = _cell(methods[label], at)
        rows.append(row)
    return rows


def _cell(method: MethodPredictions, at: int) -> str:
    values = method.by_class[at]
    if values.accuracy.mean is None:
        return NOTHING
    text = f"{value_text(values.accuracy.mean, '%', 1)} (n = {values.accuracy.n})"
    if values.to_baseline is None or values.to_baseline.mean is None:
        return text
    return f"{text}; {summary_text(values.to_baseline)}"


def summary_text(summary: SeedsSummary) -> str:
    """Return a difference with its interval."""
    return difference_text(summary.mean, summary.interval)


def method_rows(found: ComparedPredictions, labels: list[str], item: str) -> list[dict[str, str]]:
    """Return calibration and correlation of each method."""
    methods = {method.label: method for method in found.methods}
    rows = []
    for label in labels:
        method = methods[label]
        row = {
            "Method": label,
            "Runs": f"{len(method.runs):,}",
            "Expected calibration error": error_of(method.ece.mean, found.images, item),
        }
        if any(other.correlation.mean is not None for other in found.methods):
            paired = method.correlation_to_baseline
            row["Mean |Δ correlation| to the teacher"] = value_text(method.correlation.mean, "", 4)
            row[f"Against {found.baseline}"] = summary_text(paired) if paired else NOTHING
        rows.append(row)
    return rows
