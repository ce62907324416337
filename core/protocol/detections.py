"""Objects and detections on the test images of a run of object detection."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.events import AnyFloat
from core.protocol.base import Message, Page

DetectionSource = Literal["student", "teacher"]
DetectionKind = Literal[
    "right", "classification", "localisation", "both", "duplicate", "background", "ignored", "missed"
]
"""What a detection is, after TIDE (Bolya et al. 2020); ``missed`` is an object that no detection is about."""


class DetectionImage(Message):
    """One test image, with what student and teacher did in it."""

    item: int = Field(description="Position in the test split.")
    id: int = Field(description="The image's id in its data set.")
    name: str = Field(description="File, relative to the folder of the data set; empty if the image is no file.")
    width: int | None = Field(description="Pixels of the original image, as boxes have them; null if unknown.")
    height: int | None
    picture: bool = Field(description="Whether `/runs/{id}/pictures/{item}` has a picture.")
    objects: int = Field(description="Labelled objects that count: not difficult, and no crowd.")
    counts: dict[DetectionSource, dict[DetectionKind, int]] = Field(
        description="By source, the number of detections of each kind and of missed objects; kinds without any are "
        "left out."
    )


class ScoreBin(Message):
    """The detections of a network whose scores are in one range."""

    low: float = Field(description="Lower end of the range, which does not belong to it.")
    high: float = Field(description="Upper end of the range.")
    detections: int = Field(description="Number of detections, without those on crowds and difficult objects.")
    score: float = Field(description="Mean score of these detections.")
    right: float = Field(description="Share of these detections that is right, from 0 to 1.")


class DetectionImages(Page):
    """Test images of a run, in the order of the split."""

    run_id: str
    classes: list[str] = Field(description="Names of the classes.")
    kinds: dict[DetectionKind, str] = Field(description="Each kind of detection, with its title.")
    images: int = Field(description="Number of test images.")
    pictures: int = Field(description="Number of test images with a picture.")
    least_score: float = Field(description="Detections with lower scores were not kept.")
    scores: dict[DetectionSource, dict[str, AnyFloat]] = Field(
        description="By source, numbers about all of its detections in %, such as `ap` and `ap_class/NAME`."
    )
    counts: dict[DetectionSource, dict[DetectionKind, int]] = Field(
        description="The counts of all test images together, whatever the filters."
    )
    calibration: dict[DetectionSource, list[ScoreBin]] = Field(
        description="By source, the ranges of the score in which there are detections, of all test images together."
    )
    items: list[DetectionImage]


class LabelledObject(Message):
    """A labelled object."""

    box: list[float] = Field(description="Left, top, right, bottom in pixels of the original image.")
    label: str
    kind: Literal["object", "difficult", "crowd"]
    missed_by: list[DetectionSource] = Field(description="The networks that missed the object.")


class Detection(Message):
    """What a network found."""

    source: DetectionSource
    box: list[float] = Field(description="Left, top, right, bottom in pixels of the original image.")
    label: str
    score: float
    kind: DetectionKind
    matched: int | None = Field(
        description="Position in `objects` of the object that the detection takes or that its error is about; null "
        "for none."
    )


class ImageDetections(Message):
    """The objects of one test image, and what student and teacher found there, best scores first."""

    run_id: str
    item: int
    id: int
    name: str
    width: int | None
    height: int | None
    picture: bool
    objects: list[LabelledObject]
    detections: list[Detection]
