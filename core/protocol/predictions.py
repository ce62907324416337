"""What classifiers predict for the test images: by class, by confidence, image by image, and over seeds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.protocol.base import Message, Page
from core.protocol.comparisons import Interval

Side = Literal["run", "reference"]
"""The run that is looked at, and what it is compared with: its teacher, or another run."""
PredictionKind = Literal["differ", "run_right", "reference_right", "both_right", "both_wrong", "run_wrong"]
"""``differ``: they predict different classes; ``run_right``, ``reference_right``: only that one is right."""


class ClassCounts(Message):
    """The test images of one class."""

    images: int = Field(description="Test images of the class.")
    right: int = Field(description="Those of them that are predicted to be of it.")
    predicted: int = Field(description="Test images of any class that are predicted to be of it.")


class ConfidenceBin(Message):
    """The test images whose largest probability is in one range."""

    low: float = Field(description="Lower end of the range, which does not belong to it.")
    high: float = Field(description="Upper end of the range.")
    images: int = Field(description="Number of test images; over several runs, of all of them together.")
    confidence: float = Field(description="Their mean largest probability.")
    right: float = Field(description="Share of them that is right, from 0 to 1.")


class NetworkPredictions(Message):
    """What one network predicts for the test images."""

    right: int = Field(description="Test images whose class is predicted.")
    by_class: list[ClassCounts] = Field(description="In the order of the classes.")
    calibration: list[ConfidenceBin] | None = Field(
        description="The ranges in which there are images; null if the run kept no confidences."
    )
    ece: float | None = Field(
        description="Expected calibration error in %, over 15 ranges; null if the run kept no confidences."
    )


class Agreement(Message):
    """On how many test images run and reference are right or wrong."""

    both_right: int
    only_run_right: int
    only_reference_right: int
    same_error: int = Field(description="Both predict the same wrong class.")
    different_errors: int = Field(description="Both are wrong, with different classes.")


class RunPredictions(Message):
    """What a run predicts for its test images, beside its reference."""

    run_id: str
    reference: str = Field(description="`teacher`, the id of a run, or empty without a reference.")
    classes: list[str] = Field(description="Names of the classes.")
    images: int = Field(description="Number of test images.")
    pictures: int = Field(description="Number of test images of which the run kept a picture.")
    networks: dict[Side, NetworkPredictions]
    agreement: Agreement | None = Field(description="Null without a reference.")


class ConfusionMatrix(Message):
    """How often each class is predicted for images of each class; pairs that never occur are left out."""

    run_id: str = Field(description="The run, or the method if the counts are sums over its seeds.")
    reference: str = Field(description="`teacher`, the id of a run or the label of a method; empty without one.")
    runs: int = Field(1, description="Number of runs whose counts are summed.")
    classes: list[str] = Field(description="Names of the classes.")
    target: list[int] = Field(description="Number of the class that the images have.")
    predicted: list[int] = Field(description="Number of the class that is predicted.")
    run: list[int] = Field(description="Number of images, of the run.")
    of_reference: list[int] | None = Field(description="Number of images, of the reference; null without one.")
    left_out: int = Field(description="Pairs of classes that the limit left out: those with the smallest counts.")


class Predicted(Message):
    """What one network predicts for one image."""

    label: str = Field(description="The class.")
    right: bool
    probability: float | None = Field(description="Probability of the image's own class; null if it is no number.")
    confidence: float | None = Field(description="Probability of the predicted class; null if it was not kept.")


class PredictedImage(Message):
    """One test image."""

    item: int = Field(description="Position in the test split.")
    label: str = Field(description="Its class.")
    networks: dict[Side, Predicted]
    margin: float | None = Field(
        description="Probability that the run gives to the image's class, minus the reference's; null without one."
    )
    picture: str | None = Field(
        description="The run whose `/runs/{id}/pictures/{item}` has a picture; null if none was kept."
    )


class PredictedImages(Page):
    """Test images; first those on which run and reference differ most in the probability of the image's class."""

    run_id: str
    reference: str
    images: int = Field(description="Number of test images, whatever the filters.")
    items: list[PredictedImage]


class CorrelationDifference(Message):
    """By how much the correlations of a run's logits differ from those of its reference.

    This is the map of Zhao et al. 2022 (DKD): |student's correlation matrix − teacher's|.
    """

    run_id: str = Field(description="The run, or the method if the map is the mean over its seeds.")
    reference: str = Field(description="`teacher`, or the id of a run.")
    runs: int = Field(1, description="Number of runs that the map is a mean of.")
    classes: list[str] = Field(description="Names of the rows: of a class, or of the first and last of several.")
    classes_per_cell: int = Field(description="Classes that a row stands for; a cell is the mean over its pairs.")
    difference: list[list[float | None]] = Field(description="Absolute differences, in the order of the classes.")
    mean: float | None = Field(description="Mean over all pairs of different classes.")


class SeedsSummary(Message):
    """A mean over the seeds, in the unit of the values."""

    n: int = Field(description="Number of seeds, or of pairs; over several teachers, of teachers.")
    mean: float | None
    interval: Interval | None = Field(description="95 % t interval; null below n = 2, or without any spread.")


class ClassOverSeeds(Message):
    """The accuracy of a method on the images of one class, in %."""

    accuracy: SeedsSummary
    to_baseline: SeedsSummary | None = Field(
        description="Paired differences to the baseline, in percentage points; null for the baseline."
    )
    to_teacher: SeedsSummary | None = Field(
        description="Differences to the teacher, in percentage points; null without one."
    )


class MethodPredictions(Message):
    """What the runs of one method predict."""

    label: str
    method: str
    runs: dict[int, str] = Field(description="The runs that count, by seed; of several teachers, those of the last.")
    by_class: list[ClassOverSeeds] = Field(description="In the order of the classes.")
    calibration: list[ConfidenceBin] = Field(description="Of the images of all runs together.")
    ece: SeedsSummary = Field(description="Expected calibration error in %.")
    correlation: SeedsSummary = Field(description="Mean |difference| to the teacher's correlations of logits.")
    correlation_to_baseline: SeedsSummary | None = Field(description="Paired differences; null for the baseline.")


class TeacherPredictions(Message):
    """What the teacher predicts; the mean if there are several."""

    by_class: list[float | None] = Field(description="Accuracy in % by class; null for a class without images.")
    calibration: list[ConfidenceBin] = Field(description="Of the images of all teachers together; empty if unknown.")


class ComparedPredictions(Message):
    """The predictions of the methods of an experiment, over its seeds."""

    baseline: str
    classes: list[str]
    images: int = Field(description="Number of test images.")
    images_by_class: list[int]
    methods: list[MethodPredictions]
    teacher: TeacherPredictions | None
    notes: list[str] = Field(description="What holds for the numbers, such as runs that kept no predictions.")
