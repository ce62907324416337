"""Pure parts of the Sweep page: settings, filter, scales, importance and figures."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from core.protocol.public import StateCounts
from core.protocol.sweeps import SettingResult, Sweep, SweepField, SweepSetting
from dashboard.charts import sweep_figures
from dashboard.curves.curve import Curve
from dashboard.sweeps import importance, settings
from dashboard.sweeps.settings import Scale

LR, METHOD, EPOCHS = "training.optimizer.lr", "methods.1", "training.epochs"


def setting(number: int, values: dict[str, Any], mean: float | None, label: str = "kd") -> SweepSetting:
    result = SettingResult(label=label, planned=2, n=2 if mean is not None else 0, mean=mean, sd=0.5)
    return SweepSetting(
        experiment_id=f"e{number}",
        name=f"search {number}",
        state="finished",
        counts=StateCounts(succeeded=2),
        values=values,
        results=[SettingResult(label="ce", planned=2, n=2, mean=50.0, sd=1.0), result],
    )


def sweep() -> Sweep:
    """Return a sweep whose result depends strongly on the learning rate and little on the epochs."""
    grid = itertools.product([0.001, 0.01, 0.1], ["kd", "dkd"], [5, 10])
    made = [
        setting(
            number,
            {LR: lr, METHOD: method, EPOCHS: epochs},
            70 + 10 * [0.001, 0.01, 0.1].index(lr) + epochs / 10,
            method,
        )
        for number, (lr, method, epochs) in enumerate(grid)
    ]
    return Sweep(
        name="search",
        dataset="digits",
        metric="test/top1",
        title="Test accuracy",
        unit="%",
        better="higher",
        fields=[
            SweepField(path=LR, values=[0.001, 0.01, 0.1]),
            SweepField(path=METHOD, values=["kd", "dkd"]),
            SweepField(path=EPOCHS, values=[5, 10]),
        ],
        settings=[*made, setting(99, {LR: 0.1, METHOD: "kd", EPOCHS: 5}, None)],
        total=13,
    )


def test_method_of_the_result_is_the_one_that_varies() -> None:
    assert settings.method_titles(sweep()) == ["ce", "method 2 (varies)"]
    assert settings.varied_method(sweep()) == 1


def test_filter_takes_alternatives_of_a_field_and_all_fields() -> None:
    assert f"{LR} = 0.01" in settings.filter_options(sweep())
    chosen = [f"{LR} = 0.001", f"{LR} = 0.01", f"{METHOD} = dkd"]
    found = settings.points(sweep(), 1, chosen)
    assert {point.setting.values[LR] for point in found} == {0.001, 0.01}
    assert {point.setting.values[METHOD] for point in found} == {"dkd"}
    assert len(found) == 4
    assert len(settings.points(sweep(), 1)) == 13


def test_best_setting_follows_the_better_side() -> None:
    points = settings.points(sweep(), 1)
    highest, lowest = settings.best(points, "higher"), settings.best(points, "lower")
    assert highest is not None
    assert lowest is not None
    assert (highest.mean, lowest.mean) == (91.0, 70.5)
    assert settings.best([], "higher") is None


def test_scales_of_numbers_and_of_names() -> None:
    lr, method, epochs = map(Scale.of, sweep().fields)
    assert (lr.numeric, lr.log, lr.texts) == (True, True, ["0.001", "0.01", "0.1"])
    assert (method.numeric, method.texts) == (False, ["kd", "dkd"])
    assert (epochs.numeric, epochs.log) == (True, False)
    switch = Scale.of(SweepField(path="training.ema", values=[True, False]))
    assert (switch.numeric, switch.texts) == (False, ["true", "false"])


def test_table_has_a_column_per_field_with_mean_and_sd() -> None:
    rows = settings.rows(settings.points(sweep(), 1), sweep().fields, "Test accuracy (%)")
    assert rows[0] == {
        "Experiment": "experiment?id=e0",
        LR: 0.001,
        METHOD: "kd",
        EPOCHS: 5,
        "Test accuracy (%)": 70.5,
        "± sd": 0.5,
        "n": 2,
        "Runs": 2,
        "State": "finished",
        "Name": "search 0",
    }


def test_importance_is_greatest_for_the_field_that_matters() -> None:
    points = settings.with_results(settings.points(sweep(), 1))
    shares = importance.importances(points, [Scale.of(field) for field in sweep().fields])
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=shares.__getitem__) == LR
    assert shares[LR] > 0.9
    assert importance.importances(points, [Scale.of(field) for field in sweep().fields]) == shares, "seeded"


def test_too_few_or_equal_settings_have_no_importance() -> None:
    points = settings.with_results(settings.points(sweep(), 1))
    scales = [Scale.of(field) for field in sweep().fields]
    assert importance.importances(points[:3], scales) == {}
    equal = settings.with_results(settings.points(sweep(), 0))
    assert importance.importances(equal, scales) == {}, "the baseline has one result everywhere"


def test_heat_map_averages_over_the_other_fields() -> None:
    lr, method, _ = map(Scale.of, sweep().fields)
    figure = sweep_figures.heat_map(settings.with_results(settings.points(sweep(), 1)), lr, method, "Accuracy")
    assert figure is not None
    [trace] = figure.data
    assert list(trace.x) == ["0.001", "0.01", "0.1"]
    assert list(trace.y) == ["kd", "dkd"]
    assert [list(line) for line in trace.z] == [[70.75, 80.75, 90.75]] * 2
    assert [list(line) for line in trace.customdata] == [[2, 2, 2]] * 2


def test_points_of_a_slice_open_their_experiments() -> None:
    lr, method, _ = map(Scale.of, sweep().fields)
    points = settings.with_results(settings.points(sweep(), 1))
    figure = sweep_figures.slice_figure(points, lr, "Accuracy")
    assert figure.data[0].meta["links"][0] == "experiment?id=e0"
    assert figure.layout.xaxis.type == "log"
    assert list(sweep_figures.slice_figure(points, method, "Accuracy").layout.xaxis.categoryarray) == ["kd", "dkd"]


def test_parallel_coordinates_have_an_axis_per_field_and_the_result() -> None:
    scales = [Scale.of(field) for field in sweep().fields]
    figure = sweep_figures.parallel_figure(settings.with_results(settings.points(sweep(), 1)), scales, "Accuracy")
    assert figure is not None
    assert list(figure.layout.xaxis.ticktext) == [LR, METHOD, EPOCHS, "Accuracy"]
    worst, best = figure.data[0], figure.data[-1]
    assert (list(worst.y), list(best.y)) == ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    assert worst.meta["link"] == "experiment?id=e0"
    assert {item.text for item in figure.layout.annotations} >= {"0.001", "0.01", "0.1", "kd", "dkd", "5", "10"}
    assert all((item.yanchor == "bottom") == (item.y >= 0.5) for item in figure.layout.annotations), "beyond the lines"
    assert sweep_figures.parallel_figure([], scales, "Accuracy") is None


def test_curves_are_coloured_by_the_value_of_a_field() -> None:
    points = settings.points(sweep(), 1)[:5]
    steps, places = [1, 2], [1.0, 2.0]
    curves = {
        point.setting.experiment_id: [Curve("test/top1", steps, places, places, [1.0, 2.0], [1.0, 2.0], [1.0, 2.0])]
        for point in points
    }
    figure = sweep_figures.curves_figure(points, curves, Scale.of(sweep().fields[0]), "Accuracy")
    assert figure is not None
    colours = [trace.line.color for trace in figure.data]
    assert len(set(colours[:4])) == 1, "one learning rate"
    assert colours[4] != colours[0]
    assert sum(bool(trace.showlegend) for trace in figure.data) == 2
    assert sweep_figures.curves_figure(points, {}, Scale.of(sweep().fields[0]), "Accuracy") is None


def test_tooltips_of_results_have_their_unit() -> None:
    points = settings.with_results(settings.points(sweep(), 1))
    scales = [Scale.of(field) for field in sweep().fields]
    line = Curve("test/top1", [1], [1.0], [1.0], [1.0], [1.0], [1.0])
    curves = {point.setting.experiment_id: [line] for point in points}
    drawn = [
        sweep_figures.heat_map(points, scales[0], scales[1], "Accuracy (%)", "%"),
        sweep_figures.slice_figure(points, scales[0], "Accuracy (%)", "%"),
        sweep_figures.parallel_figure(points, scales, "Accuracy (%)", "%"),
        sweep_figures.curves_figure(points, curves, scales[0], "Accuracy (%)", "%"),
    ]
    for figure in drawn:
        assert figure is not None
        trace = figure.data[0]
        assert " %" in f"{trace.hovertemplate} {trace.text}".replace("%{", ""), trace
