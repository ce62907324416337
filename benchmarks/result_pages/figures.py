"""Figures of a page of results as SVG: curves, final values of all runs, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backend.comparisons.statistics import Summary
from common import svg
from common.formatting import difference_text
from core.protocol.comparisons import Comparison, MethodResult, PairedDifference

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5f6368", "#b8a900")
"""Okabe and Ito's palette, which all kinds of colour vision can tell apart."""
_WIDTH, _HEIGHT = 760.0, 380.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 16.0, 12.0, 44.0
_ROW = 26.0
_TICKS = 6
_BACKGROUND = "white"

Points = Sequence[tuple[float, float]]


def curves(runs: Mapping[str, Sequence[Points]], title: str) -> str:
    """Return curves over the epochs: a thick line per method through the mean of its seeds, a faint one per run.

    Args:
        runs: By label the points of each run: epoch and value.
        title: Title of the vertical axis, with its unit.
    """
    points = [point for lines in runs.values() for line in lines for point in line if math.isfinite(point[1])]
    if not points:
        return ""
    x = _Scale.over([epoch for epoch, _ in points], _LEFT, _WIDTH - _RIGHT)
    legend_height = 20.0 * math.ceil(len(runs) / 3)
    y = _Scale.over([value for _, value in points], _HEIGHT - _BOTTOM, _TOP)
    parts = [*_x_axis(x, "epoch", _HEIGHT - _BOTTOM), *_y_axis(y, title)]
    for index, lines in enumerate(runs.values()):
        colour = COLOURS[index % len(COLOURS)]
        for line in lines:
            finite = [(x.at(epoch), y.at(value)) for epoch, value in line if math.isfinite(value)]
            parts.append(svg.polyline(finite, colour, 1, 0.3))
    for index, lines in enumerate(runs.values()):
        mean = [(x.at(epoch), y.at(value)) for epoch, value in _mean(lines)]
        parts.append(svg.polyline(mean, COLOURS[index % len(COLOURS)], 2.5))
    parts += _legend(list(runs), _HEIGHT + 6)
    return svg.figure(_WIDTH, _HEIGHT + legend_height + 10, parts, f"{title} over the epochs", background=_BACKGROUND)


def values(groups: Sequence[MethodResult], title: str) -> str:
    """Return the value of every run, a row per method, with the mean and its interval."""
    shown = [group for group in groups if group.n]
    numbers = [run.value for group in shown for run in group.runs if run.value is not None]
    if not numbers:
        return ""
    left, bottom = _label_width([group.label for group in shown]), _TOP + _ROW * len(shown)
    ends = [end for group in shown if group.interval for end in (group.interval.low, group.interval.high)]
    x = _Scale.over([*numbers, *ends], left, _WIDTH - _RIGHT)
    parts = _x_axis(x, title, bottom)
    for index, group in enumerate(shown):
        y, colour = _TOP + _ROW * (index + 0.5), COLOURS[index % len(COLOURS)]
        parts.append(svg.label(left - 10, y + 4, group.label, anchor="end"))
        if group.interval:
            parts.append(svg.line(x.at(group.interval.low), y + 5, x.at(group.interval.high), y + 5, colour, 2))
        parts += [svg.circle(x.at(run.value), y - 3, 3.5, colour, 0.6) for run in group.runs if run.value is not None]
        if group.mean is not None:
            parts.append(svg.line(x.at(group.mean), y - 1, x.at(group.mean), y + 11, colour, 3))
    return svg.figure(_WIDTH, bottom + _BOTTOM, parts, f"{title} of every run", background=_BACKGROUND)


def differences(paired: Sequence[PairedDifference], baseline: str, unit: str) -> str:
    """Return the mean paired difference of each method with its interval; empty without pairs."""
    shown = [pair for pair in paired if pair.mean_difference is not None]
    if not shown:
        return ""
    left, bottom = _label_width([pair.label for pair in shown]), _TOP + _ROW * len(shown)
    ends = [end for pair in shown if pair.interval for end in (pair.interval.low, pair.interval.high)]
    x = _Scale.over([0.0, *ends, *(pair.mean_difference or 0.0 for pair in shown)], left, _WIDTH - _RIGHT)
    title = f"difference to {baseline}{f' ({unit})' if unit else ''}"
    parts = [*_x_axis(x, title, bottom), svg.line(x.at(0), _TOP, x.at(0), bottom, svg.GREY, 1, "3 3")]
    for index, pair in enumerate(shown):
        y, colour, mean = _TOP + _ROW * (index + 0.5), COLOURS[(index + 1) % len(COLOURS)], pair.mean_difference or 0.0
        bar = svg.line(x.at(pair.interval.low), y, x.at(pair.interval.high), y, colour, 2) if pair.interval else ""
        parts.append(svg.label(left - 10, y + 4, pair.label, anchor="end"))
        text = f"{pair.label}: {difference_text(mean, pair.interval, unit)}, n = {pair.n}"
        parts.append(svg.titled(bar + svg.circle(x.at(mean), y, 4.5, colour), text))
    return svg.figure(_WIDTH, bottom + _BOTTOM, parts, f"Paired {title}", background=_BACKGROUND)


def doses(
    series: Mapping[str, Sequence[tuple[float, Summary]]], x_title: str, y_title: str, factor: float = 1.0
) -> str:
    """Return the response to each dose with its interval, on a logarithmic axis of doses.

    Args:
        series: By name, the doses with the summary of their responses.
        x_title: Title of the axis of doses.
        y_title: Title of the axis of responses, with its unit.
        factor: By what doses are multiplied where they are shown.
    """
    points = [point for of_series in series.values() for point in of_series if point[1].mean is not None]
    ends = [end for _, found in points if found.interval for end in (found.interval.low, found.interval.high)]
    x = _Scale.over([math.log10(dose) for dose, _ in points], _LEFT + 20, _WIDTH - _RIGHT - 20)
    y = _Scale.over([0.0, *ends, *(found.mean or 0.0 for _, found in points)], _HEIGHT - _BOTTOM, _TOP)
    bottom = _HEIGHT - _BOTTOM
    parts = [*_y_axis(y, y_title), svg.line(_LEFT, bottom, _WIDTH - _RIGHT, bottom)]
    for dose in sorted({dose for dose, _ in points}):
        at = x.at(math.log10(dose))
        parts += [svg.line(at, bottom, at, bottom + 5)]
        parts.append(svg.label(at, bottom + 18, f"{factor * dose:g}", anchor="middle", size=12))
    parts.append(svg.label((_LEFT + _WIDTH - _RIGHT) / 2, bottom + 36, x_title, anchor="middle", size=12))
    parts.append(svg.line(_LEFT, y.at(0), _WIDTH - _RIGHT, y.at(0), svg.GREY, 1, "3 3"))
    for index, of_series in enumerate(series.values()):
        colour, shift = COLOURS[index % len(COLOURS)], 6.0 * (index - (len(series) - 1) / 2)
        drawn = [(x.at(math.log10(dose)) + shift, found) for dose, found in of_series if found.mean is not None]
        parts.append(svg.polyline([(at, y.at(found.mean or 0.0)) for at, found in drawn], colour, 1.5, 0.6))
        for at, found in drawn:
            if found.interval:
                parts.append(svg.line(at, y.at(found.interval.low), at, y.at(found.interval.high), colour, 2))
            parts.append(svg.circle(at, y.at(found.mean or 0.0), 4.5, colour))
    named = len(series) > 1
    parts += _legend(list(series), _HEIGHT + 6) if named else []
    return svg.figure(_WIDTH, _HEIGHT + 30 * named, parts, f"{y_title} by {x_title}", background=_BACKGROUND)


def all_of(comparison: Comparison, runs: Mapping[str, Sequence[Points]], unit: str) -> dict[str, str]:
    """Return the figures of a comparison by the end of their file names; those without anything to show are left out.

    Args:
        comparison: The comparison.
        runs: As of ``curves``.
        unit: Unit of a difference.
    """
    title = f"{comparison.title}{f' ({comparison.unit})' if comparison.unit else ''}"
    drawn = {
        "curves": curves(runs, title),
        "values": values(comparison.groups, title),
        "differences": differences(comparison.paired, comparison.baseline, unit),
    }
    return {name: figure for name, figure in drawn.items() if figure}


class _Scale:
    """A linear scale from values to pixels, with ticks at round numbers."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    @classmethod
    def over(cls, numbers: Sequence[float], start: float, end: float) -> _Scale:
        """Return the scale over finite numbers, with some space at both ends."""
        low, high = min(numbers), max(numbers)
        space = 0.04 * (high - low) or 0.5
        return cls(low - space, high + space, start, end)

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        rough = (self.high - self.low) / _TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        return [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def _x_axis(scale: _Scale, title: str, y: float) -> list[str]:
    parts = [svg.line(scale.start, y, scale.end, y)]
    for tick in scale.ticks():
        parts += [svg.line(scale.at(tick), y, scale.at(tick), y + 5)]
        parts.append(svg.label(scale.at(tick), y + 18, f"{tick:.6g}".replace("-", "−"), anchor="middle", size=12))
    return [*parts, svg.label((scale.start + scale.end) / 2, y + 36, title, anchor="middle", size=12)]


def _y_axis(scale: _Scale, title: str) -> list[str]:
    parts = [svg.line(_LEFT, scale.start, _LEFT, scale.end)]
    for tick in scale.ticks():
        parts.append(svg.line(_LEFT, scale.at(tick), _WIDTH - _RIGHT, scale.at(tick), svg.GREY, 0.3))
        parts.append(svg.label(_LEFT - 6, scale.at(tick) + 4, f"{tick:.6g}".replace("-", "−"), anchor="end", size=12))
    return [*parts, svg.turned(14, (scale.start + scale.end) / 2, title)]


def _legend(labels: Sequence[str], top: float) -> list[str]:
    parts = []
    for index, label in enumerate(labels):
        x, y = _LEFT + (index % 3) * 230, top + 20 * (index // 3) + 8
        parts.append(svg.line(x, y - 4, x + 22, y - 4, COLOURS[index % len(COLOURS)], 2.5))
        parts.append(svg.label(x + 28, y, svg.shortened(label, 195)))
    return parts


def _label_width(labels: Sequence[str]) -> float:
    return min(260.0, max(svg.text_width(label) for label in labels)) + 24


def _mean(lines: Sequence[Points]) -> list[tuple[float, float]]:
    """Return the mean over the runs at the epochs that all of them have."""
    by_epoch: dict[float, list[float]] = {}
    for line in lines:
        for epoch, value in line:
            if math.isfinite(value):
                by_epoch.setdefault(epoch, []).append(value)
    shared = {epoch: found for epoch, found in sorted(by_epoch.items()) if len(found) == len(lines)}
    return [(epoch, math.fsum(found) / len(found)) for epoch, found in shared.items()]
