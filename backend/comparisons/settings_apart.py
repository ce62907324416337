"""Experiments that differ in a setting, side by side: every method of every experiment is a group of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backend.comparisons import experiment_keys
from backend.comparisons.run_data import Sample
from backend.db import models
from backend.errors import invalid
from core.protocol.public import ProblemField
from core.specs.labels import combined_name


def setting_label(label: str, experiment: str) -> str:
    """Return the label of a method of one of several settings."""
    return f"{label} · {experiment}"


@dataclass(frozen=True)
class SettingsSample(Sample):
    """A sample whose labels name the experiment. Runs of two settings form a pair if seed and teacher are equal."""

    @property
    def labels(self) -> dict[str, str]:
        return {
            setting_label(choice["label"], item.name): combined_name(choice)
            for item in self.experiments
            for choice in item.spec["methods"]
        }

    def label_of(self, name: str) -> str:
        """Return the label of the first setting with a method of this name, if the name is no label."""
        labels = self.labels
        spelled = (name, *(setting_label(name, item.name) for item in self.experiments))
        return next((label for label in spelled if label in labels), name)

    @property
    def notes(self) -> list[str]:
        """Return what the settings differ in, and what that means for the pairs."""
        first, *others = self.experiments
        parts = [experiment_keys.difference(first.spec, other.spec) for other in others]
        found = ", ".join(dict.fromkeys(part for part in parts if part)) or "nothing but seeds"
        text = f"Each experiment is a setting of its own; they differ in {found}. Runs with the same seed form a pair."
        if len({teacher.fingerprint for teacher in self.teachers}) > 1:
            text += " Settings with different teachers form no pairs."
        return [text]


def apart(sample: Sample) -> SettingsSample:
    """Return the sample with a label per method and experiment."""
    students = tuple(
        replace(student, label=setting_label(student.label, student.experiment)) for student in sample.students
    )
    return SettingsSample(sample.experiments, students, sample.teachers, sample.data)


def refuse_other_data(experiments: Sequence[models.Experiment]) -> None:
    """Refuse settings on different data sets, whose results are not of the same images.

    Raises:
        ApiError: 422.
    """
    first, *others = experiments
    for other in others:
        if experiment_keys.setting(first.spec)["dataset"] != experiment_keys.setting(other.spec)["dataset"]:
            text = f"{other.name} and {first.name} use different data: their results are not comparable"
            raise invalid(text, ProblemField(path="experiment", message=text))
