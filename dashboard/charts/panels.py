"""Panels of the Run page; a panel is a chart of several metrics.

The standard panels are defined here. All other metrics of the catalog are grouped by the prefix of their name and by
unit, so that the terms of a new method and new diagnostics appear without a change in this module.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.formatting import title_with_count, value_text
from dashboard import theme
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
    """

    metric: str
    title: str
    colour: str
    second: bool = False
    dash: str = "solid"
    count_metric: str = ""

    def legend(self, curves: Mapping[str, Curve]) -> str:
        """Return the title, with the number of images if the metric does not cover all of them."""
        if not self.count_metric:
            return self.title
        counts = curves.get(self.count_metric)
        return title_with_count(self.title, [counts.value[-1] if counts is not None and len(counts) else None])


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


_UNWEIGHTED = (
    "Terms are shown as measured, before their weights, ramp and decay are applied, so the training loss is not their "
    "sum. The KD terms include the factor T²."
)

RIGHT, WRONG = "fidelity/images_right", "fidelity/images_wrong"

STANDARD_PANELS = (
    Panel(
        "accuracy",
        "Accuracy",
        "Accuracy (%)",
        (
            Trace("test/top1", "test", theme.BLUE),
            Trace("val/top1", "validation", theme.GREEN, dash="dash"),
            Trace("train/top1", "training", theme.ORANGE, dash="dot"),
        ),
    ),
    Panel(
        "loss",
        "Loss and its terms",
        "Loss, terms unweighted (nats)",
        (
            Trace("train/loss", "training loss, weighted", theme.BLUE),
            Trace("test/loss", "test cross-entropy", theme.SKY),
            Trace("train/ce", "cross-entropy, unweighted", theme.GREEN, dash="dot"),
            Trace("train/kd", "KD, unweighted", theme.PURPLE, dash="dot"),
            Trace("train/tckd", "TCKD, unweighted", theme.VERMILLION, dash="dot"),
            Trace("train/nckd", "NCKD, unweighted", theme.ORANGE, dash="dot"),
        ),
        help=_UNWEIGHTED,
    ),
    Panel(
        "terms",
        "Terms of NKD and RLD, unweighted",
        "Term before its weight (nats)",
        (
            Trace("train/target", "NKD: target", theme.VERMILLION),
            Trace("train/non_target", "NKD: non-target", theme.ORANGE),
            Trace("train/scd", "RLD: sample confidence (SCD)", theme.BLUE),
            Trace("train/mcd", "RLD: masked correlation (MCD)", theme.GREEN),
        ),
    ),
    Panel(
        "distances",
        "Terms of DIST and DKD-Divergence, unweighted",
        "Distance before its weight (no unit)",
        (
            Trace("train/inter", "DIST: over the classes", theme.BLUE),
            Trace("train/intra", "DIST: over the batch", theme.GREEN),
            Trace("train/target_mse", "DKD-Divergence: target", theme.VERMILLION),
            Trace("train/divergence", "DKD-Divergence: other classes", theme.ORANGE),
        ),
        from_zero=True,
    ),
    Panel(
        "similarity",
        "Gradient similarity",
        "Mean cosine (−1 to 1)",
        (
            Trace("grad/similarity", "TCKD with NCKD", theme.BLUE),
            Trace("grad/align_cosine", "alignment with the other terms", theme.VERMILLION, dash="dash"),
        ),
    ),
    Panel(
        "alignment",
        "Alignment term",
        "Share of the gradient (%)",
        (
            Trace("grad/align_share", "share", theme.BLUE),
            Trace("train/align", "A", theme.ORANGE, second=True, dash="dash"),
        ),
        second_axis="A, unweighted (in its own unit)",
        from_zero=True,
    ),
    Panel(
        "agreement",
        "Agreement with the teacher",
        "Agreement (%)",
        (
            Trace("fidelity/agreement", "all test images", theme.BLUE),
            Trace(
                "fidelity/agreement_right", "where the teacher is right", theme.GREEN, dash="dot", count_metric=RIGHT
            ),
            Trace(
                "fidelity/agreement_wrong",
                "where the teacher is wrong",
                theme.VERMILLION,
                dash="dot",
                count_metric=WRONG,
            ),
        ),
    ),
    Panel("lr", "Learning rate", "Learning rate", (Trace("lr", "learning rate", theme.BLUE),)),
)
"""Panels of every run, in order; panels without data are not drawn."""

_DERIVED = frozenset({"train/epsilon"})
"""Metrics that are not drawn, because the spec determines their values."""

_GROUPS = {"grad": "Gradients", "nc": "Neural collapse", "speed": "Training speed", "test": "Test", "val": "Validation"}


def standard_panels(metrics: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """Return the standard panels; the loss panel also contains all other loss terms of the catalog.

    Args:
        metrics: Entries of the catalog: name, title, unit, label.
    """
    arranged = _arranged_metrics()
    colours = itertools.cycle(theme.PALETTE)
    terms = tuple(
        Trace(metric["name"], metric["title"].removesuffix(" term"), next(colours), dash="dashdot")
        for metric in metrics
        if metric["name"] not in arranged and _is_term(metric)
    )
    return tuple(
        replace(panel, traces=panel.traces + terms) if panel.key == "loss" else panel for panel in STANDARD_PANELS
    )


def additional_panels(metrics: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """Return panels of all other metrics in the catalog: one per group and unit, with at most six curves each."""
    arranged = _arranged_metrics()
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for metric in metrics:
        if metric["name"] not in arranged and not _is_term(metric):
            groups.setdefault((metric["name"].partition("/")[0], metric["unit"]), []).append(metric)
    max_curves = len(theme.PALETTE)
    return tuple(
        _panel(group, unit, members[start : start + max_curves], start)
        for (group, unit), members in groups.items()
        for start in range(0, len(members), max_curves)
    )


def _panel(group: str, unit: str, members: Sequence[Mapping[str, Any]], start: int) -> Panel:
    name = _GROUPS.get(group, group.replace("_", " ").capitalize())
    title = members[0]["title"] if len(members) == 1 else name
    axis = unit.capitalize() if unit and unit != "%" else (f"{name} (%)" if unit else "Value (no unit)")
    traces = tuple(
        Trace(metric["name"], metric["title"], colour, count_metric=metric.get("of", ""))
        for metric, colour in zip(members, theme.PALETTE, strict=False)
    )
    return Panel(f"{group}.{unit}.{start}", title, axis, traces, from_zero=group == "speed")


def _arranged_metrics() -> frozenset[str]:
    return frozenset(trace.metric for panel in STANDARD_PANELS for trace in panel.traces) | _DERIVED


def _is_term(metric: Mapping[str, Any]) -> bool:
    return bool(metric["name"].startswith("train/") and metric["unit"] == "nats")


def final_measurements(curves: Mapping[str, Curve], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the metrics that a training reports once at its end, as rows of a table.

    The result is empty during the first epoch, when every metric has a single value.
    """
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return []
    final = [(metric, curves[metric["name"]]) for metric in metrics if len(curves.get(metric["name"], ())) == 1]
    return [
        {"Final measurement": metric["title"], "Value": value_text(curve.value[-1], metric["unit"])}
        for metric, curve in final
    ]
