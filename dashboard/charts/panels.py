"""Panels of the Run page; a panel is a chart of several metrics.

The catalog names the panel of a metric, or none. Metrics without one are grouped by the prefix of their name and
by unit. So the terms of a new method and new diagnostics appear without a change in this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.formatting import value_text
from dashboard import theme
from dashboard.charts.counted_titles import counted_title, with_count
from dashboard.curves.curve import Curve


@dataclass(frozen=True)
class Trace:
    """A metric on a chart.

    Attributes:
        metric: Name of the metric in the catalog.
        title: Title in the legend.
        colour: Colour of the line.
        second: Whether the metric is on the right-hand axis.
        dash: Plotly's line style.
        count_metric: Name of the metric with the number of images that this metric covers; empty if it covers all.
        unit: Unit of the metric; empty for a pure number.
    """

    metric: str
    title: str
    colour: str
    second: bool = False
    dash: str = "solid"
    count_metric: str = ""
    unit: str = ""

    def legend(self, curves: Mapping[str, Curve], item: str) -> str:
        """Return the title, with the number of images (``item``) if the metric does not cover all of them."""
        if not self.count_metric:
            return self.title
        return with_count(self.title, self.metric, self.count_metric, [curves], item)


@dataclass(frozen=True)
class Panel:
    """A chart of the Run page.

    Attributes:
        key: Identifies the panel on the page.
        title: Title above the chart.
        axis: Title of the left-hand axis, with its unit.
        traces: Metrics of the panel.
        second_axis: Title of the right-hand axis; empty if there is none.
        from_zero: Whether the left-hand axis includes 0.
        help: Explanation beside the title.
    """

    key: str
    title: str
    axis: str
    traces: tuple[Trace, ...]
    second_axis: str = ""
    from_zero: bool = False
    help: str = ""

    def drawn(self, curves: Mapping[str, Curve]) -> tuple[Trace, ...]:
        """Return the traces that have points; those of a panel of many metrics have the colours of the first ones."""
        traces = [trace for trace in self.traces if len(curves.get(trace.metric, ()))]
        if len(self.traces) <= _MOST_STYLES:
            return tuple(traces)
        return tuple(replace(trace, colour=_colour(at), dash=_dash(at)) for at, trace in enumerate(traces))


LOSS_PANEL = "Loss and its terms"
_UNWEIGHTED = (
    "Terms are shown as measured, before their weights, ramp and decay are applied, so the training loss is not their "
    "sum. A term that is defined with the factor T² includes it."
)
_FIRST = ("Accuracy", "Average precision")
"""Panels of what results are judged by. A run has those of its task."""
_LAST = ("Shares of the gradient", "Weights that give shares", "Agreement with the teacher", "Learning rate")
"""Panels that follow those of the methods."""
_MOST_STYLES = 8
"""Largest number of metrics of a panel whose colours do not depend on the run."""
_UNDESCRIBED = "Other measurements of the training"
"""Panel of metrics of the training that the catalog does not describe, as of a plug-in that is not loaded."""
_DASHES = ("solid", "dash", "dot", "dashdot")
_GROUPS = {
    "ap_class": "AP by class",
    "ap_class_teacher": "Teacher's AP by class",
    "grad": "Gradients",
    "machine": "Machine",
    "nc": "Neural collapse",
    "speed": "Training speed",
    "test": "Test",
    "test_ema": "Test of averaged weights",
    "val": "Validation",
    "val_ema": "Validation of averaged weights",
}
_AXES = {
    ("calibration", "%"): "Calibration error (%)",
    ("errors", "%"): "AP at IoU 0.5 lost (%)",
    ("fidelity", "%"): "Agreement (%)",
    ("fidelity", "images"): "Number of images",
    ("grad", "%"): "Share of the samples (%)",
    ("robustness", "%"): "Accuracy, or accuracy lost (%)",
    ("speed", "%"): "Share of the time, or of the images (%)",
}
"""Titles of the axes of further measurements whose group does not name the quantity, by group and unit."""
_TITLES = {
    ("grad", "%"): "Samples without a gradient similarity",
    ("speed", "%"): "Waiting for images, and reuse of logits",
}
"""Titles of the panels of further measurements that are of another kind than the rest of their group."""
_MACHINE = "machine/"
"""Beginning of the names of what a run measures of its machine, which has a tab of its own."""
_BESIDE_MACHINE = ("speed/images_per_second", "speed/input_stall")
_OF_CLASSES = ("ap_class/", "ap_class_teacher/")
"""Beginnings of the names of metrics in % that there is one of for each class of a data set."""

Described = Mapping[str, Any]
"""A metric as the catalog describes it: name, title, unit, label, panel, of, drawn, from_zero."""


def with_undescribed(metrics: Sequence[Described], names: Iterable[str]) -> list[Described]:
    """Return the metrics of the catalog, followed by a description of every other name.

    Args:
        metrics: Entries of the catalog.
        names: Names of the metrics that a run has reported.
    """
    known = {metric["name"] for metric in metrics}
    return [*metrics, *(_describe(name) for name in names if name not in known)]


def _describe(name: str) -> Described:
    if name.startswith(_OF_CLASSES):
        title = name.partition("/")[2]
        return {"name": name, "title": title, "label": f"{title} (%)", "unit": "%", "panel": ""}
    title = name.rpartition("/")[2].replace("_", " ").capitalize() or name
    panel = _UNDESCRIBED if name.startswith("train/") else ""
    return {"name": name, "title": title, "label": title, "unit": "", "panel": panel}


def standard_panels(metrics: Sequence[Described]) -> tuple[Panel, ...]:
    """Return the panels that the catalog's metrics name, in the order in which they are first named.

    Those of what results are judged by are the first. A loss term that names no panel is in the panel of the loss.

    Args:
        metrics: Entries of the catalog.
    """
    panels = _members(metric for metric in metrics if not _is_of_machine(metric))

    def place(title: str) -> int:
        return -2 if title in _FIRST else _LAST.index(title) if title in _LAST else -1

    ordered = sorted(panels, key=place)
    return tuple(panel for title in ordered for panel in _named_panels(title, panels[title]))


def machine_panels(metrics: Sequence[Described]) -> tuple[Panel, ...]:
    """Return the panels of what a run measures of its machine, in the order of the catalog.

    Args:
        metrics: Entries of the catalog.
    """
    panels = _members(metric for metric in metrics if _is_of_machine(metric))
    return tuple(panel for title, members in panels.items() for panel in _named_panels(title, members))


def beside_machine(metrics: Sequence[Described]) -> tuple[Panel, ...]:
    """Return the panels of the training that explain its machine, or are explained by it: loss, speed and waiting.

    Args:
        metrics: Entries of the catalog.
    """
    loss = [panel for panel in standard_panels(metrics) if panel.title == LOSS_PANEL]
    return (*loss, *additional_panels([metric for metric in metrics if metric["name"] in _BESIDE_MACHINE]))


def _is_of_machine(metric: Described) -> bool:
    return bool(metric["name"].startswith(_MACHINE))


def _members(metrics: Iterable[Described]) -> dict[str, list[Described]]:
    """Return the metrics that a panel is named for, by its title."""
    panels: dict[str, list[Described]] = {}
    for metric in metrics:
        if title := _panel_title(metric):
            panels.setdefault(title, []).append(metric)
    return panels


def additional_panels(metrics: Sequence[Described]) -> tuple[Panel, ...]:
    """Return panels of all other metrics in the catalog: one per group and unit, with at most six curves each."""
    groups: dict[tuple[str, str], list[Described]] = {}
    for metric in metrics:
        if metric.get("drawn", True) and not _panel_title(metric) and not _is_of_machine(metric):
            groups.setdefault((metric["name"].partition("/")[0], metric["unit"]), []).append(metric)
    max_curves = len(theme.PALETTE)
    return tuple(
        _group_panel(group, unit, members[start : start + max_curves], start)
        for (group, unit), members in groups.items()
        for start in range(0, len(members), max_curves)
    )


def group_title(metric: Described) -> str:
    """Return the title of the panel, or of the group of further measurements, that a metric belongs to."""
    panel = "" if _is_of_machine(metric) else _panel_title(metric)
    return panel or _group_name(metric["name"].partition("/")[0])


def _group_name(group: str) -> str:
    return _GROUPS.get(group, group.replace("_", " ").capitalize())


def _panel_title(metric: Described) -> str:
    if not metric.get("drawn", True):
        return ""
    term = metric["name"].startswith("train/") and metric["unit"] == "nats"
    return metric.get("panel") or (LOSS_PANEL if term else "")


def _named_panels(title: str, members: Sequence[Described]) -> Iterator[Panel]:
    """Yield a panel with one axis for each of the first two units, and further ones for more units."""
    units = list(dict.fromkeys(metric["unit"] for metric in members))
    for start in range(0, len(units), 2):
        left, right = units[start], units[start + 1 : start + 2]
        shown = [metric for metric in members if metric["unit"] in (left, *right)]
        panel_title = title if start == 0 else f"{title} ({left or 'no unit'})"
        unweighted = any(metric["title"].endswith("unweighted") for metric in shown)
        yield Panel(
            _key(panel_title),
            panel_title,
            _axis(title, left, shown),
            tuple(
                Trace(
                    metric["name"],
                    metric["title"],
                    _colour(index),
                    second=metric["unit"] != left,
                    dash=_dash(index),
                    count_metric=metric.get("of", ""),
                    unit=metric["unit"],
                )
                for index, metric in enumerate(shown)
            ),
            second_axis=_axis(title, right[0], shown) if right else "",
            from_zero=any(metric.get("from_zero") for metric in shown if metric["unit"] == left),
            help=_UNWEIGHTED if unweighted else "",
        )


def _colour(index: int) -> str:
    """Return the colour of the trace with this index in its panel."""
    return theme.PALETTE[index % len(theme.PALETTE)]


def _dash(index: int) -> str:
    """Return the dash of the trace with this index; with the colour, the first 24 traces are different."""
    return _DASHES[(index + index // 12) % len(_DASHES)]


def _axis(title: str, unit: str, metrics: Sequence[Described]) -> str:
    """Return the title of the axis of a unit: that of its only metric, or the panel's."""
    labels = [metric["label"] for metric in metrics if metric["unit"] == unit]
    return labels[0] if len(labels) == 1 else f"{title} ({unit or 'no unit'})"


def _key(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _group_panel(group: str, unit: str, members: Sequence[Described], start: int) -> Panel:
    name = _group_name(group)
    title = members[0]["title"] if len(members) == 1 else _TITLES.get((group, unit), name)
    axis = members[0]["label"] if len(members) == 1 else _AXES.get((group, unit), f"{name} ({unit or 'no unit'})")
    traces = tuple(
        Trace(metric["name"], metric["title"], colour, count_metric=metric.get("of", ""), unit=unit)
        for metric, colour in zip(members, theme.PALETTE, strict=False)
    )
    return Panel(f"{group}.{unit}.{start}", title, axis, traces, from_zero=group == "speed")


def final_measurements(
    curves: Mapping[str, Curve], metrics: Sequence[Described], test_size: int, item: str
) -> list[dict[str, str]]:
    """Return the metrics that a training reports once at its end, as rows of a table; those of its machine are apart.

    The result is empty during the first epoch, when every metric has a single value.

    Args:
        curves: The curves of the run by metric.
        metrics: Entries of the catalog.
        test_size: Number of test images.
        item: What an item of the data is called.
    """
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return []
    final = [metric for metric in metrics if not _is_of_machine(metric) and len(curves.get(metric["name"], ())) == 1]
    return [
        {
            "Final measurement": counted_title(metric["title"], metric, [curves], [test_size], item),
            "Value": value_text(curves[metric["name"]].value[-1], metric["unit"]),
        }
        for metric in final
    ]


def latest_of_machine(curves: Mapping[str, Curve], metrics: Sequence[Described]) -> list[dict[str, str]]:
    """Return the newest values of what a run measures of its machine, as rows of a table.

    Args:
        curves: The curves of the run by metric.
        metrics: Entries of the catalog.
    """
    measured = [metric for metric in metrics if _is_of_machine(metric) and len(curves.get(metric["name"], ()))]
    return [
        {
            "Of the machine": metric["title"],
            "Newest value": value_text(curves[metric["name"]].value[-1], metric["unit"]),
        }
        for metric in measured
    ]
