"""Compare's board: figures in the address, what is offered, its figures, and the progress of teachers."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest

from core.protocol.layouts import MAX_FIGURES, BoardFigure
from core.protocol.public import RunSummary
from dashboard import theme
from dashboard.addresses import AddressError
from dashboard.boards import address, choices
from dashboard.charts import board_figures, comparison_charts, figures
from dashboard.charts.board_figures import BoardAxes, BoardMethod, BoardRun
from dashboard.charts.comparison_charts import ChartSettings
from dashboard.views import teacher_progress
from tests.dashboard.test_figures import curve, traces

METRICS = [
    {"name": "test/top1", "title": "Test accuracy", "label": "Test accuracy (%)", "unit": "%", "panel": "Accuracy"},
    {"name": "val/top1", "title": "Validation accuracy", "label": "Validation (%)", "unit": "%", "panel": "Accuracy"},
    {"name": "train/loss", "title": "Training loss", "label": "Training loss (nats)", "unit": "nats", "panel": "Loss"},
    {"name": "grad/norm", "title": "Norm", "label": "Norm", "unit": "", "panel": "Gradients"},
    {"name": "nc/nc1", "title": "NC1", "label": "NC1", "unit": "", "panel": "Collapse"},
]
MEASURED = ["test/top1", "val/top1", "train/loss", "grad/norm"]


def pinned(*names: str) -> tuple[BoardFigure, ...]:
    return tuple(BoardFigure(metric=name) for name in names)


class TestAddress:
    @pytest.mark.parametrize(
        "figure",
        [
            BoardFigure(metric="test/top1"),
            BoardFigure(metric="test/top1", right="train/loss"),
            BoardFigure(metric="train/loss", log=True),
            BoardFigure(metric="a|b%, é &=?", right="c d", log=True),
        ],
    )
    def test_a_figure_is_read_back(self, figure: BoardFigure) -> None:
        assert address.figures(address.texts([figure])) == (figure,)

    def test_addresses_are_short(self) -> None:
        figures = [BoardFigure(metric="test/top1", right="train/loss"), BoardFigure(metric="train/loss", log=True)]
        assert address.texts(figures) == ["test/top1|train/loss", "train/loss||log"]

    def test_a_board_without_figures_differs_from_an_address_without_a_board(self) -> None:
        assert address.figures(address.texts([])) == ()
        assert address.figures([]) is None

    def test_a_repeated_metric_counts_once(self) -> None:
        assert address.figures(["a", "b", "a|b"]) == pinned("a", "b")

    @pytest.mark.parametrize("value", ["a|b|c", "a||linear", "a|b|log|x", " ", "|b", "a\x00", "a\u200bb", "m" * 201])
    def test_other_values_are_refused(self, value: str) -> None:
        with pytest.raises(AddressError, match="in the link"):
            address.figures([value])

    def test_the_number_of_figures_is_bounded(self) -> None:
        with pytest.raises(AddressError, match=f"at most {MAX_FIGURES}"):
            address.figures([f"m{n}" for n in range(MAX_FIGURES + 1)])


class TestChoices:
    def test_a_board_begins_with_result_loss_and_the_next_groups(self) -> None:
        assert choices.first_figures(METRICS, MEASURED, "test/top1") == pinned("test/top1", "train/loss", "grad/norm")
        assert choices.first_figures(METRICS, [], "test/top1") == ()

    def test_metrics_that_were_measured_are_offered_by_group(self) -> None:
        offered = choices.offered(METRICS, MEASURED, ())
        assert list(offered.items()) == [
            (("test/top1", "val/top1"), "Accuracy · all 2"),
            (("test/top1",), "Accuracy · Test accuracy (%)"),
            (("val/top1",), "Accuracy · Validation (%)"),
            (("train/loss",), "Loss · Training loss (nats)"),
            (("grad/norm",), "Gradients · Norm"),
        ]

    def test_what_is_pinned_is_not_offered_again(self) -> None:
        offered = choices.offered(METRICS, MEASURED, pinned("test/top1", "grad/norm"))
        assert list(offered) == [("val/top1",), ("train/loss",)]

    def test_a_group_that_has_no_room_is_not_offered_as_one(self) -> None:
        full = pinned(*(f"m{n}" for n in range(MAX_FIGURES - 1)))
        assert ("test/top1", "val/top1") not in choices.offered(METRICS, MEASURED, full)
        assert len(choices.added(full, ("test/top1", "val/top1"))) == MAX_FIGURES

    def test_figures_are_added_moved_changed_and_removed(self) -> None:
        board = choices.added(pinned("a", "b"), ("b", "c"))
        assert board == pinned("a", "b", "c")
        assert choices.moved(board, "c", -1) == pinned("a", "c", "b")
        assert choices.moved(board, "a", -1) == board
        assert choices.moved(board, "c", 1) == board
        assert choices.moved(board, "x", 1) == board
        assert choices.removed(board, "b") == pinned("a", "c")
        changed = choices.changed(board, "b", right="a", log=True)
        assert changed[1] == BoardFigure(metric="b", right="a", log=True)
        assert choices.metrics_of(changed) == ("a", "b", "c")


def method(label: str, *values: list[float], second: list[float] | None = None) -> BoardMethod:
    runs = [
        BoardRun(f"run-{label}-{seed}", seed, curve(value), curve(second) if second else None)
        for seed, value in enumerate(values)
    ]
    return BoardMethod(label, runs, link="experiment?id=e")


def draw(*methods: BoardMethod, **options: Any) -> Any:
    axes = options.pop("axes", BoardAxes(("Test accuracy (%)", "Loss, dashed"), ("%", "nats"), "e.epochs", 30.0))
    settings = options.pop("settings", ChartSettings())
    styles = theme.styles(item.label for item in methods)
    return board_figures.board_figure(methods, axes, settings, styles, **options)


class TestFigures:
    def test_a_figure_shares_its_axis_and_has_no_legend_of_its_own(self) -> None:
        figure = draw(method("kd", [1.0, 2.0], [3.0, 4.0]), method("ce", [2.0, 2.5]))
        assert figure.layout.showlegend is False
        assert figure.layout.meta == {"board": "e.epochs", "legend": True}
        assert figure.layout.xaxis.autorangeoptions.include == (0, 30.0)
        assert figure.layout.xaxis.range is None, "a new range would undo a person's zoom"
        assert list(traces(figure)["kd"].y) == [2.0, 3.0]

    def test_a_point_opens_its_run_and_a_mean_its_experiment(self) -> None:
        curves = traces(draw(method("kd", [1.0, 2.0], [3.0, 4.0]), method("ce", [2.0, 2.5])))
        assert curves["kd"].meta["link"] == "experiment?id=e"
        assert curves["ce"].meta["link"] == "run?id=run-ce-0"

    def test_every_run_has_a_line_that_opens_it(self) -> None:
        figure = draw(method("kd", [1.0, 2.0], [3.0, 4.0], second=[0.5, 0.25]), every_run=True)
        lines = [trace for trace in figure.data if trace.meta]
        assert [(trace.meta["link"], trace.yaxis or "y") for trace in lines] == [
            ("run?id=run-kd-0", "y"),
            ("run?id=run-kd-0", "y2"),
            ("run?id=run-kd-1", "y"),
            ("run?id=run-kd-1", "y2"),
        ]
        assert [trace.showlegend for trace in lines] == [True, False, False, False]
        assert figure.layout.yaxis2.title.text == "Loss, dashed"

    def test_the_right_axis_is_optional(self) -> None:
        assert "yaxis2" not in draw(method("kd", [1.0])).to_plotly_json()["layout"]
        assert draw(method("kd", [1.0], second=[2.0])).layout.yaxis2.title.text == "Loss, dashed"

    def test_the_teachers_result_is_as_long_as_the_axis(self) -> None:
        axes = BoardAxes(("Test accuracy (%)", ""), ("%", ""), "e", 30.0, teacher=98.25)
        figure = draw(method("kd", [1.0, 2.0], [2.0, 3.0]), axes=axes)
        assert list(traces(figure)["teacher, 98.25 %"].x) == [0, 30.0]

    def test_a_method_without_finite_values_has_no_points(self) -> None:
        assert board_figures.has_points([method("kd", [math.nan]), method("ce", [1.0])])
        assert not board_figures.has_points([method("kd", [math.nan]), BoardMethod("ce", [])])

    def test_labels_are_shown_literally(self) -> None:
        figure = draw(method("<b>kd</b>", [1.0, 2.0]))
        assert "&lt;b&gt;kd&lt;/b&gt;" in traces(figure)
        legend = board_figures.legend_html(["<b>"], {"<b>": theme.Style("#0072B2", "square", "dash")})
        assert "&lt;b&gt;</li>" in legend
        assert "■" in legend
        assert "dashed" in legend


class TestAxisEnd:
    def test_while_live_the_axis_ends_a_little_beyond_what_there_is(self) -> None:
        curves = [curve([1.0] * 10), curve([1.0] * 4)]
        live = board_figures.axis_end(curves, ChartSettings(), 100, live=True)
        assert 10 < live < 12
        assert board_figures.axis_end(curves, ChartSettings(), 10, live=True) == 10
        assert board_figures.axis_end(curves, ChartSettings(), 100, live=False) == 100
        assert board_figures.axis_end([], ChartSettings(), 0, live=True) == 0

    def test_steps_and_times_end_with_the_data(self) -> None:
        steps = ChartSettings(x="steps")
        last = comparison_charts.x_values(curve([1.0] * 10), steps)[-1]
        assert board_figures.axis_end([curve([1.0] * 10)], steps, 100, live=False) == last

    def test_the_chart_of_compare_ends_a_little_beyond_what_there_is(self) -> None:
        methods = [comparison_charts.MethodCurves("kd", [curve([1.0] * 10)])]
        live = comparison_charts.curves_figure(methods, ("y", ""), ChartSettings(), epochs=100, live=True)
        (_, end) = live.layout.xaxis.autorangeoptions.include
        assert 10 < end < 12
        assert live.layout.xaxis.range is None
        ended = comparison_charts.curves_figure(methods, ("y", ""), ChartSettings(), epochs=100)
        assert ended.layout.xaxis.range == (0, 102)


def run(name: str, **changes: Any) -> RunSummary:
    usual: dict[str, Any] = {
        "id": name,
        "label": "kd",
        "role": "student",
        "experiment_id": "e",
        "experiment": "exp",
        "state": "waiting",
        "dataset": "digits",
        "model": "small_cnn",
        "method": "kd",
        "seed": 0,
        "created_at": datetime.now(UTC),
    }
    return RunSummary.model_validate(usual | changes)


class TestTeacherProgress:
    teacher = run(
        "t", label="teacher", role="teacher", state="running", model="resnet8", step=30, total_steps=100, epoch=6.0,
        total_epochs=20,
    )  # fmt: skip

    def test_students_that_wait_are_counted(self) -> None:
        runs = [self.teacher, run("a", teacher_run_id="t"), run("b", teacher_run_id="t"), run("c", state="queued")]
        assert teacher_progress.unfinished(runs) == [self.teacher]
        assert teacher_progress.waiting(self.teacher, runs) == 2
        assert teacher_progress.sentence(self.teacher, 2) == (
            "Teacher resnet8, seed 0: ▶ running, epoch 6.0 of 20, 30 %; 2 students wait for it"
        )
        assert teacher_progress.sentence(self.teacher, 1).endswith("; 1 student waits for it")

    def test_a_teacher_that_has_not_started_has_no_epoch(self) -> None:
        queued = self.teacher.model_copy(update={"state": "queued", "step": 0})
        assert teacher_progress.sentence(queued, 0) == "Teacher resnet8, seed 0: ○ queued, not started yet"

    def test_a_teacher_that_has_ended_is_not_shown(self) -> None:
        assert teacher_progress.unfinished([self.teacher.model_copy(update={"state": "succeeded"})]) == []


def test_a_curve_over_runs_of_several_experiments_opens_them_side_by_side() -> None:
    runs = [run("a"), run("b", experiment_id="other")]
    assert figures.curve_address(runs) == "compare?run=a&run=b"
    assert figures.curve_address(runs[:1]) == "run?id=a"
    assert figures.curve_address([run("a"), run("b")]) == "experiment?id=e"
    assert figures.curve_address([*runs, *(run(f"r{n}") for n in range(60))]) == ""
