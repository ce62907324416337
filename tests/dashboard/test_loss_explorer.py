"""The loss explorer: its numbers, and the page without any backend."""

from __future__ import annotations

import re

import numpy as np
import pytest

from core.explain import DKDAlignParams
from dashboard.charts import loss_functions
from tests.dashboard.conftest import charts, texts, visit
from tests.dashboard.fakes import FakeServer

PARAMS = DKDAlignParams(reduction="sample", epsilon=6.0)


@pytest.fixture(autouse=True)
def _no_backend(server: FakeServer) -> None:
    server.stop()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [("even", [0.25] * 4), ("one", [0.125, 0.625, 0.125, 0.125]), ("falling", [1 / 15, 8 / 15, 4 / 15, 2 / 15])],
)
def test_distribution_shapes_have_their_probabilities(
    shape: loss_functions.DistributionShape, expected: list[float]
) -> None:
    np.testing.assert_allclose(loss_functions.class_distribution(shape, 4, strength=0.5, first=2), expected)


def test_custom_weights_repeat_the_last_one() -> None:
    np.testing.assert_allclose(
        loss_functions.class_distribution("custom", 4, custom_weights="3; 1"), [0.5, 1 / 6, 1 / 6, 1 / 6]
    )


@pytest.mark.parametrize(
    ("weights", "message"),
    [("", "at least one"), ("1, x", "not a list"), ("1 2 3 4 5", "5 weights for 4"), ("-1", "below 0")],
)
def test_invalid_custom_weights_raise(weights: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_functions.class_distribution("custom", 4, custom_weights=weights)


def test_swap_changes_the_term_by_the_formula() -> None:
    flat, peaked = (
        loss_functions.class_distribution("even", 9),
        loss_functions.class_distribution("one", 9, strength=0.8),
    )
    for student, teacher in ((peaked, flat), (flat, peaked), (peaked, peaked), (peaked, np.roll(peaked, 1))):
        swap = loss_functions.compare_scenarios(student, teacher, PARAMS)
        assert swap.distance[0] - swap.distance[1] == pytest.approx(swap.formula, abs=1e-12)
        assert swap.tckd == pytest.approx((1.464, 1.674), abs=1e-3)
    assert loss_functions.compare_scenarios(flat, peaked, PARAMS).holds, "p̂ uniform"
    assert loss_functions.compare_scenarios(peaked, peaked, PARAMS).holds, "p̂ = q̂"
    assert not loss_functions.compare_scenarios(peaked, flat, PARAMS).holds


def test_loss_map_contains_the_point_and_the_curve_is_the_sum_of_its_terms() -> None:
    student, teacher = loss_functions.class_distribution("one", 9), loss_functions.class_distribution("even", 9)
    surface = loss_functions.loss_surface("align", student, teacher, PARAMS, 1)
    row, column = 7, 30
    networks = (
        loss_functions.Prediction(surface.student[column], student),
        loss_functions.Prediction(surface.teacher[row], teacher),
    )
    assert surface.height[row, column] == pytest.approx(
        loss_functions.evaluate(*networks, PARAMS, 1).values["align"][0]
    )
    line = loss_functions.loss_curve(*networks, PARAMS, 1)
    np.testing.assert_allclose(sum(line.parts[name] for name in ("ce", "tckd", "nckd", "align")), line.parts["total"])


def test_most_probable_classes_are_drawn() -> None:
    student, teacher = (
        loss_functions.class_distribution("one", 99, first=50),
        loss_functions.class_distribution("one", 99, first=70),
    )
    drawn = loss_functions.most_probable_classes(student, teacher)
    assert len(drawn) == 16
    assert {49, 69} < set(drawn)


class TestPage:
    def test_loss_page_needs_no_backend(self) -> None:
        app = visit("loss")
        assert not app.exception
        assert "does not answer" not in texts(app)
        assert {"loss.gradients", "loss.probabilities", "loss.along", "loss.map.total.False"} <= charts(app)
        assert "does not hold** for the alignment term" in texts(app)
        assert {item.label for item in app.metric} >= {"Loss", "Alignment term's share of the gradient"}

    def test_scenario_button_sets_both_probabilities(self) -> None:
        app = visit("loss")
        app.button(key="loss.scenario.2").click().run()
        assert (app.slider(key="p").value, app.slider(key="q").value) == (0.8, 0.6)
        assert not app.exception

    def test_page_says_that_probabilities_are_softened_and_what_they_are_without(self) -> None:
        app = visit("loss", p="0.6", T="4", p_shape="all equal")
        weights = np.array([0.6, *[0.4 / 9] * 9]) ** 4
        assert f"Softened by T = 4. At T = 1 the same logits give {weights[0] / weights.sum():.4g}." in texts(app)
        assert app.slider(key="p").label == "Softened probability of the target class, pₜ"
        assert "At T = 1 the same logits give 0.6." in texts(visit("loss", p="0.6", T="1"))

    def test_a_is_only_the_alignment_term(self) -> None:
        app = visit("loss")
        shown = texts(app) + "".join(item.label for item in app.button)
        assert "Scenario 1: student 0.6, teacher 0.8" in shown
        assert not re.search(r"\b(in A|A and B|s_A|A:|B:)", shown)

    def test_link_restores_the_settings(self) -> None:
        app = visit(
            "loss",
            p="0.3",
            C="100",
            reduction="log",
            weight="share",
            share="0.25",
            q_shape=loss_functions.SHAPES["one"],
        )
        assert not app.exception
        assert app.slider(key="p").value == 0.3
        assert app.number_input(key="C").value == 100
        shown = {item.label: item.value for item in app.metric}
        assert shown["Alignment term's share of the gradient"] == "25 %"
        assert "least probable classes are not shown" in texts(app)

    def test_equal_distributions_make_the_claim_hold(self) -> None:
        app = visit("loss")
        app.selectbox(key="p_shape").set_value("even").run()
        assert "The claim **holds** for the alignment term" in texts(app)
        assert "never holds exactly for TCKD" in texts(app)

    def test_invalid_weights_show_an_error(self) -> None:
        app = visit("loss")
        app.selectbox(key="p_shape").set_value("custom").run()
        app.text_input(key="p_own").set_value("1, two").run()
        assert "not a list of numbers" in app.error[0].value
        assert not app.exception
        app.text_input(key="p_own").set_value("4, 1").run()
        assert not app.error
