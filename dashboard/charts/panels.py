"""Which metrics stand together on a chart of the Run page.

The usual ones are arranged by hand. Whatever else the catalog lists is put together by its group and unit, so that a
new method's terms, and new diagnostics, appear by themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from common.formatting import counted, value_text
from dashboard import theme
from dashboard.curves.curve import Curve


@dataclass(frozen=True)
class Trace:
    """A metric on a chart.

    Attributes:
        metric: its name in the catalog.
        title: in the legend.
        second: on the right-hand axis.
        dash: Plotly's line style.
        of: the metric that counts the images that it is of, where these are not all.
    """

    metric: str
    title: str
    colour: str
    second: bool = False
    dash: str = "solid"
    of: str = ""

    def legend(self, curves: Mapping[str, Curve]) -> str:
        """The title, with the number of images that it is of where these are not all."""
        if not self.of:
            return self.title
        counts = curves.get(self.of)
        return counted(self.title, [counts.value[-1] if counts is not None and len(counts) else None])


@dataclass(frozen=True)
class Panel:
    """A chart of the Run page.

    Attributes:
        key: tells it apart in the page; part of the element's key.
        title: above the chart.
        axis: of the left-hand axis, with its unit.
        second_axis: of the right-hand axis; empty where there is none.
        from_zero: the left-hand axis begins at 0 or below.
        help: what a reader must know of it, below the title.
    """

    key: str
    title: str
    axis: str
    traces: tuple[Trace, ...]
    second_axis: str = ""
    from_zero: bool = False
    help: str = ""


_UNWEIGHTED = (
    "Terms are drawn as they are measured, before their weights, ramp and decay: the training loss is not their sum. "
    "KD's terms are with their T²."
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
            Trace("train/divergence", "DKD-Divergence: the others", theme.ORANGE),
        ),
        from_zero=True,
    ),
    Panel(
        "similarity",
        "Gradient similarity",
        "Mean cosine (−1 to 1)",
        (
            Trace("grad/similarity", "TCKD with NCKD", theme.BLUE),
            Trace("grad/align_cosine", "alignment with the rest", theme.VERMILLION, dash="dash"),
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
            Trace("fidelity/agreement_right", "where the teacher is right", theme.GREEN, dash="dot", of=RIGHT),
            Trace("fidelity/agreement_wrong", "where the teacher is wrong", theme.VERMILLION, dash="dot", of=WRONG),
        ),
    ),
    Panel("lr", "Learning rate", "Learning rate", (Trace("lr", "learning rate", theme.BLUE),)),
)
"""The charts that every run shows, in their order; those without data are left out."""

_DERIVED = frozenset({"train/epsilon"})
"""Metrics that follow from the spec alone and are not drawn."""

_GROUPS = {"grad": "Gradients", "nc": "Neural collapse", "speed": "Training speed", "test": "Test", "val": "Validation"}


def standard_panels(metrics: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """The charts that every run shows, the loss with whatever terms the catalog lists.

    Args:
        metrics: the catalog's entries: name, title, unit, label.
    """
    known = _arranged_metrics()
    colours = itertools.cycle(theme.PALETTE)
    terms = tuple(
        Trace(metric["name"], metric["title"].removesuffix(" term"), next(colours), dash="dashdot")
        for metric in metrics
        if metric["name"] not in known and _is_term(metric)
    )
    return tuple(
        replace(panel, traces=panel.traces + terms) if panel.key == "loss" else panel for panel in STANDARD_PANELS
    )


def additional_panels(metrics: Sequence[Mapping[str, Any]]) -> tuple[Panel, ...]:
    """Charts of everything else in the catalog: a chart a group and unit, at most six curves on each."""
    known = _arranged_metrics()
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for metric in metrics:
        if metric["name"] not in known and not _is_term(metric):
            groups.setdefault((metric["name"].partition("/")[0], metric["unit"]), []).append(metric)
    most = len(theme.PALETTE)
    return tuple(
        _panel(group, unit, members[start : start + most], start)
        for (group, unit), members in groups.items()
        for start in range(0, len(members), most)
    )


def _panel(group: str, unit: str, members: Sequence[Mapping[str, Any]], start: int) -> Panel:
    name = _GROUPS.get(group, group.replace("_", " ").capitalize())
    title = members[0]["title"] if len(members) == 1 else name
    axis = unit.capitalize() if unit and unit != "%" else (f"{name} (%)" if unit else "Value (no unit)")
    traces = tuple(
        Trace(metric["name"], metric["title"], colour, of=metric.get("of", ""))
        for metric, colour in zip(members, theme.PALETTE, strict=False)
    )
    return Panel(f"{group}.{unit}.{start}", title, axis, traces, from_zero=group == "speed")


def _arranged_metrics() -> frozenset[str]:
    return frozenset(trace.metric for panel in STANDARD_PANELS for trace in panel.traces) | _DERIVED


def _is_term(metric: Mapping[str, Any]) -> bool:
    return bool(metric["name"].startswith("train/") and metric["unit"] == "nats")


def final_measurements(curves: Mapping[str, Curve], metrics: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Metrics with a single value, as a training reports at its end, as rows of a table.

    None in a run that is no further than its first epoch, where every metric has a single value.
    """
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return []
    once = [(metric, curves[metric["name"]]) for metric in metrics if len(curves.get(metric["name"], ())) == 1]
    return [
        {"Measured at the end": metric["title"], "Value": value_text(curve.value[-1], metric["unit"])}
        for metric, curve in once
    ]
