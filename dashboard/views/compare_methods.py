"""The controls of the Compare page for many methods: families, which of them are folded, layout and order."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import streamlit as st

from core.protocol.public import RunSummary
from dashboard import families, session
from dashboard.families import Folding, Kind
from dashboard.lists import row_text

_ONE_FIGURE, _BY_FAMILY = "one figure", "a figure per family"
_FAMILY_ORDER, _RESULT_ORDER = "by family", "by result"


@dataclass(frozen=True)
class MethodView:
    """How the methods are shown.

    Attributes:
        better: Whether a higher or a lower headline metric is better.
        folding: Which methods of many are shown.
        small_figures: Whether each family has a figure of its own.
        by_result: Whether tables are sorted by result alone, and not family by family.
    """

    better: str = "higher"
    folding: Folding = field(default_factory=Folding)
    small_figures: bool = False
    by_result: bool = False

    def arrange(
        self,
        labels: Sequence[str],
        kinds: Mapping[str, Kind],
        results: Mapping[str, float],
        always: Collection[str] = (),
    ) -> list[str]:
        """Return the labels that are shown, in the order of tables; few methods are shown as they are.

        Args:
            labels: All labels.
            kinds: Method and family of each label.
            results: Result of each label that has one.
            always: Labels that are shown in any case.
        """
        if len(labels) <= families.MANY:
            return list(labels)
        shown = self.folding.shown(labels, kinds, results, self.better, always=always)
        if self.by_result:
            return families.by_result(shown, results, self.better)
        return families.by_family(shown, kinds, results, self.better)

    def groups(self, labels: Sequence[str], kinds: Mapping[str, Kind], shown: Sequence[str]) -> list[str]:
        """Return the title of the family of each shown label; no titles if rows are not grouped."""
        if len(labels) <= families.MANY or self.by_result:
            return []
        return [families.family_title(kinds.get(label, Kind()).family) for label in shown]


def kinds_of(methods: Mapping[str, str]) -> dict[str, Kind]:
    """Return method and family of each label.

    Args:
        methods: Name of the method in the catalog, by label.
    """
    known = session.families()
    return {label: Kind(name, families.family_of(name, known)) for label, name in methods.items()}


def mean_results(runs: Iterable[tuple[str, RunSummary]]) -> dict[str, float]:
    """Return the mean of the newest values of the headline metric, by label."""
    values: dict[str, list[float]] = {}
    for label, run in runs:
        value = row_text.latest_headline(run)
        if value is not None and math.isfinite(value):
            values.setdefault(label, []).append(value)
    return {label: math.fsum(found) / len(found) for label, found in values.items()}


def controls(runs: Sequence[RunSummary], *, tables: bool = True) -> MethodView:
    """Draw the controls if there are many methods; their values are kept in the address.

    Args:
        runs: The runs.
        tables: Whether the page has tables and figures by family, and so their controls.
    """
    methods = {run.label: run.method for run in runs if run.role == "student"}
    better = session.headline_of((), runs)["better"] or "higher"
    if len(methods) <= families.MANY:
        return MethodView(better)
    grouped = families.grouped(methods, kinds_of(methods))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        shown = st.pills(
            "Families",
            list(grouped),
            selection_mode="multi",
            default=list(grouped),
            format_func=families.family_title,
            key="families",
            bind="query-params",
            help="Families of methods that are shown. The baseline is always shown.",
        )
        folded = st.pills(
            "Only the best method in",
            [family for family, members in grouped.items() if len(members) > 1],
            selection_mode="multi",
            format_func=families.family_title,
            key="best",
            bind="query-params",
            help="The best is the method with the best mean result so far.",
        )
        if not tables:
            return _view(better, grouped, shown, folded)
        layout = st.segmented_control(
            "Curves in",
            (_ONE_FIGURE, _BY_FAMILY),
            default=_ONE_FIGURE,
            required=True,
            key="layout",
            bind="query-params",
        )
        order = st.segmented_control(
            "Tables",
            (_FAMILY_ORDER, _RESULT_ORDER),
            default=_FAMILY_ORDER,
            required=True,
            key="order",
            bind="query-params",
        )
    view = _view(better, grouped, shown, folded)
    return replace(view, small_figures=layout == _BY_FAMILY, by_result=order == _RESULT_ORDER)


def _view(
    better: str, grouped: Mapping[str, list[str]], shown: Sequence[str] | None, folded: Sequence[str] | None
) -> MethodView:
    hidden = frozenset(grouped) - frozenset(shown or grouped)
    return MethodView(better, Folding(hidden, frozenset(folded or ())))
