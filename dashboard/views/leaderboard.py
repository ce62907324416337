"""The Leaderboard page, ``/leaderboard``: methods ranked over settings, with tests, figures and downloads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import streamlit as st

from client import ApiError
from client.resources import LeaderboardTextFormat
from core.protocol.leaderboards import Leaderboard
from dashboard import addresses, session, wording
from dashboard.charts import chart_component, rank_charts
from dashboard.forms.widgets import empty_state, table
from dashboard.lists import leaderboard_rows
from dashboard.markup import escape

_REFRESH_SECONDS = 30.0
"""A leaderboard changes only when a run ends, and takes longer to compute than a page."""
_FORMATS: dict[LeaderboardTextFormat, tuple[str, str, str]] = {
    "html": ("Page (HTML)", "html", "text/html"),
    "csv": ("CSV", "csv", "text/csv"),
    "latex": ("LaTeX", "tex", "application/x-tex"),
    "markdown": ("Markdown", "md", "text/markdown"),
}
"""Title, file extension and media type of each format."""


@dataclass(frozen=True)
class _Chosen:
    """What is ranked.

    Attributes:
        experiments: Names of experiments; empty for all.
        tags: Tags.
        sweep: Name of a sweep; empty for none.
        task: Name of the task; empty for that of the first experiment.
        baseline: The baseline; empty for the backend's default.
        without: Methods that are left out.
    """

    experiments: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    sweep: str = ""
    task: str = ""
    baseline: str = ""
    without: tuple[str, ...] = ()

    def fetch(self) -> session.Fetched[Leaderboard]:
        return session.fetch(
            f"leaderboard {self}",
            lambda: session.client().comparisons.leaderboard(
                self.experiments,
                tags=self.tags,
                sweep=self.sweep or None,
                task=self.task or None,
                baseline=self.baseline or None,
                without=self.without,
            ),
        )

    def text(self, format: LeaderboardTextFormat) -> str:
        return session.client().comparisons.leaderboard_text(
            format,
            self.experiments,
            tags=self.tags,
            sweep=self.sweep or None,
            task=self.task or None,
            baseline=self.baseline or None,
            without=self.without,
        )


def show() -> None:
    """Draw the page."""
    st.title("Leaderboard")
    st.caption(
        "Methods ranked over settings: a data set, a teacher, a student and a training each. Values are those of the "
        "last epoch, never of the best one."
    )
    linked = addresses.query_values("without", "name")
    chosen = _choose_experiments()
    try:
        board = chosen.fetch().value
    except ApiError as error:
        if error.status not in (404, 422):
            raise
        st.info(escape(wording.sentence(str(error))), icon=":material/filter_alt_off:")
        return
    if not board.settings and not (chosen.experiments or chosen.tags or chosen.sweep):
        empty_state(
            "There is nothing to rank yet. Train at least two methods with the same seeds in one or more settings."
        )
        return
    chosen = _choose_methods(chosen, board, linked)
    _body(chosen)
    _downloads(chosen)


def _choose_experiments() -> _Chosen:
    """Draw the selection of experiments, whose values are kept in the address."""
    every = session.fetch("experiments", lambda: session.client().experiments.list(limit=200)).value.items
    sweeps = session.fetch("sweeps", session.client().sweeps.list).value.items
    linked = addresses.query_values("experiment", "name")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        tags = st.text_input(
            "Tags",
            key="ranked_tags",
            bind="query-params",
            placeholder="all experiments",
            help="Only experiments with all of these tags, separated by commas.",
            width=240,
        )
        sweep = addresses.query_value("sweep", "name")
        if sweeps or sweep:
            names = list(dict.fromkeys(["", *(item.name for item in sweeps), sweep]))
            sweep = st.selectbox(
                "Sweep",
                names,
                format_func=lambda name: name or "any",
                key="sweep",
                bind="query-params",
                width=220,
            )
        options = list(dict.fromkeys([*(item.name for item in every), *linked]))
        selected = st.multiselect(
            "Experiments",
            options,
            default=linked,
            placeholder="all",
            key=f"leaderboard.experiments.{','.join(linked)}",
            help="The newest 200 experiments; the name of any other can be entered. Without a choice, all that are not "
            "archived are ranked.",
            accept_new_options=True,
            width=420,
        )
    if selected != linked:
        st.query_params["experiment"] = selected
    tag_filter = addresses.searchable([tag.strip() for tag in tags.split(",") if tag.strip()])
    # The control for the task is drawn only when the backend has said which tasks there are.
    task = st.session_state.get("ranked_task") or addresses.query_value("ranked_task", "name")
    return _Chosen(tuple(selected), tuple(tag_filter), sweep, _task_name(task))


def _task_name(title: str) -> str:
    """Return the name of the task that has this title; the address contains titles."""
    return next((str(item["name"]) for item in session.catalog().tasks if item["title"] == title), "")


def _choose_methods(chosen: _Chosen, board: Leaderboard, linked: list[str]) -> _Chosen:
    """Draw the selection of the task, the baseline and the methods that are left out, at first the linked ones."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        if len(board.tasks) > 1:
            titles = {str(item["name"]): str(item["title"]) for item in session.catalog().tasks}
            shown = [titles.get(name, name) for name in board.tasks]
            st.segmented_control(
                "Task",
                shown,
                default=titles.get(board.task, board.task),
                required=True,
                key="ranked_task",
                bind="query-params",
                help="Results of different tasks are judged by different metrics and not ranked together.",
            )
        labels = sorted(method.label for method in board.methods)
        baseline = st.selectbox(
            "Baseline",
            ["", *labels],
            format_func=lambda label: label or f"automatic ({board.baseline})",
            key="ranked_baseline",
            bind="query-params",
            help="Every other method is compared with the baseline in each setting, paired by seed.",
            width=260,
        )
        without = st.multiselect(
            "Leave out",
            list(dict.fromkeys([*labels, *linked])),
            default=linked,
            placeholder="no method",
            key=f"leaderboard.without.{','.join(linked)}",
            help="A setting counts for the ranks only if it has all methods over common seeds.",
            width=420,
        )
    if without != linked:
        st.query_params["without"] = without
    return replace(chosen, baseline=baseline, without=tuple(without))


def _body(chosen: _Chosen) -> None:
    @st.fragment(run_every=_REFRESH_SECONDS)
    def body() -> None:
        with session.error_boundary():
            reply = chosen.fetch()
            with st.container():
                session.show_outage(reply.outage_since)
            with st.container():
                _draw(reply.value)

    body()


def _draw(board: Leaderboard) -> None:
    if not board.settings:
        st.info("These experiments have no results yet.", icon=":material/hourglass_empty:")
    else:
        st.markdown("Mean ± sample sd (n seeds) and mean rank [95 % interval]. Each value links to its runs.")
        st.table(leaderboard_rows.table_rows(board))
    for item in board.fewer:
        st.caption(leaderboard_rows.fewer_text(item, len(board.settings)))
    for note in board.notes:
        st.caption(escape(note))
    _figures(board)
    pairs, comparisons = leaderboard_rows.pair_rows(board), leaderboard_rows.comparison_rows(board)
    if pairs:
        with st.expander("Pairs of methods", icon=":material/compare_arrows:"):
            table(pairs)
    if comparisons:
        with st.expander(escape(f"Against {board.baseline}, setting by setting"), icon=":material/balance:"):
            table(comparisons)


def _figures(board: Leaderboard) -> None:
    ranks = rank_charts.mean_rank_figure(board.methods)
    differences = rank_charts.critical_difference_figure(board)
    if ranks is not None:
        st.subheader("Mean ranks")
        chart_component.chart(
            ranks, key="leaderboard.ranks", alt="Mean rank of each method with its interval", filename="mean-ranks"
        )
    if differences is not None:
        st.subheader("Critical differences")
        chart_component.chart(
            differences,
            key="leaderboard.differences",
            alt="Methods on an axis of mean ranks; bars join those of which no pair differs",
            filename="critical-differences",
        )
        st.caption(
            "Bars join methods of which no pair differs by the signed-rank test after Holm. Nemenyi's CD is for "
            "comparison only."
        )


def _downloads(chosen: _Chosen) -> None:
    names: Sequence[str] = chosen.experiments or chosen.tags
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for kind, (label, ending, media) in _FORMATS.items():
            st.download_button(
                escape(label),
                data=partial(chosen.text, kind),
                file_name=f"{wording.file_stem(names, 'leaderboard')}.{ending}",
                mime=media,
                on_click="ignore",
                key=f"download.leaderboard.{kind}",
                icon=":material/download:",
            )
