"""Runs of other programs, in the form in which all importers give them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

_SEED_KEYS = ("seed", "random_seed", "training.seed", "trainer.seed", "SEED")
_SEED_IN_NAME = re.compile(r"[\s_./-]*seed[\s_=:-]*(\d+)", re.IGNORECASE)
_MAX_SEED = 2**31


class ImportSourceError(Exception):
    """The runs of another program cannot be read. The message says why."""


@dataclass(frozen=True)
class ForeignPoint:
    """One value of a metric.

    Attributes:
        name: The metric, by the name that the other program gives it.
        step: The step.
        time: Seconds since 1970; None if it is unknown.
        value: The value.
        epoch: The epoch; None if it is unknown.
    """

    name: str
    step: int
    time: float | None
    value: float
    epoch: float | None = None


@dataclass(frozen=True)
class ForeignRun:
    """A run that another program has recorded.

    Attributes:
        source: The program: tensorboard, mlflow or wandb.
        id: Id of the run, unique within the source.
        name: Name of the run.
        group: Name of the group that the other program puts it in, such as a project or a folder; empty if none.
        config: Parameters.
        points: The points of all metrics.
        state: State in the words of DKD Lab, such as succeeded; empty if it is unknown.
        started_at: Start of the run.
        ended_at: End of the run.
    """

    source: str
    id: str
    name: str
    group: str
    config: Mapping[str, Any]
    points: list[ForeignPoint] = field(default_factory=list)
    state: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def seed(self) -> int | None:
        """The seed from the parameters, else from the name; None if there is none."""
        for key in _SEED_KEYS:
            value = str(self.config.get(key, ""))
            if value.isdecimal() and int(value) < _MAX_SEED:
                return int(value)
        match = _SEED_IN_NAME.search(self.name)
        return int(match[1]) if match else None

    @property
    def label(self) -> str:
        """The name without its seed: runs of one method over several seeds have the same label."""
        return _SEED_IN_NAME.sub("", self.name).strip(" _./-") or self.name


@dataclass(frozen=True)
class MetricName:
    """The name of a metric in DKD Lab for a metric of another program.

    Attributes:
        theirs: Name in the other program.
        ours: Name in DKD Lab.
        factor: The values are multiplied by it: 100 for an accuracy that is recorded as a share.
    """

    theirs: str
    ours: str
    factor: float = 1.0

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """Parse ``THEIRS=OURS`` or ``THEIRS=OURS*FACTOR``.

        Raises:
            ValueError: The text has another form, or the factor is not a finite number.
        """
        theirs, equals, rest = text.partition("=")
        ours, star, factor = rest.partition("*")
        if not (theirs.strip() and equals and ours.strip()):
            raise ValueError(f"{text}: expected THEIRS=OURS or THEIRS=OURS*FACTOR, such as val_acc=test/top1*100")
        try:
            number = float(factor) if star else 1.0
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{text}: the factor {factor.strip()!r} is not a number")
        return cls(theirs.strip(), ours.strip(), number)


def renamed(points: Iterable[ForeignPoint], names: Iterable[MetricName]) -> Iterator[ForeignPoint]:
    """Yield points with the names and units of DKD Lab; metrics without a new name stay as they are."""
    by_name = {name.theirs: name for name in names}
    for point in points:
        name = by_name.get(point.name)
        if name is None:
            yield point
        else:
            yield ForeignPoint(name.ours, point.step, point.time, point.value * name.factor, point.epoch)


def existing_folder(path: Path) -> Path:
    """Return a folder.

    Raises:
        ImportSourceError: The folder does not exist or is a file.
    """
    if not path.is_dir():
        raise ImportSourceError(f"{path} is not a folder")
    return path
