"""Pages with an experiment of 30 methods and 3 seeds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from tests.dashboard.conftest import charts, curve_names, tables, texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec
from tests.dashboard.many_methods import LABELS, many_methods

KEY = "compare.exp-0001"


@pytest.fixture
def thirty(server: FakeServer) -> Iterator[FakeBackend]:
    with many_methods() as backend:
        server.backend = backend
        yield backend
    st.cache_data.clear()  # it has the catalog of these methods


def compare(**link: str | list[str]) -> AppTest:
    app = visit("compare", experiment="exp-0001", **link)
    assert not app.exception
    return app


def methods_of(app: AppTest) -> list[str]:
    return [row["Method"] for row in tables(app)[0]]


def test_thirty_methods_are_in_one_figure_and_in_tables_grouped_by_family(thirty: FakeBackend) -> None:
    app = compare()
    assert set(curve_names(app, KEY)) == {*LABELS, "teacher, 98.22 %"}
    assert sorted(methods_of(app)) == sorted(LABELS)
    assert methods_of(app)[0] == "ce", "labels are the first family"
    titles = [title for item in app.get("html") for title in _groups(item.proto.body)]
    assert titles[:8] == [
        *("Labels", "Logits", "Decoupled", "Features", "Relations", "Contrastive", "Two stage", "Several networks")
    ]
    means = {row["Method"]: float(row["Mean ± sd (%)"].split()[0]) for row in tables(app)[0]}
    features = [name for name in methods_of(app) if name in ("fitnet", "at", "vid", "ofd", "reviewkd", "srrl", "norm")]
    assert [means[name] for name in features] == sorted((means[name] for name in features), reverse=True)
    assert app.expander[0].label == "The differences in sentences"


def _groups(body: str) -> list[str]:
    marked = body.split('<tr class="dkd-group">')[1:]
    return [part.split("<b>")[1].split("</b>")[0] for part in marked]


def test_a_hidden_family_leaves_figures_and_tables(thirty: FakeBackend) -> None:
    app = compare(families=["Logits", "Contrastive"])
    shown = {"ce", "kd", "dist", "rld", "ctkd", "mlkd", "wkd_l", "skd", "kd, T = 8", "crd"}
    assert set(methods_of(app)) == shown, "with the baseline"
    assert set(curve_names(app, KEY)) - {"teacher, 98.22 %"} == shown
    assert "10 of 30 methods are shown" in texts(app)
    assert app.query_params["families"] == ["Logits", "Contrastive"]


def test_a_folded_family_shows_its_best_method(thirty: FakeBackend) -> None:
    everything = {row["Method"]: float(row["Mean ± sd (%)"].split()[0]) for row in tables(compare())[0]}
    best = max(("fitnet", "at", "vid", "ofd", "reviewkd", "srrl", "norm"), key=everything.__getitem__)
    app = compare(best="Features")
    assert len(methods_of(app)) == 24
    assert [name for name in methods_of(app) if name in ("fitnet", "at", "vid", "srrl", best)] == [best]


def test_each_family_can_have_a_figure(thirty: FakeBackend) -> None:
    app = compare(layout="a figure per family")
    keys = {key for key in charts(app) if key.startswith(KEY)}
    assert keys == {
        f"{KEY}.{family}"
        for family in (
            *("labels", "logits", "decoupled", "features", "relations", "contrastive", "two_stage", "several_networks"),
        )
    }
    assert set(curve_names(app, f"{KEY}.contrastive")) == {"crd", "ce", "teacher, 98.22 %"}


def test_tables_can_be_sorted_by_result_alone(thirty: FakeBackend) -> None:
    app = compare(order="by result")
    means = [float(row["Mean ± sd (%)"].split()[0]) for row in tables(app)[0]]
    assert means == sorted(means, reverse=True)
    assert not any(_groups(item.proto.body) for item in app.get("html"))


def test_other_metrics_of_many_methods_have_a_row_per_method(thirty: FakeBackend) -> None:
    [table] = [rows for rows in tables(compare()) if "NC1: variability within classes" in rows[0]]
    assert len(table) == 30
    assert next(iter(table[0])) == "Method"


def test_unknown_families_in_a_link_are_ignored(thirty: FakeBackend) -> None:
    app = compare(families="nowhere", best="nowhere")
    assert len(methods_of(app)) == 30


def test_few_methods_have_no_controls_of_families(backend: FakeBackend) -> None:
    backend.submit(digits_spec())
    app = compare()
    assert not [item for item in app.button_group if item.key == "families"]
