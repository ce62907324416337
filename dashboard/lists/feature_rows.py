"""Words and table rows about penultimate features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.formatting import value_text
from core.protocol.features import FeaturesOverTime, Projection

PROJECTIONS: Mapping[Projection, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}

_NEIGHBOURS = (
    "Images whose features are near each other are near each other here. Distances between groups, sizes of groups "
    "and places mean nothing. Every epoch is computed for itself, so that a group can move though its features stay."
)
MEANINGS: Mapping[Projection, str] = {
    "pca": "The axes are the two directions in which the features of a network vary most after its last epoch, and are "
    "the same at all its epochs. Two networks have different axes: compare how far classes are apart relative to their "
    "spread, and not where they lie.",
    "tsne": _NEIGHBOURS,
    "umap": _NEIGHBOURS,
}


@dataclass(frozen=True)
class Measure:
    """How a measure is shown.

    Attributes:
        title: Its title.
        axis: Title of its axis, with the unit.
        meaning: What it says.
        unit: Its unit.
        logarithmic: Whether its axis is logarithmic.
    """

    title: str
    axis: str
    meaning: str
    unit: str = ""
    logarithmic: bool = False


MEASURES: Mapping[str, Measure] = {
    "nc1": Measure(
        "NC1, spread within classes",
        "Tr(Σ_W Σ_B†) / C",
        "The spread of features around their class mean, relative to the spread of the class means. 0: all images of a "
        "class have the same features.",
        logarithmic=True,
    ),
    "nc2_angles": Measure(
        "NC2, unequal angles",
        "Mean |cos + 1/(C − 1)|",
        "How far the angles between class means are from the largest equal angles. 0: they are equal.",
    ),
    "nc2_norms": Measure(
        "NC2, unequal lengths",
        "sd / mean of the lengths",
        "How much the distances of the class means from their common mean differ. 0: they are equal.",
    ),
    "nc3": Measure(
        "NC3, classifier and class means",
        "Squared distance (0 to 4)",
        "The squared distance between the rows of the last layer and the class means, both scaled to length 1. 0: they "
        "point the same way.",
    ),
    "nc4": Measure(
        "NC4, not the nearest class mean",
        "Images (%)",
        "Images for which the network predicts another class than that of the nearest class mean.",
        "%",
    ),
    "angle_mean": Measure(
        "Mean angle between class means",
        "Angle (°)",
        "The mean over all pairs of classes, seen from the mean of all class means. The dotted line is the largest "
        "angle that all pairs can have.",
        "°",
    ),
    "angle_least": Measure(
        "Least angle between class means",
        "Angle (°)",
        "The angle between the two classes whose means are most alike.",
        "°",
    ),
}
"""The measures that are shown, in their order."""


def largest_equal_angle(classes: int) -> float | None:
    """Return the largest angle that each two of C class means can have, in degrees; None for one class."""
    return math.degrees(math.acos(-1 / (classes - 1))) if classes > 1 else None


def value_at(kept: FeaturesOverTime, name: str, epoch: int) -> float | None:
    """Return a measure after an epoch."""
    values = kept.measures.get(name, [])
    at = kept.epochs.index(epoch)
    return values[at] if at < len(values) else None


def measure_rows(networks: Mapping[str, tuple[FeaturesOverTime, int]]) -> list[dict[str, str]]:
    """Return a row for each measure, with a column for each network.

    Args:
        networks: By name, what is kept and the epoch that is shown.
    """
    return [
        {"Measure": measure.title}
        | {
            name: value_text(value_at(kept, key, epoch), measure.unit, 1 if measure.unit == "°" else None)
            for name, (kept, epoch) in networks.items()
        }
        for key, measure in MEASURES.items()
    ]


def images_text(kept: Sequence[FeaturesOverTime], classes: int, all_classes: int, item: str) -> str:
    """Return of how many items the pictures and the measures are."""
    pictured, measured = ({getattr(one, name) for one in kept} for name in ("images", "measured"))
    of = f"{classes:,} classes" if classes == all_classes else f"{classes:,} of {all_classes:,} classes"
    return (
        f"A picture has {_span(pictured)} test {item}s of {of}, chosen once by chance: the same ones at each epoch and "
        f"in each run on these data. NC1–NC4 and angles are of {_span(measured)} test {item}s of all classes."
    )


def _span(numbers: set[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
