"""A record of trainings: specs, fingerprints, metrics of each epoch and environments, as text with the same bytes.

``benchmarks/results/records/NAME/record.json`` has everything but the curves, which are in ``NAME/curves/``, one file
per run. Numbers have seven significant digits, as many as float32 has.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.atomic_write import atomic_write
from core.events import decode_number, encode_number

RECORDS = Path(__file__).parents[1] / "results" / "records"
RECORD_NAME, CURVES = "record.json", "curves"
_FORMAT = 1


class RecordError(ValueError):
    """A record, or the folder that it is made from, cannot be used."""


@dataclass(frozen=True)
class Curve:
    """The metrics of a run after each epoch.

    Attributes:
        step: Optimiser steps done.
        epoch: Epochs done.
        elapsed: Seconds of training.
        values: By metric one number per epoch; None where it was not measured.
    """

    step: Sequence[int]
    epoch: Sequence[float]
    elapsed: Sequence[float]
    values: Mapping[str, Sequence[float | None]]

    def to_json(self) -> dict[str, Any]:
        """Return the curve with short numbers."""
        return {
            "step": list(self.step),
            "epoch": [_short(value) for value in self.epoch],
            "elapsed": [_short(value) for value in self.elapsed],
            "values": {name: [_short(value) for value in self.values[name]] for name in sorted(self.values)},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Curve:
        values = {name: [decode_number(value) for value in column] for name, column in data["values"].items()}
        return cls(data["step"], data["epoch"], data["elapsed"], values)


@dataclass(frozen=True)
class RecordedRun:
    """A run.

    Attributes:
        label: Its label; that of a teacher is "teacher".
        seed: Its seed.
        role: student or teacher.
        state: succeeded or failed.
        reason: Why it failed; empty if it succeeded.
        fingerprint: Fingerprint of its spec.
        curve: Name of the file of its curve.
        weights: SHA-256 of its weights; empty if it failed.
        ended: Day on which it ended, as "2026-11-30".
        epochs: Number of its epochs.
        train_size: Number of training images.
        test_size: Number of test images.
        parameters: Number of the network's parameters.
        device: Its device.
        environment: Index of its environment in the record.
    """

    label: str
    seed: int
    role: str
    state: str
    reason: str
    fingerprint: str
    curve: str
    weights: str
    ended: str
    epochs: int
    train_size: int
    test_size: int
    parameters: int
    device: str
    environment: int


@dataclass(frozen=True)
class RecordedExperiment:
    """An experiment.

    Attributes:
        spec: Its spec, as plain data.
        choice: The choice of its settings by trials; None without trials.
        runs: Its runs, in the order of its plan.
    """

    spec: dict[str, Any]
    choice: dict[str, Any] | None
    runs: list[RecordedRun]


@dataclass(frozen=True)
class Record:
    """The record of one page.

    Attributes:
        name: Name of the page.
        title: Its title.
        question: What the trainings were to answer; may be empty.
        notes: Sentences that a reader has to know, such as that the machine had other work.
        experiments: The experiments.
        environments: Distinct environments of the runs.
        curves: Curves by the name of their file.
    """

    name: str
    title: str
    question: str
    notes: list[str]
    experiments: list[RecordedExperiment]
    environments: list[dict[str, str]]
    curves: dict[str, Curve] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write the record into its folder, in place of an earlier one of the same name."""
        target = folder / self.name
        (target / CURVES).mkdir(parents=True, exist_ok=True)
        for old in (target / CURVES).glob("*.json"):
            if old.name not in self.curves:
                old.unlink()
        for name, curve in self.curves.items():
            atomic_write(target / CURVES / name, _columns(curve.to_json()))
        data = {"format": _FORMAT} | {key: value for key, value in asdict(self).items() if key != "curves"}
        atomic_write(target / RECORD_NAME, json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read a record from its folder.

        Raises:
            RecordError: It is damaged, or of a later version.
        """
        try:
            data = json.loads((folder / RECORD_NAME).read_text(encoding="utf-8"))
            if data.pop("format") != _FORMAT:
                raise RecordError(f"{folder / RECORD_NAME} is of a later version")
            experiments = [
                RecordedExperiment(item["spec"], item["choice"], [RecordedRun(**run) for run in item["runs"]])
                for item in data.pop("experiments")
            ]
            record = cls(**data, experiments=experiments)
            for name in dict.fromkeys(run.curve for item in experiments for run in item.runs):
                text = (folder / CURVES / name).read_text(encoding="utf-8")
                record.curves[name] = Curve.from_json(json.loads(text))
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise RecordError(f"{folder} has no complete record: {error!r}") from error
        return record


def _short(value: float | None) -> float | int | str | None:
    """Return a number with seven significant digits for JSON; whole numbers without a fraction."""
    if value is None or not math.isfinite(value):
        return None if value is None else encode_number(value)
    rounded = float(f"{value:.7g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _columns(curve: Mapping[str, Any]) -> str:
    """Return a curve as JSON with a line per metric, which keeps differences between versions readable."""

    def compact(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)

    lines = [f" {compact(name)}: {compact(curve[name])}," for name in ("step", "epoch", "elapsed")]
    values = [f"  {compact(name)}: {compact(column)}" for name, column in curve["values"].items()]
    inner = ",\n".join(values)
    return "\n".join(["{", *lines, ' "values": {', *([inner] if inner else []), " }", "}"]) + "\n"
