"""The section "Over the test images" of the Compare page, on the recorded lab and without a browser."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from common.formatting import difference_text
from core.protocol.comparisons import Interval
from core.protocol.over_images import ImageInterval
from dashboard import theme
from dashboard.charts.over_images_figure import TwoIntervals, two_intervals_figure
from tests import recorded_lab
from tests.dashboard.conftest import charts, tables, texts, visit
from tests.dashboard.recorded import lab, recorded
from tests.dashboard.stand import Stand

__all__ = ["lab", "recorded"]


def show(experiment: str = recorded_lab.METHODS) -> AppTest:
    app = visit("compare", experiment=experiment)
    app.session_state["over-images"] = True
    return app.run()


def asked(recorded: Stand) -> int:
    return sum(request.endswith("/comparisons/images") for request in recorded.requests)


def test_nothing_is_computed_until_it_is_wanted(recorded: Stand) -> None:
    app = visit("compare", experiment=recorded_lab.METHODS)
    assert not app.exception
    assert not asked(recorded)


def test_both_intervals_are_shown_under_their_names(recorded: Stand) -> None:
    app = show()
    assert not app.exception
    experiment = recorded.client.experiment(recorded_lab.METHODS)
    assert f"compare.over-images.{experiment.id}" in charts(app)
    found = {item.label: item for item in recorded.client.comparisons.over_images([experiment.id]).methods}
    [rows] = [rows for rows in tables(app) if "Over seeds: p (Holm)" in rows[0]]
    assert [row["Method"] for row in rows] == list(recorded_lab.LABELS[1:])
    [column] = [name for name in rows[0] if name.startswith("Over images: difference to ce")]
    for row in rows:
        pooled = found[row["Method"]].pooled
        assert pooled
        assert row[column].replace("\N{NO-BREAK SPACE}", " ") == difference_text(pooled.difference, pooled.interval)
        assert row["Seeds whose own interval excludes zero"].endswith(" of 3")
    [pairs] = [rows for rows in tables(app) if "Seed" in rows[0] and "Of ce (%)" in rows[0]]
    assert [(row["Method"], row["Seed"]) for row in pairs] == [
        (label, seed) for label in recorded_lab.LABELS[1:] for seed in ("0", "1", "2")
    ]
    assert all(item.sentence in texts(app).replace("\\", "") for item in found.values() if item.pooled)


def test_reply_is_kept_until_a_run_ends(recorded: Stand) -> None:
    app = show()
    before = asked(recorded)
    assert before
    app.run()
    assert asked(recorded) == before


def test_before_any_pair_has_ended_it_says_what_is_needed(recorded: Stand) -> None:
    app = show(recorded_lab.WAITING)
    assert not app.exception
    assert "needs a finished run of a method and one of the baseline" in texts(app)


def test_figure_has_an_interval_over_images_and_one_over_seeds() -> None:
    images = (1.0, ImageInterval(low=0.5, high=2.0))
    found = [TwoIntervals("kd", images, (1.1, Interval(low=-1.0, high=3.0))), TwoIntervals("<b>", images)]
    styles = theme.styles(["dkd", "kd", "<b>"])
    figure = two_intervals_figure(found, "difference", styles, "%")
    points = [trace for trace in figure.data if trace.x[0] is not None]
    assert [trace.error_x.array[0] for trace in points] == [1.0, 1.0, pytest.approx(1.9)]
    assert points[2].marker.symbol.endswith("-open")
    assert "kd, over seeds (t): +1.1" in points[2].hovertemplate
    assert "<b>" not in points[0].hovertemplate.replace("<extra>", "")
    assert list(figure.layout.yaxis.ticktext)[-1] == "kd"
