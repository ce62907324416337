"""The description of a metric, which a task or a method owns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

LOSS_PANEL = "Loss and its terms"
"""Panel of the training loss, the test loss and the terms in nats that several methods share."""

MACHINE_PREFIX = "machine/"
"""Beginning of the names of what a training measures of its machine. It is shown, but never tested."""

VARYING_PREFIXES = ("speed/", MACHINE_PREFIX)
"""Beginnings of the names of metrics that two equal trainings measure differently."""


@dataclass(frozen=True)
class Metric:
    """Description of a metric.

    Attributes:
        name: Stored name, ``group/name``.
        title: Title of an axis.
        unit: "%", "nats" …; empty for a pure number.
        better: Whether higher or lower is better; None if neither is.
        of: Name of the metric that counts the images of the mean, if these are not all test images; else "".
        of_all: Whether it is a share of all test images.
        panel: Title of the chart among a run's curves that shows the metric. Metrics with the same panel share a
            chart. Empty: the metric is among the further measurements, grouped by the first part of its name.
        from_zero: Whether the chart's axis begins at 0, so that noise around a constant does not fill it.
        drawn: Whether charts show the metric. False for a number that the spec determines, or that is not the
            student's.
        aliases: Other names in use. They are not accepted; the error about them suggests ``name``.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower"] | None = None
    of: str = ""
    of_all: bool = False
    panel: str = ""
    from_zero: bool = False
    drawn: bool = True
    aliases: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def describe(self) -> dict[str, Any]:
        """Return the metric as JSON."""
        return asdict(self) | {"label": self.label}


def share_metric(term: Metric) -> Metric:
    """Return the metric with the share of the gradient that a term of the loss has."""
    title = f"{term.title.removesuffix(', unweighted')}: share of the gradient"
    name = f"grad/share_{term.name.removeprefix('train/')}"
    return Metric(name, title, "%", panel="Shares of the gradient", from_zero=True)
