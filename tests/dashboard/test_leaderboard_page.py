"""The Leaderboard page: its rows and figures, and the page against a real backend without a browser."""

from __future__ import annotations

import pytest

from core.protocol.leaderboards import FewerMethods
from dashboard.charts import rank_charts
from dashboard.lists import leaderboard_rows
from dashboard.markup import escape
from tests.dashboard.conftest import charts, texts, visit
from tests.dashboard.stand import Stand
from tests.leaderboards import leaderboard


def test_rows_are_methods_with_linked_values_and_the_experiments_below() -> None:
    rows = [
        {name: value.replace("\u00a0", " ") for name, value in row.items()}
        for row in leaderboard_rows.table_rows(leaderboard())
    ]
    ranked, other = escape("digits resnet8→small_cnn, %"), escape("digits resnet8→resnet8, % (not ranked)")
    assert rows[0] == {
        "Method": "dkd",
        "Mean rank": "1.00 [1.00, 1.50]",
        ranked: "[**72.50 ± 0.50 (2) ★ ▲**](compare?run=r3&run=r4)",
        other: "– failed: out of memory",
    }
    cell = leaderboard().settings[0].cells[0].model_copy(update={"verdict": "unclear"})
    assert "**" not in leaderboard_rows.cell_text(cell)  # the best mean alone is not bold
    assert rows[1][ranked] == "[70.50 ± 0.50 (2)](compare?run=r1&run=r2)"
    assert rows[2][ranked] == "2 common seeds · [1](compare?experiment=exp-1)"
    assert rows[2][other].startswith("without dkd")


def test_a_cell_of_many_runs_links_to_its_experiment() -> None:
    cell = leaderboard().settings[0].cells[0].model_copy(update={"run_ids": [f"r{number}" for number in range(61)]})
    assert leaderboard_rows.cell_text(cell).endswith("(experiment?id=exp-1)")
    assert leaderboard_rows.cell_text(None) == "–"


def test_labels_are_escaped() -> None:
    cell = leaderboard().settings[1].cells[1].model_copy(update={"reason": "![x](http://evil.example)"})
    assert "![x](" not in leaderboard_rows.cell_text(cell)
    item = FewerMethods(without=["[a](b)"], settings=2)
    assert "[a](b)" not in leaderboard_rows.fewer_text(item, 3)


def test_tables_below_the_figures_have_the_tests() -> None:
    (pair,) = leaderboard_rows.pair_rows(leaderboard())
    assert (pair["First better / worse / equal"], pair["p after Holm"], pair["Differ"]) == (
        "2 / 0 / 0",
        "0.5",
        "not shown",
    )
    (row,) = leaderboard_rows.comparison_rows(leaderboard())
    assert (row["Difference to kd"], row["Verdict"]) == ("+2.00 [+1.50, +2.50]", "better")


def test_figure_of_mean_ranks_has_the_best_method_at_the_top() -> None:
    figure = rank_charts.mean_rank_figure(leaderboard().methods)
    assert figure is not None
    assert [trace.y[0] for trace in figure.data] == ["kd", "dkd"]  # the last category is at the top
    assert (figure.data[1].error_x.array[0], figure.data[1].error_x.arrayminus[0]) == (0.5, 0.0)
    assert rank_charts.mean_rank_figure(leaderboard().methods[:1]) is None


def test_figure_of_critical_differences_joins_methods_that_do_not_differ() -> None:
    board = leaderboard()
    figure = rank_charts.critical_difference_figure(board)
    assert figure is not None
    (bar,) = [trace for trace in figure.data if str(trace.name).startswith("not shown to differ")]
    assert bar.x[0] < 1.0 < 2.0 < bar.x[1]
    assert [trace.x[0] for trace in figure.data if trace.name in ("dkd", "kd")] == [1.0, 2.0]
    assert board.ranking is not None
    untested = board.model_copy(update={"ranking": board.ranking.model_copy(update={"pairs": []})})
    assert rank_charts.critical_difference_figure(untested) is None
    assert rank_charts.critical_difference_figure(board.model_copy(update={"ranking": None})) is None


def _train(stand: Stand, name: str, **changes: object) -> None:
    stand.submit(name, methods=["ce", "dml"], **changes)
    for value in (80.0, 81.0, 82.0, 83.0):
        stand.finish(stand.start(epoch=20, top1=value))


def test_an_empty_lab_says_what_to_do(stand: Stand) -> None:
    app = visit("leaderboard")
    assert not app.exception
    assert "There is nothing to rank yet." in texts(app)
    assert charts(app) == set()


@pytest.mark.usefixtures("stand")
def test_unknown_names_are_explained() -> None:
    app = visit("leaderboard", ranked_tags="nobody")
    assert not app.exception
    assert "has the tag" in texts(app)
    app = visit("leaderboard", experiment="nothing")
    assert not app.exception
    assert "There is no experiment" in texts(app)


def test_page_ranks_methods_and_leaves_some_out(stand: Stand) -> None:
    stand.register(slots=1)
    _train(stand, "first", tags=["paper"])
    _train(stand, "second", student={"model": "resnet8"})
    app = visit("leaderboard")
    assert not app.exception
    assert app.title[0].value == "Leaderboard"
    assert "never of the best one" in texts(app)
    assert charts(app) == {"leaderboard.ranks", "leaderboard.differences"}
    assert len(app.get("download_button")) == 4
    (shown,) = app.table
    assert list(shown.value["Method"]) == ["dml", "ce", ""]
    only = visit("leaderboard", ranked_tags="paper")
    assert "Only one setting counts" in texts(only)
    fewer = visit("leaderboard", without="dml")
    assert not fewer.exception
    assert charts(fewer) == set()
    assert "at least two methods" in texts(fewer)
