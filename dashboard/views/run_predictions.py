"""The tab "Predictions" of the Run page: accuracy by class, confusion, calibration and images, beside a reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import streamlit as st

from client import ApiError
from core.protocol.predictions import ConfusionMatrix, CorrelationDifference, RunPredictions, Side
from core.protocol.public import TERMINAL, Run, RunSummary
from dashboard import session, theme
from dashboard.charts import chart_component, prediction_figures
from dashboard.charts.bars import MOST_COLUMNS
from dashboard.forms.widgets import table
from dashboard.lists import prediction_rows, row_text
from dashboard.markup import escape
from dashboard.views import prediction_images
from dashboard.wording import counted, sentence

T = TypeVar("T")

_SECONDS = 600
_ROWS_HEIGHT = 520
"""Height in px of the part of the page in which many classes scroll."""
_TEACHER = ""
_BY_CLASS, _BY_DIFFERENCE = "by class", "by difference"
MATRICES: Mapping[str, str] = {"difference": "Difference", "run": "Run", "reference": "Reference"}
STYLES: Mapping[Side, theme.Style] = {"reference": theme.TEACHER, "run": theme.Style(theme.BLUE, "square")}


def show(run: Run) -> None:
    """Draw the tab."""
    # The page redraws this part alone, so that the page's own boundary does not catch its errors.
    with session.error_boundary():
        _show(run)


def _show(run: Run) -> None:
    item = session.item(run.dataset)
    if run.state != "succeeded":
        ended = "This run ended before it wrote its predictions."
        until = f"Predictions for the test {escape(item)}s appear when the run has succeeded."
        st.info(
            ended if run.state in TERMINAL else until,
            icon=":material/image_search:",
        )
        return
    other = _reference(run)
    against = other.id if other else None
    found, problem = optional(lambda: _predictions(session.client().url, run.id, against))
    if found is None:
        st.info(escape(problem), icon=":material/image_search:")
        return
    names = _names(run, other, found)
    _summary(found, names, item)
    _accuracy(found, names, item)
    _confusion(run.id, found, names, item)
    left, right = st.columns(2, gap="large")
    with left:
        _reliability(found, names, item)
    with right:
        _correlations(run.id, found, item)
    st.markdown(f"**Test {escape(item)}s**")
    prediction_images.gallery(prediction_images.Pair(run.id, found.reference or None, names, found.classes, item))


def optional(request: Callable[[], T]) -> tuple[T | None, str]:
    """Return a reply, or None and the reason why there is none."""
    try:
        return request(), ""
    except ApiError as error:
        if error.status not in (404, 409, 422):
            raise
        return None, sentence(str(error))


def _reference(run: Run) -> RunSummary | None:
    """Draw the choice of what the run is compared with; return a run, or None for the teacher whose logits it kept."""
    others = {other.id: other for other in _siblings(run)}
    if not others:
        return None
    chosen = st.selectbox(
        "Compared with",
        [_TEACHER, *others],
        format_func=lambda key: row_text.run_title(others[key]) if key in others else "its teacher",
        key="beside",
        bind="query-params",
        width=280,
        help="The teacher, or another run of the experiment with the same seed.",
    )
    return others.get(chosen)


def _siblings(run: Run) -> list[RunSummary]:
    """Return the other finished runs of the experiment with the same seed, and its teachers."""
    if not run.experiment_id:
        return []
    key = run.experiment_id
    experiment = session.fetch(f"experiment {key}", lambda: session.client().experiment(key)).value
    return [
        other
        for other in experiment.results
        if other.id != run.id and other.state == "succeeded" and (other.seed == run.seed or other.role == "teacher")
    ]


@st.cache_data(ttl=_SECONDS, max_entries=50, show_spinner=False)
def _predictions(url: str, run_id: str, against: str | None) -> RunPredictions:
    return session.client().runs.predictions(run_id, against=against)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _matrix(url: str, run_id: str, against: str | None) -> ConfusionMatrix:
    return session.client().runs.confusion(run_id, against=against)


@st.cache_data(ttl=_SECONDS, max_entries=20, show_spinner=False)
def _correlation_map(url: str, run_id: str, against: str | None) -> CorrelationDifference:
    return session.client().runs.correlations(run_id, against=against)


def _names(run: Run, other: RunSummary | None, found: RunPredictions) -> dict[Side, str]:
    """Return the names of the run and of its reference."""
    names: dict[Side, str] = {"run": run.label}
    if found.reference:
        names["reference"] = "teacher" if other is None else other.label
    if names.get("reference") == run.label:
        names["reference"] = f"other {run.label}"
    return names


def _summary(found: RunPredictions, names: Mapping[Side, str], item: str) -> None:
    table(prediction_rows.accuracy_rows(found, names, item))
    if found.agreement:
        table(prediction_rows.agreement_rows(found.agreement, names, item))
    if not found.reference:
        st.caption("This run has no teacher to compare its predictions with. Choose another run above.")


def _accuracy(found: RunPredictions, names: Mapping[Side, str], item: str) -> None:
    by_class = {side: prediction_rows.accuracy_by_class(found, side) for side in names}
    items = escape(f"{item}s")
    st.markdown("**Accuracy by class**", help=f"Right {items} of each class, in % of the test {items} of that class.")
    classes = list(found.classes)
    if found.reference:
        order = st.segmented_control(
            "Order",
            (_BY_CLASS, _BY_DIFFERENCE),
            default=_BY_CLASS,
            required=True,
            key="class-order",
            bind="query-params",
            label_visibility="collapsed",
        )
        if order == _BY_DIFFERENCE:
            own, other = by_class["run"], by_class["reference"]
            classes.sort(key=lambda name: own.get(name, 0.0) - other.get(name, 0.0))
    counted_classes = zip(found.classes, found.networks["run"].by_class, strict=True)
    totals = {name: counted(counts.images, item) for name, counts in counted_classes}
    in_rows = len(classes) > MOST_COLUMNS
    with st.container(height=_ROWS_HEIGHT if in_rows else "content", border=False):
        chart_component.chart(
            prediction_figures.accuracy_figure(by_class, names, classes, totals),
            key="run.accuracy-by-class",
            alt="Accuracy of the run and its reference on each class",
            filename="accuracy-by-class",
        )
    fewest = min((counts.images for counts in found.networks["run"].by_class if counts.images), default=0)
    most = max((counts.images for counts in found.networks["run"].by_class), default=0)
    images = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
    st.caption(f"Each class has {images} test {items}, so that one {escape(item)} is {_points(most, fewest)}.")


def _points(most: int, fewest: int) -> str:
    """Return what one item of a class changes its accuracy by."""
    if not fewest:
        return "no share"
    low, high = f"{100 / most:.2f}", f"{100 / fewest:.2f}"
    return f"{low} percentage points" if low == high else f"{low} to {high} percentage points"


def _confusion(run_id: str, found: RunPredictions, names: Mapping[Side, str], item: str) -> None:
    matrix = _matrix(session.client().url, run_id, found.reference or None)
    confusion(matrix, names, item, key="run.confusion")


def confusion(matrix: ConfusionMatrix, names: Mapping[Side, str], item: str, *, key: str) -> None:
    """Draw a confusion matrix with its controls, and the most frequent confusions."""
    st.markdown(
        "**Confusion**",
        help=f"How many {escape(item)}s of each class (row) are predicted to be of each class (column), in % of the "
        f"{escape(item)}s of the class. The diagonal is the accuracy by class.",
    )
    shown, diagonal = "run", False
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        if matrix.of_reference is not None:
            titles = {"difference": f"{names['run']} − {names['reference']}"}
            titles |= {str(side): name for side, name in names.items()}
            shown = st.segmented_control(
                "Matrix",
                list(MATRICES),
                default="difference",
                required=True,
                format_func=lambda name: escape(titles[name]),
                key="matrix",
                bind="query-params",
                label_visibility="collapsed",
            )
        if len(matrix.classes) <= prediction_figures.MOST_CLASSES:
            diagonal = st.toggle("With the diagonal", key="diagonal", bind="query-params")
    if len(matrix.classes) <= prediction_figures.MOST_CLASSES:
        chart_component.chart(
            prediction_figures.confusion_figure(matrix, shown, item, diagonal=diagonal),
            key=key,
            alt=f"How often each class is predicted for the {item}s of each class",
            filename="confusion",
        )
    else:
        st.caption(f"A matrix of {len(matrix.classes):,} classes is not drawn; these are its largest entries.")
    table(prediction_rows.confusion_rows(matrix, names, shown, item))


def _reliability(found: RunPredictions, names: Mapping[Side, str], item: str) -> None:
    st.markdown(
        "**Calibration**",
        help="Accuracy over the confidence, the largest probability, in 15 ranges of equal width; below it the number "
        f"of {escape(item)}s in each range. Below the dashed line, a network is too confident.",
    )
    bins = {side: found.networks[side].calibration for side in names}
    kept = {side: ranges for side, ranges in bins.items() if ranges}
    if not kept:
        st.caption("This run kept no confidences: an older version trained it.")
        return
    chart_component.chart(
        prediction_figures.reliability_figure(kept, names, STYLES, item),
        key="run.reliability",
        alt="Accuracy of the run and its reference over their confidence",
        filename="reliability",
    )
    errors = ", ".join(f"{escape(names[side])} {found.networks[side].ece:.2f} %" for side in kept)
    st.caption(f"Expected calibration error over {found.images:,} test {escape(item)}s: {errors}.")


def _correlations(run_id: str, found: RunPredictions, item: str) -> None:
    st.markdown(
        "**Difference of the correlations of logits**",
        help="The absolute difference between the correlation matrices of the logits, over the test "
        f"{escape(item)}s, after "
        "Zhao et al. 2022 (Decoupled Knowledge Distillation). A student whose logits relate like its teacher's has a "
        "pale map.",
    )
    if not found.reference:
        st.caption("A map needs a teacher, or another run to compare with.")
        return
    reference = found.reference
    difference, problem = optional(lambda: _correlation_map(session.client().url, run_id, reference))
    if difference is None:
        st.caption(escape(problem))
        return
    correlation_map(difference, key="run.correlations")


def correlation_map(difference: CorrelationDifference, *, key: str, highest: float | None = None) -> None:
    """Draw a map with its mean."""
    chart_component.chart(
        prediction_figures.correlation_figure(difference, highest),
        key=key,
        alt="Absolute difference between two correlation matrices of logits",
        filename="correlation-difference",
    )
    mean = "" if difference.mean is None else f"Mean over all pairs of classes: {difference.mean:.3f}."
    several = f" Mean of {difference.runs:,} runs." if difference.runs > 1 else ""
    cells = (
        f" A cell is the mean over {difference.classes_per_cell:,} × {difference.classes_per_cell:,} classes."
        if difference.classes_per_cell > 1
        else ""
    )
    st.caption(f"{mean}{several}{cells}")
