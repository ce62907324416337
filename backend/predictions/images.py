"""Pages of test images, by who is right, class and margin."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.predictions.networks import Compared, Predictions
from core.protocol.predictions import Predicted, PredictedImage, PredictedImages, PredictionKind, Side

_DIGITS = 5


@dataclass(frozen=True)
class ImageFilter:
    """Which test images a page has.

    Attributes:
        kind: Who is right; None for all images.
        label: Images of this class; None for all.
        predicted: Images that the run or its reference predicts to be of this class; None for all.
        margin: Images on which the two differ at least this much in the probability of the image's class.
        pictured: Whether only images with a picture are wanted.
    """

    kind: PredictionKind | None = None
    label: str | None = None
    predicted: str | None = None
    margin: float = 0.0
    pictured: bool = False


def image_page(
    run_id: str,
    found: Compared,
    wanted: ImageFilter,
    pictures: Mapping[str, Collection[int]],
    after: int,
    limit: int,
) -> tuple[PredictedImages, int | None]:
    """Return a page of test images, and the rank after which the next page starts; None on the last page.

    Images come in the order of their margin, the largest first; without a reference, in that of the probability of
    their class, the smallest first.

    Args:
        run_id: The run.
        found: What it and its reference predict.
        wanted: Which images.
        pictures: Numbers of the images that have a picture, by run.
        after: Rank of the last image of the previous page; −1 for the first page.
        limit: Most images of the page.
    """
    margin = None if found.other is None else found.run.probability - found.other.probability
    chosen = np.flatnonzero(_chosen(found, wanted, margin, pictures))
    key = found.run.probability if margin is None else -np.abs(margin)
    ranked = chosen[np.argsort(key[chosen], kind="stable")]
    page = ranked[after + 1 : after + 1 + limit].tolist()
    reply = PredictedImages(
        run_id=run_id,
        reference=found.reference,
        total=len(ranked),
        images=len(found.run.target),
        items=[
            PredictedImage(
                item=item,
                label=found.classes[found.run.target[item]],
                networks=_networks(found, item),
                margin=None if margin is None else _number(margin[item]),
                picture=next((run for run, items in pictures.items() if item in items), None),
            )
            for item in page
        ],
    )
    last = after + len(page)
    return reply, last if page and last + 1 < len(ranked) else None


def _chosen(
    found: Compared,
    wanted: ImageFilter,
    margin: NDArray[np.float64] | None,
    pictures: Mapping[str, Collection[int]],
) -> NDArray[np.bool_]:
    """Return which images the filter lets through, (N,)."""
    run, other = found.run, found.other
    chosen = np.ones(len(run.target), np.bool_)
    if wanted.kind == "run_wrong":
        chosen &= ~run.right
    elif wanted.kind is not None and other is not None:
        chosen &= {
            "differ": run.predicted != other.predicted,
            "run_right": run.right & ~other.right,
            "reference_right": ~run.right & other.right,
            "both_right": run.right & other.right,
            "both_wrong": ~run.right & ~other.right,
        }[wanted.kind]
    if wanted.label is not None:
        chosen &= run.target == found.classes.index(wanted.label)
    if wanted.predicted is not None:
        number = found.classes.index(wanted.predicted)
        chosen &= (run.predicted == number) | (False if other is None else other.predicted == number)
    if margin is not None and wanted.margin > 0:
        # A comparison with NaN is false: an image without a probability has no margin.
        chosen &= np.abs(margin) >= wanted.margin
    if wanted.pictured:
        items = sorted({item for of_run in pictures.values() for item in of_run})
        chosen &= np.isin(np.arange(len(chosen)), items)
    return chosen


def _networks(found: Compared, item: int) -> dict[Side, Predicted]:
    networks: dict[Side, Predicted] = {"run": _predicted(found.run, found.classes, item)}
    if found.other is not None:
        networks["reference"] = _predicted(found.other, found.classes, item)
    return networks


def _predicted(network: Predictions, classes: tuple[str, ...], item: int) -> Predicted:
    return Predicted(
        label=classes[network.predicted[item]],
        right=bool(network.right[item]),
        probability=_number(network.probability[item]),
        confidence=None if network.confidence is None else _number(network.confidence[item]),
    )


def _number(value: float) -> float | None:
    return round(float(value), _DIGITS) if np.isfinite(value) else None
