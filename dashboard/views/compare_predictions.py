"""The section "Predictions" of the Compare page: what the methods predict, over the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import streamlit as st

from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.predictions import (
    ComparedPredictions,
    ConfusionMatrix,
    CorrelationDifference,
    MethodPredictions,
    SeedsSummary,
    Side,
)
from core.protocol.public import Experiment
from dashboard import families, session, theme
from dashboard.charts import chart_component, prediction_figures
from dashboard.charts.bars import MOST_COLUMNS
from dashboard.forms.widgets import table
from dashboard.lists import prediction_rows
from dashboard.markup import escape
from dashboard.views import compare_methods, prediction_images, run_predictions

_SECONDS = 600
_ROWS_HEIGHT = 520
_TEACHER = "teacher"


def section(experiments: Sequence[Experiment], options: ComparisonOptions | None) -> None:
    """Draw the section, if experiments of classification are compared.

    Args:
        experiments: The experiments.
        options: The options of the comparison; None if single runs are compared.
    """
    if not experiments or options is None:
        return
    if any(session.task(experiment.dataset).get("rows_are_regions") for experiment in experiments):
        return
    st.subheader("Predictions")
    item = escape(session.item(experiments[0].dataset))
    shown = st.toggle(
        f"Show classes, confusion, calibration and {item}s",
        key="predictions",
        bind="query-params",
        help="The files of all finished runs are read for it.",
    )
    if not shown:
        return
    with session.error_boundary():
        _draw(experiments, options, session.item(experiments[0].dataset))


def _draw(experiments: Sequence[Experiment], options: ComparisonOptions, item: str) -> None:
    ids = tuple(experiment.id for experiment in experiments)
    finished = sum(experiment.counts.succeeded for experiment in experiments)
    url = session.client().url
    found, problem = run_predictions.optional(lambda: _predictions(url, ids, options.baseline, finished))
    if found is None:
        st.info(escape(problem), icon=":material/image_search:")
        return
    kinds = compare_methods.kinds_of({method.label: method.method for method in found.methods})
    labels = [method.label for method in found.methods if method.runs]
    styles = theme.styles(labels, session.method_colours(), kinds)
    chosen = _choice(found, labels)
    looked = chosen[0].label if chosen else found.baseline
    _overall(found, labels, styles, looked, item)
    with st.expander("Accuracy by class of all methods", icon=":material/table_rows:"):
        with st.container(height=_ROWS_HEIGHT if len(found.classes) > MOST_COLUMNS else "content"):
            table(prediction_rows.class_rows(found, labels, item))
        st.caption(
            f"Mean over n seeds, followed by the paired difference to {escape(found.baseline)} in percentage points "
            "with its 95 % t interval."
        )
    if chosen is None:
        return
    method, against = chosen
    names: dict[Side, str] = {"run": method.label, "reference": against or _TEACHER}
    _by_class(found, method, against, styles, item)
    matrix, problem = run_predictions.optional(lambda: _matrix(url, ids, method.label, against, finished))
    if matrix is None:
        st.caption(escape(problem))
    else:
        run_predictions.confusion(matrix, names, item, key="compare.confusion")
        st.caption(f"Sums over {matrix.runs:,} runs of {escape(method.label)} and their counterparts.")
    _correlations(url, ids, found, method, finished, item)
    _images(experiments, found, method, against, item)
    for note in found.notes:
        st.caption(escape(note))


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _predictions(url: str, ids: tuple[str, ...], baseline: str | None, finished: int) -> ComparedPredictions:
    return session.client().comparisons.predictions(ids, baseline=baseline)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _matrix(url: str, ids: tuple[str, ...], label: str, against: str | None, finished: int) -> ConfusionMatrix:
    return session.client().comparisons.confusion(ids, label, against=against)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _map(url: str, ids: tuple[str, ...], label: str, finished: int) -> CorrelationDifference:
    return session.client().comparisons.correlations(ids, label)


def _overall(
    found: ComparedPredictions, labels: list[str], styles: Mapping[str, theme.Style], looked: str, item: str
) -> None:
    """Draw calibration, of many methods that of the baseline and of the one that is looked at, and a table of all."""
    shown = labels if len(labels) <= families.MANY else (found.baseline, looked)
    bins = {
        method.label: method.calibration for method in found.methods if method.calibration and method.label in shown
    }
    if found.teacher and found.teacher.calibration:
        bins = {_TEACHER: found.teacher.calibration} | bins
    all_styles = {_TEACHER: theme.TEACHER, **styles}
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown(
            "**Calibration**",
            help=f"Accuracy over the confidence, the largest probability, of the {escape(item)}s of all seeds "
            f"together; below it the number of {escape(item)}s in each range. Below the dashed line, a network is too "
            "confident.",
        )
        if bins:
            chart_component.chart(
                prediction_figures.reliability_figure(bins, {label: label for label in bins}, all_styles, item),
                key="compare.reliability",
                alt="Accuracy of each method over its confidence",
                filename="reliability",
            )
        else:
            st.caption("These runs kept no confidences: an older version trained them.")
    with right:
        st.markdown("**Over the seeds**")
        table(prediction_rows.method_rows(found, labels, item), wrap=True)
        st.caption(f"Means over the seeds, each run on {found.images:,} test {escape(item)}s.")


def _choice(found: ComparedPredictions, labels: Sequence[str]) -> tuple[MethodPredictions, str | None] | None:
    """Draw the choice of a method and of what it is compared with; None without a method to choose."""
    methods = {method.label: method for method in found.methods if method.label in labels}
    if not methods:
        return None
    others = [label for label in labels if label != found.baseline]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        label = st.selectbox(
            "Method", [*others, *(set(labels) - set(others))], key="look", bind="query-params", width=240
        )
        sides = [name for name in (found.baseline, *([_TEACHER] if found.teacher else [])) if name != label]
        if not sides:
            return None
        side = st.segmented_control(
            "Compared with",
            sides,
            default=sides[0],
            required=True,
            format_func=escape,
            key="look-against",
            bind="query-params",
        )
    return methods[label], None if side == _TEACHER and side not in methods else side


def _by_class(
    found: ComparedPredictions,
    method: MethodPredictions,
    against: str | None,
    styles: Mapping[str, theme.Style],
    item: str,
) -> None:
    summaries: dict[str, SeedsSummary] = {}
    for name, values in zip(found.classes, method.by_class, strict=True):
        summary = values.to_teacher if against is None else values.to_baseline
        if summary is not None and summary.mean is not None:
            summaries[name] = summary
    st.markdown(
        "**Difference by class**",
        help="Mean difference of the accuracy on each class with its 95 % t interval over the seeds, the greatest loss "
        "first.",
    )
    if not summaries:
        st.caption("No seed has both.")
        return
    ordered = dict(sorted(summaries.items(), key=lambda entry: entry[1].mean or 0.0))
    images = dict(zip(found.classes, found.images_by_class, strict=True))
    axis = f"{method.label} − {against or _TEACHER} (percentage points)"
    in_rows = len(ordered) > MOST_COLUMNS
    with st.container(height=_ROWS_HEIGHT if in_rows else "content", border=False):
        chart_component.chart(
            prediction_figures.class_differences_figure(
                ordered, axis, styles[method.label], {name: f"{name} ({images[name]:,})" for name in ordered}
            ),
            key="compare.classes",
            alt="Difference of the accuracy on each class with its interval",
            filename="difference-by-class",
        )
    pairs = {summary.n for summary in ordered.values()}
    count = f"{max(pairs):,}" if len(pairs) == 1 else f"{min(pairs):,} to {max(pairs):,}"
    none = "" if max(pairs) > 1 else " One pair has no interval."
    st.caption(f"In brackets the number of test {escape(item)}s of the class; n = {count}.{none}")


def _correlations(
    url: str, ids: tuple[str, ...], found: ComparedPredictions, method: MethodPredictions, finished: int, item: str
) -> None:
    shown = [label for label in dict.fromkeys((found.baseline, method.label)) if _has_correlation(found, label)]
    st.markdown(
        "**Difference of the correlations of logits to the teacher's**",
        help="The absolute difference between the correlation matrices of the logits of student and teacher, over the "
        f"test {escape(item)}s, as the mean over the seeds, after Zhao et al. 2022 (Decoupled Knowledge Distillation).",
    )
    if not shown:
        st.caption("These runs have no teacher, or kept no correlations of their logits.")
        return
    maps = {label: _map(url, ids, label, finished) for label in shown}
    highest = max(prediction_figures.greatest_difference(found) for found in maps.values()) or None
    for column, (label, difference) in zip(st.columns(len(maps), gap="large"), maps.items(), strict=True):
        with column:
            st.markdown(escape(label))
            run_predictions.correlation_map(
                difference, key=f"compare.correlations.{shown.index(label)}", highest=highest
            )


def _has_correlation(found: ComparedPredictions, label: str) -> bool:
    return any(method.label == label and method.correlation.mean is not None for method in found.methods)


def _images(
    experiments: Sequence[Experiment],
    found: ComparedPredictions,
    method: MethodPredictions,
    against: str | None,
    item: str,
) -> None:
    """Draw the items of one seed on which the method and its counterpart differ."""
    st.markdown(f"**Test {escape(item)}s**")
    base = next((other for other in found.methods if other.label == against), None)
    seeds = sorted(seed for seed in method.runs if base is None or seed in base.runs)
    if not seeds:
        st.caption("No seed has both.")
        return
    seed = st.selectbox("Seed", seeds, key="look-seed", bind="query-params", width=120) if len(seeds) > 1 else seeds[0]
    run_id = method.runs[seed]
    other = base.runs[seed] if base else _teacher_of(experiments, run_id)
    names: dict[Side, str] = {"run": method.label, "reference": against or _TEACHER}
    prediction_images.gallery(prediction_images.Pair(run_id, other, names, found.classes, item))


def _teacher_of(experiments: Sequence[Experiment], run_id: str) -> str:
    """Return the reference of a run: its teacher, or, if its method uses none, the run of the experiment's teacher."""
    for experiment in experiments:
        run = next((run for run in experiment.results if run.id == run_id), None)
        if run is not None and not run.teacher_run_id:
            return next((other.id for other in experiment.results if other.role == "teacher"), _TEACHER)
    return _TEACHER
