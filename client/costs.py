"""Accuracy against cost: the networks that ``dkd measure`` has measured, joined with comparisons. Pure functions."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import ValidationError

from common.formatting import count_text, difference_unit, interval_text, value_text
from core.protocol.base import Message
from core.protocol.comparisons import Better, Comparison, Interval

Reference = Literal["teacher", "best"]
"""What a student's accuracy is compared with: its teacher's, or that of the best student."""


class CostsError(ValueError):
    """A file is not the output of ``dkd measure --json``. The message says why."""


class MeasuredLatency(Message):
    """Seconds of a forward pass: the median of the rounds with its quartiles."""

    median: float
    low: float
    high: float


class MeasuredNetwork(Message):
    """What the network of a run costs; see ``core.deploy.measure.Cost``."""

    run_id: str
    name: str
    model: str
    parameters: int
    weight_bytes: int
    flops: int
    peak_bytes: dict[str, int]
    latency: dict[str, MeasuredLatency]


class Costs(Message):
    """The output of ``dkd measure --json``: networks that were measured in turn on one machine."""

    device: str
    threads: int
    torch: str
    networks: list[MeasuredNetwork]

    @property
    def machine(self) -> str:
        """Return where the networks were measured, for a caption."""
        where = f"CPU, {count_text(self.threads, 'thread')}" if self.device == "cpu" else self.device
        return f"{where}, float32, torch {self.torch}"


def read_costs(content: bytes | str) -> Costs:
    """Return the report in a file.

    Raises:
        CostsError: The content is not the output of ``dkd measure --json``.
    """
    try:
        return Costs.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise CostsError(f"the file is not the output of `dkd measure --json`: {reason}") from None


@dataclass(frozen=True)
class Cost:
    """A cost of a candidate.

    Attributes:
        value: The median over its networks.
        low: The lowest first quartile; equal to ``value`` for a cost that is counted and not timed.
        high: The highest third quartile.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class CostAxis:
    """A cost that networks are compared by.

    Attributes:
        title: Its name, as "latency, batch 1".
        unit: Its unit; empty for a count.
        least: Words for the student with the least cost, as "the fewest parameters".
        of: Returns (median, low, high) of a network.
    """

    title: str
    unit: str
    least: str
    of: Callable[[MeasuredNetwork], tuple[float, float, float]]

    @property
    def label(self) -> str:
        """Return the title with the unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def text(self, value: float) -> str:
        """Return a value of this cost, with its unit."""
        return value_text(value, self.unit) if self.unit else f"{value:,.0f}"


def axes(costs: Costs) -> dict[str, CostAxis]:
    """Return the costs that all networks have, by a short name."""
    found = {
        "parameters": CostAxis("parameters", "", "the fewest parameters", _counted("parameters")),
        "weights": CostAxis("size of the weights", "MB", "the smallest weights", _counted("weight_bytes", 1e-6)),
        "flops": CostAxis("operations per image", "MFLOPs", "the fewest operations", _counted("flops", 1e-6)),
    }
    batches = [set(network.latency) & set(network.peak_bytes) for network in costs.networks]
    for batch in sorted(set.intersection(*batches) if batches else (), key=lambda text: (len(text), text)):
        latency = CostAxis(f"latency, batch {batch}", "ms", f"the least latency at batch {batch}", _latency_of(batch))
        memory = CostAxis(f"peak memory, batch {batch}", "MB", f"the least memory at batch {batch}", _memory_of(batch))
        found |= {f"latency {batch}": latency, f"memory {batch}": memory}
    return found


def _counted(name: str, factor: float = 1.0) -> Callable[[MeasuredNetwork], tuple[float, float, float]]:
    def of(network: MeasuredNetwork) -> tuple[float, float, float]:
        value = factor * getattr(network, name)
        return value, value, value

    return of


def _memory_of(batch: str) -> Callable[[MeasuredNetwork], tuple[float, float, float]]:
    def of(network: MeasuredNetwork) -> tuple[float, float, float]:
        value = network.peak_bytes[batch] / 1e6
        return value, value, value

    return of


def _latency_of(batch: str) -> Callable[[MeasuredNetwork], tuple[float, float, float]]:
    def of(network: MeasuredNetwork) -> tuple[float, float, float]:
        latency = network.latency[batch]
        return 1000 * latency.median, 1000 * latency.low, 1000 * latency.high

    return of


@dataclass(frozen=True)
class Candidate:
    """A method of an experiment over its seeds, or its teacher, with measured networks.

    Attributes:
        name: Its label, with the experiment's name if there are several.
        label: Its label.
        model: Its network.
        teacher: Whether it is a teacher.
        n: Number of runs that the accuracy is a mean of.
        accuracy: Headline metric, as the test accuracy in %.
        interval: Its 95 % t interval over the seeds; None if there is none.
        networks: The measured networks.
        unit: Unit of the accuracy.
        better: Whether a higher or a lower value is better.
    """

    name: str
    label: str
    model: str
    teacher: bool
    n: int
    accuracy: float
    interval: Interval | None
    networks: Sequence[MeasuredNetwork]
    unit: str = "%"
    better: Better = "higher"

    def cost(self, axis: CostAxis) -> Cost:
        """Return a cost over the networks."""
        values, lows, highs = zip(*(axis.of(network) for network in self.networks), strict=True)
        return Cost(statistics.median(values), min(lows), max(highs))

    @property
    def _sign(self) -> int:
        return -1 if self.better == "lower" else 1

    def gain_over(self, other: float) -> float:
        """Return by how much the accuracy is better than another."""
        return self._sign * (self.accuracy - other)

    @property
    def worst(self) -> float | None:
        """Return the worse end of the interval; None without one."""
        if self.interval is None:
            return None
        return self.interval.high if self.better == "lower" else self.interval.low


def candidates(comparisons: Sequence[Comparison], costs: Costs) -> list[Candidate]:
    """Return the teachers, and the methods with a mean, that were both compared and measured.

    Args:
        comparisons: One for each experiment.
        costs: The measured networks.
    """
    known = {network.run_id: network for network in costs.networks}
    found: dict[str, Candidate] = {}
    for comparison in comparisons:
        prefix = f"{comparison.experiment}: " if len(comparisons) > 1 else ""
        better = comparison.better or "higher"
        teachers = [known[teacher.run_id] for teacher in comparison.teachers if teacher.run_id in known]
        if teachers and comparison.teacher_top1 is not None:
            key = "teacher " + " ".join(sorted(network.run_id for network in teachers))
            found.setdefault(  # experiments share teachers
                key,
                Candidate(
                    f"teacher {teachers[0].model}",
                    "teacher",
                    teachers[0].model,
                    teacher=True,
                    n=len(comparison.teachers),
                    accuracy=comparison.teacher_top1,
                    interval=None,
                    networks=teachers,
                    unit=comparison.headline_unit,
                    better=better,
                ),
            )
        for group in comparison.groups:
            networks = [known[run.run_id] for run in group.runs if run.value is not None and run.run_id in known]
            if networks and group.mean is not None:
                found[f"{comparison.experiment_id} {group.label}"] = Candidate(
                    f"{prefix}{group.label}",
                    group.label,
                    networks[0].model,
                    teacher=False,
                    n=group.n,
                    accuracy=group.mean,
                    interval=group.interval,
                    networks=networks,
                    unit=comparison.unit,
                    better=better,
                )
    return list(found.values())


def front(found: Sequence[Candidate], axis: CostAxis) -> list[Candidate]:
    """Return the Pareto front by increasing cost: each is better than everything that costs as much or less.

    It compares the means and the medians; the intervals say how sure it is.
    """
    chosen: list[Candidate] = []
    for candidate in sorted(found, key=lambda item: (item.cost(axis).value, -item.gain_over(0.0))):
        if not chosen or candidate.gain_over(chosen[-1].accuracy) > 0:
            chosen.append(candidate)
    return chosen


def reference_accuracy(found: Sequence[Candidate], reference: Reference) -> float | None:
    """Return the accuracy of the best teacher or of the best student; None if there is none."""
    compared = [item for item in found if item.teacher == (reference == "teacher")]
    return max(compared, key=lambda item: item.gain_over(0.0)).accuracy if compared else None


def smallest_within(
    found: Sequence[Candidate], axis: CostAxis, margin: float, reference: Reference
) -> Candidate | None:
    """Return the student with the least cost whose mean is at most ``margin`` worse than the reference.

    Of equal costs, the most accurate; None if no student is within the margin.
    """
    limit = reference_accuracy(found, reference)
    if limit is None:
        return None
    within = [item for item in found if not item.teacher and item.gain_over(limit) >= -margin]
    return min(within, key=lambda item: (item.cost(axis).value, -item.gain_over(0.0)), default=None)


def choice_sentences(found: Sequence[Candidate], axis: CostAxis, margin: float, reference: Reference) -> list[str]:
    """Return the smallest student within the margin in words, and how sure the seeds make it.

    The first sentence names it; the others are conditions. Names in them are not escaped.
    """
    limit = reference_accuracy(found, reference)
    whose = "the teacher" if reference == "teacher" else "the best student"
    if limit is None:
        return [f"{whose[:1].upper()}{whose[1:]} was not measured."]
    unit = found[0].unit
    within = f"within {value_text(margin, difference_unit(unit), 2)} of {whose} ({value_text(limit, unit, 2)})"
    chosen = smallest_within(found, axis, margin, reference)
    if chosen is None:
        return [f"No measured student is {within}."]
    spread = f" {interval_text(chosen.interval, chosen.accuracy, signs=False)}" if chosen.interval else ""
    accuracy = f"{value_text(chosen.accuracy, decimals=2)}{spread}{f' {unit}' if unit else ''}"
    sentences = [
        f"Of the students {within}, {chosen.name} of {chosen.model} has {axis.least}: "
        f"{axis.text(chosen.cost(axis).value)}, at {accuracy} ({count_text(chosen.n, 'run')})."
    ]
    worst = chosen.worst
    if worst is None:
        sentences.append("Its accuracy has no interval, so whether it is within the margin is not shown.")
    elif (worst - limit) * (-1 if chosen.better == "lower" else 1) < -margin:
        sentences.append("Its interval reaches beyond the margin, so further seeds can decide otherwise.")
    return sentences


def unused(found: Sequence[Candidate], costs: Costs) -> int:
    """Return the number of measured networks that belong to none of the candidates."""
    used = {network.run_id for item in found for network in item.networks}
    return len({network.run_id for network in costs.networks} - used)


def rows(found: Sequence[Candidate], costs: Costs) -> list[Mapping[str, str]]:
    """Return the table of the candidates: accuracy and every cost."""
    return [
        {
            "Network": item.name,
            "Model": item.model,
            "Accuracy": f"{value_text(item.accuracy, item.unit, 2)}"
            + (f" {interval_text(item.interval, item.accuracy, signs=False)}" if item.interval else ""),
            "Runs": str(item.n),
            **{axis.label: _cell(item.cost(axis), axis) for axis in axes(costs).values()},
        }
        for item in found
    ]


def _cell(cost: Cost, axis: CostAxis) -> str:
    if not axis.unit:
        return f"{cost.value:,.0f}"
    if cost.low == cost.high:
        return value_text(cost.value)
    return f"{value_text(cost.value)} [{value_text(cost.low)}, {value_text(cost.high)}]"
