"""Draw the figures of the page on the method: ``python -m docs.figures`` (needs Chromium)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from playwright.sync_api import sync_playwright

from benchmarks.alignment import optimise
from core.explain import explain

OUT = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
LAYOUT = {"template": "plotly_white", "width": 900, "height": 420, "font": {"size": 14}, "margin": {"t": 50}}


def share() -> go.Figure:
    """Plot the term's share of the gradient norms late in an optimisation of free logits, by number of classes."""
    figure = go.Figure()
    classes = [3, 10, 30, 100, 300, 1000]
    for reduction, colour in (("batch", "#0072B2"), ("sample", "#D55E00"), ("log", "#009E73")):
        values = [optimise(count, {"reduction": reduction, "epsilon": 6.0}).share_late for count in classes]
        figure.add_scatter(x=classes, y=values, name=reduction, mode="lines+markers", line_color=colour)
    figure.update_layout(**LAYOUT, title="Share of the alignment term, ε = 6, B = 64, T = 4")
    figure.update_xaxes(type="log", title="Classes C", tickvals=classes)
    figure.update_yaxes(type="log", title="Share of the gradient norms (%)", exponentformat="power")
    return figure


def surface() -> go.Figure:
    """Plot s = Δ² + Σu² over both target probabilities: p̂ = q̂ on the left, a peaked student on the right."""
    flat = np.full(9, 1 / 9)
    peaked = np.array([0.6] + [0.05] * 8)
    grid = np.linspace(0.02, 0.98, 49)

    def s(p_hat: np.ndarray, q_hat: np.ndarray) -> np.ndarray:
        def logits(target: float, others: np.ndarray) -> np.ndarray:
            return 4 * np.log(np.concatenate(([target], (1 - target) * others)))[None]

        return np.array(
            [[explain(logits(p, p_hat), logits(q, q_hat), [0], 4.0).align_sample * 10 / 16 for p in grid] for q in grid]
        )

    figure = go.Figure()
    for column, (name, others) in enumerate((("p̂ = q̂, uniform", flat), ("p̂ peaked, q̂ uniform", peaked)), start=1):
        axis = "" if column == 1 else "2"
        figure.add_contour(
            x=grid,
            y=grid,
            z=s(others, flat),
            xaxis=f"x{axis}",
            yaxis=f"y{axis}",
            colorscale="Viridis",
            zmin=0,
            zmax=2,
            showscale=column == 2,
            colorbar={"title": "s"},
        )
        figure.add_annotation(
            text=name, x=0.22 if column == 1 else 0.78, y=1.08, xref="paper", yref="paper", showarrow=False
        )
    title = "Student's target probability p<sub>t</sub>"
    figure.update_layout(
        **LAYOUT,
        xaxis={"domain": [0, 0.44], "title": title},
        xaxis2={"domain": [0.56, 1], "anchor": "y2", "title": title},
        yaxis={"title": "Teacher's target probability q<sub>t</sub>"},
        yaxis2={"anchor": "x2"},
    )
    return figure


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, figure in (("method-share", share()), ("method-surface", surface())):
            page = browser.new_page(viewport={"width": 900, "height": 420})
            page.set_content(figure.to_html(include_plotlyjs=True, config={"displayModeBar": False}))
            page.wait_for_selector(".main-svg")
            page.screenshot(path=str(OUT / f"{name}.png"))
        browser.close()


if __name__ == "__main__":
    main()
