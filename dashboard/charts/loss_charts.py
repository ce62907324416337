"""Figures of the loss explorer, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from core.explain import Array, UniformBatches
from dashboard import theme
from dashboard.charts import figures
from dashboard.charts.loss_functions import QUANTITIES, SCENARIOS, LossCurve, LossSurface, Prediction, Quantity

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Titles and colours of the terms, as on the Run page.
TERMS: dict[str, tuple[str, str]] = {
    "ce": ("CE", theme.GREEN),
    "tckd": ("TCKD", theme.VERMILLION),
    "nckd": ("NCKD", theme.ORANGE),
    "align": ("alignment", theme.PURPLE),
    "total": ("loss", theme.BLUE),
}
_STUDENT = theme.BLUE


def class_names(classes: Sequence[int]) -> list[str]:
    """Return the names of the target class and of the given non-target classes, which are numbered from 1."""
    return ["target", *(str(index + 1) for index in classes)]


def probability_figure(student: Prediction, teacher: Prediction, classes: Sequence[int]) -> go.Figure:
    """Draw the distributions of student and teacher over the classes."""
    figure = figures.plain_figure("Probability (softened by T)", "Class", height=300)
    for name, network, colour in (("student", student, _STUDENT), ("teacher", teacher, theme.GREY)):
        values = [network.target, *((1 - network.target) * network.others[list(classes)])]
        figure.add_bar(x=class_names(classes), y=values, name=name, marker={"color": colour}, hovertemplate="%{y:.4g}")
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_xaxes(type="category")
    return figure


def gradient_figure(result: UniformBatches, classes: Sequence[int]) -> go.Figure:
    """Draw the weighted gradients of the terms with respect to one sample's logits, and their sum, for each class."""
    figure = figures.plain_figure("Gradient with respect to the logit", "Class", height=340)
    class_indices = [0, *(index + 1 for index in classes)]
    names = class_names(classes)
    for term, gradient in result.gradients.items():
        title, colour = TERMS[term]
        figure.add_bar(
            x=names,
            y=gradient[0, class_indices],
            name=title,
            marker={"color": colour},
            hovertemplate="%{y:.3g}",
            legendgroup=term,
        )
    total = np.sum(list(result.gradients.values()), axis=0)
    figure.add_scatter(
        x=names,
        y=total[0, class_indices],
        name="sum",
        mode="markers",
        marker={"color": TERMS["total"][1], "symbol": "diamond", "size": 9},
        hovertemplate="%{y:.3g}",
    )
    figure.update_layout(barmode="relative", bargap=0.3)
    figure.update_xaxes(type="category")
    figure.update_yaxes(exponentformat="power", zeroline=True)
    return figure


def loss_curve_figure(result: LossCurve, student: float, teacher: float) -> go.Figure:
    """Draw the weighted terms over the student's probability of the target class."""
    figure = figures.plain_figure(
        "Weighted term (nats)", "Student's softened probability of the target class", height=360
    )
    for term, values in result.parts.items():
        title, colour = TERMS[term]
        is_total = term == "total"
        figure.add_scatter(
            x=result.student,
            y=values,
            name=title,
            mode="lines",
            line={"color": colour, "width": 3 if is_total else 1.75, "dash": "solid" if is_total else "dot"},
            hovertemplate="%{y:.4g} nats",
        )
    for probability, name, dash in ((student, "student", "solid"), (teacher, "teacher", "dash")):
        figure.add_vline(x=probability, line={"color": theme.GREY, "width": 1.25, "dash": dash})
        figure.add_annotation(
            x=probability, y=1, yref="paper", text=name, showarrow=False, yanchor="bottom", font={"color": theme.GREY}
        )
    figure.update_layout(margin={"t": 24}, legend={"y": -0.25, "yanchor": "top"})
    figure.update_xaxes(range=[0, 1])
    return figure


def surface_figure(
    result: LossSurface, quantity: Quantity, student: float, teacher: float, *, solid: bool
) -> go.Figure:
    """Draw a quantity over both target probabilities, with the selected point and the two scenarios."""
    title, unit = QUANTITIES[quantity]
    label = f"{title} ({unit})" if unit else title
    # A cosine has a centre, so its colour scale is diverging.
    signed = quantity in ("cosine", "similarity")
    colours: dict[str, Any] = (
        {"colorscale": "RdBu", "cmin" if solid else "zmin": -1, "cmax" if solid else "zmax": 1}
        if signed
        else {"colorscale": "Viridis"}
    )
    axes = tuple(f"{network}'s softened probability of the target class" for network in ("Student", "Teacher"))
    # The selected point comes last, so that it is visible if it coincides with a scenario.
    marks = [*((name, *point) for name, point in zip("12", SCENARIOS, strict=True)), ("you", student, teacher)]
    if solid:
        return _solid(result, label, unit, colours, marks)
    figure = figures.plain_figure(axes[1], axes[0], height=440)
    figure.add_contour(
        x=result.student,
        y=result.teacher,
        z=_nonfinite_to_none(result.height),
        contours={"coloring": "heatmap"},
        ncontours=18,
        line={"width": 0.5, "color": "rgba(255, 255, 255, 0.5)"},
        colorbar={"thickness": 12, "title": {"text": unit}},
        hovertemplate=_surface_tooltip(unit),
        **colours,
    )
    for name, x, y in marks:
        selected = name == "you"
        figure.add_scatter(
            x=[x],
            y=[y],
            mode="markers" if selected else "markers+text",
            text=None if selected else [name],
            textposition="top center",
            textfont={"color": "#FFFFFF", "size": 15},
            marker={
                "symbol": "x" if selected else "circle",
                "size": 9 if selected else 14,
                "color": theme.VERMILLION if selected else "#FFFFFF",
                "line": {"color": "#FFFFFF" if selected else "#000000", "width": 1.5},
            },
            name=name,
            hovertemplate=f"{name}: student {x:.2f}, teacher {y:.2f}<extra></extra>",
        )
    figure.update_layout(showlegend=False, hovermode="closest")
    figure.update_xaxes(range=[0, 1])
    figure.update_yaxes(range=[0, 1])
    return figure


def _surface_tooltip(unit: str) -> str:
    return f"student %{{x:.2f}}, teacher %{{y:.2f}}: %{{z:.4g}}{figures.unit_text(unit)}<extra></extra>"


def _solid(
    result: LossSurface, label: str, unit: str, colours: dict[str, Any], marks: list[tuple[str, float, float]]
) -> go.Figure:
    figure = figures.plain_figure("", "", height=520)
    figure.add_surface(
        x=result.student,
        y=result.teacher,
        z=_nonfinite_to_none(result.height),
        colorbar={"thickness": 12},
        hovertemplate=_surface_tooltip(unit),
        **colours,
    )
    for name, x, y in marks:
        row, column = (int(np.abs(grid - value).argmin()) for grid, value in ((result.teacher, y), (result.student, x)))
        selected = name == "you"
        figure.add_scatter3d(
            x=[x],
            y=[y],
            z=[float(result.height[row, column])],
            mode="markers+text",
            text=[name],
            marker={
                "size": 6,
                "symbol": "x" if selected else "circle",
                "color": theme.VERMILLION if selected else theme.GREY,
            },
            hoverinfo="skip",
        )
    # The page's text colour is not applied inside a scene. Grey is legible on light and dark pages.
    axis: dict[str, Any] = {
        "color": theme.GREY,
        "gridcolor": theme.translucent(theme.GREY, 0.4),
        "showbackground": False,
    }
    figure.update_layout(
        showlegend=False,
        hovermode="closest",
        scene={
            "xaxis": {"title": {"text": "student"}, **axis},
            "yaxis": {"title": {"text": "teacher"}, **axis},
            "zaxis": {"title": {"text": label if len(label) < 25 else ""}, **axis},
            "camera": {"eye": {"x": -1.5, "y": -1.6, "z": 0.9}},
        },
    )
    return figure


def _nonfinite_to_none(height: Array) -> list[list[float | None]]:
    return [[float(value) if np.isfinite(value) else None for value in row] for row in height]
