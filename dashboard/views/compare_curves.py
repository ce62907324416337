"""The chart of the Compare page: its controls, the grouping of runs into curves, and its caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.public import TERMINAL, Comparison, Experiment, Run, RunSummary
from dashboard import addresses, families, session, theme, wording
from dashboard.charts import chart_component, figures
from dashboard.charts.comparison_charts import (
    X_AXIS_TITLES,
    Band,
    ChartSettings,
    MethodCurves,
    XAxis,
    curves_figure,
    family_figure,
    later_range,
    subtract_teacher_time,
)
from dashboard.charts.counted_titles import with_count
from dashboard.curves.curve import Curve, RunCurves
from dashboard.families import MANY
from dashboard.markup import escape
from dashboard.views import compare_methods, compare_metrics, comparison_results, curve_captions
from dashboard.views.compare_methods import MethodView

TEACHER_SECONDS = "speed/teacher_seconds"
"""Metric of the time that a run has spent on the teacher's logits."""
_ONE_METRIC, _TWO_AXES = "single metric", "two axes"
_FORMER_CHARTS = {"metric": _ONE_METRIC, "author's two axes": _TWO_AXES, "similarity and accuracy": _TWO_AXES}
_BANDS: dict[Band, str] = {"range": "min to max", "sd": "± 1 sd"}
_FORMER_BANDS: dict[str, Band] = {"least to greatest": "range"}
_BAND_CAPTIONS: dict[Band, str] = {
    "range": "minimum to maximum over seeds",
    "sd": "mean ± one sample standard deviation over seeds",
}


@dataclass(frozen=True)
class ComparisonChart:
    """Content of the chart.

    Attributes:
        metrics: Metrics of the left and of the right axis; the second is empty if there is no right axis.
        titles: Titles of the two axes.
        units: Units of the two axes.
        settings: Settings of the curves.
        headline: Metric by which results are judged; a comparison also contains the teacher's value of it.
        count_metric: Metric with the number of images that the left metric covers; empty if it covers all images.
    """

    metrics: tuple[str, str]
    titles: tuple[str, str]
    units: tuple[str, str]
    settings: ChartSettings
    headline: str
    count_metric: str = ""

    @property
    def content(self) -> str:
        """The metric, for the name of a file."""
        return self.metrics[0].replace("/", "-").replace("_", "-")

    @property
    def over_time(self) -> bool:
        return self.settings.x in ("time", "GPU-seconds")

    def metrics_to_load(self) -> tuple[str, ...]:
        """Return the names of all metrics that the chart and its caption need."""
        names = (*self.metrics, TEACHER_SECONDS if self.over_time else "", self.count_metric)
        return tuple(name for name in names if name)


def chart_controls(experiments: list[Experiment], runs: list[RunSummary], row: DeltaGenerator) -> ComparisonChart:
    """Draw the controls of the chart into ``row`` and return the selected content."""
    addresses.accept_former_labels("figure", _FORMER_CHARTS)
    addresses.accept_former_labels("band", _FORMER_BANDS)
    catalog = session.catalog().metrics
    titles = {metric["name"]: metric["label"] for metric in catalog}
    units = {metric["name"]: metric["unit"] for metric in catalog}
    headline = session.headline_of(experiments, runs)["name"]
    companion = session.companion(run.method for run in runs if run.role == "student")
    beside = companion["name"] if companion else ""
    with row:
        figure = st.segmented_control(
            "Chart",
            (_ONE_METRIC, _TWO_AXES),
            default=_ONE_METRIC,
            required=True,
            key="figure",
            bind="query-params",
            help=escape(f"Two axes: {titles[beside]} (left axis, solid) and {titles[headline]} (right axis, dashed).")
            if beside
            else None,
            disabled=not beside,
        )
        metric = compare_metrics.control(experiments, runs, headline, disabled=figure != _ONE_METRIC)
        x: XAxis = st.segmented_control(
            "X axis", list(X_AXIS_TITLES), default="epochs", required=True, key="x", bind="query-params"
        )
        band: Band = st.segmented_control(
            "Band",
            list(_BANDS),
            default="range",
            required=True,
            format_func=_BANDS.__getitem__,
            key="band",
            bind="query-params",
            help="Around the mean over seeds: from the minimum to the maximum, or one sample standard deviation.",
        )
        smoothing = st.slider(
            "Smoothing",
            0.0,
            0.95,
            0.0,
            0.05,
            key="smoothing",
            bind="query-params",
            width=170,
            help="Weight of earlier values in the exponential moving average of each run; 0 for no smoothing.",
        )
        log = st.toggle("Log scale", key="log", bind="query-params")
    gpus = requested_gpus(experiments) if x == "GPU-seconds" else 1
    if gpus is None:
        st.info(
            "These runs did not request GPUs, so there are no GPU-seconds. The chart shows training time instead.",
            icon=":material/memory:",
        )
        x = "time"
    settings = ChartSettings(x=x, band=band, smoothing=smoothing, log=bool(log), gpus=gpus or 1)
    if figure == _TWO_AXES and beside:
        axes = (titles[beside], f"{titles[headline]}, dashed")
        return ComparisonChart((beside, headline), axes, (units[beside], units[headline]), settings, headline)
    # With many methods, a line's dash distinguishes variants and not the right axis.
    many = len({run.label for run in runs if run.role == "student"}) > MANY
    second = beside if metric == headline and not many else ""
    count_metric = next((str(item.get("of", "")) for item in catalog if item["name"] == metric), "")
    axis_titles = (titles.get(metric, metric), f"{titles[second]}, dashed" if second else "")
    axis_units = (units.get(metric, ""), units.get(second, ""))
    return ComparisonChart((metric, second), axis_titles, axis_units, settings, headline, count_metric)


def requested_gpus(experiments: list[Experiment]) -> int | None:
    """Return the number of GPUs that each run requested; None if it is 0, differs, or single runs are selected."""
    requests = {
        resources.get("gpus", 1) if resources.get("device") == "gpu" else 0
        for resources in (experiment.spec.get("resources", {}) for experiment in experiments)
    }
    return requests.pop() or None if len(requests) == 1 else None


def other_data(
    experiments: list[Experiment],
    runs: list[RunSummary],
    comparison: Comparison | None,
    options: ComparisonOptions | None,
) -> dict[str, str]:
    """Return a description of the data by run id, for runs that used other images than the compared runs.

    Such runs must not be averaged with other runs of their label.
    """
    if options:
        # Experiments that cannot be compared are drawn separately, and each of them may contain several data sets.
        separate = (
            [comparison_results.comparison([item], options)[0] for item in experiments] if comparison is None else []
        )
        return {run: data for item in (comparison, *separate) if item for run, data in item.set_aside_data.items()}
    descriptions = {run.id: _describe_data(run) for run in runs if isinstance(run, Run) and run.test_size}
    return descriptions if len(set(descriptions.values())) > 1 else {}


def _describe_data(run: Run) -> str:
    item = session.item(run.dataset)
    sizes = f"{run.train_size:,} training and {run.test_size:,} test {item}s"
    return f"{item}s {run.images[:8]}" if run.images else f"{item}s not recorded, {sizes}"


def runs_by_label(
    experiments: list[Experiment],
    runs: list[RunSummary],
    other_data: Mapping[str, str],
    *,
    by_experiment: bool,
) -> dict[str, list[RunSummary]]:
    """Group the runs that are averaged into one curve, by the label of the curve.

    Args:
        experiments: The selected experiments; empty if single runs are selected.
        runs: The selected runs, or all runs of the experiments.
        other_data: Descriptions of the data by run id, from the function ``other_data``.
        by_experiment: Whether runs of different experiments form different curves.
    """
    by_experiment = by_experiment and len({run.experiment_id for run in runs}) > 1
    methods = {label for experiment in experiments for label in experiment.methods}
    groups: dict[str, list[RunSummary]] = {}
    for run in runs:
        # A teacher is drawn only if it was selected as a run. The role identifies it, because a method of an older
        # experiment may have the teacher's label.
        if not experiments or (run.role == "student" and run.label in methods):
            label = f"{run.label} · {run.experiment}" if by_experiment else run.label
            label += f" · {other_data[run.id]}" if run.id in other_data else ""
            groups.setdefault(label, []).append(run)
    return groups


def draw(
    chart: ComparisonChart,
    labelled: Mapping[str, Sequence[RunSummary]],
    curves: Mapping[str, RunCurves],
    comparison: Comparison | None,
    methods_view: MethodView,
    *,
    key: str,
) -> None:
    """Draw the chart with its caption.

    Args:
        chart: Content of the chart.
        labelled: The runs of each curve, by the label of the curve.
        curves: Curves by run id.
        comparison: The backend's comparison; None if there is none.
        methods_view: How many methods are shown.
        key: Identifies the selection, so that another selection gets a new chart.
    """
    without_teacher = chart.over_time and comparison is not None and comparison.timing == "student"

    def curves_of(runs: Sequence[RunSummary], metric: str) -> list[Curve]:
        result = []
        for run in runs:
            by_metric = curves[run.id].curves if run.id in curves else {}
            curve = by_metric.get(metric)
            if curve is not None and len(curve):
                teacher_seconds = by_metric.get(TEACHER_SECONDS)
                result.append(subtract_teacher_time(curve, teacher_seconds) if without_teacher else curve)
        return result

    kinds = compare_methods.kinds_of({label: runs[0].method for label, runs in labelled.items()})
    results = compare_methods.mean_results((label, run) for label, runs in labelled.items() for run in runs)
    baseline = comparison.baseline if comparison else ""
    methods = [
        MethodCurves(
            label,
            curves_of(runs, chart.metrics[0]),
            curves_of(runs, chart.metrics[1]),
            kinds[label].family,
            figures.curve_address(runs),
        )
        for label in methods_view.arrange(list(labelled), kinds, results, [baseline])
        for runs in (labelled[label],)
    ]
    every_run = [run for runs in labelled.values() for run in runs]
    if not any(method.main for method in methods):
        _no_curves(chart, every_run)
        return
    if chart.count_metric:
        item = session.item(every_run[0].dataset)
        of_runs = [stored.curves for stored in curves.values()]
        title = with_count(chart.titles[0], chart.metrics[0], chart.count_metric, of_runs, item)
        chart = replace(chart, titles=(title, chart.titles[1]))
    looks = _Looks(
        teacher=comparison.teacher_top1 if comparison and chart.metrics[0] == chart.headline else None,
        units=chart.units,
        epochs=max((run.total_epochs for run in every_run if run.role == "student"), default=0),
        styles=theme.styles(labelled, session.method_colours(), kinds),
        live=any(run.state not in TERMINAL for run in every_run),
    )
    many = len(labelled) > MANY
    files = list(dict.fromkeys(run.experiment for run in every_run))
    values = later_range(methods, chart.settings, looks.teacher) if many else None
    if methods_view.small_figures:
        _small_figures(chart, methods, looks, values, baseline, key, files)
    else:
        chart_component.chart(
            curves_figure(
                methods,
                chart.titles,
                chart.settings,
                teacher=looks.teacher,
                units=looks.units,
                epochs=looks.epochs,
                styles=looks.styles,
                values=values,
                live=looks.live,
            ),
            key=f"compare.{key}",
            alt=f"{chart.titles[0]} of each method over {chart.settings.x}",
            filename=wording.file_stem(files, chart.content),
        )
    if many:
        shown = f"{len(methods):,} of {len(labelled):,} methods are shown. " if len(methods) < len(labelled) else ""
        st.caption(
            f"{shown}The pointer on a curve or a name highlights the method and shows its band; a click on a name or a "
            "family hides it. The left axis begins with the values after a quarter of the training; a double click "
            "shows all."
        )
    caption = _caption(chart, max(len(runs) for runs in labelled.values()), comparison)
    st.caption(escape(caption))


@dataclass(frozen=True)
class _Looks:
    """What all figures have in common: the teacher's value, the axes' units, epochs, styles, and whether runs train."""

    teacher: float | None
    units: tuple[str, str]
    epochs: int
    styles: Mapping[str, theme.Style]
    live: bool


def _small_figures(
    chart: ComparisonChart,
    methods: Sequence[MethodCurves],
    looks: _Looks,
    values: tuple[float, float] | None,
    baseline: str,
    key: str,
    files: Sequence[str],
) -> None:
    """Draw a figure per family, two beside each other, with equal axes and the baseline in grey."""
    reference = next((method for method in methods if method.label == baseline), None)
    columns: Sequence[DeltaGenerator] = ()
    for index, family in enumerate(families.ordered(method.family for method in methods)):
        members = [method for method in methods if method.family == family]
        if index % 2 == 0:
            columns = st.columns(2, gap="large")
        with columns[index % 2]:
            st.markdown(f"**{escape(families.family_title(family))}**")
            figure = family_figure(
                members,
                reference if reference not in members else None,
                chart.titles,
                chart.settings,
                teacher=looks.teacher,
                units=looks.units,
                epochs=looks.epochs,
                styles=looks.styles,
                values=values,
                live=looks.live,
            )
            chart_component.chart(
                figure,
                key=f"compare.{key}.{family}",
                alt=f"{chart.titles[0]} of the family {families.family_title(family)} over {chart.settings.x}",
                filename=wording.file_stem(files, f"{chart.content}-{family.replace('_', '-') or 'other'}"),
            )


def _no_curves(chart: ComparisonChart, runs: Sequence[RunSummary]) -> None:
    if chart.metrics[0] == chart.headline or not any(run.step for run in runs if run.role == "student"):
        st.info(
            "No student has finished an epoch yet. Curves appear here automatically.", icon=":material/hourglass_empty:"
        )
    else:
        st.info(f"No run has reported this metric: {escape(chart.titles[0])}.", icon=":material/query_stats:")


def _caption(chart: ComparisonChart, n: int, comparison: Comparison | None) -> str:
    settings = chart.settings
    parts = [
        f"Line: mean over seeds (n = {n} when all runs are done; the tooltip shows n at each epoch). "
        f"Band: {_BAND_CAPTIONS[settings.band]}."
    ]
    if chart.metrics[1]:
        parts.append(f"Dashed, right axis: {chart.titles[1].removesuffix(', dashed')}.")
    if chart.over_time:
        parts.append("Each epoch is drawn at the mean time of its seeds, including evaluation.")
        parts.append(curve_captions.time_caption(comparison))
    if settings.smoothing:
        parts.append(
            f"Curves are smoothed with an exponential moving average (weight {settings.smoothing:g}); the tables below "
            "contain unsmoothed values."
        )
    return " ".join(parts)
