"""What an experiment was made from, and what was made from it, on its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlencode

import streamlit as st

from common.formatting import mean_text, value_text
from core.protocol.public import Experiment, ExperimentSummary, RunSummary
from dashboard import session, theme
from dashboard.charts import lineage
from dashboard.charts.lineage import Box, Stage
from dashboard.lists import row_text

_MAX_LINKED = 50
"""Greatest number of runs in a link."""


def draw(experiment: Experiment, parent: Experiment | None, copies: Sequence[ExperimentSummary]) -> None:
    """Draw the picture, and the experiments that are linked by copying."""
    unit = session.headline_of([experiment], ())["unit"]
    styles = theme.styles(experiment.methods, session.method_colours())
    st.html(lineage.picture(stages(experiment, unit, {label: style.colour for label, style in styles.items()})))
    if experiment.parent:
        name = parent.name if parent else "an experiment that has been deleted"
        st.html(lineage.picture([Stage("Copied from", [_experiment_box(parent) if parent else Box(name)])]))
    if copies:
        st.html(lineage.picture([Stage("Copies of it", [_experiment_box(item) for item in copies])]))


def stages(experiment: Experiment, unit: str, colours: Mapping[str, str]) -> list[Stage]:
    """Return the stages from the data to the tables.

    Args:
        experiment: The experiment.
        unit: Unit of the metric by which results are judged.
        colours: Colour of each label.
    """
    teachers = [run for run in experiment.results if run.role == "teacher"]
    by_label: dict[str, list[RunSummary]] = {label: [] for label in experiment.methods}
    for run in experiment.results:
        if run.role == "student":
            by_label.setdefault(run.label, []).append(run)
    spec = experiment.spec
    data = spec["dataset"]["name"] if isinstance(spec.get("dataset"), dict) else experiment.dataset
    return [
        Stage("Data", [Box(str(data), "all runs on it", _address("runs", dataset=experiment.dataset))]),
        Stage("Teachers" if len(teachers) > 1 else "Teacher", [_teacher_box(run, unit) for run in teachers]),
        Stage("Students", [_students_box(label, runs, unit, colours) for label, runs in by_label.items()]),
        Stage("Tables", _table_boxes(experiment)),
    ]


def _address(page: str, **query: str | Sequence[str]) -> str:
    return f"{page}?{urlencode(query, doseq=True)}"


def _teacher_box(run: RunSummary, unit: str) -> Box:
    value = row_text.latest_headline(run)
    result = "" if value is None else f", {value_text(value, unit, 2)}"
    return Box(run.model, f"{theme.state_text(run.state)}{result}", _address("run", id=run.id), theme.GREY)


def _students_box(label: str, runs: Sequence[RunSummary], unit: str, colours: Mapping[str, str]) -> Box:
    done = [run for run in runs if run.state == "succeeded"]
    values = [value for run in done if (value := row_text.latest_headline(run)) is not None]
    result = f", mean {mean_text(sum(values) / len(values), None)} {unit}".rstrip() if values else ""
    ids = [run.id for run in runs][:_MAX_LINKED]
    link = _address("run", id=ids[0]) if len(ids) == 1 else _address("compare", run=ids) if ids else ""
    return Box(label, f"{len(done)} of {len(runs)} done{result}", link, colours.get(label, ""))


def _table_boxes(experiment: Experiment) -> list[Box]:
    boxes = [Box("Comparison", "its methods, paired", _address("compare", experiment=experiment.id))]
    boxes += [
        Box(f"Results: {tag}", "all experiments with this tag", _address("results", tags=tag))
        for tag in experiment.tags
    ]
    if experiment.sweep:
        boxes.append(Box(f"Sweep: {experiment.sweep}", "all its settings", _address("sweep", name=experiment.sweep)))
    return boxes


def _experiment_box(item: ExperimentSummary) -> Box:
    return Box(item.name, item.state, _address("experiment", id=item.id))
