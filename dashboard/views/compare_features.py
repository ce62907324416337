"""The section "Features" of the Compare page: teacher and methods of one seed side by side, over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st

from core.protocol.comparison_queries import ComparisonOptions
from core.protocol.features import RunFeatures
from core.protocol.public import Experiment, RunSummary
from dashboard import session, theme
from dashboard.markup import escape
from dashboard.views import compare_methods, feature_panels
from dashboard.views.run_predictions import optional

_TEACHER = "teacher"
_MOST_METHODS = 5
"""Methods that are shown until others are chosen."""


def section(experiments: Sequence[Experiment], options: ComparisonOptions | None) -> None:
    """Draw the section, if experiments are compared.

    Args:
        experiments: The experiments.
        options: The options of the comparison; None if single runs are compared.
    """
    if not experiments or options is None:
        return
    st.subheader("Features")
    if any(session.task(experiment.dataset).get("rows_are_regions") for experiment in experiments):
        st.caption("Runs of object detection keep no features: their rows are regions, and not images of one class.")
        return
    item = escape(session.item(experiments[0].dataset))
    shown = st.toggle(
        f"Show features of test {item}s over the epochs",
        key="features",
        bind="query-params",
        help="Pictures of the features before the last layer, and NC1–NC4, of one seed.",
    )
    if not shown:
        return
    with session.error_boundary():
        _draw(experiments, options, session.item(experiments[0].dataset))


def _draw(experiments: Sequence[Experiment], options: ComparisonOptions, item: str) -> None:
    ended = [run for experiment in experiments for run in experiment.results if run.state == "succeeded"]
    students = [run for run in ended if run.role == "student"]
    if not students:
        st.info(
            "No run of a method has succeeded yet, and features are written when a run succeeds.",
            icon=":material/scatter_plot:",
        )
        return
    seeds = sorted({run.seed for run in students})
    labels = _in_order(students, options.baseline)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        seed = (
            st.selectbox("Seed", seeds, key="feature-seed", bind="query-params", width=120)
            if len(seeds) > 1
            else seeds[0]
        )
        chosen = st.multiselect(
            "Methods",
            labels,
            default=labels[:_MOST_METHODS],
            key="feature-methods",
            bind="query-params",
            placeholder="choose methods",
        )
    runs = {run.label: run for run in students if run.seed == seed and run.label in chosen}
    found: dict[str, RunFeatures] = {}
    url = session.client().url
    for label in (label for label in labels if label in runs):
        kept, problem = optional(partial(feature_panels.summary_of, url, runs[label].id))
        if kept is None:
            st.caption(escape(f"{label} is left out: {problem}"))
        else:
            found[label] = kept
    missing = [label for label in labels if label in chosen and label not in runs]
    if missing:
        st.caption(escape(f"No run of {', '.join(missing)} with seed {seed} has succeeded."))
    if not found:
        return
    kinds = compare_methods.kinds_of({run.label: run.method for run in students})
    styles = theme.styles(labels, session.method_colours(), kinds)
    panels = [*_teacher(found, runs, ended)]
    panels += [
        feature_panels.Panel(label, runs[label].id, "run", kept.networks["run"], styles[label])
        for label, kept in found.items()
    ]
    feature_panels.draw(panels, next(iter(found.values())), item, key="compare.features")
    if len(seeds) > 1:
        st.caption(f"All of this is of seed {escape(seed)} alone, and says nothing of how much other seeds differ.")


def _in_order(students: Sequence[RunSummary], baseline: str | None) -> list[str]:
    """Return the labels of the methods in their order, the baseline first."""
    labels = list(dict.fromkeys(run.label for run in students))
    return sorted(labels, key=lambda label: label != baseline) if baseline in labels else labels


def _teacher(
    found: Mapping[str, RunFeatures], runs: Mapping[str, RunSummary], ended: Sequence[RunSummary]
) -> list[feature_panels.Panel]:
    """Return the teacher as a student was taught by it; without such a student, as its own run left it."""
    for label, kept in found.items():
        if "teacher" in kept.networks:
            return [
                feature_panels.Panel(
                    _TEACHER, runs[label].id, "teacher", kept.networks["teacher"], theme.TEACHER, moves=False
                )
            ]
    url = session.client().url
    for run in (run for run in ended if run.role == "teacher"):
        of_teacher, _ = optional(partial(feature_panels.summary_of, url, run.id))
        if of_teacher is not None:
            own = of_teacher.networks["run"]
            return [feature_panels.Panel(_TEACHER, run.id, "run", own, theme.TEACHER, moves=False)]
    return []
