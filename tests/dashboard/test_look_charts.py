"""The figure of the looks after each seed."""

from __future__ import annotations

from core.protocol.sequential import Sequential, SequentialComparison, SequentialLook
from dashboard import theme
from dashboard.charts.look_charts import looks_figure


def looks(*ends: tuple[float, float] | None) -> list[SequentialLook]:
    return [
        SequentialLook(seeds=seeds, n=seeds, mean=sum(end) / 2, low=end[0], high=end[1])
        if end
        else SequentialLook(seeds=seeds, n=seeds - 1, mean=0.4)
        for seeds, end in enumerate(ends, 3)
    ]


def sequential(*comparisons: SequentialComparison) -> Sequential:
    return Sequential(
        baseline="kd",
        start=0,
        first=3,
        most=12,
        difference=0.5,
        alpha=0.05,
        open=True,
        seeds=5,
        runs=15,
        most_runs=36,
        comparisons=list(comparisons),
    )


def test_each_method_is_a_line_with_its_interval_and_the_boundaries_are_marked() -> None:
    better = SequentialComparison(
        label="<b>dkd</b>", verdict="better", seeds=5, looks=looks((-9, 11), (-1, 3), (0.2, 1.8)), sentence=""
    )
    styles = theme.styles(["kd", "<b>dkd</b>"])
    figure = looks_figure(sequential(better), "Difference to kd (percentage points)", styles)
    assert figure is not None
    band, line = figure.data
    assert list(line.x) == [3, 4, 5]
    assert list(line.y) == [1.0, 1.0, 1.0]
    assert list(band.y) == [11, 3, 1.8, 0.2, -1, -9]
    assert line.line.color == styles["<b>dkd</b>"].colour
    assert "<b>" not in line.name
    assert line.name.endswith(": better")
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [-0.5, 0.0, 0.5]
    assert figure.layout.yaxis.title.text == "Difference to kd (percentage points)"
    low, high = figure.layout.yaxis.range
    assert low == -high
    assert 1.8 < high < 9, "the first interval may leave the figure, the last may not"


def test_a_look_without_a_new_pair_has_no_point() -> None:
    item = SequentialComparison(
        label="dkd", verdict="undecided", seeds=5, looks=looks((-9, 11), None, (0, 2)), sentence=""
    )
    figure = looks_figure(sequential(item), "Difference", theme.styles(["dkd"]))
    assert figure is not None
    assert list(figure.data[1].x) == [3, 5]


def test_there_is_no_figure_before_the_first_look() -> None:
    item = SequentialComparison(label="dkd", verdict="undecided", seeds=0, sentence="")
    assert looks_figure(sequential(item), "Difference", theme.styles(["dkd"])) is None
