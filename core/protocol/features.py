"""Penultimate features of some test images over the epochs of a run, as points in a plane, and measures of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.protocol.base import Message

Projection = Literal["pca", "tsne", "umap"]
FeatureNetwork = Literal["run", "teacher"]


class FeaturesOverTime(Message):
    """The features that a run kept of one network."""

    length: int = Field(description="Length of a feature vector.")
    images: int = Field(description="Number of test images whose features are kept.")
    measured: int = Field(description="Number of test images that the measures are of.")
    measured_classes: int = Field(description="Number of classes that these are of.")
    epochs: list[int] = Field(
        description="Epochs done, in increasing order; 0 alone for a network that is not trained."
    )
    measures: dict[str, list[float | None]] = Field(
        description="By name, one value for each epoch: `nc1`, `nc2_norms`, `nc2_angles`, `nc2_weight_norms`, "
        "`nc2_weight_angles`, `nc3` and `nc4` (in %) of Papyan, Han and Donoho 2020, and `angle_mean` and "
        "`angle_least` between two class means, in degrees. Null where one is not defined."
    )


class RunFeatures(Message):
    """What a run kept of penultimate features."""

    run_id: str
    classes: list[str] = Field(description="Names of the classes of the images whose features are kept.")
    all_classes: int = Field(description="Number of classes of the data set.")
    networks: dict[FeatureNetwork, FeaturesOverTime]
    unavailable: dict[Projection, str] = Field(description="Projections that this backend cannot make, and why.")


class FeatureMap(Message):
    """The features of one network after one epoch, as points in a plane."""

    run_id: str
    network: FeatureNetwork
    projection: Projection
    epoch: int
    classes: list[str] = Field(description="Names of the classes of the images.")
    item: list[int] = Field(description="Positions of the images in the test split.")
    label: list[int] = Field(description="Index of each image's class in `classes`.")
    x: list[float]
    y: list[float]
    extent: float | None = Field(
        description="Largest absolute coordinate of any epoch, if the axes are the same at every epoch; null otherwise."
    )
    explained: float | None = Field(description="Share of the variance along both axes, of PCA; null otherwise.")
    angles: list[list[float | None]] = Field(
        description="Angles between the class means, seen from the mean of all class means, in degrees."
    )
