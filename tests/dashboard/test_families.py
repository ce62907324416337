"""Families of many methods: order, folding, styles and figures."""

from __future__ import annotations

import json
import math
from itertools import combinations
from typing import get_args

import pytest

from core.catalog.methods.entry import Family
from core.protocol.public import MethodResult
from dashboard import families, theme
from dashboard.charts import comparison_charts, figures
from dashboard.charts.comparison_charts import ChartSettings, MethodCurves
from dashboard.families import Folding, Kind
from tests.dashboard.test_figures import curve
from tests.dashboard.test_theme import contrast

FIVE_OF_EACH = {
    f"{family} {number}": Kind(f"{family}_{number}", family) for family in families.ORDER for number in range(5)
}


def test_every_family_of_the_catalog_has_a_place_and_colours() -> None:
    assert get_args(Family) == families.ORDER
    assert set(theme.FAMILY_PALETTES) == set(families.ORDER)


KINDS = {"a": Kind("a", "features"), "b": Kind("b", "labels"), "c": Kind("c", "features"), "d": Kind()}


def test_a_combination_is_of_the_family_of_its_first_method() -> None:
    known = {"crd": "contrastive", "kd": "logits"}
    assert [families.family_of(name, known) for name in ("crd", "crd+kd", "kd+crd", "mine", "mine+kd")] == [
        *("contrastive", "contrastive", "logits", "", "")
    ]


class TestOrder:
    def test_labels_are_grouped_in_the_order_of_families(self) -> None:
        assert families.grouped("abcd", KINDS) == {"labels": ["b"], "features": ["a", "c"], "": ["d"]}

    def test_the_best_is_first_within_its_family_and_a_label_without_a_result_is_last(self) -> None:
        results = {"a": 70.0, "c": 71.0, "b": 60.0}
        assert families.by_family(list("abcd"), KINDS, results, "higher") == ["b", "c", "a", "d"]
        assert families.by_family(list("abcd"), KINDS, results, "lower") == ["b", "a", "c", "d"]
        assert families.by_result(list("abcd"), results, "higher") == ["c", "a", "b", "d"]

    def test_a_family_can_be_hidden_or_reduced_to_its_best_method(self) -> None:
        results = {"a": 70.0, "b": 60.0, "c": 71.0}

        def shown(**folding: set[str]) -> list[str]:
            return Folding(**folding).shown(list("abcd"), KINDS, results, "higher", always=["b"])

        assert shown() == ["a", "b", "c", "d"]
        assert shown(folded={"features"}) == ["b", "c", "d"]
        assert shown(hidden={"features", "labels"}) == ["b", "d"], "the baseline stays"

    def test_titles_are_words(self) -> None:
        assert [families.family_title(name) for name in ("two_stage", "logits", "")] == [
            "Two stage",
            "Logits",
            "Other methods",
        ]


class TestStyles:
    def test_five_methods_of_each_family_are_told_apart(self) -> None:
        styles = theme.styles(FIVE_OF_EACH, None, FIVE_OF_EACH)
        assert len({(style.colour, style.dash) for style in styles.values()}) == 45
        for first, second in combinations(FIVE_OF_EACH, 2):
            one, other = styles[first], styles[second]
            if one.dash == other.dash:
                assert difference(one.colour, other.colour) > 0.025, f"{first} {one}, {second} {other}"

    def test_a_family_has_one_range_of_hues(self) -> None:
        for family, palette in theme.FAMILY_PALETTES.items():
            hues = [hue(colour) for colour in palette]
            widest = max(abs((a - b + 180) % 360 - 180) for a, b in combinations(hues, 2))
            assert widest < 35, f"{family}: {hues}"

    def test_colours_are_readable_on_white_and_on_dark(self) -> None:
        for colour in (colour for palette in theme.FAMILY_PALETTES.values() for colour in palette):
            for page in ("#FFFFFF", "#0E1117"):
                assert contrast(colour, page) > 2.0, f"{colour} on {page}"

    def test_variants_of_a_method_share_its_colour_and_differ_in_the_dash(self) -> None:
        variants = {"kd": Kind("kd", "logits"), "kd, T = 8": Kind("kd", "logits")}
        styles = theme.styles([*variants, *FIVE_OF_EACH], None, variants | FIVE_OF_EACH)
        assert styles["kd"].colour == styles["kd, T = 8"].colour
        assert styles["kd"].dash != styles["kd, T = 8"].dash

    def test_a_sweep_of_one_method_has_different_colours(self) -> None:
        kinds = {f"T = {number}": Kind("kd", "logits") for number in range(12)}
        styles = theme.styles(kinds, None, kinds)
        assert len({style.colour for style in styles.values()}) == 6
        assert len({(style.colour, style.dash) for style in styles.values()}) == 12

    def test_few_methods_keep_the_general_palette(self) -> None:
        few = {label: FIVE_OF_EACH[label] for label in list(FIVE_OF_EACH)[: families.MANY]}
        assert theme.styles(few, None, few) == theme.styles(few)

    def test_methods_that_the_catalog_does_not_have_are_told_apart(self) -> None:
        labels = [f"mine {number}" for number in range(20)]
        styles = theme.styles(labels, None, FIVE_OF_EACH)
        assert len({(style.colour, style.dash) for style in styles.values()}) == 20


def methods(count: int = 30) -> list[MethodCurves]:
    labels = list(FIVE_OF_EACH)[:count]
    return [
        MethodCurves(
            label, [curve([30.0, 80.0, 90.0 + n / 10]), curve([32.0, 82.0, 91.0])], family=FIVE_OF_EACH[label].family
        )
        for n, label in enumerate(labels)
    ]


class TestFigures:
    def test_many_methods_have_a_legend_of_families_and_bands_that_appear_with_their_method(self) -> None:
        drawn = methods()
        styles = theme.styles(FIVE_OF_EACH, None, FIVE_OF_EACH)
        figure = json.loads(
            comparison_charts.curves_figure(drawn, ("Accuracy (%)", ""), ChartSettings(), styles=styles).to_json()
        )
        legend = figure["layout"]["meta"]["families"]
        assert [group["title"] for group in legend] == [families.family_title(name) for name in families.ORDER[:6]]
        assert [item["label"] for group in legend for item in group["methods"]] == [item.label for item in drawn]
        assert (figure["layout"]["showlegend"], figure["layout"]["hovermode"]) == (False, "closest")
        lines = [trace for trace in figure["data"] if "lines+markers" in trace.get("mode", "")]
        bands = [trace for trace in figure["data"] if trace.get("fill") == "toself"]
        assert (len(lines), len(bands)) == (30, 30)
        assert {trace["opacity"] for trace in bands} == {0}
        assert {trace["meta"]["method"] for trace in bands} == {trace["meta"]["method"] for trace in lines}
        assert lines[0]["line"]["color"] == styles["labels 0"].colour

    def test_few_methods_have_plotlys_legend_and_visible_bands(self) -> None:
        figure = comparison_charts.curves_figure(methods(8), ("Accuracy (%)", ""), ChartSettings())
        assert figure.layout.meta is None
        assert {trace.opacity for trace in figure.data if trace.fill == "toself"} == {1}

    def test_names_in_the_legend_are_text_and_in_the_figure_escaped(self) -> None:
        hostile = MethodCurves("<b>x</b>", [curve([50.0, 60.0])])
        figure = comparison_charts.curves_figure([*methods(9), hostile], ("Accuracy", ""), ChartSettings())
        last = figure.layout.meta["families"][-1]["methods"][-1]
        assert (last["label"], last["method"]) == ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;")
        assert [trace.name for trace in figure.data if trace.meta == {"method": last["method"]}] == [last["method"]]

    def test_the_axis_leaves_out_the_beginning(self) -> None:
        low, high = comparison_charts.later_range(
            [MethodCurves("a", [curve([10.0, 80.0, 90.0, 91.0, 92.0, 93.0, 94.0, 95.0])])], ChartSettings(), 99.0
        ) or (math.nan, math.nan)
        assert 75 < low < 80 < 99 < high < 101
        assert comparison_charts.later_range([], ChartSettings()) is None
        assert comparison_charts.later_range(methods(2), ChartSettings(log=True)) is None

    def test_figures_of_families_share_the_axis_and_the_grey_baseline(self) -> None:
        styles = theme.styles(FIVE_OF_EACH, None, FIVE_OF_EACH)
        first, *rest = methods()
        figure = comparison_charts.family_figure(
            [method for method in rest if method.family == "features"],
            first,
            ("Accuracy (%)", ""),
            ChartSettings(),
            teacher=95.0,
            epochs=3,
            styles=styles,
            values=(70.0, 96.0),
        )
        assert figure.layout.yaxis.range == (70.0, 96.0)
        colours = {trace.name: trace.line.color for trace in figure.data if trace.name}
        assert colours["labels 0"] == theme.GREY
        assert colours["features 3"] == styles["features 3"].colour
        assert [group["title"] for group in figure.layout.meta["families"]] == ["Labels", "Features"]

    def test_final_values_of_many_methods_are_rows(self) -> None:
        groups = [
            MethodResult(label=label, method=label, n=2, mean=90.0 + n, sd=1.0, values={0: 89.0 + n, 1: 91.0 + n})
            for n, label in enumerate(list(FIVE_OF_EACH)[:12])
        ]
        figure = figures.seeds_figure(groups, "Accuracy (%)")
        assert figure is not None
        assert list(figure.data[-1].y) == ["labels 0"], "the first method is at the top"
        assert figure.layout.xaxis.title.text == "Accuracy (%)"
        assert figure.layout.height > 12 * 20


def difference(first: str, second: str) -> float:
    """Return the distance of two colours in Oklab, in which 0.02 is just noticeable."""
    return math.dist(oklab(first), oklab(second))


def hue(colour: str) -> float:
    _, a, b = oklab(colour)
    return math.degrees(math.atan2(b, a))


def oklab(colour: str) -> tuple[float, float, float]:
    """Return lightness, a and b of a ``#RRGGBB`` colour (Ottosson 2020)."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def test_oklab_of_white_is_one() -> None:
    assert oklab("#FFFFFF") == pytest.approx((1.0, 0.0, 0.0), abs=1e-4)
